"""Data that tiktoken and NLTK fetch by themselves, asked for by name: what is fetched, checked, pinned and refused."""

from __future__ import annotations

import hashlib
import importlib
import io
import pkgutil
import zipfile
from pathlib import Path

import pytest

from bundler.errors import FetchError, IntegrityError, ManifestError, ResolveError
from bundler.format.blocked_requests import BlockedRequest
from bundler.format.hashing import compute_sha256
from bundler.format.lock import env_values
from bundler.format.lock.entries import Artifact
from bundler.format.lock.lockfile import Lock
from bundler.offline.rendering import env_file
from bundler.online import assets, build
from bundler.online.assets import collect, tiktoken
from bundler.online.assets.asset_spec import PROVIDERS
from bundler.online.assets.provider import SOURCE_KEYS, AssetProvider
from bundler.online.build import BuildOptions
from bundler.online.manifest import loading
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.context import BuildContext
from bundler.payload.network.asset_libraries import LIBRARIES
from tests.support.resolving import ResolverHarness
from tests.support.servers.loopback import Loopback, instead

CL100K = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
ALL_KEYS = f"{', '.join(SOURCE_KEYS[:-1])} and {SOURCE_KEYS[-1]}"
DATA_NAMES = {"tiktoken": "gpt2", "nltk": "punkt_tab"}
"""Some data of each library."""


@pytest.fixture
def context(harness: ResolverHarness) -> BuildContext:
    harness.add_to_index("pip", "90.0")
    harness.add_to_index("uv", "90.0")
    return BuildContext(cache=harness.cache, config=harness.config, reporter=harness.reporter)


def make_archive(text: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr(zipfile.ZipInfo("words/english"), text)
    return packed.getvalue()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def make_index_entry(name: str, subdir: str, **said: object) -> str:
    given = "".join(f' {key}="{value}"' for key, value in said.items())
    return f'<package id="{name}" subdir="{subdir}" unzip="1"{given}/>'


def index(*packages: str, before: str = "") -> bytes:
    listing = "".join(packages)
    text = f"<packages>{listing}</packages><collections><collection id='popular'/></collections>"
    return f'<?xml version="1.0"?>{before}<nltk_data>{text}</nltk_data>'.encode()


WORDS, PUNKT = make_archive("the"), make_archive("dr")


@pytest.fixture
def mirror(server: Loopback) -> Loopback:
    """A small mirror of NLTK's data: one package with each kind of published digest."""
    server.files["/data/index.xml"] = index(
        make_index_entry("stopwords", "corpora", size=len(WORDS), checksum=md5(WORDS)),
        make_index_entry(
            "punkt_tab", "tokenizers", size=len(PUNKT), checksum="0" * 32, sha256_checksum=compute_sha256(PUNKT)
        ),
    )
    server.files["/data/packages/corpora/stopwords.zip"] = WORDS
    server.files["/data/packages/tokenizers/punkt_tab.zip"] = PUNKT
    return server


def write_manifest(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "m.yaml"
    path.write_text(f"name: t\nversion: '1'\nsequence: 1\nassets: {text}\n")
    return path


def collect_assets(
    tmp_path: Path, shop: BuildContext, text: str, packages: tuple[str, ...] = ("nltk",)
) -> list[Artifact]:
    return collect.collect_assets(loading.load_manifest(write_manifest(tmp_path, text)).manifest.assets, packages, shop)


def test_packages_of_nltk_stand_where_the_index_says_with_what_it_published(
    tmp_path: Path, context: BuildContext, mirror: Loopback
) -> None:
    found = collect_assets(tmp_path, context, f"[{{nltk: [stopwords, punkt_tab], mirror: '{mirror.url}/data'}}]")
    assert [(one.path, one.sha256, one.size) for one in found] == [
        ("assets/nltk_data/corpora/stopwords.zip", compute_sha256(WORDS), len(WORDS)),
        ("assets/nltk_data/tokenizers/punkt_tab.zip", compute_sha256(PUNKT), len(PUNKT)),
    ]
    said = [(one.algorithm, one.digest, one.publisher) for artifact in found for one in artifact.upstream]
    assert said == [("md5", md5(WORDS), "NLTK's index"), ("sha256", compute_sha256(PUNKT), "NLTK's index")]
    assert found[0].origin == f"{mirror.url}/data/packages/corpora/stopwords.zip"


def test_a_mirror_that_wants_a_login_gets_it_and_the_lock_does_not(
    tmp_path: Path, context: BuildContext, mirror: Loopback
) -> None:
    mirror.logins["/data"] = "kim:hush"
    (found,) = collect_assets(
        tmp_path, context, f"[{{nltk: [stopwords], mirror: '{mirror.with_login('kim:hush')}/data/'}}]"
    )
    assert found.origin == f"{mirror.url}/data/packages/corpora/stopwords.zip"


@pytest.mark.parametrize(("name", "published"), [("stopwords", md5(WORDS)), ("punkt_tab", compute_sha256(PUNKT))])
def test_an_archive_that_is_not_what_the_index_says_is_refused_with_both_digests(
    tmp_path: Path, context: BuildContext, mirror: Loopback, name: str, published: str
) -> None:
    (path,) = (path for path in mirror.files if path.endswith(f"{name}.zip"))
    altered = mirror.files[path] = mirror.files[path].replace(b"english", b"ENGLISH")
    with pytest.raises(IntegrityError) as caught:
        collect_assets(tmp_path, context, f"[{{nltk: [{name}], mirror: '{mirror.url}/data/'}}]")
    got = md5(altered) if name == "stopwords" else compute_sha256(altered)
    assert got in str(caught.value)
    assert published in str(caught.value)
    assert context.cache.find(compute_sha256(altered)) is None


def test_names_that_the_index_does_not_have_are_all_said_with_the_nearest(
    tmp_path: Path, context: BuildContext, mirror: Loopback
) -> None:
    with pytest.raises(ResolveError) as caught:
        collect_assets(tmp_path, context, f"[{{nltk: [punkt_tap, stopwords, popular], mirror: '{mirror.url}/data/'}}]")
    assert "'punkt_tap' is not a package; did you mean 'punkt_tab'?" in str(caught.value)
    assert "'popular' is a collection: name the packages" in str(caught.value)
    assert caught.value.where == f"{mirror.url}/data/index.xml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"<html><p>Log in<br></html>", "this is not NLTK's index: mismatched tag"),
        (b"<nltk_data>", "this is not NLTK's index: no element found"),
        (b"<html/>", "it lists no package"),
        (index(make_index_entry("w", "corpora"), before='<!DOCTYPE x [<!ENTITY a "aaaa">]>'), "it declares entities"),
        (
            index(make_index_entry("w", "../../x", checksum="0" * 32)),
            "puts 'w' into '../../x', which is not a folder of NLTK's data",
        ),
        (index(make_index_entry("w", "corpora", size=3)), "has no digest of 'w'"),
        (index(make_index_entry("w", "corpora", checksum="md5", sha256_checksum="x" * 64)), "has no digest of 'w'"),
    ],
)
def test_an_index_that_is_none_or_means_harm(
    tmp_path: Path, context: BuildContext, server: Loopback, text: bytes, words: str
) -> None:
    server.files["/index.xml"] = text
    with pytest.raises(ResolveError, match=words.replace("../../", r"\.\./\.\./")):
        collect_assets(tmp_path, context, f"[{{nltk: [w], mirror: '{server.url}/'}}]")


def test_a_mirror_without_an_index_is_named(tmp_path: Path, context: BuildContext, server: Loopback) -> None:
    with pytest.raises(FetchError, match="the server has no index of NLTK there") as caught:
        collect_assets(tmp_path, context, f"[{{nltk: [w], mirror: '{server.url}/'}}]")
    assert caught.value.where == f"{server.url}/index.xml"
    assert "a folder with index.xml and packages/" in caught.value.hint


def test_an_archive_that_is_an_asset_already(tmp_path: Path, context: BuildContext, mirror: Loopback) -> None:
    url = f"{mirror.url}/data/packages/corpora/stopwords.zip"
    own = f"{{url: '{url}', sha256: {compute_sha256(WORDS)}, path: nltk_data/corpora/stopwords.zip}}"
    with pytest.raises(ManifestError, match=r"assets\[1\].nltk: 'assets/nltk_data/corpora/stopwords.zip' is taken"):
        collect_assets(tmp_path, context, f"[{own}, {{nltk: [stopwords], mirror: '{mirror.url}/data/'}}]")


def test_a_wrong_encoding_from_a_mirror_is_refused_with_both_digests(
    tmp_path: Path, context: BuildContext, server: Loopback
) -> None:
    server.files["/encodings/cl100k_base.tiktoken"] = b"IQ== 0\n"
    with pytest.raises(IntegrityError) as caught:
        collect_assets(tmp_path, context, f"[{{tiktoken: [cl100k_base], mirror: '{server.url}'}}]", ("tiktoken",))
    assert compute_sha256(b"IQ== 0\n") in str(caught.value)
    assert tiktoken.ENCODING_FILES["cl100k_base"][0][1] in str(caught.value)
    assert caught.value.where == f"{server.url}/encodings/cl100k_base.tiktoken"


def test_an_encoding_stands_under_the_name_of_its_own_address_and_a_shared_file_once(
    tmp_path: Path, context: BuildContext, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = (("https://data.example/x/shared.tiktoken", compute_sha256(b"ranks")),)
    monkeypatch.setattr(tiktoken, "ENCODING_FILES", {"one": shared, "two": shared, "three": shared})
    server.files["/x/shared.tiktoken"] = b"ranks"
    text = f"[{{tiktoken: [one, two], mirror: '{server.url}'}}, {{tiktoken: [three]}}]"
    (found,) = collect_assets(tmp_path, context, text, ("tiktoken",))
    name = hashlib.sha1(b"https://data.example/x/shared.tiktoken", usedforsecurity=False).hexdigest()
    assert (found.path, found.origin) == (f"assets/tiktoken/{name}", f"{server.url}/x/shared.tiktoken")
    assert [one.publisher for one in found.upstream] == [f"tiktoken {tiktoken.TIKTOKEN_VERSION}"]


def test_data_for_a_library_that_does_not_travel_is_said(
    tmp_path: Path, context: BuildContext, mirror: Loopback, harness: ResolverHarness
) -> None:
    text = f"[{{nltk: [stopwords], mirror: '{mirror.url}/data/'}}]"
    collect_assets(tmp_path, context, text, ("NLTK", "torch"))
    assert harness.reporter.warnings == []
    collect_assets(tmp_path, context, text, ("torch",))
    assert harness.reporter.warnings == [
        "the manifest has assets for nltk (stopwords), but nltk is not among the packages"
    ]


@pytest.fixture
def kept(tmp_path: Path, context: BuildContext, mirror: Loopback) -> tuple[Path, Path, Lock]:
    """A manifest that asks for NLTK's data, its lock in a file, and the lock."""
    path = write_manifest(tmp_path, f"[{{nltk: [stopwords, punkt_tab], mirror: '{mirror.url}/data/'}}]")
    found = build.make_lock(path, context)
    build.write_lock(tmp_path / "kept.json", found)
    return path, tmp_path / "kept.json", found


def test_a_kept_lock_gives_the_same_bytes_from_the_shelf_and_asks_nobody(
    tmp_path: Path, context: BuildContext, mirror: Loopback, kept: tuple[Path, Path, Lock]
) -> None:
    path, lock, _ = kept
    fresh = build.build_bundle(path, BuildOptions(output=tmp_path / "a.tar", with_rehearsal=False), context)
    before = mirror.asked()
    again = build.build_bundle(
        path, BuildOptions(output=tmp_path / "b.tar", lock_path=lock, with_rehearsal=False), context
    )
    assert mirror.asked()[len(before) :] == []
    assert fresh.path.read_bytes() == again.path.read_bytes()


def test_a_kept_lock_brings_its_archives_from_where_they_were_without_the_index(
    tmp_path: Path, context: BuildContext, mirror: Loopback, kept: tuple[Path, Path, Lock]
) -> None:
    path, lock, found = kept
    first = build.build_bundle(
        path, BuildOptions(output=tmp_path / "a.tar", lock_path=lock, with_rehearsal=False), context
    )
    elsewhere = BuildContext(
        cache=FileCache(tmp_path / "other shelf"), config=context.config, reporter=context.reporter
    )
    del mirror.files["/data/index.xml"]
    again = build.build_bundle(
        path, BuildOptions(output=tmp_path / "b.tar", lock_path=lock, with_rehearsal=False), elsewhere
    )
    assert first.path.read_bytes() == again.path.read_bytes()
    assert len(again.lock.list_artifacts("asset")) == len(found.list_artifacts("asset")) == 2


def test_an_archive_that_changed_since_the_lock_was_made_is_refused(
    tmp_path: Path, context: BuildContext, mirror: Loopback, kept: tuple[Path, Path, Lock]
) -> None:
    path, lock, _ = kept
    context.cache.remove(compute_sha256(WORDS))
    newer = WORDS.replace(b"english", b"ENGLISH")
    mirror.faults["/data/packages/corpora/stopwords.zip"] = [instead(newer)] * 4
    with pytest.raises(IntegrityError, match=f"{compute_sha256(newer)}.*{compute_sha256(WORDS)} was expected"):
        build.build_bundle(path, BuildOptions(output=tmp_path / "b.tar", lock_path=lock, with_rehearsal=False), context)
    assert not (tmp_path / "b.tar").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{path: a}]", f"assets[0]: needs exactly one of {ALL_KEYS}; it has none"),
        ("[{tiktoken: [gpt2], nltk: [words]}]", f"assets[0]: needs exactly one of {ALL_KEYS}; it has tiktoken, nltk"),
        ("[{url: 'https://h/x', path: a}]", "assets[0].sha256: is required with url"),
        (f"[{{url: 'https://h/x', sha256: '{'0' * 64}'}}]", "assets[0].path: is required with url"),
        ("[{tiktoken: [cl100k]}]", "assets[0].tiktoken: 'cl100k' is no encoding of tiktoken 0.14.0; did you mean 'cl100k_base'?"),
        ("[{tiktoken: [llama]}]", "'llama' is no encoding of tiktoken 0.14.0; known are cl100k_base, gpt2, o200k_base,"),
        ("[{nltk: [../x]}]", "assets[0].nltk: '../x' is not the name of a package"),
        ("[{nltk: [words], env: WORDS}]", "assets[0].env: goes with url: leave it out"),
        (f"[{{url: 'https://h/x', sha256: '{'0' * 64}', path: a, mirror: 'https://m/'}}]", "assets[0].mirror: goes with"),
        ("[{nltk: [words], mirror: 'file:///srv'}]", "assets[0].mirror: must be the URL of a folder"),
        ("[{nltk: [words], mirror: 'https://[::1'}]", "assets[0].mirror: 'https://[::1' is not a URL: Invalid IPv6 URL"),
        ("[{nltk: [words], mirror: 'https://m/?key=1'}]", "assets[0].mirror: must be the URL of a folder"),
        ("[{nltk: [words], mirror: 'http://m.example/'}]", "assets[0].mirror: over http somebody could alter the index"),
        ("[{nltk: [words]}, {nltk: [words]}]", "assets[1].nltk[0]: 'words' is named twice, first in assets[0]"),
        (
            f"[{{url: 'https://h/x', sha256: '{'0' * 64}', path: {tiktoken.get_cache_path(CL100K)}}}, {{tiktoken: [cl100k_base]}}]",
            f"assets[1].tiktoken: '{tiktoken.get_cache_path(CL100K)}' is taken by assets[0]",
        ),
    ],
)  # fmt: skip
def test_what_a_manifest_may_not_say(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        loading.load_manifest(write_manifest(tmp_path, text))
    assert message in str(caught.value)
    assert "line 4" in str(caught.value)


def test_tiktoken_s_mirror_may_speak_http_as_its_files_have_digests(tmp_path: Path) -> None:
    (asset,) = loading.load_manifest(
        write_manifest(tmp_path, "[{tiktoken: [gpt2], mirror: 'http://m.example/t'}]")
    ).manifest.assets
    assert [file.url for file in asset.pinned_files] == [
        "http://m.example/t/gpt-2/encodings/main/vocab.bpe",
        "http://m.example/t/gpt-2/encodings/main/encoder.json",
    ]


def test_each_provider_is_a_file_of_its_own_and_each_library_has_a_provider() -> None:
    assert tuple(PROVIDERS) == SOURCE_KEYS
    assert all(isinstance(provider, AssetProvider) and provider.key == key for key, provider in PROVIDERS.items())
    assert {*LIBRARIES} == {*SOURCE_KEYS} - {"url"}
    assert {key: library.title for key, library in LIBRARIES.items()} == {
        key: PROVIDERS[key].title for key in LIBRARIES
    }


def test_each_provider_in_the_folder_has_its_key() -> None:
    names = [module.name for module in pkgutil.iter_modules(assets.__path__)]
    found = {name for name in names if hasattr(importlib.import_module(f"{assets.__name__}.{name}"), "PROVIDER")}
    assert found == {*SOURCE_KEYS}, "SOURCE_KEYS in bundler/online/assets/provider.py names each provider of the folder"


@pytest.mark.parametrize("key", PROVIDERS)
def test_a_provider_with_an_index_can_fetch_from_a_lock(key: str) -> None:
    index_methods = ("get_index_url", "list_indexed_files", "find_locked_url")
    defined = [name for name in index_methods if getattr(type(PROVIDERS[key]), name) != getattr(AssetProvider, name)]
    assert defined in ([], [*index_methods]), f"{key} defines only {', '.join(defined)} of {', '.join(index_methods)}"


@pytest.mark.parametrize("key", LIBRARIES)
def test_the_host_s_part_of_a_library_follows_from_the_table(tmp_path: Path, key: str) -> None:
    library = LIBRARIES[key]
    assert env_file.make_library_variables(tmp_path)[library.variable] == str(tmp_path / "assets" / library.folder)
    assert "is set by the installer" in env_values.find_env_problem(library.variable, "/data")
    assert key in DATA_NAMES, f"DATA_NAMES lacks the name of some data of {key}"
    name = DATA_NAMES[key]
    request = BlockedRequest(host=library.host or "data.example", url="https://data.example/x", kind=key, name=name)
    (spec,) = loading.load_manifest(manifest_of_fix(tmp_path, request.fix)).manifest.assets
    assert (spec.key, spec.names) == (key, (name,))


def manifest_of_fix(tmp_path: Path, fix: str) -> Path:
    return write_manifest(tmp_path, fix.removeprefix("assets: "))
