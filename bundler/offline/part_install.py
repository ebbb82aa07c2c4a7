"""A part of a bundle placed ahead of the rest, so that an image has a layer for each; plain install finishes.

A model's part leaves the model's folder and its mark (see marks.py) and nothing else, with constant times and modes:
the same model makes the same layer in every image.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

from bundler.errors import UsageError
from bundler.format.lock.entries import APPLICATION, ENVIRONMENT, Model
from bundler.format.tar.archive import OpenBundle
from bundler.offline import install, placement, preflight
from bundler.offline.environment import venv
from bundler.offline.install import Options
from bundler.offline.prefix import ownership_markers, releases
from bundler.offline.prefix.releases import Release
from bundler.offline.trust.verification import VerifiedLock
from bundler.progress import Report


def install_only(
    bundle: Path | BinaryIO, prefix: Path, part: str, options: Options, report: Report
) -> tuple[Release, Path]:
    """Place one part: ``model:ALIAS``, ``environment`` or ``app``; the release that it is for, and where the part is.

    Nothing goes live. What is there already is left: whoever finishes looks at it. Raises BundleError.
    """
    prefix = releases.at(prefix)
    with install.opened(bundle, prefix, options, report) as (carried, locked):
        release = Release(prefix=prefix, name=locked.release)
        if part not in locked.parts:
            hint = f"this bundle has: {', '.join(locked.parts)}; the rest comes with install without --only"
            raise UsageError(f"there is no part {part!r}", where="--only", hint=hint)
        with install.held(carried, prefix, options):
            releases.refuse_links(prefix)
            if part == ENVIRONMENT:
                return release, _environment(carried, locked, release, report)
            if part == APPLICATION:
                return release, _application(carried, locked, release, report)
            model = next(model for model in locked.models if part == model.part)
            return release, _model(carried, locked, model, release, options, report)


def _model(
    carried: OpenBundle, locked: VerifiedLock, model: Model, release: Release, options: Options, report: Report
) -> Path:
    home = release.shared_models / model.home
    if not home.exists():
        planned = placement.plan_model(locked, model, release, report)
        preflight.check_room(carried, planned, release)
        try:
            placement.place(carried, locked, planned, release, report, no_pickles=options.no_pickles)
        except KeyboardInterrupt:  # the next run goes on from what is written
            raise
        except BaseException:
            shutil.rmtree(releases.partial_of(home), ignore_errors=True)
            if not home.exists():
                ownership_markers.drop(home)
            raise
    return home


def _environment(carried: OpenBundle, locked: VerifiedLock, release: Release, report: Report) -> Path:
    if not (release.finished or ENVIRONMENT in release.ahead(locked.digest)):
        base = preflight.find_python(locked.target)
        with releases.begin_part(release, locked.digest, ENVIRONMENT, release.venv):
            _place(carried, locked, placement.for_environment(locked, release), release, report)
            venv.create(release, locked, base, report)
    return release.venv


def _application(carried: OpenBundle, locked: VerifiedLock, release: Release, report: Report) -> Path:
    if not (release.finished or APPLICATION in release.ahead(locked.digest)):
        with releases.begin_part(release, locked.digest, APPLICATION, release.application):
            _place(carried, locked, placement.for_application(locked, release), release, report)
    return release.application


def _place(carried: OpenBundle, locked: VerifiedLock, files: dict[str, Path], release: Release, report: Report) -> None:
    planned = placement.plan_files(files, locked, "what an earlier run placed", report)
    preflight.check_room(carried, planned, release)
    placement.place(carried, locked, planned, release, report)
