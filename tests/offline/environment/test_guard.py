"""What every start of an installed Python does, shown with a real environment and real sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import BlockedRequestError, ProgramError, SmokeError
from bundler.format import blocked_requests, hashing
from bundler.format.lock import lockfile
from bundler.format.lock.entries import Artifact, Package, PythonEnvironment
from bundler.offline import smoke
from bundler.offline.doctor import release_checks
from bundler.offline.environment import guard, hub_cache
from bundler.offline.prefix.releases import Release
from bundler.offline.rendering import env_file
from bundler.progress import RecordingReporter
from tests.support.bundles import InstalledBundle, make_lock
from tests.support.programs import require_tool

LOCK = make_lock({"bundle.pyz": b"x", "models/m/config.json": b"{}"})
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "DISABLE_SAFETENSORS_CONVERSION")


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Release:
    release = Release(prefix=tmp_path_factory.mktemp("opt 데모"), name=LOCK.release_name)
    release.path.mkdir(parents=True)
    release.writable_folder.mkdir()
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", release.path / "venv"], check=True)
    (model,) = LOCK.models
    (release.shared_models / model.host_folder).mkdir(parents=True)
    (release.shared_models / model.host_folder / "config.json").write_text("{}")
    hub_cache.create_cache(release, LOCK)
    smoke.write_payload(release)
    guard.write_files(release, LOCK)
    return release


@pytest.fixture
def release(laid_out: Release) -> Iterator[Release]:
    """The same for tests that break it; it is whole again afterwards."""
    yield laid_out
    guard.write_files(laid_out, LOCK)


def start(release: Release, code: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [release.python, *options, "-c", code], env={"PATH": os.environ["PATH"], **variables},
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


TELL = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.mark.parametrize("options", [(), ("-I",), ("-E",), ("-s", "-P")])
def test_every_start_sets_what_env_offline_sets(release: Release, options: tuple[str, ...]) -> None:
    told = json.loads(start(release, TELL, *options).stdout)
    wanted = env_file.make_library_variables(release.live_path)
    assert wanted == {name: told.get(name) for name in wanted}
    caches = env_file.make_cache_variables(release.writable_folder)
    assert caches == {name: told.get(name) for name in caches}, "var belongs to this user"
    assert not caches.keys() & env_file.make_variables(LOCK, release.prefix).keys()
    assert [told.level for told in release_checks.check_guard(release, LOCK)] == ["healthy"]
    assert wanted.items() <= env_file.make_variables(LOCK, release.prefix).items()
    assert [told[name] for name in SWITCHES] == ["1"] * 4
    assert told["HF_HUB_CACHE"] == f"{release.prefix}/current/hub"


def test_python_without_site_is_not_guarded(release: Release) -> None:
    assert "HF_HUB_OFFLINE" not in json.loads(start(release, TELL, "-S").stdout)


def test_it_runs_before_the_files_of_packages(release: Release) -> None:
    early = guard.get_site_packages(release, LOCK) / "0-package.pth"
    early.write_text("import os; os.environ['SEEN'] = os.environ.get('HF_HUB_OFFLINE', 'not yet')\n")
    try:
        assert json.loads(start(release, TELL).stdout)["SEEN"] == "1"
    finally:
        early.unlink()


def test_values_that_are_set_win_and_are_reported(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(start(release, TELL, HF_HUB_OFFLINE="0").stdout)["HF_HUB_OFFLINE"] == "0"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    assert guard.read_state(release, LOCK).overridden_variables == {"HF_HUB_OFFLINE": ("0", "1")}
    (told,) = release_checks.check_guard(release, LOCK)
    assert (told.level, told.message) == ("warning", "HF_HUB_OFFLINE=0 is set here and overrides the release's 1")
    report = RecordingReporter()
    smoke.run_smoke_loads(release, LOCK, None, report)
    assert "HF_HUB_OFFLINE=0 is set in this environment and overrides the release's 1" in report.warnings


@pytest.mark.parametrize("name", ["TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE"])
def test_caches_that_only_older_libraries_look_into_are_reported_where_those_are_installed(
    release: Release, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hub = str(release.live_path / "hub")
    monkeypatch.setenv(name, "/mnt/old")
    assert not guard.read_state(release, LOCK).overridden_variables, "transformers 5 reads none of them"
    path = "wheels/transformers-4.57.6-py3-none-any.whl"
    wheel = Artifact(path=path, kind="wheel", size=0, sha256=hashing.compute_sha256(b""), origin="a test")
    older = lockfile.replace_fields(
        LOCK,
        python=PythonEnvironment(packages=(Package(name="transformers", version="4.57.6", wheel=path),)),
        artifacts=(LOCK.artifacts[0], wheel, *LOCK.artifacts[1:]),
    )
    assert guard.read_state(release, older).overridden_variables == {name: ("/mnt/old", hub)}
    monkeypatch.setenv(name, hub)
    assert not guard.read_state(release, older).overridden_variables


def test_sentence_transformers_own_cache_is_the_hub_view_and_another_is_reported(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.loads(start(release, TELL).stdout)
    assert told["SENTENCE_TRANSFORMERS_HOME"] == told["HF_HUB_CACHE"]
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", "/mnt/old")
    (said,) = release_checks.check_guard(release, LOCK)
    assert said.message.startswith("SENTENCE_TRANSFORMERS_HOME=/mnt/old is set here and overrides")


@pytest.mark.parametrize("line", ["improt _airgap_guard\n", "", " import _airgap_guard; _airgap_guard.begin()\n"])
def test_a_broken_path_file_is_ignored_by_python_and_noticed_by_us(release: Release, line: str) -> None:
    (guard.get_site_packages(release, LOCK) / guard.PTH_FILE).write_text(line)
    quiet = start(release, "print('started')")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "started\n", "")
    assert not guard.read_state(release, LOCK).has_run
    assert [told.level for told in release_checks.check_guard(release, LOCK)] == ["critical"]
    with pytest.raises(SmokeError, match="The guard of the environment did not run when Python started"):
        smoke.run_smoke_loads(release, LOCK, None, RecordingReporter())


def test_an_environment_whose_guard_does_not_run_is_not_installed(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_PTH_LINE", "# nothing\n")
    with pytest.raises(ProgramError, match="the guard of the environment does not run"):
        guard.write_files(release, LOCK)


def test_a_fault_in_it_is_said_and_keeps_nothing_from_starting_but_what_asked_for_strict(release: Release) -> None:
    (guard.get_site_packages(release, LOCK) / "_airgap_guard.env").unlink()
    done = start(release, "print('started')")
    assert (done.returncode, done.stdout) == (0, "started\n")
    assert "airgap guard: FileNotFoundError" in done.stderr
    assert not guard.read_state(release, LOCK).has_run
    strict = start(release, "print('started')", BUNDLE_GUARD="strict")
    assert (strict.returncode != 0, strict.stdout) == (True, "")
    assert "BUNDLE_GUARD=strict could not be set up" in strict.stderr


def test_a_start_imports_nothing_but_what_python_itself_starts_with(release: Release) -> None:
    """Every start of every Python of the release pays for it."""
    code = (
        "import os, sys; before = set(sys.modules); sys.path.append(sys.argv[1]); import _airgap_guard; "
        "_airgap_guard.begin(); print(*sorted(set(sys.modules) - before))"
    )
    place = str(guard.get_site_packages(release, LOCK))
    command: list[str | Path] = [release.python, "-I", "-S", "-c", code, place]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["_airgap_guard"]


GET = "import urllib.request\ndef fetch():\n    urllib.request.urlopen('http://u:secret@models.example/org/name/resolve/main/x?token=hush')\nfetch()\n"


def run_strictly(
    release: Release, code: str, tmp_path: Path, *before: str, **variables: str
) -> tuple[Any, tuple[blocked_requests.BlockedRequest, ...]]:
    log = tmp_path / "calls.jsonl"
    script = tmp_path / "app.py"
    script.write_text(code)
    told = {"PATH": os.environ["PATH"], "BUNDLE_GUARD": "strict", "BUNDLE_GUARD_LOG": str(log), **variables}
    done = subprocess.run(
        [*before, release.python, script], env=told, check=False, capture_output=True, text=True, timeout=60
    )
    return done, blocked_requests.read_log(log)


def test_strict_names_host_address_line_and_what_is_missing(release: Release, tmp_path: Path) -> None:
    done, (call,) = run_strictly(release, GET.replace("u:secret@", ""), tmp_path)
    assert done.returncode == 1
    assert (
        "ConnectionBlockedError: repo org/name is not in the bundle: a connection to models.example was refused"
        in done.stderr
    )
    assert call.url == "http://models.example/org/name/resolve/main/x"
    assert call.asked.startswith("app.py:3 in fetch: urllib.request.urlopen(")
    assert (call.host, call.kind, call.name) == ("models.example", "repo", "org/name")
    assert call.fix == "models: [{repo: org/name, loader: files}]"
    assert "hush" not in done.stderr.partition("ConnectionBlockedError")[2].replace(call.asked, "")


@pytest.mark.parametrize(
    ("address", "cure"),
    [
        ("https://github.com/org/name/raw/main/table.json", "smoke: {tolerate_calls: [github.com]}"),
        ("https://github.com/org/name/tree/main/folder", "smoke: {tolerate_calls: [github.com]}"),
        ("https://huggingface.co/org/name/raw/main/table.json", "models: [{repo: org/name, loader: files}]"),
        ("https://hf.co/datasets/org/name/resolve/v2/rows.csv", "models: [{dataset: org/name, revision: v2}]"),
        (
            "https://huggingface.co/org/name/resolve/refs%2Fpr%2F1/x",
            "{repo: org/name, revision: refs/pr/1, loader: files}",
        ),
        ("https://huggingface.co/api/models/org/name/tree/main", "models: [{repo: org/name, loader: files}]"),
        ("https://own.example/org/name/tree/main/folder", "models: [{repo: org/name, loader: files}]"),
    ],
)
def test_only_addresses_of_a_hub_are_repositories(release: Release, tmp_path: Path, address: str, cure: str) -> None:
    code = f"import urllib.request\nurllib.request.urlopen({address!r})\n"
    _, (call,) = run_strictly(release, code, tmp_path, HF_ENDPOINT="https://own.example")
    assert cure in call.fix


def test_strict_clears_proxies_and_leaves_loopback_open(release: Release, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]
        code = (
            f"import socket, urllib.request\nsocket.create_connection(('127.0.0.1', {port})).close()\nprint('open')\n"
        )
        done, found = run_strictly(
            release, code + "urllib.request.urlopen('http://models.example/')\n", tmp_path,
            http_proxy=f"http://127.0.0.1:{port}", HTTPS_PROXY=f"http://127.0.0.1:{port}",
        )  # fmt: skip
    assert (done.stdout, "ConnectionBlockedError" in done.stderr) == ("open\n", True)
    assert [call.host for call in found] == ["models.example"]


THIS_MACHINE = """
import http.client, http.server, socket, threading
server = http.server.HTTPServer(("", 0), http.server.SimpleHTTPRequestHandler)  # asks for this machine's whole name
threading.Thread(target=server.handle_request, daemon=True).start()
for name in (socket.gethostname().upper(), "LocalHost", "localhost.localdomain", "ip6-localhost", "", "0.0.0.0", "::"):
    try:
        socket.getaddrinfo(name, 80)
    except socket.gaierror:  # the guard let it through, and this host does not know it
        pass
for name in ("LOCALHOST", "0.0.0.0"):
    with socket.socket() as one:
        one.connect((name, server.server_port))
print("open")
"""


def test_strict_lets_this_machine_be_reached_by_each_of_its_names(release: Release, tmp_path: Path) -> None:
    done, found = run_strictly(release, THIS_MACHINE, tmp_path)
    assert (done.stdout, done.stderr, found) == ("open\n", "", ())


LED_AWAY = """
import socket
print(socket.gethostbyname("Elsewhere"))
for reach in (lambda: socket.socket().connect(("elsewhere", 80)), lambda: socket.create_connection(("elsewhere", 80)),
              lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("elsewhere", 53))):
    try:
        reach()
    except Exception as error:
        print(type(error).__name__)
"""


def test_a_name_of_this_machine_that_leads_to_another_one_leads_nowhere(release: Release, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n192.0.2.9 elsewhere\n")
    named = f'{require_tool("mount")} --bind "{hosts}" /etc/hosts && {require_tool("hostname")} elsewhere && exec "$@"'
    before = (require_tool("unshare"), "-nmu" if os.getuid() == 0 else "-rnmu", "sh", "-c", named, "sh")
    done, found = run_strictly(release, LED_AWAY, tmp_path, *before)
    assert done.stdout.split() == [
        "192.0.2.9",
        "ConnectionBlockedError",
        "ConnectionBlockedError",
        "ConnectionBlockedError",
    ], done.stderr
    assert [call.host for call in found] == ["elsewhere", "192.0.2.9", "elsewhere"]


WAYS = """
import asyncio, socket
async def loop():
    await asyncio.open_connection("192.0.2.4", 443)
ways = [
    lambda: print("connect_ex", socket.socket().connect_ex(("192.0.2.1", 443))),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, ("192.0.2.2", 53)),
    lambda: socket.socket(socket.AF_INET6).connect_ex(("2001:db8::1", 443)),
    lambda: asyncio.run(loop()),
]
for way in ways:
    try:
        way()
    except Exception as error:
        print(type(error).__name__)
"""


def test_strict_sees_each_way_that_a_socket_has(release: Release, tmp_path: Path) -> None:
    done, found = run_strictly(release, WAYS, tmp_path)
    assert done.stdout.split() == ["ConnectionBlockedError"] * 4, done.stderr
    assert [call.host for call in found] == ["192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.4"]


def test_strict_notes_what_a_program_survives_and_what_its_children_do(release: Release, tmp_path: Path) -> None:
    code = """
import multiprocessing, socket
def call(host):
    try:
        socket.create_connection((host, 443), timeout=1)
    except Exception as error:
        print(type(error).__name__, flush=True)
if __name__ == "__main__":
    call("192.0.2.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        try:
            datagram.sendto(b"x", ("192.0.2.2", 53))
        except Exception as error:
            print(type(error).__name__, flush=True)
    child = multiprocessing.get_context("spawn").Process(target=call, args=("child.example",))
    child.start(); child.join()
"""
    done, found = run_strictly(release, code, tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, ["ConnectionBlockedError"] * 3), done.stderr
    assert [call.host for call in found] == ["192.0.2.1", "192.0.2.2", "child.example"]


def test_hosts_that_may_be_reached_and_hosts_that_may_be_asked_in_vain(release: Release, tmp_path: Path) -> None:
    code = "import socket\nfor host in ('192.0.2.1', 'tracker.example'):\n    try:\n        socket.create_connection((host, 443), timeout=0.2)\n    except OSError as error:\n        print(type(error).__name__, error)\n"
    done, found = run_strictly(
        release, code, tmp_path, require_tool("unshare"), "-rn" if os.getuid() else "-n",
        BUNDLE_GUARD_ALLOW="192.0.2.1", BUNDLE_GUARD_TOLERATE="tracker.example",
    )  # fmt: skip
    passed, tolerated = done.stdout.splitlines()
    assert "Network is unreachable" in passed, "the guard let it through, to where the kernel has no network"
    assert "the network is out of reach: tracker.example" in tolerated
    assert [call.host for call in found] == ["tracker.example"]
    assert blocked_requests.select_untolerated(found, ["tracker.example"]) == ()


LOOP = """
import asyncio
async def main():
    await asyncio.open_connection("models.example", 443)
asyncio.run(main())
"""
POOL = """
import concurrent.futures, socket
def all_of(pool):
    return list(pool.map(socket.create_connection, [("models.example", 443)]))
with concurrent.futures.ThreadPoolExecutor() as pool:
    all_of(pool)
"""
ADDRESS = LOOP.replace("models.example", "192.0.2.1")


THREAD = "(where the main thread was; the request came from asyncio_0"


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        # The thread that looks the name up may call before the main thread is back in the event loop.
        (
            LOOP,
            (
                f"app.py:5 in <module>: asyncio.run(main()) {THREAD}",
                f'app.py:4 in main: await asyncio.open_connection("models.example", 443) {THREAD}',
            ),
        ),
        (POOL, 'app.py:4 in all_of: return list(pool.map(socket.create_connection, [("models.example", 443)])) (where'),
        (ADDRESS, 'app.py:4 in main: await asyncio.open_connection("192.0.2.1", 443)'),
    ],
)
def test_who_asked_from_an_event_loop_or_a_pool_is_the_program_and_not_the_guard(
    release: Release, tmp_path: Path, code: str, asked: str | tuple[str, ...]
) -> None:
    """A name is looked up in a thread of its own, where every frame is one of libraries."""
    done, (call,) = run_strictly(release, code, tmp_path)
    assert (done.returncode, "ConnectionBlockedError" in done.stderr) == (1, True)
    assert call.asked.startswith(asked)
    assert "airgap" not in call.asked
    assert "bundle_payload" not in call.asked


HUB = """
import sys, time
from huggingface_hub import hf_hub_download
def build():
    return hf_hub_download("org/codebook", "table.json")
begun = time.monotonic()
try:
    build()
except Exception as error:
    print(type(error).__name__, time.monotonic() - begun)
"""


@pytest.mark.parametrize(("offline", "error"), [("1", "LocalEntryNotFoundError"), ("0", "ConnectionBlockedError")])
def test_the_hub_s_client_fails_at_once_and_is_seen_offline_too(
    demo: InstalledBundle, tmp_path: Path, offline: str, error: str
) -> None:
    """Offline it refuses by itself, with no connection to see; online it would try for half a minute."""
    live = Release(prefix=demo.prefix, name=demo.current.readlink().name)
    done, found = run_strictly(live, HUB, tmp_path, HF_HUB_OFFLINE=offline)
    name, seconds = done.stdout.split()
    assert (name, float(seconds) < 10) == (error, True), done.stderr
    assert {(call.kind, call.name, call.host) for call in found} == {("repo", "org/codebook", "huggingface.co")}
    assert found[0].asked == 'app.py:5 in build: return hf_hub_download("org/codebook", "table.json")'
    assert found[0].url == "https://huggingface.co/org/codebook/resolve/main/table.json"


def test_a_failed_load_names_its_calls(release: Release) -> None:
    """With a loader of its own, as a library would: it asks another host and gives up."""
    probe = release.path / "payload" / "probes" / "files.py"
    kept = probe.read_text()
    probe.write_text(
        kept.replace("    files =", "    __import__('socket').create_connection(('models.example', 443))\n    files =")
    )
    try:
        with pytest.raises(BlockedRequestError) as failure:
            smoke.run_smoke_loads(release, LOCK, None, RecordingReporter())
    finally:
        probe.write_text(kept)
    assert failure.value.code == 12
    assert "fix       smoke: {tolerate_calls: [models.example]}" in str(failure.value)


def test_files_of_another_version_are_named_and_then_removed(release: Release) -> None:
    stale = [release.payload_folder / name for name in ("checks.py", "network/asking.py")]
    for path in stale:
        path.write_text("raise SystemExit('of another version')\n")
    other = release.payload_folder / "__pycache__" / "checks.cpython-311.pyc"
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(b"")
    smoke.write_payload(release)
    assert smoke.find_changed_payload(release) == stale, "the guard of that version may need them still"
    (finding,) = release_checks.check_payload(release, LOCK)
    assert (finding.level, finding.message) == (
        "warning",
        "2 files not from this version of the installer: checks.py, asking.py",
    )
    smoke.remove_stale_payload(release)
    assert [path for path in stale if path.exists()] == []
    assert other.exists(), "Python alone knows what it compiled"
    assert release_checks.check_payload(release, LOCK)[0].level == "healthy"
