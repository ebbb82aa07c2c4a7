"""Installs one part of a bundle, so that an image can have a layer for each part; a plain install does the rest.

The part of a model writes the model's folder and its marker (see ownership_markers.py) and nothing else, with constant
times and modes: the same model makes the same layer in every image.
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
    """Install one part: ``model:ALIAS``, ``environment`` or ``app``. Nothing goes live.

    Existing content is not checked here; the final install does that.

    Returns:
        The release, and the path of the part.

    Raises:
        BundleError: The part could not be installed.
    """
    prefix = releases.get_absolute_prefix(prefix)
    with install.open_verified(source, prefix, options, reporter) as (bundle, lock):
        release = Release(prefix=prefix, name=lock.release_name)
        if part not in lock.parts:
            hint = f"its parts are: {', '.join(lock.parts)}; an install without --only installs the rest"
            raise UsageError(f"the bundle has no part {part!r}", where="--only", hint=hint)
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
    model_folder = release.shared_models / model.host_folder
    if not model_folder.exists():
        plan = placement.plan_model(lock, model, release, reporter)
        preflight.check_disk(bundle, plan, release)
        try:
            placement.place_files(bundle, lock, plan, release, reporter, no_pickles=options.no_pickles)
        except KeyboardInterrupt:  # the next run continues from the files written so far
            raise
        except BaseException:
            shutil.rmtree(releases.get_partial_path(model_folder), ignore_errors=True)
            if not model_folder.exists():
                ownership_markers.remove_marker(model_folder)
            raise
    return model_folder


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
    plan = placement.plan_files(files, lock, "files of an earlier run", reporter)
    preflight.check_disk(bundle, plan, release)
    placement.place_files(bundle, lock, plan, release, reporter)
