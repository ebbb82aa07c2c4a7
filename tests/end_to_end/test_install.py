"""The whole route with small bundles: upgrades, the way back, and every kind of host that can be had cheaply."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.format import hashing
from bundler.format.lock import entries, lockfile
from bundler.format.tar import archive, tar_layout
from bundler.offline.environment import venv
from bundler.offline.prefix import releases
from bundler.progress import RecordingReporter
from tests.support.bundles import make_lock
from tests.support.interrupting import interrupt
from tests.support.programs import find_public_python, grant_read_access, make_nobody_command, require_tool, run_bundle
from tests.support.small_bundles import SmallBundle, get_live_release
from tests.support.wheelmaking import make_wheel

Build = Callable[..., SmallBundle]
Far = Callable[..., subprocess.CompletedProcess[str]]


def test_install_upgrade_list_and_rollback(build: Build, run_installer: Far, tmp_path: Path) -> None:
    prefix = tmp_path / "opt" / "small"
    for version in ("1", "2"):
        done = run_installer("install", build(version).path, "--prefix", prefix, "--json")
        assert done.returncode == 0, done.stderr
        assert get_live_release(prefix).startswith(f"{version}-")
    python = prefix / "current" / "venv" / "bin" / "python"
    code = "import alpha, beta, importlib.util as u; print(alpha.VERSION, beta.VERSION, u.find_spec('never'))"
    assert subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout == "1.0 2.0 None\n"
    assert len(list((prefix / "models").iterdir())) == 1, "the same model is there once"
    listed = run_installer("list", "--prefix", prefix).stdout.splitlines()
    assert [line[:3] for line in listed if line[2] != " "] == ["  1", "* 2"]
    digests = {word for line in listed for word in line.split() if len(word) == 64}
    assert len(digests) == 4, "each release has a digest and a reviewed digest"
    assert run_installer("rollback", "--prefix", prefix).stdout.startswith("live now: 1-")
    assert get_live_release(prefix).startswith("1-")
    again = run_installer("rollback", "--prefix", prefix)
    assert (again.returncode, "no release was live before 1-" in again.stderr) == (2, True)


def test_diff_says_what_changed_and_what_that_makes_to_carry(build: Build, run_installer: Far, tmp_path: Path) -> None:
    first, second = build("1").path, build("2", files={"config.json": b"{}", "weights.bin": b"v" * 70_000}).path
    assert run_installer("diff", first, first).stdout == "no difference\n"
    done = run_installer("diff", first, second)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == ["about", "  ~ sequence: 1 → 2", "  ~ version: 1 → 2"]
    assert "  ~ m: path:vendor (" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("to carry: 68.4 KiB of ")
    assert run_installer("install", first, "--prefix", tmp_path / "opt").returncode == 0
    told = json.loads(run_installer("diff", tmp_path / "opt", second, "--json").stdout)["result"]
    assert (told["carry"], [change["name"] for change in told["models"]], told["packages"]) == (70_000, ["m"], [])


def test_variables_go_through_current_and_read_the_same_in_sh(build: Build, run_installer: Far, tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    assert run_installer("install", build().path, "--prefix", prefix).returncode == 0
    script = (
        '. "$1/current/.env.offline"; printf "%s\\n" "$MODEL_PATH" "$HF_HUB_CACHE" "${HF_HOME-unset}" "$HF_HUB_OFFLINE"'
    )
    plain = {name: value for name, value in os.environ.items() if name != "HF_HOME"}
    done = subprocess.run(["sh", "-c", script, "sh", prefix], check=True, capture_output=True, text=True, env=plain)
    model, hub, home, offline = done.stdout.splitlines()
    assert (model, hub, offline) == (f"{prefix}/current/models/m", f"{prefix}/current/hub", "1")
    assert home == "unset", "where libraries may write is another folder for each user"
    written = ("Dockerfile.offline", ".dockerignore", "compose.offline.yaml", "kubernetes.offline.yaml")
    assert all((prefix / "current" / name).is_file() for name in written)
    assert Path(model, "config.json").read_bytes() == b"{}"


def test_a_bundle_through_a_pipe(build: Build, run_installer: Far, tmp_path: Path) -> None:
    small = build()
    with small.path.open("rb") as carried, subprocess.Popen(["cat"], stdin=carried, stdout=subprocess.PIPE) as cat:
        done = run_installer("verify", "-", stdin=cat.stdout)
    assert (done.returncode, "every byte matches the lock" in done.stdout) == (0, True), done.stderr
    done = run_installer("install", "-", "--prefix", tmp_path / "opt", text=False, input=small.path.read_bytes())
    assert done.returncode == 0, done.stderr
    assert get_live_release(tmp_path / "opt").startswith("1-")


def test_two_builds_from_one_lock_are_one_file(build: Build, tmp_path: Path) -> None:
    """With another umask, time zone, shelf and folder, at another time; tests of the format do it as another user too."""
    small = build()
    kept = tmp_path / "kept.json"
    done = run_bundle("lock", small.manifest, "-o", kept, env=small.environment)
    assert done.returncode == 0, done.stderr
    first, second = tmp_path / "first.tar", tmp_path / "elsewhere" / "second.tar"
    assert (
        run_bundle(
            "build", "--no-rehearse", small.manifest, "--lock", kept, "-o", first, env=small.environment
        ).returncode
        == 0
    )
    moved = shutil.copytree(small.manifest.parent, tmp_path / "elsewhere" / "한 folder")
    other = small.environment | {"TZ": "Asia/Seoul", "LC_ALL": "C", "HOME": str(tmp_path / "elsewhere")}
    other |= {"BUNDLE_CACHE": str(tmp_path / "elsewhere" / "shelf"), "SOURCE_DATE_EPOCH": "1", "UV_NO_CACHE": "1"}
    again = run_bundle(
        "build", "--no-rehearse", moved / "small.yaml", "--lock", kept, "-o", second, env=other, umask=0o077, cwd=moved
    )
    assert again.returncode == 0, again.stderr
    assert hashing.compute_file_sha256(first) == hashing.compute_file_sha256(second)


def test_installing_without_root(build: Build, tmp_path: Path, installer: Path) -> None:
    small, home = build(), tmp_path / "home"
    home.mkdir()
    if os.getuid() == 0:
        os.chown(home, 65534, 65534)
    grant_read_access(small.path, installer)
    prefix = home / "my prefix"
    done = subprocess.run(
        [*make_nobody_command(), find_public_python(), "-I", "-S", installer, "install", small.path, "--prefix", prefix],
        check=False, capture_output=True, text=True, umask=0o077, cwd=home, env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (prefix / "current" / "models" / "m" / "config.json").stat().st_mode & 0o777 == 0o644
    assert (
        subprocess.run([prefix / "current" / "venv" / "bin" / "python", "-c", "import alpha"], check=False).returncode
        == 0
    )


def test_indexes_that_the_host_is_configured_to_ask_do_not_matter(
    build: Build, run_installer: Far, tmp_path: Path
) -> None:
    """Nobody listens there; uv and pip would take each of these as a reason to stop."""
    home, away = tmp_path / "home", "http://127.0.0.1:9/simple"
    for place, text in {
        ".config/uv/uv.toml": f'[[index]]\nurl = "{away}"\n',
        ".config/pip/pip.conf": f"[global]\nindex-url = {away}\nextra-index-url = {away}\n",
    }.items():
        (home / place).parent.mkdir(parents=True)
        (home / place).write_text(text)
    names = (
        "UV_INDEX",
        "UV_EXTRA_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "UV_INDEX_URL",
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
    )
    told = dict.fromkeys(names, away) | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    told |= {"UV_CONFIG_FILE": str(home / ".config/uv/uv.toml"), "PIP_CONFIG_FILE": str(home / ".config/pip/pip.conf")}
    prefix = tmp_path / "opt"
    done = run_installer("install", build().path, "--prefix", prefix, env=os.environ | told)
    assert done.returncode == 0, done.stderr
    python = prefix / "current" / "venv" / "bin" / "python"
    assert subprocess.run([python, "-c", "import alpha"], check=False).returncode == 0


def test_a_host_without_ensurepip(build: Build, run_installer: Far, tmp_path: Path) -> None:
    """As Debian leaves it out of python3: an empty folder hides the module in a mount namespace."""
    small = build()
    python = subprocess.run(
        [require_tool("python3.11"), "-c", "import sys; print(sys._base_executable)"],
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
    done = run_installer("install", small.path, "--prefix", tmp_path / "opt", before=before)
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
        entries.Package(name=Path(n).name.split("-")[0], version=Path(n).name.split("-")[1], wheel=n) for n in names
    )
    locked = make_lock({n: d for n, d in contents.items() if not n.startswith("wheels/")})
    wheel_artifacts = tuple(
        entries.Artifact(
            path=n, kind="wheel", size=len(contents[n]), sha256=hashing.compute_sha256(contents[n]), origin="a test"
        )
        for n in names
    )
    python = entries.PythonEnvironment(packages=packages)
    locked = lockfile.replace_fields(locked, python=python, artifacts=(*locked.artifacts, *wheel_artifacts))
    for name, data in (contents | {"requirements.txt": lockfile.format_requirements(python, locked.artifacts)}).items():
        (release.work_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (release.work_folder / name).write_bytes(data)
    report = RecordingReporter()
    venv.create_venv(release, locked, Path(sys.executable), report)
    assert "uv does not run on this host, pip installs instead" in report.warnings[0]
    done = subprocess.run([release.python, "-c", "import alpha, beta"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_installing_again_without_a_proof_keeps_the_one_there_is(
    build: Build, run_installer: Far, tmp_path: Path
) -> None:
    prefix, current, small = tmp_path / "opt", tmp_path / "opt" / "current", build()
    assert run_installer("install", small.path, "--prefix", prefix).returncode == 0
    kept = (current / "smoke.json").read_bytes()
    assert json.loads(kept)[0]["peak_rss_bytes"] > 0, "two loads do not measure the same"
    done = run_installer("install", small.path, "--prefix", prefix, "--no-smoke", "--json")
    assert done.returncode == 0, done.stderr
    assert (current / "smoke.json").read_bytes() == kept
    assert json.loads((current / "receipt.json").read_bytes())["smoke"] == json.loads(kept)


@pytest.mark.parametrize("altered", [False, True])
def test_an_interrupted_install_keeps_an_environment_that_is_whole(
    build: Build, run_installer: Far, tmp_path: Path, altered: bool
) -> None:
    """Every file of it is compared with the wheels' RECORDs; where one differs it is made anew."""
    bundle, prefix = build().path, tmp_path / "opt"
    interrupt(bundle, prefix, "smoke load m", begins=True)
    (package,) = prefix.glob("releases/*/venv/lib/*/site-packages/beta/__init__.py")
    whole, before = package.read_bytes(), package.stat().st_ctime_ns
    if altered:
        package.chmod(0o644)
        package.write_bytes(b"#" * len(whole))
    done = run_installer("install", bundle, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    assert package.read_bytes() == whole
    assert (package.stat().st_ctime_ns == before) is not altered, "it was not unpacked again"
    assert not list(prefix.glob("releases/*/.*s")), "nothing of the work is left"


def test_assets_and_models_from_addresses(builder_env: dict[str, str], run_installer: Far, tmp_path: Path) -> None:
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
    digest = {path.name: hashing.compute_file_sha256(path)[1] for path in served.iterdir()}
    text = (
        "name: small\nversion: '1'\ntarget: {python: '3.11', platform: linux-x86_64, libc: glibc-2.17}\n"
        f"models: [{{url: '{root}/model.gguf?token=hush', sha256: {digest['model.gguf']}, alias: g, loader: files}}]\n"
        f"assets: [{{url: '{root}/words.txt', sha256: {digest['words.txt']}, path: text/words.txt, env: WORDS}}]\n"
    )
    manifest = tmp_path / "m.yaml"
    manifest.write_text(text)
    packed = tmp_path / "m.tar"
    try:
        done = run_bundle("build", "--no-rehearse", manifest, "-o", packed, env=builder_env)
        assert done.returncode == 0, done.stderr
        manifest.write_text(text.replace(digest["words.txt"], "a" * 64))
        wrong = run_bundle("build", "--no-rehearse", manifest, "-o", tmp_path / "x.tar", env=builder_env)
    finally:
        server.shutdown()
        server.server_close()
    assert b"hush" not in packed.read_bytes()
    assert (wrong.returncode, digest["words.txt"] in wrong.stderr, "a" * 64 in wrong.stderr) == (6, True, True)
    assert not (tmp_path / "x.tar").exists()
    assert run_installer("install", packed, "--prefix", tmp_path / "opt").returncode == 0
    current = tmp_path / "opt" / "current"
    assert (current / "assets" / "text" / "words.txt").read_bytes() == b"words"
    assert (current / "models" / "g" / "model.gguf").read_bytes() == b"gguf" * 1000
    assert f"WORDS={current}/assets/text/words.txt\n" in (current / ".env.offline").read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount an image")
def test_blocks_are_shared_where_the_file_system_can(build: Build, run_installer: Far, tmp_path: Path) -> None:
    image, mount = tmp_path / "xfs.img", tmp_path / "xfs"
    mount.mkdir()
    size = 100 << 20
    small = build(files={"config.json": b"{}", "weights.bin": random.Random(1).randbytes(size)})
    with image.open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run([require_tool("mkfs.xfs"), "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        packed = Path(shutil.copyfile(small.path, mount / small.path.name))
        os.sync()
        before = shutil.disk_usage(mount).used
        done = run_installer("install", packed, "--prefix", mount / "opt")
        assert done.returncode == 0, done.stderr
        os.sync()
        assert shutil.disk_usage(mount).used - before < size // 2
        packed.unlink()
        assert run_installer("smoke", "--prefix", mount / "opt").returncode == 0
        weights = mount / "opt" / "current" / "models" / "m" / "weights.bin"
        assert hashing.compute_file_sha256(weights) == hashing.compute_file_sha256(
            small.manifest.parent / "vendor" / "weights.bin"
        )
    finally:
        subprocess.run(["umount", mount], check=True)


def test_offsets_follow_from_the_head(build: Build) -> None:
    """Members can be read in parallel without looking at what stands between them."""
    small = build()
    with archive.open_bundle(small.path) as carried:
        assert carried.layout.members == tar_layout.compute_layout(carried.lock, None).members
        member = next(m for m in carried.layout.iter_artifacts() if m.name == "models/m/weights.bin")
    with small.path.open("rb") as file:
        file.seek(member.content_offset)
        assert file.read(member.size) == b"w" * 100_000
