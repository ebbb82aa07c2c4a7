"""The same program and the same templates come out of each way to install it: wheel, sdist, editable, bundle.pyz."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.programs import require_tool

TEMPLATES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "templates").iterdir()}
READ = "import json, sys; from bundler import template_files; print(json.dumps({name: template_files.read(name) for name in sys.argv[1:]}))"
INSTALLER = "from bundler.online import installer; import sys; sys.stdout.buffer.write(installer.build_installer())"


def output(*command: object, **options: str) -> bytes:
    """What a command prints; the test fails with its errors where it fails."""
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, cwd=options.get("cwd", "/"))
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout, in which nothing was built yet."""
    folder = tmp_path_factory.mktemp("checkout") / "airgap-bundler"
    folder.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("bundler", "templates"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    output(sys.executable, "-m", "build", "--sdist", "--outdir", folder, source)
    return next(folder.iterdir())


@pytest.fixture(scope="module", params=["wheel", "sdist", "editable"])
def python(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has this program in one way, and its dependencies from the tests' own."""
    folder = tmp_path_factory.mktemp(request.param)
    output(sys.executable, "-m", "venv", "--without-pip", folder)
    found = folder / "bin" / "python"
    site = output(found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").decode().strip()
    asked = ["--editable"] if request.param == "editable" else []
    asked.append(str(request.getfixturevalue("sdist") if request.param == "sdist" else source))
    output(sys.executable, "-m", "pip", "--python", found, "install", "--quiet", "--no-deps", *asked)
    dependencies = sysconfig.get_path("purelib")  # without the program: an editable one is not in there
    (Path(site) / "dependencies.pth").write_text(f"{dependencies}\n")
    return found


def test_an_installation_has_the_templates(python: Path) -> None:
    assert json.loads(output(python, "-c", READ, *TEMPLATES)) == TEMPLATES


def test_an_installation_makes_the_same_installer(python: Path, tmp_path: Path) -> None:
    data = output(python, "-c", INSTALLER)
    assert data == output(sys.executable, "-c", INSTALLER)
    path = tmp_path / "bundle.pyz"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as packed:
        inside = {name.rpartition("/")[2]: packed.read(name).decode() for name in packed.namelist() if ".j2" in name}
    assert inside == TEMPLATES
    assert len(data) < 5 << 20


def test_the_installer_reads_its_own_templates(tmp_path: Path) -> None:
    path = tmp_path / "bundle.pyz"
    path.write_bytes(output(sys.executable, "-c", INSTALLER))
    code = f"import sys; sys.path.insert(0, {str(path)!r}); {READ}"
    assert json.loads(output(require_tool("python3.11"), "-I", "-S", "-c", code, *TEMPLATES)) == TEMPLATES
