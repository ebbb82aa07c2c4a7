"""Releases in a prefix, without a bundle."""

from __future__ import annotations

from pathlib import Path

from bundler.format import json_files
from bundler.format.hashing import Sha256
from bundler.offline.prefix import ownership_markers, receipts, releases

DIGEST = "d" * 64


def finish_release(release: releases.Release, ordinal: int, models: tuple[str, ...] = ()) -> None:
    before = releases.find_live(release.prefix)
    receipt = receipts.Receipt(
        release=release.name,
        name="test",
        version="1",
        sequence=1,
        digest=Sha256(DIGEST),
        target="",
        prefix=str(release.prefix),
        bundle="",
        ordinal=ordinal,
        follows=before.name if before else "",
        rehearsed=False,
        signed_by=(),
        trusted=(),
        installed_by="a test",
        models=models,
        homes={f"{model}-{'1' * 12}": Sha256(DIGEST) for model in models},
        smoke=(),
    )
    json_files.write(release.receipt_path, receipt)


def install_release(prefix: Path, name: str, ordinal: int, models: tuple[str, ...] = ()) -> None:
    with releases.begin_release(prefix, name, DIGEST) as release:
        for model in models:
            ownership_markers.add_marker(release.shared_models / f"{model}-{'1' * 12}")
            home = release.shared_models / f"{model}-{'1' * 12}"
            home.mkdir(parents=True, exist_ok=True)
            (home / "w").write_bytes(b"w" * 100)
            (release.path / "models").mkdir(exist_ok=True)
            if not (release.path / "models" / model).exists():
                (release.path / "models" / model).symlink_to(f"../../../models/{home.name}")
        finish_release(release, ordinal, models)


THEIRS = (
    "models/my-llama",
    "models/.cache.partial",
    "models/run-202401311200",
    "models/.run-202401311200.partial",
    "releases/notes",
    "releases/.git",
    "releases/site-20240131",
)
