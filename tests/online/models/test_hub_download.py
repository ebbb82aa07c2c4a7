"""What comes from a hub, from the shelf and from the user's own cache, and what the lock is told of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import FetchError, HostError, ManifestError, ResolveError
from bundler.format import disk
from bundler.format.hashing import compute_sha256
from bundler.online.models import hub_download
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.download import DownloadRequest
from bundler.online.transfer.http import RetryPolicy
from tests.support.hub_fetch import CARRIED, CONFIG, FILES, NAME, WEIGHTS, HubFetch
from tests.support.servers.certificates import make_certificates
from tests.support.servers.hub_server import git_sha1, serve_hub
from tests.support.servers.loopback import Seen


def test_a_repository_comes_pinned_with_what_the_hub_publishes(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.card = {"license": "apache-2.0"}
    found = hub_fetch.run()
    hub_fetch.check_files(found)
    assert (found.source, found.commit) == (f"repo:{NAME}@{hub_fetch.main}", hub_fetch.main)
    assert (found.revisions, found.licence) == (("main",), "apache-2.0")
    files = {file.path: file for file in found.files}
    (lfs,), (git,) = files[WEIGHTS].upstream, files[CONFIG].upstream
    host = hub_fetch.hub.host
    assert (lfs.algorithm, lfs.digest, lfs.publisher) == ("sha256", compute_sha256(FILES[WEIGHTS]), host)
    assert (git.algorithm, git.digest, git.publisher) == ("git-blob-sha1", git_sha1(FILES[CONFIG]), host)
    assert files[CONFIG].origin == f"{hub_fetch.hub.url}/{NAME}/resolve/{hub_fetch.main}/{CONFIG}"
    assert hub_fetch.reporter == type(hub_fetch.reporter)()


def test_no_request_is_made_that_is_not_needed(hub_fetch: HubFetch) -> None:
    hub_fetch.run()
    assert hub_fetch.hub.asked("HEAD") == hub_fetch.hub.storage.asked("HEAD") == []
    assert sorted(hub_fetch.hub.fetched()) == CARRIED
    assert len(hub_fetch.hub.seen) == len(CARRIED) + 2


def test_what_is_on_the_shelf_is_not_fetched_again(hub_fetch: HubFetch) -> None:
    hub_fetch.run()
    hub_fetch.hub.seen.clear()
    hub_fetch.check_files(hub_fetch.run())
    assert hub_fetch.hub.fetched() == []
    hub_fetch.repository.commit(FILES | {CONFIG: b"new"})
    hub_fetch.check_files(hub_fetch.run(), {name: FILES[name] for name in CARRIED} | {CONFIG: b"new"})
    assert hub_fetch.hub.fetched() == [CONFIG]


def test_room_is_needed_for_what_has_not_come_and_once_for_one_content(
    hub_fetch: HubFetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = FILES[WEIGHTS]
    files = {"a.safetensors": weights, "b/a.safetensors": weights, CONFIG: b"{}"}
    hub_fetch.repository.commit(files)
    hub_fetch.cache.get_partial_path(compute_sha256(weights)).write_bytes(weights[:100_000])
    had = shutil.disk_usage("/")
    room = len(weights) - 100_000 + disk.FREE_SPACE_MARGIN
    monkeypatch.setattr(shutil, "disk_usage", lambda _: had._replace(free=room - 1))
    with pytest.raises(HostError, match=rf"fetching .*/a\.safetensors needs {room:,} bytes"):
        hub_fetch.run()
    assert hub_fetch.hub.fetched() == [CONFIG]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: had._replace(free=room))
    hub_fetch.check_files(hub_fetch.run(), files)
    assert [one.headers.get("Range") for one in hub_fetch.hub.storage.seen] == ["bytes=100000-"]


def test_a_lock_needs_no_byte_of_the_weights(hub_fetch: HubFetch) -> None:
    found = hub_fetch.collect(vetted=True, loader="files")
    assert hub_fetch.hub.storage.seen == []
    assert sorted(hub_fetch.hub.fetched()) == [name for name in CARRIED if name != WEIGHTS]
    told = {file.path: (file.size, file.sha256) for file in found.files}
    assert told[WEIGHTS] == (len(FILES[WEIGHTS]), compute_sha256(FILES[WEIGHTS]))
    came = hub_fetch.run()
    hub_fetch.check_files(came)
    assert (came.files, [*came.deferred]) == (found.files, [compute_sha256(FILES[WEIGHTS])])
    assert hub_fetch.collect().deferred == {}


@pytest.mark.parametrize(
    ("name", "asked"),
    [("pytorch_model.bin", {}), ("weights.safetensors.pt", {}), (WEIGHTS, {"convert": "safetensors"})],
)
def test_what_must_be_looked_into_comes_for_the_lock(hub_fetch: HubFetch, name: str, asked: dict[str, Any]) -> None:
    files = {CONFIG: b"{}", name: b"w" * 1000}
    hub_fetch.repository.commit(files)
    found = hub_fetch.collect(**asked)
    hub_fetch.check_files(found, files)
    assert found.deferred == {}


def test_safetensors_without_a_published_sha256_come_for_the_lock(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.lies = {WEIGHTS: {"lfs": None}}
    found = hub_fetch.collect()
    hub_fetch.check_files(found)
    assert found.deferred == {}


def test_a_hub_may_be_away_for_half_a_minute_whatever_pip_is_told() -> None:
    patience = RetryPolicy(max_tries=hub_download._MIN_TRIES)
    assert sum(patience.compute_delay(failure) for failure in range(1, patience.max_tries)) >= 30


def test_an_address_of_the_hub_without_its_scheme(hub_fetch: HubFetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(FetchError, match="HF_ENDPOINT does not begin with") as error:
        hub_fetch.run()
    assert error.value.hint == "set HF_ENDPOINT=https://hub.example"


def test_a_name_that_the_hub_can_not_have(hub_fetch: HubFetch) -> None:
    with pytest.raises(ResolveError, match="can't be a name on the hub"):
        hub_fetch.run(repo="org/a--b")
    assert hub_fetch.hub.seen == []


def test_a_damaged_file_of_the_shelf_that_only_git_knows_is_fetched_again(hub_fetch: HubFetch) -> None:
    place = next(file.content for file in hub_fetch.run().files if file.path == CONFIG)
    place.chmod(0o644)
    place.write_bytes(FILES[CONFIG][:-1] + b"?")
    place.rename(place.with_name(str(compute_sha256(FILES[CONFIG]))))
    hub_fetch.hub.seen.clear()
    found = hub_fetch.run()
    assert hub_fetch.hub.fetched() == [CONFIG]
    assert {file.path: file.sha256 for file in found.files}[CONFIG] == compute_sha256(FILES[CONFIG])


def fill_cache() -> None:
    """The user's cache as the real client leaves it."""
    told = os.environ | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*"}
    code = f"import huggingface_hub; huggingface_hub.snapshot_download({NAME!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env=told)


def test_the_user_s_own_cache_is_used(hub_fetch: HubFetch, tmp_path: Path) -> None:
    fill_cache()
    hub_fetch.hub.seen.clear()
    found = hub_fetch.collect()
    hub_fetch.check_files(found)
    assert hub_fetch.hub.fetched() == []
    assert all(file.content.is_relative_to(tmp_path / "hub cache") for file in found.files)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_damaged_file_of_the_cache_is_not_used(hub_fetch: HubFetch, tmp_path: Path, name: str) -> None:
    fill_cache()
    cached = (tmp_path / f"hub cache/models--org--tiny/snapshots/{hub_fetch.main}/{name}").resolve()
    cached.write_bytes(FILES[name][:-1] + b"?")
    hub_fetch.hub.seen.clear()
    hub_fetch.check_files(hub_fetch.run())
    assert hub_fetch.hub.fetched() == [name]
    assert f"the hub's cache on this machine has a damaged {name}" in hub_fetch.reporter.warnings[0]


def test_a_link_of_the_cache_that_leads_nowhere_is_not_used(hub_fetch: HubFetch, tmp_path: Path) -> None:
    fill_cache()
    (tmp_path / f"hub cache/models--org--tiny/snapshots/{hub_fetch.main}/{WEIGHTS}").resolve().unlink()
    hub_fetch.hub.seen.clear()
    hub_fetch.check_files(hub_fetch.run())
    assert hub_fetch.hub.fetched() == [WEIGHTS]


@pytest.mark.parametrize("there", [True, False])
def test_blobs_of_the_cache_may_be_links_into_a_store_that_all_share(
    hub_fetch: HubFetch, tmp_path: Path, *, there: bool
) -> None:
    fill_cache()
    (tmp_path / "shared").mkdir()
    snapshot = tmp_path / f"hub cache/models--org--tiny/snapshots/{hub_fetch.main}"
    for number, name in enumerate(CARRIED):
        blob = (snapshot / name).resolve()
        shared = tmp_path / "shared" / str(number)
        blob.rename(shared)
        blob.symlink_to(shared)
        if not there:
            shared.unlink()
    hub_fetch.hub.seen.clear()
    found = hub_fetch.run()
    hub_fetch.check_files(found)
    assert sorted(hub_fetch.hub.fetched()) == ([] if there else CARRIED)
    assert all(file.content.is_file() and not file.content.is_symlink() for file in found.files)


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/3"])
def test_a_revision_is_kept_by_name_and_pinned(hub_fetch: HubFetch, revision: str) -> None:
    commit = hub_fetch.repository.commit(FILES | {CONFIG: b"old"}, ref=revision)
    found = hub_fetch.run(revision=revision)
    assert (found.commit, found.revisions) == (commit, (revision,))
    hub_fetch.check_files(found, {name: FILES[name] for name in CARRIED} | {CONFIG: b"old"})


def test_a_commit_as_revision(hub_fetch: HubFetch) -> None:
    first = hub_fetch.main
    hub_fetch.repository.commit({"other": b"x"})
    found = hub_fetch.run(revision=first)
    assert (found.commit, found.revisions) == (first, ("main",))
    hub_fetch.check_files(found)


def test_a_kept_commit_comes_again_when_the_branch_has_moved(hub_fetch: HubFetch) -> None:
    first = hub_fetch.main
    hub_fetch.repository.commit({"other": b"x"})
    found = hub_fetch.run(commit=first)
    assert found.source == f"repo:{NAME}@{first}"
    hub_fetch.check_files(found)


def test_a_branch_that_moves_in_mid_download_is_safe(hub_fetch: HubFetch) -> None:
    first, path = hub_fetch.main, hub_fetch.hub.resolve(NAME, CONFIG)

    def moves(handler: object, _: bytes) -> None:
        hub_fetch.repository.commit(FILES | {CONFIG: b"new", WEIGHTS: b"new"})
        handler.route(path)  # type: ignore[attr-defined]

    hub_fetch.hub.faults[path] = [moves]
    found = hub_fetch.run()
    hub_fetch.check_files(found)
    assert found.commit == first != hub_fetch.main


def test_a_dataset(hub_fetch: HubFetch) -> None:
    files = {"data/train.bin": b"rows" * 100, "again.bin": b"rows" * 100, "picture.jpg": b"kept", "empty.csv": b""}
    commit = hub_fetch.hub.repository("org/rows", files, "datasets").refs["main"]
    found = hub_fetch.run(dataset="org/rows")
    hub_fetch.check_files(found, files)
    assert found.source == f"dataset:org/rows@{commit}"
    assert "/datasets/org/rows/resolve/" in found.files[0].origin


def test_a_repository_that_has_another_name_now(hub_fetch: HubFetch) -> None:
    hub_fetch.hub.moved["org/old"] = NAME
    hub_fetch.check_files(hub_fetch.run(repo="org/old"))


def test_include_and_exclude(hub_fetch: HubFetch) -> None:
    found = hub_fetch.run(include=("*.json", "*.safetensors"), exclude=("1_Pooling/*",))
    assert [file.path for file in found.files] == [CONFIG, WEIGHTS]
    with pytest.raises(ManifestError, match="no files are left"):
        hub_fetch.run(include=("*.xyz",))


def test_what_is_left_out_is_said(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.commit(
        FILES | {"onnx/model.onnx": b"o" * 1000, "pytorch_model.bin": b"b" * 2345, "a.jpg": b"j"}
    )
    hub_fetch.check_files(hub_fetch.run())
    kinds = "images (1 file); ONNX (1 file); weights that exist as safetensors too (1 file)"
    said = f"{NAME}: leaves out {kinds}; that saves 3,346 bytes (name what you want with 'include')"
    assert hub_fetch.reporter.notes == [said]


MODULES = b'[{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}]'


@pytest.mark.parametrize("missing", ["tokenizer.json", "1_Pooling/config.json", WEIGHTS])
def test_a_pattern_that_removes_a_needed_file_is_an_error_before_the_weights_come(
    hub_fetch: HubFetch, missing: str
) -> None:
    files = FILES | {"modules.json": MODULES, "tokenizer.json": b"{}", "2_Dense/more.safetensors": b"w"}
    hub_fetch.repository.commit(files)
    with pytest.raises(ResolveError, match=f"lacks files that sentence-transformers needs: {missing}") as caught:
        hub_fetch.run(loader="sentence-transformers", exclude=(missing,))
    assert "include and exclude" in caught.value.hint
    assert hub_fetch.hub.storage.seen == []
    found = hub_fetch.run(loader="sentence-transformers", require=("README.md",))
    hub_fetch.check_files(found, {name: data for name, data in files.items() if name != ".gitattributes"})


SHARDS = {f"model-0000{number}-of-00003.safetensors": bytes([number]) * 5000 for number in (1, 2, 3)}
SHARDED = SHARDS | {
    CONFIG: b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": json.dumps({"weight_map": dict(enumerate(SHARDS))}).encode(),
}


def test_weights_in_shards_come_whole(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.commit(SHARDED | {"pytorch_model.bin": b"b" * 10, "consolidated.safetensors": b"c" * 10})
    hub_fetch.check_files(hub_fetch.run(loader="causal-lm"), SHARDED)
    assert len(hub_fetch.hub.storage.asked()) == len(SHARDS)


def test_of_half_the_shards_none_comes_where_the_weights_are_whole_as_bin(hub_fetch: HubFetch) -> None:
    half = SHARDED.keys() - {"model-00002-of-00003.safetensors"}
    hub_fetch.repository.commit({name: SHARDED[name] for name in half})
    with pytest.raises(ResolveError, match=r"needs: model-00002-of-00003\.safetensors \(a shard") as caught:
        hub_fetch.run(loader="causal-lm")
    assert "no set of its weights is complete" in caught.value.hint
    assert hub_fetch.hub.storage.seen == []
    hub_fetch.repository.commit({name: SHARDED[name] for name in half} | {"pytorch_model.bin": b"b" * 10})
    whole = {name: SHARDED[name] for name in (CONFIG, "tokenizer.json")} | {"pytorch_model.bin": b"b" * 10}
    hub_fetch.check_files(hub_fetch.run(loader="causal-lm"), whole)
    said = "leaves out incomplete safetensors where .bin is complete (3 files)"
    assert said in hub_fetch.reporter.notes[-1]


def test_a_pattern_that_removes_the_heads_of_bge_m3_is_an_error_before_the_weights_come(hub_fetch: HubFetch) -> None:
    heads = {"colbert_linear.pt": b"c" * 10, "sparse_linear.pt": b"s" * 10}
    files = FILES | {"modules.json": MODULES, "tokenizer.json": b"{}"} | heads
    hub_fetch.repository.commit(files)
    with pytest.raises(ResolveError, match=r"removes colbert_linear\.pt and sparse_linear\.pt"):
        hub_fetch.run(vetted=True, exclude=("*.pt",))
    assert hub_fetch.hub.storage.seen == []
    left = {name: data for name, data in files.items() if name not in heads and name != ".gitattributes"}
    hub_fetch.check_files(hub_fetch.run(loader="sentence-transformers", exclude=("*.pt",)), left)


def test_a_hub_that_publishes_no_digest(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.lies = {CONFIG: {"oid": None}}
    found = hub_fetch.run()
    hub_fetch.check_files(found)
    assert not next(file for file in found.files if file.path == CONFIG).upstream
    assert "publishes no digest of config.json" in hub_fetch.reporter.warnings[0]


def get_authorization(seen: Seen) -> str:
    """The credentials of a request."""
    return {name.lower(): value for name, value in seen.headers.items()}.get("authorization", "")


def test_the_token_goes_to_the_hub_and_nowhere_else(hub_fetch: HubFetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    (Path.home() / ".netrc").write_text("machine 127.0.0.1 login someone password secret\n")
    hub_fetch.check_files(hub_fetch.run())
    assert {get_authorization(one) for one in hub_fetch.hub.seen} == {"Bearer hf_member"}
    assert {get_authorization(one) for one in hub_fetch.hub.storage.seen} == {""}
    assert "hf_member" not in repr(DownloadRequest(url="x", headers={"Authorization": "Bearer hf_member"}))


def test_the_client_is_told_about_pip_s_proxy(hub_fetch: HubFetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    hub_fetch.config = type(hub_fetch.config)(proxy=hub_fetch.hub.url.removeprefix("http://"))
    hub_fetch.check_files(hub_fetch.run(include=(CONFIG,)), {CONFIG: FILES[CONFIG]})
    assert all(one.path.startswith("http://hub.invalid/") for one in hub_fetch.hub.seen)


def run_apart(errand: HubFetch, **told: str) -> str:
    """The client reads some variables when it is imported: what a process of its own says that has these."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bundler.online import resolve\n"
        "from bundler.online.manifest.schema import ModelSpec\n"
        "from bundler.online.transfer import cache, pip_config\n"
        "from bundler.progress import RecordingReporter\n"
        "assert 'huggingface_hub' not in sys.modules, 'who has no model of the hub need not wait for its client'\n"
        "from bundler.online.models import hub_download\n"
        f"model = ModelSpec(repo={NAME!r})\n"
        "try:\n"
        f"    files = cache.FileCache(Path({str(errand.cache.root)!r}))\n"
        "    hub_download.collect_files(model, files, pip_config.PipConfig(), RecordingReporter())\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_TELEMETRY"} | told
    done = subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout


def test_the_user_s_token_file_counts(hub_fetch: HubFetch, tmp_path: Path) -> None:
    hub_fetch.repository.gated = True
    (tmp_path / "token").write_text("hf_member\n")
    assert run_apart(hub_fetch, HF_TOKEN_PATH=str(tmp_path / "token")) == ""
    assert {get_authorization(one) for one in hub_fetch.hub.seen} == {"Bearer hf_member"}
    assert "/api/agent-harnesses" not in hub_fetch.hub.asked()
    hub_fetch.hub.seen.clear()
    told = {"HF_TOKEN_PATH": str(tmp_path / "token"), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    hub_fetch.cache = FileCache(tmp_path / "another shelf")
    assert run_apart(hub_fetch, **told).startswith("FetchError org/tiny is gated")
    assert {get_authorization(one) for one in hub_fetch.hub.seen} == {""}


def test_offline_means_offline(hub_fetch: HubFetch) -> None:
    assert run_apart(hub_fetch, HF_HUB_OFFLINE="1") == "FetchError HF_HUB_OFFLINE forbids requests to the hub\n"
    assert hub_fetch.hub.seen == []


def test_the_client_is_told_about_pip_s_certificates(
    tmp_path: Path, hub_fetch: HubFetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_certificates(tmp_path)
    with serve_hub(made.for_a_server()) as place:
        place.repository(NAME, FILES)
        monkeypatch.setenv("HF_ENDPOINT", place.url)
        hub_fetch.hub = place
        with pytest.raises(FetchError, match="certificate is not trusted"):
            hub_fetch.run()
        hub_fetch.config = type(hub_fetch.config)(cert=str(made.authority))
        hub_fetch.check_files(hub_fetch.run())
