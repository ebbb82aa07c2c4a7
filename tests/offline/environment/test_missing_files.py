"""What a carried repository lacks, asked for by the real client of the hub: named where a load failed of it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bundler.errors import BlockedRequestError, SmokeError
from bundler.format import blocked_requests
from bundler.format.lock import lockfile
from bundler.format.lock.smoke_result import SmokeResult
from bundler.offline import smoke
from bundler.offline.environment import guard, hub_cache
from bundler.offline.prefix.releases import Release
from bundler.progress import RecordingReporter
from tests.support.bundles import InstalledBundle, make_lock

CODEBOOK = "org/codebook"
PLAIN = make_lock({"bundle.pyz": b"x", "models/codebook/config.json": b"{}"})
LOCK = lockfile.replace_fields(PLAIN, models=(dataclasses.replace(PLAIN.models[0], repo_id=CODEBOOK),))


@pytest.fixture(scope="module")
def release(demo: InstalledBundle, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """One that carries org/codebook without its table.json, and borrows the libraries of the demo."""
    release = Release(prefix=tmp_path_factory.mktemp("opt"), name=LOCK.release_name)
    release.path.mkdir(parents=True)
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", release.path / "venv"], check=True)
    (model,) = LOCK.models
    (release.shared_models / model.host_folder).mkdir(parents=True)
    (release.shared_models / model.host_folder / "config.json").write_text("{}")
    hub_cache.create_cache(release, LOCK)
    smoke.write_payload(release)
    guard.write_files(release, LOCK)
    packages = demo.python.parent.parent / "lib" / "python3.11" / "site-packages"
    (guard.get_site_packages(release, LOCK) / "zz-libraries.pth").write_text(f"{packages}\n")
    release.live_path.symlink_to(Path("releases") / release.name)
    return release


ASK = """\
import sys
from huggingface_hub import hf_hub_download, snapshot_download
def ask(what, *given, **named):
    try:
        print(what(*given, **named))
    except Exception as error:
        print(type(error).__name__)
ask(hf_hub_download, "org/codebook", "config.json")
ask(hf_hub_download, "org/codebook", "table.json", subfolder="deep", local_files_only=True)
ask(hf_hub_download, "org/codebook", "table.json")
ask(hf_hub_download, "org/codebook", "config.json", revision="v2")
ask(snapshot_download, "org/codebook", revision="1.0", local_files_only=True)
ask(snapshot_download, "org/other", local_files_only=True)
ask(hf_hub_download, "org/codebook", "config.json", cache_dir=sys.argv[1])
"""


def test_each_file_and_revision_that_is_not_there_is_noted_with_the_line_that_asked(
    release: Release, tmp_path: Path
) -> None:
    log, script = tmp_path / "calls.jsonl", tmp_path / "app.py"
    script.write_text(ASK)
    told = {"PATH": os.environ["PATH"], "BUNDLE_GUARD": "strict", "BUNDLE_GUARD_LOG": str(log)}
    done = subprocess.run(
        [release.python, script, tmp_path / "cache"], env=told, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[1:] == ["LocalEntryNotFoundError"] * 6
    found = blocked_requests.read_log(log)
    assert [(call.kind, call.name, call.revision, call.file) for call in found] == [
        ("file", CODEBOOK, "main", "deep/table.json"),
        ("file", CODEBOOK, "main", "table.json"),
        ("revision", CODEBOOK, "v2", "config.json"),
        ("revision", CODEBOOK, "1.0", ""),
        ("repo", "org/other", "main", ""),
        ("elsewhere", CODEBOOK, "main", "config.json"),
    ]
    assert all(call.asked.startswith("app.py:5 in ask") for call in found)
    assert [call.fix for call in found] == [
        "in the entry of org/codebook: add include: [deep/table.json, …], or remove the exclude: that leaves it out",
        "in the entry of org/codebook: add include: [table.json, …], or remove the exclude: that leaves it out",
        "in the entry of org/codebook: set revision: v2",
        'in the entry of org/codebook: set revision: "1.0"',
        "models: [{repo: org/other, loader: files}]",
        "nothing in the manifest: the bundle has it, but the code searched another folder than HF_HUB_CACHE names",
    ]


def prove(release: Release, code: str) -> SmokeResult:
    """A smoke load whose loader runs this code of a library's."""
    probe = release.path / "payload" / "probes" / "files.py"
    kept = probe.read_text()
    (guard.get_site_packages(release, LOCK) / "library.py").write_text(code)
    probe.write_text(kept.replace("    files =", "    __import__('library').load()\n    files ="))
    try:
        (proof,) = smoke.run_smoke_loads(release, LOCK, None, RecordingReporter())
    finally:
        probe.write_text(kept)
    return proof.result


TABLE = """\
from huggingface_hub import hf_hub_download
def load():
    return hf_hub_download("org/codebook", "table.json", local_files_only=True)
"""


def test_a_load_that_ends_with_a_missing_file_names_it_and_who_asked(release: Release) -> None:
    with pytest.raises(BlockedRequestError) as failure:
        prove(release, TABLE)
    message = str(failure.value)
    assert "  https://huggingface.co/org/codebook/resolve/main/table.json\n" in message
    assert "    missing   table.json of org/codebook at main; the bundle has the repository without it\n" in message
    assert "library.py:3 in load: return hf_hub_download(" in message
    assert "    fix       in the entry of org/codebook: add include: [table.json, …]" in message


def test_a_load_that_ends_with_a_missing_revision_names_it_too(release: Release) -> None:
    """The error that ends it may have been made of the client's own."""
    code = TABLE.replace('"table.json", ', '"config.json", revision="v2", ')
    code = code.replace("    return", "    try:\n        return")
    code += "    except Exception as error:\n        raise ValueError('no table') from error\n"
    with pytest.raises(BlockedRequestError) as failure:
        prove(release, code)
    assert "missing   revision v2 of org/codebook; the bundle has another revision" in str(failure.value)
    assert "fix       in the entry of org/codebook: set revision: v2" in str(failure.value)


SURVIVED = f"""{TABLE}
asked = load
def load():
    try:
        asked()
    except OSError:
        pass
"""


def test_a_file_that_a_load_does_without_is_no_call_home(release: Release) -> None:
    result = prove(release, SURVIVED)
    assert (result.ok, result.calls, result.absent) == (True, (), ())


def test_of_a_load_that_failed_otherwise_it_is_told_and_is_not_the_reason(release: Release) -> None:
    with pytest.raises(SmokeError) as failure:
        prove(release, f"{SURVIVED}    raise TypeError('another fault')\n")
    assert failure.value.code == SmokeError.code != BlockedRequestError.code
    assert "another fault" in str(failure.value)
    told = str(failure.value).partition("not found before the failure, a possible cause:\n")[2]
    assert "missing   table.json of org/codebook at main" in told
