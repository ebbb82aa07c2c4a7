"""A part of a bundle placed ahead of the rest, so that an image has a layer for each; plain install finishes.

A model's part leaves the model's folder and its mark (see marks.py) and nothing else, with constant times and modes:
the same model makes the same layer in every image.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

from bundler.errors import UsageError
from bundler.format.lock.entries import APPLICATION_PART, ENVIRONMENT_PART, Model
from bundler.format.tar.archive import OpenBundle
from bundler.offline import install, placement, preflight
from bundler.offline.environment import venv
from bundler.offline.install import InstallOptions
from bundler.offline.prefix import ownership_markers, releases
from bundler.offline.prefix.releases import Release
from bundler.offline.trust.verification import VerifiedLock
from bundler.progress import Reporter


def install_part(
    source: Path | BinaryIO, prefix: Path, part: str, options: InstallOptions, reporter: Reporter
) -> tuple[Release, Path]:
    """Place one part: ``model:ALIAS``, ``environment`` or ``app``; the release that it is for, and where the part is.

    Nothing goes live. What is there already is left: whoever finishes looks at it. Raises BundleError.
    """
    prefix = releases.get_absolute_prefix(prefix)
    with install.open_verified(source, prefix, options, reporter) as (bundle, lock):
        release = Release(prefix=prefix, name=lock.release_name)
        if part not in lock.parts:
            hint = f"this bundle has: {', '.join(lock.parts)}; the rest comes with install without --only"
            raise UsageError(f"there is no part {part!r}", where="--only", hint=hint)
        with install.lock_and_recheck(bundle, prefix, options):
            releases.refuse_linked_folders(prefix)
            if part == ENVIRONMENT_PART:
                return release, _place_environment(bundle, lock, release, reporter)
            if part == APPLICATION_PART:
                return release, _place_application(bundle, lock, release, reporter)
            model = next(model for model in lock.models if part == model.part)
            return release, _place_model(bundle, lock, model, release, options, reporter)


def _place_model(
    bundle: OpenBundle, lock: VerifiedLock, model: Model, release: Release, options: InstallOptions, reporter: Reporter
) -> Path:
    home = release.shared_models / model.host_folder
    if not home.exists():
        plan = placement.plan_model(lock, model, release, reporter)
        preflight.check_disk(bundle, plan, release)
        try:
            placement.place_files(bundle, lock, plan, release, reporter, no_pickles=options.no_pickles)
        except KeyboardInterrupt:  # the next run goes on from what is written
            raise
        except BaseException:
            shutil.rmtree(releases.get_partial_path(home), ignore_errors=True)
            if not home.exists():
                ownership_markers.remove_marker(home)
            raise
    return home


def _place_environment(bundle: OpenBundle, lock: VerifiedLock, release: Release, reporter: Reporter) -> Path:
    if not (release.is_finished or ENVIRONMENT_PART in release.find_preinstalled_parts(lock.digest)):
        base = preflight.find_python(lock.target)
        with releases.begin_part(release, lock.digest, ENVIRONMENT_PART, release.venv):
            _place_files(bundle, lock, placement.list_environment_files(lock, release), release, reporter)
            venv.create_venv(release, lock, base, reporter)
    return release.venv


def _place_application(bundle: OpenBundle, lock: VerifiedLock, release: Release, reporter: Reporter) -> Path:
    if not (release.is_finished or APPLICATION_PART in release.find_preinstalled_parts(lock.digest)):
        with releases.begin_part(release, lock.digest, APPLICATION_PART, release.application_folder):
            _place_files(bundle, lock, placement.list_application_files(lock, release), release, reporter)
    return release.application_folder


def _place_files(
    bundle: OpenBundle, lock: VerifiedLock, files: dict[str, Path], release: Release, reporter: Reporter
) -> None:
    plan = placement.plan_files(files, lock, "what an earlier run placed", reporter)
    preflight.check_disk(bundle, plan, release)
    placement.place_files(bundle, lock, plan, release, reporter)
