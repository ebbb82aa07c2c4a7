"""The application's folder: what travels of it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.errors import ManifestError, UnsafeError
from bundler.online.manifest.image_spec import AppSpec
from bundler.online.models import local_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "src"
    for name, data in {"myapp/__init__.py": b"", "myapp/__main__.py": b"print(1)", "tests/big.bin": b"x" * 100}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "a.pyc").write_bytes(b"x")
    return root


def test_files_travel_but_for_litter_and_what_is_excluded(folder: Path) -> None:
    (folder / "main.py").symlink_to("myapp/__main__.py")
    files = local_sources.read_app(AppSpec(path="src/", exclude=("tests/*",)), folder)
    assert {file.path: file.origin for file in files} == {
        "main.py": "app:src/main.py",
        "myapp/__init__.py": "app:src/myapp/__init__.py",
        "myapp/__main__.py": "app:src/myapp/__main__.py",
    }


@pytest.mark.parametrize("name", [".env", "conf/.env", ".ssh/config", "keys/id_rsa"])
def test_files_of_secrets_are_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"PASSWORD=hush")
    with pytest.raises(UnsafeError, match="of secrets") as error:
        local_sources.read_app(AppSpec(path="src"), folder)
    assert "app.exclude" in error.value.hint
    assert local_sources.read_app(AppSpec(path="src", exclude=(name,)), folder)


def test_links_that_lead_out_are_refused(folder: Path) -> None:
    (folder / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(UnsafeError, match="leads out of the folder"):
        local_sources.read_app(AppSpec(path="src"), folder)


def test_what_is_too_large_for_an_application(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ManifestError, match="0 files of 0 bytes"):
        local_sources.read_app(AppSpec(path="src", exclude=("*",)), folder)
    monkeypatch.setattr(local_sources, "MAX_APP_BYTES", 50)
    with pytest.raises(ManifestError, match="3 files of 108 bytes") as error:
        local_sources.read_app(AppSpec(path="src"), folder)
    assert "carry it as models:" in error.value.hint
    monkeypatch.setattr(local_sources, "MAX_APP_BYTES", 500)
    monkeypatch.setattr(local_sources, "MAX_APP_FILES", 2)
    with pytest.raises(ManifestError, match="3 files"):
        local_sources.read_app(AppSpec(path="src"), folder)
