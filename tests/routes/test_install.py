"""The whole route with small bundles: upgrades, the way back, and every bad day that can be had cheaply."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.bundle import archive, hashing, lock, tarform
from bundler.offline import environment, releases
from bundler.progress import Collected
from tests.conftest import SMALL, Installed, as_nobody, bundle, lock_of, open_to_all, python_of_anyone, tool
from tests.routes.conftest import MANIFEST, Small
from tests.wheelmaking import make_wheel

Build = Callable[..., Small]
Far = Callable[..., subprocess.CompletedProcess[str]]


def live(prefix: Path) -> str:
    return (prefix / "current").readlink().name


def told(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    return dict(json.loads(done.stdout))


def test_install_upgrade_list_and_rollback(build: Build, far: Far, tmp_path: Path) -> None:
    prefix = tmp_path / "opt" / "small"
    for version in ("1", "2"):
        done = far("install", build(version).path, "--prefix", prefix, "--json")
        assert done.returncode == 0, done.stderr
        assert live(prefix).startswith(f"{version}-")
    python = prefix / "current" / "venv" / "bin" / "python"
    code = "import alpha, beta, importlib.util as u; print(alpha.VERSION, beta.VERSION, u.find_spec('never'))"
    assert subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout == "1.0 2.0 None\n"
    assert len(list((prefix / "models").iterdir())) == 1, "the same model is there once"
    listed = far("list", "--prefix", prefix).stdout.splitlines()
    assert [line[:3] for line in listed] == ["  1", "* 2"]
    assert far("rollback", "--prefix", prefix).stdout.startswith("live now: 1-")
    assert live(prefix).startswith("1-")
    again = far("rollback", "--prefix", prefix)
    assert (again.returncode, "no release was live before 1-" in again.stderr) == (2, True)


def test_diff_says_what_changed_and_what_that_makes_to_carry(build: Build, far: Far, tmp_path: Path) -> None:
    first, second = build("1").path, build("2", files={"config.json": b"{}", "weights.bin": b"v" * 70_000}).path
    assert far("diff", first, first).stdout == "no difference\n"
    done = far("diff", first, second)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == ["about", "  ~ sequence: 1 → 2", "  ~ version: 1 → 2"]
    assert "  ~ m: path:vendor (" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("to carry: 68.4 KiB of ")
    assert far("install", first, "--prefix", tmp_path / "opt").returncode == 0
    told = json.loads(far("diff", tmp_path / "opt", second, "--json").stdout)["result"]
    assert (told["carry"], [change["name"] for change in told["models"]], told["packages"]) == (70_000, ["m"], [])


def test_variables_go_through_current_and_read_the_same_in_sh(build: Build, far: Far, tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    assert far("install", build().path, "--prefix", prefix).returncode == 0
    script = '. "$1/current/.env.offline"; printf "%s\\n" "$MODEL_PATH" "$HF_HUB_CACHE" "$HF_MODULES_CACHE" "$HF_HUB_OFFLINE"'
    done = subprocess.run(["sh", "-c", script, "sh", prefix], check=True, capture_output=True, text=True)
    model, hub, modules, offline = done.stdout.splitlines()
    assert (model, hub, offline) == (f"{prefix}/current/models/m", f"{prefix}/current/hub", "1")
    assert Path(model, "config.json").read_bytes() == b"{}"
    assert prefix / "releases" not in Path(modules).resolve().parents


def test_a_bundle_through_a_pipe(build: Build, far: Far, tmp_path: Path) -> None:
    small = build()
    with small.path.open("rb") as carried, subprocess.Popen(["cat"], stdin=carried, stdout=subprocess.PIPE) as cat:
        done = far("verify", "-", stdin=cat.stdout)
    assert (done.returncode, "every byte is what the lock says" in done.stdout) == (0, True), done.stderr
    done = far("install", "-", "--prefix", tmp_path / "opt", text=False, input=small.path.read_bytes())
    assert done.returncode == 0, done.stderr
    assert live(tmp_path / "opt").startswith("1-")


def test_two_builds_from_one_lock_are_one_file(build: Build, tmp_path: Path) -> None:
    """With another umask, time zone, shelf and folder, at another time; tests of the format do it as another user too."""
    small = build()
    kept = tmp_path / "kept.json"
    done = bundle("lock", small.manifest, "-o", kept, env=small.environment)
    assert done.returncode == 0, done.stderr
    first, second = tmp_path / "first.tar", tmp_path / "elsewhere" / "second.tar"
    assert bundle("build", small.manifest, "--lock", kept, "-o", first, env=small.environment).returncode == 0
    moved = shutil.copytree(small.manifest.parent, tmp_path / "elsewhere" / "한 folder")
    other = small.environment | {"TZ": "Asia/Seoul", "LC_ALL": "C", "HOME": str(tmp_path / "elsewhere")}
    other |= {"BUNDLE_CACHE": str(tmp_path / "elsewhere" / "shelf"), "SOURCE_DATE_EPOCH": "1", "UV_NO_CACHE": "1"}
    again = bundle("build", moved / "small.yaml", "--lock", kept, "-o", second, env=other, umask=0o077, cwd=moved)
    assert again.returncode == 0, again.stderr
    assert hashing.digest_of_file(first) == hashing.digest_of_file(second)


def test_a_lock_of_another_manifest_or_of_changed_files_is_refused(build: Build, tmp_path: Path) -> None:
    small = build()
    kept = tmp_path / "kept.json"
    assert bundle("lock", small.manifest, "-o", kept, env=small.environment).returncode == 0
    (small.manifest.parent / "vendor" / "config.json").write_text("[]")
    done = bundle("build", small.manifest, "--lock", kept, "-o", tmp_path / "x.tar", env=small.environment)
    assert (done.returncode, "the files of m are not those of the lock" in done.stderr) == (6, True)
    small.manifest.write_text(small.manifest.read_text() + "# a word more\n")
    done = bundle("build", small.manifest, "--lock", kept, "-o", tmp_path / "x.tar", env=small.environment)
    assert (done.returncode, "the lock was made from another text of this manifest" in done.stderr) == (3, True)
    assert not (tmp_path / "x.tar").exists()


def test_a_damaged_bundle_leaves_the_live_release_and_names_all_damage(build: Build, far: Far, tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    assert far("install", build("1").path, "--prefix", prefix).returncode == 0
    second = build("2", files={"config.json": b"{}", "a.bin": b"a" * 9000, "b.bin": b"b" * 9000}).path
    with archive.opened(second) as carried:
        where = {member.name: member.content_at for member in carried.layout.artifacts()}
    data = bytearray(second.read_bytes())
    for name in ("models/m/a.bin", "models/m/b.bin", "wheels/beta-2.0-py3-none-any.whl"):
        data[where[name] + 5] ^= 0xFF
    second.write_bytes(data)
    for verb in (["verify", second], ["install", second, "--prefix", prefix]):
        done = far(*verb, "--json")
        assert done.returncode == 6
        message = str(told(done)["error"])
        assert all(name in message for name in ("a.bin", "b.bin", "beta-2.0"))
        assert "config.json" not in message
    assert live(prefix).startswith("1-")
    assert len(list((prefix / "releases").iterdir())) == 1
    assert len(list((prefix / "models").iterdir())) == 1


def test_a_truncated_bundle(build: Build, far: Far, tmp_path: Path) -> None:
    small = build()
    data = small.path.read_bytes()
    small.path.write_bytes(data[: len(data) - 60_000])
    done = far("install", small.path, "--prefix", tmp_path / "opt")
    assert (done.returncode, "models/m/weights.bin" in done.stderr, "ends" in done.stderr) == (6, True, True)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "opt" / "current").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "linux-x86_64, libc: glibc-2.17",
            "linux-aarch64, libc: glibc-2.17",
            "it is for linux-aarch64, this is linux-x86_64",
        ),
        ("glibc-2.17", "glibc-2.99", "it needs glibc-2.99 or newer, this host has glibc-"),
        ("glibc-2.17", "musl-1.2", "it needs musl-1.2 or newer"),
        ('python: "3.11"', 'python: "3.29"', "the bundle needs CPython 3.29 and this host has none on PATH"),
    ],
)
def test_a_bundle_for_another_host(
    pack_for: Callable[[str], Path], far: Far, tmp_path: Path, old: str, new: str, message: str
) -> None:
    done = far("install", pack_for(MANIFEST.replace(old, new)), "--prefix", tmp_path / "opt")
    assert (done.returncode, message in done.stderr) == (9, True), done.stderr
    assert "what to do:" in done.stderr
    assert not (tmp_path / "opt").exists()


@pytest.fixture
def pack_for(tmp_path: Path) -> Callable[[str], Path]:
    """A bundle without packages for the target of a manifest: no index has wheels for hosts that do not exist."""
    from bundler.online import manifest

    def packed(text: str) -> Path:
        (tmp_path / "vendor").mkdir()
        asked = tmp_path / "m.yaml"
        asked.write_text(text.format(version="1", sequence="1"))
        target = manifest.load(asked).manifest.target.resolved()
        for name, data in SMALL.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        path = tmp_path / "other.tar"
        archive.write(path, lock_of(SMALL, target=target), lambda artifact: tmp_path / artifact.path, Collected())
        return path

    return packed


def test_a_prefix_that_can_not_be_written(build: Build, far: Far, tmp_path: Path) -> None:
    small = build()
    (tmp_path / "file").write_text("")
    done = far("install", small.path, "--prefix", tmp_path / "file" / "opt")
    assert (
        done.returncode,
        "the prefix can't be written" in done.stderr,
        "choose another --prefix" in done.stderr,
    ) == (9, True, True)


def test_installing_without_root(build: Build, tmp_path: Path, installer: Path) -> None:
    small, home = build(), tmp_path / "home"
    home.mkdir()
    if os.getuid() == 0:
        os.chown(home, 65534, 65534)
    open_to_all(small.path, installer)
    prefix = home / "my prefix"
    done = subprocess.run(
        [*as_nobody(), python_of_anyone(), "-I", "-S", installer, "install", small.path, "--prefix", prefix],
        check=False, capture_output=True, text=True, umask=0o077, cwd=home, env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (prefix / "current" / "models" / "m" / "config.json").stat().st_mode & 0o777 == 0o644
    assert (
        subprocess.run([prefix / "current" / "venv" / "bin" / "python", "-c", "import alpha"], check=False).returncode
        == 0
    )


def test_a_host_without_ensurepip(build: Build, far: Far, tmp_path: Path) -> None:
    """As Debian leaves it out of python3: an empty folder hides the module in a mount namespace."""
    small = build()
    python = subprocess.run(
        [tool("python3.11"), "-c", "import sys; print(sys._base_executable)"],
        check=True,
        capture_output=True,
        text=True,
    )
    code = "import ensurepip, os; print(os.path.dirname(ensurepip.__file__))"
    where = subprocess.run(
        [python.stdout.strip(), "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
    (tmp_path / "empty").mkdir()
    hidden = (
        'mount --bind "$1" "$2" && ! "$3" -c "import ensurepip; ensurepip.version" 2>/dev/null && shift 3 && exec "$@"'
    )
    before = (
        "unshare",
        "-m" if os.getuid() == 0 else "-rm",
        "sh",
        "-c",
        hidden,
        "sh",
        tmp_path / "empty",
        where,
        python.stdout.strip(),
    )
    done = far("install", small.path, "--prefix", tmp_path / "opt", before=before)
    assert done.returncode == 0, done.stderr


def test_where_uv_does_not_run_pip_installs(wheels: Path, tmp_path: Path) -> None:
    release = releases.Release(prefix=tmp_path / "opt", name="1-a")
    contents = {"bundle.pyz": b"x", "tools/uv-9-py3-none-any.whl": b""}
    broken = make_wheel(tmp_path, "uv", "9", files={"uv-9.data/scripts/uv": b"\x7fELF for another machine"})
    for path in (broken, next(wheels.glob("pip-*.whl")), *wheels.glob("alpha*"), *wheels.glob("beta*")):
        folder = "tools" if path.name.startswith(("uv", "pip")) else "wheels"
        contents[f"{folder}/{path.name}"] = path.read_bytes()
    names = sorted(name for name in contents if name.startswith("wheels/"))
    packages = tuple(
        lock.Package(name=Path(n).name.split("-")[0], version=Path(n).name.split("-")[1], wheel=n) for n in names
    )
    locked = lock_of({n: d for n, d in contents.items() if not n.startswith("wheels/")})
    wheel_artifacts = tuple(
        lock.Artifact(
            path=n, kind="wheel", size=len(contents[n]), sha256=hashing.digest_of(contents[n]), origin="a test"
        )
        for n in names
    )
    python = lock.Python(packages=packages)
    locked = lock.with_changes(locked, python=python, artifacts=(*locked.artifacts, *wheel_artifacts))
    for name, data in (contents | {"requirements.txt": lock.requirements_text(python, locked.artifacts)}).items():
        (release.work / name).parent.mkdir(parents=True, exist_ok=True)
        (release.work / name).write_bytes(data)
    report = Collected()
    environment.create(release, locked, Path(sys.executable), report)
    assert "uv does not run on this host, pip installs instead" in report.warnings[0]
    done = subprocess.run([release.python, "-c", "import alpha, beta"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_disk_that_is_too_small(build: Build, far: Far, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can mount a small disk")
    small = build(files={"config.json": b"{}", "weights.bin": os.urandom(30 << 20)})
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", mount], check=True)
    try:
        done = far("install", small.path, "--prefix", mount / "opt")
        assert (done.returncode, "the disk is too small: installing needs" in done.stderr) == (9, True), done.stderr
        assert "place:" not in done.stderr, "no work had begun"
        kept = bundle("build", small.manifest, "-o", mount / "x.tar", env=small.environment)
        assert (kept.returncode, "the disk is too small: the bundle needs" in kept.stderr) == (9, True), kept.stderr
        assert [path.name for path in mount.iterdir()] == ["opt"]
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_second_install_in_the_same_prefix(build: Build, far: Far, tmp_path: Path) -> None:
    small = build()
    with releases.held(tmp_path / "opt"):
        done = far("install", small.path, "--prefix", tmp_path / "opt")
    assert (done.returncode, "another run is working in this prefix" in done.stderr) == (13, True)


def test_a_smoke_load_that_fails_leaves_the_live_release(build: Build, far: Far, tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    assert far("install", build("1").path, "--prefix", prefix).returncode == 0
    text = MANIFEST.replace("loader: files", "loader: sentence-transformers")
    files = {
        "modules.json": b'[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]',
        "config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"",
    }  # fmt: skip
    done = far("install", build("2", files, text).path, "--prefix", prefix, "--json")
    assert done.returncode == 11, done.stderr
    assert "1 of 1 models did not prove themselves" in str(told(done)["error"])
    assert live(prefix).startswith("1-")
    assert [path.name[:2] for path in (prefix / "releases").iterdir()] == ["1-"]


def test_killed_in_the_middle_and_run_again(build: Build, far: Far, tmp_path: Path, installer: Path) -> None:
    prefix, small = tmp_path / "opt", build(files={"config.json": b"{}", "weights.bin": os.urandom(64 << 20)})
    child = subprocess.Popen(
        [tool("python3.11"), "-I", installer, "install", small.path, "--prefix", prefix, "--quiet"]
    )
    deadline = time.monotonic() + 60
    while not (prefix / "releases").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (prefix / "current").exists()
    done = far("install", small.path, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (prefix / "models").iterdir()] == [next((prefix / "models").glob("m-*")).name]


def test_interrupted_and_run_again(build: Build, far: Far, tmp_path: Path, installer: Path) -> None:
    prefix, small = tmp_path / "opt", build(files={"config.json": b"{}", "weights.bin": os.urandom(64 << 20)})
    child = subprocess.Popen(
        [tool("python3.11"), "-I", installer, "install", small.path, "--prefix", prefix],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (prefix / "releases").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate()
    assert child.returncode == 130, said
    assert "Traceback" not in said
    assert not list((prefix / "releases").iterdir())
    assert far("install", small.path, "--prefix", prefix).returncode == 0


def test_a_damaged_shared_model_is_mended(build: Build, far: Far, tmp_path: Path) -> None:
    prefix, small = tmp_path / "opt", build()
    assert far("install", small.path, "--prefix", prefix).returncode == 0
    home = next((prefix / "models").iterdir())
    (home / "weights.bin").write_bytes(b"rotten")
    (home / "adapter_config.json").write_text("{}")
    done = far("install", small.path, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    assert "adapter_config.json belongs to no bundle and is removed" in done.stderr
    assert sorted(path.name for path in home.iterdir()) == ["config.json", "weights.bin"]
    assert (home / "weights.bin").read_bytes() == b"w" * 100_000


def test_links_among_the_placed_models_are_refused(build: Build, far: Far, tmp_path: Path) -> None:
    prefix, small = tmp_path / "opt", build(files={"config.json": b"{}", "sub/weights.bin": b"w"})
    assert far("install", small.path, "--prefix", prefix).returncode == 0
    home = next((prefix / "models").iterdir())
    elsewhere = tmp_path / "elsewhere"
    (home / "sub").rename(elsewhere)
    (home / "sub").symlink_to(elsewhere)
    (elsewhere / "notes.md").write_text("mine")
    done = far("install", small.path, "--prefix", prefix)
    assert (done.returncode, "this must be a folder of its own" in done.stderr) == (8, True), done.stderr
    assert sorted(path.name for path in elsewhere.iterdir()) == ["notes.md", "weights.bin"]


def test_installing_again_without_a_proof_keeps_the_one_there_is(demo: Installed, far: Far) -> None:
    kept = (demo.current / "smoke.json").read_bytes()
    done = far("install", demo.bundle, "--prefix", demo.prefix, "--no-smoke", "--json")
    assert done.returncode == 0, done.stderr
    assert (demo.current / "smoke.json").read_bytes() == kept
    assert json.loads((demo.current / "receipt.json").read_bytes())["smoke"] == json.loads(kept)


def test_a_prefix_that_no_environment_file_could_name(build: Build, far: Far, tmp_path: Path) -> None:
    done = far("install", build().path, "--prefix", tmp_path / "a$b")
    assert (done.returncode, "the prefix holds '$'" in done.stderr) == (9, True)
    assert not (tmp_path / "a$b").exists()


def test_a_wheel_damaged_in_its_table_of_contents(build: Build, far: Far, tmp_path: Path) -> None:
    small = build()
    with archive.opened(small.path) as carried:
        member = next(m for m in carried.layout.artifacts() if m.name.startswith("wheels/beta"))
    data = bytearray(small.path.read_bytes())
    at = data.index(b"PK\x01\x02", member.content_at)
    data[at + 10] = 99  # a compression that no program knows
    small.path.write_bytes(data)
    done = far("install", small.path, "--prefix", tmp_path / "opt")
    assert (done.returncode, "wheels/beta-2.0-py3-none-any.whl" in done.stderr) == (6, True), done.stderr


def test_an_output_folder_that_is_not_there(build: Build, tmp_path: Path) -> None:
    small = build()
    for place in (tmp_path / "stick" / "x.tar", f"{tmp_path}/stick/"):
        done = bundle("build", small.manifest, "-o", place, env=small.environment)
        assert (done.returncode, "there is no such folder" in done.stderr) == (9, True)
    assert not (tmp_path / "stick").exists()


def test_a_secret_does_not_show_even_when_debugging(build: Build) -> None:
    small = build()
    told = small.environment | {
        "PIP_NO_INDEX": "0",
        "PIP_INDEX_URL": "http://user:hun/t@er2@127.0.0.1:9/simple?token=hush",
    }
    told |= {"PIP_FIND_LINKS": "", "PIP_RETRIES": "0"}
    done = bundle("lock", small.manifest, "--debug", env=told)
    assert done.returncode == 4, done.stderr
    assert "Traceback" in done.stderr
    assert not [word for word in ("hun/t", "er2", "hush") if word in done.stdout + done.stderr]


def test_assets_and_models_from_addresses(online: dict[str, str], far: Far, tmp_path: Path) -> None:
    import http.server
    import threading

    served = tmp_path / "served"
    served.mkdir()
    (served / "model.gguf").write_bytes(b"gguf" * 1000)
    (served / "words.txt").write_bytes(b"words")
    handler = lambda *given: http.server.SimpleHTTPRequestHandler(*given, directory=str(served))  # noqa: E731
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    digest = {path.name: hashing.digest_of_file(path)[1] for path in served.iterdir()}
    text = (
        "name: small\nversion: '1'\ntarget: {python: '3.11', platform: linux-x86_64, libc: glibc-2.17}\n"
        f"models: [{{url: '{root}/model.gguf?token=hush', sha256: {digest['model.gguf']}, alias: g, loader: files}}]\n"
        f"assets: [{{url: '{root}/words.txt', sha256: {digest['words.txt']}, path: text/words.txt, env: WORDS}}]\n"
    )
    manifest = tmp_path / "m.yaml"
    manifest.write_text(text)
    packed = tmp_path / "m.tar"
    try:
        done = bundle("build", manifest, "-o", packed, env=online)
        assert done.returncode == 0, done.stderr
        manifest.write_text(text.replace(digest["words.txt"], "a" * 64))
        wrong = bundle("build", manifest, "-o", tmp_path / "x.tar", env=online)
    finally:
        server.shutdown()
        server.server_close()
    assert b"hush" not in packed.read_bytes()
    assert (wrong.returncode, digest["words.txt"] in wrong.stderr, "a" * 64 in wrong.stderr) == (6, True, True)
    assert not (tmp_path / "x.tar").exists()
    assert far("install", packed, "--prefix", tmp_path / "opt").returncode == 0
    current = tmp_path / "opt" / "current"
    assert (current / "assets" / "text" / "words.txt").read_bytes() == b"words"
    assert (current / "models" / "g" / "model.gguf").read_bytes() == b"gguf" * 1000
    assert f"WORDS={current}/assets/text/words.txt\n" in (current / ".env.offline").read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount an image")
def test_blocks_are_shared_where_the_file_system_can(build: Build, far: Far, tmp_path: Path) -> None:
    image, mount = tmp_path / "xfs.img", tmp_path / "xfs"
    mount.mkdir()
    size = 100 << 20
    small = build(files={"config.json": b"{}", "weights.bin": os.urandom(size)})
    with image.open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run([tool("mkfs.xfs"), "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        packed = Path(shutil.copyfile(small.path, mount / small.path.name))
        os.sync()
        before = shutil.disk_usage(mount).used
        done = far("install", packed, "--prefix", mount / "opt")
        assert done.returncode == 0, done.stderr
        os.sync()
        assert shutil.disk_usage(mount).used - before < size // 2
        packed.unlink()
        assert far("smoke", "--prefix", mount / "opt").returncode == 0
        weights = mount / "opt" / "current" / "models" / "m" / "weights.bin"
        assert hashing.digest_of_file(weights) == hashing.digest_of_file(
            small.manifest.parent / "vendor" / "weights.bin"
        )
    finally:
        subprocess.run(["umount", mount], check=True)


def test_offsets_follow_from_the_head(build: Build) -> None:
    """Members can be read in parallel without looking at what stands between them."""
    small = build()
    with archive.opened(small.path) as carried:
        assert carried.layout.members == tarform.layout(carried.lock, None).members
        member = next(m for m in carried.layout.artifacts() if m.name == "models/m/weights.bin")
    with small.path.open("rb") as file:
        file.seek(member.content_at)
        assert file.read(member.size) == b"w" * 100_000
