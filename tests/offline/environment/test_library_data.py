"""Data that libraries fetch when they first run: tiktoken and NLTK themselves find what was carried, with no network."""

from __future__ import annotations

import ast
import base64
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.format import blocked_requests
from bundler.offline import smoke
from bundler.offline.environment import guard
from bundler.offline.prefix.releases import Release
from bundler.online.assets import tiktoken
from tests.support.bundles import make_lock
from tests.support.programs import require_tool

LOCK = make_lock({"bundle.pyz": b"x"})
RANKS = b"".join(base64.b64encode(bytes([n])) + b" %d\n" % n for n in range(256))
PLUGIN = """\
from tiktoken.load import load_tiktoken_bpe

def tiny():
    ranks = load_tiktoken_bpe("{url}", expected_hash="{digest}")
    return {{"name": "tiny", "pat_str": ".", "mergeable_ranks": ranks, "special_tokens": {{}}}}

ENCODING_CONSTRUCTORS = {{"tiny": tiny}}
"""
ENCODE = "import tiktoken; print(tiktoken.get_encoding('tiny').encode('ab'))"
SENTENCES = "from nltk.tokenize import sent_tokenize; print(sent_tokenize('Dr. Kim came. She left.'))"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    release = Release(prefix=tmp_path_factory.mktemp("opt"), name=LOCK.release_name)
    release.path.mkdir(parents=True)
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", release.path / "venv"], check=True)
    smoke.write_payload(release)
    guard.write_files(release, LOCK)
    release.live_path.symlink_to(Path("releases") / release.name)
    return release


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the plugin's encoding is fetched from while there is a network."""
    served = tmp_path_factory.mktemp("served")
    (served / "tiny.tiktoken").write_bytes(RANKS)
    handler = lambda *given: http.server.SimpleHTTPRequestHandler(*given, directory=str(served))  # noqa: E731
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/tiny.tiktoken"
    server.shutdown()
    server.server_close()


def run(
    release: Release, code: str, *folders: Path, before: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    told = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, folders)), "HOME": str(release.prefix)}
    return subprocess.run(
        [*before, release.python, "-c", code], env=told | variables, check=False, capture_output=True, text=True
    )


def plugin(folder: Path, url: str) -> Path:
    """An encoding of its own, as tiktoken takes them from any package."""
    (folder / "tiktoken_ext").mkdir()
    text = PLUGIN.format(url=url, digest=hashlib.sha256(RANKS).hexdigest())
    (folder / "tiktoken_ext" / "tiny.py").write_text(text)
    return folder


def test_tiktoken_finds_the_encoding_that_was_carried(
    release: Release, libraries: Path, origin: str, tmp_path: Path
) -> None:
    folder = plugin(tmp_path, origin)
    cut = (require_tool("unshare"), "-rn" if os.getuid() else "-n")
    without = run(release, ENCODE, libraries, folder, before=cut)
    assert without.returncode == 1
    assert "ConnectionError" in without.stderr
    with_network = run(release, ENCODE, libraries, folder, TIKTOKEN_CACHE_DIR=str(tmp_path / "cache"))
    assert with_network.stdout == "[97, 98]\n", with_network.stderr
    (fetched,) = (tmp_path / "cache").iterdir()
    name = hashlib.sha1(origin.encode(), usedforsecurity=False).hexdigest()
    assert fetched.name == name, "the name that the cure gives is the one that tiktoken looks for"
    assert tiktoken.get_cache_path(origin) == f"tiktoken/{name}"
    path = release.path / "assets" / "tiktoken" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(RANKS)
    found = run(release, ENCODE, libraries, folder, before=cut)
    assert found.stdout == "[97, 98]\n", found.stderr


def test_an_encoding_that_is_not_carried_is_named_with_the_entry_that_carries_it(
    release: Release, libraries: Path, tmp_path: Path
) -> None:
    url = "https://data.example/encodings/tiny.tiktoken"
    log = tmp_path / "calls.jsonl"
    done = run(
        release, ENCODE, libraries, plugin(tmp_path, url), BUNDLE_GUARD="strict", BUNDLE_GUARD_LOG=str(log)
    )  # fmt: skip
    assert "ConnectionBlockedError: tiktoken tiny is not in the bundle" in done.stderr
    (call,) = blocked_requests.read_log(log)
    assert (call.kind, call.name, call.url) == ("tiktoken", "tiny", url)
    name = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    assert call.fix == f"assets: [{{url: {url}, sha256: …, path: tiktoken/{name}}}]"


def constructors(source: Path) -> dict[str, set[tuple[str, str]]]:
    """Each encoding that tiktoken's own source knows, with the addresses and digests that it gives."""
    tree = ast.parse(source.read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}

    def files(name: str) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = set()
        for call in (node for node in ast.walk(functions[name]) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id in functions:
                found |= files(call.func.id)
            values = [*call.args, *(keyword.value for keyword in call.keywords)]
            texts = [one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            urls = [text for text in texts if text.startswith("https://")]
            found |= set(zip(urls, [text for text in texts if re.fullmatch("[0-9a-f]{64}", text)], strict=True))
        return found

    (listed,) = (node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict))
    return {str(key.value): files(str(key.value)) for key in listed.keys if isinstance(key, ast.Constant)}


def test_every_encoding_of_tiktoken_is_known_with_the_addresses_and_digests_that_it_gives(libraries: Path) -> None:
    assert {name: set(files) for name, files in tiktoken.ENCODING_FILES.items()} == constructors(
        libraries / "tiktoken_ext" / "openai_public.py"
    )


def test_tiktoken_looks_for_each_encoding_where_it_would_be_placed(
    release: Release, libraries: Path, tmp_path: Path
) -> None:
    """A file that is not what it must be is taken away by tiktoken before it fetches anew: so it looked there."""
    firsts = {
        name: tmp_path / name / Path(tiktoken.get_cache_path(files[0][0])).name
        for name, files in tiktoken.ENCODING_FILES.items()
    }
    for path in firsts.values():
        path.parent.mkdir()
        path.write_bytes(b"others")
    for name, path in firsts.items():
        log = tmp_path / f"{name}.jsonl"
        done = run(
            release,
            f"import tiktoken; tiktoken.get_encoding({name!r})",
            libraries,
            TIKTOKEN_CACHE_DIR=str(path.parent),
            BUNDLE_GUARD="strict",
            BUNDLE_GUARD_LOG=str(log),
        )
        assert "ConnectionBlockedError" in done.stderr
        assert not path.exists()
        (call,) = blocked_requests.read_log(log)
        asked = call.fix.removeprefix("assets: [{tiktoken: [").removesuffix("]}]")
        assert tiktoken.ENCODING_FILES[asked] == tiktoken.ENCODING_FILES[name], (
            "what the cure names has the files that were missed"
        )


def test_nltk_s_missing_archive_is_cured_by_its_name() -> None:
    url = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/tokenizers/punkt_tab.zip"
    call = blocked_requests.BlockedRequest(host="raw.githubusercontent.com", url=url, kind="nltk", name="punkt_tab")
    assert call.fix == "assets: [{nltk: [punkt_tab]}]"


@pytest.mark.parametrize(
    ("asked", "named"), [("'omw-1.4'", "omw-1.4"), ("['stopwords', 'wordnet']", "stopwords, wordnet")]
)
def test_what_nltk_is_told_to_fetch_is_named_though_it_asks_for_its_index_first(
    release: Release, libraries: Path, tmp_path: Path, asked: str, named: str
) -> None:
    log, script = tmp_path / "calls.jsonl", tmp_path / "app.py"
    script.write_text(f"import nltk\nnltk.download({asked})\n")
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    done = run(release, code, libraries, BUNDLE_GUARD="strict", BUNDLE_GUARD_LOG=str(log))
    assert f"ConnectionBlockedError: nltk {named} is not in the bundle" in done.stderr
    (call,) = blocked_requests.read_log(log)
    assert call.url.endswith("/nltk_data/gh-pages/index.xml")
    assert call.fix == f"assets: [{{nltk: [{named}]}}]"
    assert call.asked == f"{script}:2 in <module>: nltk.download({asked})"


def test_a_load_that_lacks_nltk_s_data_says_which_and_what_carries_it(
    release: Release, libraries: Path, tmp_path: Path
) -> None:
    """NLTK's own error begins with a row of asterisks."""
    (guard.get_site_packages(release, LOCK) / "zz-libraries.pth").write_text(f"{libraries}\n")
    probe = release.path / "payload" / "probes" / "files.py"
    kept = probe.read_text()
    probe.write_text(kept.replace("    files =", "    __import__('nltk').pos_tag(['the', 'dog'])\n    files ="))
    request, result = tmp_path / "request.json", tmp_path / "result.json"
    request.write_text(json.dumps({"alias": "m", "loader": "files", "path": str(tmp_path)}))
    try:
        done = subprocess.run(
            [release.python, "-I", release.path / "payload", request, result],
            check=False,
            capture_output=True,
            text=True,
        )
    finally:
        probe.write_text(kept)
        (guard.get_site_packages(release, LOCK) / "zz-libraries.pth").unlink()
    assert done.returncode == 3, done.stderr
    found = json.loads(result.read_text())
    assert found["fault"].startswith("The load stopped with LookupError: Resource 'averaged_perceptron_tagger_eng' not")
    assert "assets: [{nltk: [averaged_perceptron_tagger_eng]}]" in found["hint"]


def test_nltk_finds_the_archive_that_was_carried(release: Release, libraries: Path) -> None:
    without = run(release, SENTENCES, libraries)
    assert "Resource" in without.stderr
    assert "punkt_tab" in without.stderr
    path = release.path / "assets" / "nltk_data" / "tokenizers" / "punkt_tab.zip"
    path.parent.mkdir(parents=True)
    files = {"abbrev_types.txt": "dr", "collocations.tab": "", "sent_starters.txt": "", "ortho_context.tab": ""}
    with zipfile.ZipFile(path, "w") as packed:
        for folder in ("punkt_tab/", "punkt_tab/english/"):
            packed.writestr(folder, "")
        for name, text in files.items():
            packed.writestr(f"punkt_tab/english/{name}", text)
    found = run(release, SENTENCES, libraries, BUNDLE_GUARD="strict")
    assert found.stdout == "['Dr. Kim came.', 'She left.']\n", found.stderr
