"""A bundle that an earlier version built still installs, and the prefix that its own installer made still works.

``tests/data/released-1.bundle.tar.xz`` was built by the last version before the layout with sub-packages: one model of
plain files, two wheels, an asset and an application, rehearsed and signed. The two wheels of pip and uv in it are
blank, to keep the repository small; the test puts the same files of the index there.
"""

from __future__ import annotations

import lzma
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.programs import Run, require_tool

DATA = Path(__file__).parent.parent / "data"
DIGEST = "693cf0f47f2a6243ce2ba9ed31c43f57a68a06d1c5207185a6868882918d3b93"
KEY = DATA / "released-1.pub"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as it was built, byte for byte."""
    folder = tmp_path_factory.mktemp("released")
    path = folder / "released.bundle.tar"
    path.write_bytes(lzma.decompress((DATA / "released-1.bundle.tar.xz").read_bytes()))
    with tarfile.open(path) as bundle:
        blank = [member for member in bundle if member.name.startswith("tools/")]
    pins = ["==".join(Path(member.name).name.split("-")[:2]) for member in blank]
    command = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform=manylinux2014_x86_64"]
    subprocess.run([sys.executable, "-m", *command, "--python-version=3.11", *pins, "-d", folder], check=True)
    with path.open("r+b") as file:
        for member in blank:
            file.seek(member.offset_data)
            file.write((folder / Path(member.name).name).read_bytes())
    return path


def test_it_is_still_what_its_lock_says(released: Path, run: Run) -> None:
    assert run("verify", released, "--trust", KEY)[0] == 0
    code, answer = run("inspect", released)
    assert (code, answer["result"]["digest"]) == (0, DIGEST)


def test_it_installs(released: Path, tmp_path: Path, run: Run) -> None:
    prefix = tmp_path / "prefix"
    code, answer = run("install", released, "--prefix", prefix, "--trust", KEY)
    assert (code, answer["result"]["digest"]) == (0, DIGEST)
    python = prefix / "current" / "venv" / "bin" / "python"
    show = "import os, alpha; print(alpha.VERSION, os.path.getsize(os.environ['MODEL_PATH'] + '/weights.bin'))"
    command = f'set -a; . "{prefix}/current/.env.offline"; exec "{python}" -c "$0"'
    done = subprocess.run(["sh", "-c", command, show], check=True, capture_output=True, text=True)
    assert done.stdout == "1.0 5000\n"


def test_a_prefix_that_its_own_installer_made_is_read_and_upgraded(released: Path, tmp_path: Path, run: Run) -> None:
    prefix = tmp_path / "prefix"
    subprocess.run([require_tool("tar"), "xf", released, "-C", tmp_path, "bundle.pyz"], check=True)
    command = [require_tool("python3.11"), "-I", "-S", tmp_path / "bundle.pyz", "install", released, "--prefix", prefix]
    subprocess.run([*map(str, command), "--trust", str(KEY), "--quiet"], check=True, capture_output=True)

    code, answer = run("list", "--prefix", prefix)
    assert (code, [one["version"] for one in answer["result"]["releases"]]) == (0, ["1"])
    assert run("doctor", "--prefix", prefix, "--deep")[0] == 0
    code, answer = run("smoke", "--prefix", prefix)  # its guard sets fewer variables than today's
    assert (code, answer["error"]["hint"].partition(".")[0]) == (11, "Install the bundle again")

    (prefix / "current" / "app" / "main.py").unlink()
    assert run("install", released, "--prefix", prefix)[0] == 0  # the key is remembered, what is missing comes back
    assert (prefix / "current" / "app" / "main.py").read_text() == 'print("hello")\n'
    (payload,) = [
        one for one in run("doctor", "--prefix", prefix)[1]["result"]["findings"] if one["check"] == "payload"
    ]
    assert payload["level"] == "healthy"
    assert not [*(prefix / "current" / "payload").glob("*cut.py")], "what its own installer put there is gone"
    assert run("smoke", "--prefix", prefix)[0] == 0
