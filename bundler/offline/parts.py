"""A part of a bundle placed ahead of the rest, so that an image has a layer for each; plain install finishes.

A model's part leaves the model's folder and nothing else, with constant times and modes: the same model makes the
same layer in every image.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

from bundler.bundle import disk
from bundler.bundle.archive import OpenBundle
from bundler.bundle.entries import Model
from bundler.errors import UsageError
from bundler.offline import environment, install, place, preflight, releases
from bundler.offline.install import Options
from bundler.offline.place import Plan
from bundler.offline.releases import Release
from bundler.offline.verify import VerifiedLock
from bundler.progress import Report

ENVIRONMENT = "environment"


def of(locked: VerifiedLock) -> tuple[str, ...]:
    """The parts that a bundle has."""
    return (*(model.part for model in locked.models), ENVIRONMENT)


def install_only(
    bundle: Path | BinaryIO, prefix: Path, part: str, options: Options, report: Report
) -> tuple[Release, Path]:
    """Place one part: ``model:ALIAS`` or ``environment``; the release that it is for, and where the part is.

    Nothing goes live. What is there already is left: whoever finishes looks at it. Raises BundleError.
    """
    prefix = releases.at(prefix)
    with install.opened(bundle, prefix, options, report) as (carried, locked, _):
        release = Release(prefix=prefix, name=locked.release)
        if part not in of(locked):
            hint = f"this bundle has: {', '.join(of(locked))}; the rest comes with install without --only"
            raise UsageError(f"there is no part {part!r}", where="--only", hint=hint)
        with releases.held(prefix):
            releases.refuse_links(prefix)
            if part == ENVIRONMENT:
                return release, _environment(carried, locked, release, report)
            model = next(model for model in locked.models if part == model.part)
            return release, _model(carried, locked, model, release, options, report)


def _model(
    carried: OpenBundle, locked: VerifiedLock, model: Model, release: Release, options: Options, report: Report
) -> Path:
    home = release.shared_models / model.home
    if not home.exists():
        partial = home.with_name(f".{home.name}.partial")
        files = {one.path: partial / one.path[len(model.folder) :] for one in locked.files_of(model)}
        planned = Plan(files=files, moves=((partial, home),), extra=())
        preflight.check_room(carried, planned, release)
        try:
            place.place(carried, locked, planned, release, report, no_pickles=options.no_pickles)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return home


def _environment(carried: OpenBundle, locked: VerifiedLock, release: Release, report: Report) -> Path:
    if release.finished or release.prepared:
        return release.path / "venv"
    base = preflight.find_python(locked.target)
    releases.discard_unfinished(release.prefix)
    try:
        files = {one.path: release.work / one.path for one in locked.artifacts if one.kind in place.FOR_ENVIRONMENT}
        planned = Plan(files=files, moves=(), extra=())
        preflight.check_room(carried, planned, release)
        place.place(carried, locked, planned, release, report)
        environment.create(release, locked, base, report)
        releases.clear_work(release)
        disk.sync_file_system(release.prefix)  # after a power cut the mark must not speak of more than is there
        disk.write_whole(release.mark, locked.digest.encode())
    except BaseException:  # Ctrl-C too leaves nothing half-made
        releases.discard_unfinished(release.prefix)
        raise
    return release.path / "venv"
