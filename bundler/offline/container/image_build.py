"""Builds the container image with whichever engine the host has, and runs it once to prove that it works."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler import process
from bundler.errors import HostError, ProgramError, SmokeError, UsageError
from bundler.format import disk, documents, json_files
from bundler.format.lock import entries
from bundler.format.lock.smoke_result import SmokeResult
from bundler.format.tar import archive
from bundler.format.tar.archive import OpenBundle
from bundler.offline import preflight
from bundler.offline.container.engine_registry import ENGINES
from bundler.offline.container.engines.engine import Command, ContainerRun, Engine, ImageBuild, Layer
from bundler.offline.prefix import receipts, releases
from bundler.offline.rendering import dockerfile
from bundler.offline.trust import verification
from bundler.offline.trust.trusted_keys import TrustPolicy
from bundler.offline.trust.verification import VerifiedLock
from bundler.progress import Reporter

ARBITRARY_USER_ID = 54321
"""A user that no image has, as OpenShift assigns them."""

_UNPACK_RATIO = 5
"""Installed bytes, bytecode included, for each byte of a wheel."""
_NETWORK_UP = re.compile(r"network not cut: (?!\{)(.+)")
_DISK_FULL = re.compile(r"no space left on device", re.IGNORECASE)
_IMAGES_FOLDER = "images"
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOptions:
    """How to build the image; an empty value means the default from the lock and the host.

    ``base`` is the engine's name for the base image, ``archive_path`` the file to save the image to. ``policies`` say
    whose bundles to accept.
    """

    engine: str = ""
    image: str = ""
    base: str = ""
    archive_path: Path | None = None
    policies: tuple[TrustPolicy, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltImage:
    """An image that was built and ran; ``smoke`` holds the smoke loads inside it.

    ``runners`` are the files for compose and Kubernetes beside the saved archive.
    """

    engine: str
    image: str
    base: str
    digest: str
    layers: tuple[Layer, ...]
    smoke: tuple[SmokeResult, ...]
    archive: str
    runners: tuple[str, ...]


def find_bundle(prefix: Path) -> Path:
    """Return the bundle that the live release was installed from: a release keeps no wheels to build an image from.

    Raises:
        UsageError: The bundle has moved, or another file has taken its place.
    """
    release = releases.require_live(releases.get_absolute_prefix(prefix))
    receipt = receipts.read(release.receipt_path)
    path = Path(receipt.bundle)
    hint = "give the bundle itself: bundle image BUNDLE"
    if not path.is_file():
        where = receipt.bundle or str(prefix)
        raise UsageError("the bundle of the live release no longer exists", where=where, hint=hint)
    with archive.open_bundle(path) as bundle:
        if bundle.lock.digest != receipt.digest:
            message = "this file is now another bundle than the one that the live release came from"
            raise UsageError(message, where=str(path), hint=hint)
    return path


def build_image(bundle_path: Path, options: ImageOptions, reporter: Reporter) -> BuiltImage:
    """Build the image of a bundle, and run it once without a network and with a read-only root.

    Raises:
        HostError: No engine can build, the base image is missing, or a disk is too small.
        ProgramError: The engine failed.
        IntegrityError: The bundle is damaged.
        TrustError: The bundle is not signed as the policies require.
        SmokeError: A model failed inside the image.
    """
    bundle_path = bundle_path.resolve()  # a link leads nowhere inside the build
    with archive.open_bundle(bundle_path) as bundle:
        lock, _ = verification.verify_bundle(bundle, options.policies, reporter)
        preflight.check_platform(lock)
        bundle.require_full_length()
        engine = choose_engine(options)
        image = options.image or dockerfile.get_image_name(lock)
        _require_free_space(engine, lock, bundle_path.stat().st_size)
        with _make_context(bundle_path, bundle, lock, options, reporter) as context:
            base = _ensure_base(engine, bundle, lock, options, reporter)
            with reporter.stage(f"build with {engine.name}"):
                build = ImageBuild(
                    context=context, dockerfile=context / dockerfile.DOCKERFILE_NAME, image=image, base=base,
                    epoch=lock.source_date_epoch,
                )  # fmt: skip
                _run_engine(engine.make_build_command(build))
    results = _run_smoke(engine, image, lock, reporter)
    layers = engine.parse_layers(_run_engine(engine.make_history_command(image)).stdout)
    runners: tuple[str, ...] = ()
    if options.archive_path is not None:
        _save_image(engine, image, options.archive_path, reporter)
        runners = _write_run_files(lock, results, image, options.archive_path)
    return BuiltImage(
        engine=engine.name, image=image, base=base, digest=lock.digest, layers=layers, smoke=results,
        archive=str(options.archive_path or ""), runners=runners,
    )  # fmt: skip


def choose_engine(options: ImageOptions) -> Engine:
    """Return the engine to build with.

    Raises:
        HostError: No engine will do; the message gives the reason for each.
    """
    reasons: list[str] = []
    for engine in [ENGINES[options.engine]] if options.engine else ENGINES.values():
        if problem := _find_engine_problem(engine, with_save=options.archive_path is not None):
            reasons.append(f"  {engine.name}: {problem}")
        else:
            return engine
    listed = "\n".join(reasons)
    hint = "install podman or docker from the host's own packages, or start docker's service; see docs/containers.md"
    raise HostError(f"no container engine on this host can build an image:\n{listed}", hint=hint)


def _find_engine_problem(engine: Engine, *, with_save: bool) -> str:
    """Return why an engine can't be used; "" if it can."""
    if shutil.which(engine.name) is None:
        return "is not on PATH"
    if engine.needs_root and getattr(os, "geteuid", lambda: 0)() != 0:
        return "needs root to build; podman does not"
    try:
        output = _run_engine(engine.make_version_command()).stdout
        for command in engine.make_check_commands():
            _run_engine(command)
    except ProgramError as error:
        return str(error).strip().splitlines()[-1]
    version = re.search(r"(\d+)\.(\d+)", output)
    if version is None:
        return f"printed no version: {output.strip()[:80]!r}"
    oldest = engine.min_save_version if with_save else engine.min_version
    if tuple(map(int, version.groups())) < oldest:
        needed = ".".join(map(str, oldest))
        return f"is {version[0]}, needs {needed} or newer" + (" for --output" if with_save else "")
    return ""


def _require_free_space(engine: Engine, lock: VerifiedLock, bundle_bytes: int) -> None:
    """Raise HostError unless the engine's disk has free space for the layers."""
    root, driver = [*_run_engine(engine.make_storage_command()).stdout.strip().splitlines(), "", ""][:2]
    if not root or not Path(root).is_dir():
        return  # the engine's disk is on another machine
    network_check, first_run = 0, 0  # steps that write nothing
    sizes = [sum(artifact.size for artifact in lock.list_artifacts("image")) * 3, network_check]
    sizes += [sum(artifact.size for artifact in files) for _, files in lock.list_files_by_model()]
    sizes += [sum(artifact.size for artifact in lock.list_artifacts("wheel")) * _UNPACK_RATIO]
    sizes += [sum(artifact.size for artifact in lock.list_artifacts(kind)) for kind in ("app", "asset")]
    sizes += [first_run]
    # vfs copies all layers below into each layer.
    needed = sum(sum(sizes[: n + 1]) for n in range(len(sizes))) if driver == "vfs" else sum(sizes)
    needed += bundle_bytes if engine.copies_context else 0
    disk.require_free_space([(Path(root), needed, f"the image's layers in {engine.name}'s storage ({driver})")])


@contextmanager
def _make_context(
    bundle_path: Path, bundle: OpenBundle, lock: VerifiedLock, options: ImageOptions, reporter: Reporter
) -> Iterator[Path]:
    """Make a folder with the bundle, its installer and the Dockerfile; beside the bundle where a hard link saves a copy."""
    parent = bundle_path.absolute().parent
    with tempfile.TemporaryDirectory(
        prefix=".bundle-image-", dir=parent if os.access(parent, os.W_OK) else None
    ) as folder:
        context = Path(folder)
        try:
            (context / lock.file_name).hardlink_to(bundle_path)
        except OSError:
            disk.require_free_space([(context, bundle_path.stat().st_size, "a copy of the bundle for the engine")])
            _copy_bundle(bundle_path, context / lock.file_name, reporter)
        _extract_members(bundle, {entries.INSTALLER: context / entries.TRUSTED_INSTALLER})
        trust = next(iter(options.policies), None)
        if trust is not None:
            dockerfile.write_keys(context, trust)
        (context / dockerfile.DOCKERFILE_NAME).write_text(dockerfile.render_dockerfile(lock, trust), encoding="utf-8")
        (context / dockerfile.IGNORE_FILE).write_text(dockerfile.render_ignore_file(lock), encoding="utf-8")
        yield context


def _copy_bundle(bundle_path: Path, target: Path, reporter: Reporter) -> None:
    size = bundle_path.stat().st_size
    with reporter.stage("copy the bundle", size) as stage, bundle_path.open("rb") as source, target.open("wb") as copy:
        while data := source.read(_CHUNK):
            copy.write(data)
            stage.advance(len(data))


def _extract_members(bundle: OpenBundle, targets: Mapping[str, Path]) -> None:
    """Write members of a bundle to files.

    Raises:
        IntegrityError: A member is damaged.
    """
    content_names = {member.name: member.content_member.name for member in bundle.layout.iter_artifacts()}
    extracted: dict[str, Path] = {}
    for name, path in targets.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        extracted.setdefault(content_names[name], path)
    archive.require_intact(bundle.extract_members(extracted, lambda _: None), bundle.where)
    for name, path in targets.items():
        if path != extracted[content_names[name]]:
            shutil.copyfile(extracted[content_names[name]], path)


def _ensure_base(
    engine: Engine, bundle: OpenBundle, lock: VerifiedLock, options: ImageOptions, reporter: Reporter
) -> str:
    """Return the engine's name for the base image; load the image from the bundle if needed.

    Raises:
        HostError: The base image is neither loaded nor in the bundle.
    """
    base = options.base or dockerfile.get_base_name(lock)
    if _has_image(engine, base):
        return base
    if lock.list_artifacts("image") and not options.base:
        with reporter.stage("load the base image"), tempfile.TemporaryDirectory(prefix="bundle-base-") as name:
            folder = Path(name)
            files = {artifact.path: folder / artifact.path for artifact in lock.list_artifacts("image")}
            needed = 2 * sum(artifact.size for artifact in lock.list_artifacts("image"))
            disk.require_free_space([(folder, needed, "the base image, to be loaded")])
            _extract_members(bundle, files)
            tar_path = folder / "base.tar"
            with tarfile.open(tar_path, "w") as tar:
                for path in sorted((folder / _IMAGES_FOLDER).rglob("*")):
                    tar.add(path, str(path.relative_to(folder / _IMAGES_FOLDER)), recursive=False)
            _run_engine(engine.make_load_command(tar_path))
        if _has_image(engine, base):
            return base
    hint = (
        f"load it first: {engine.name} pull {base}; if it has another name on this host, give that with --base NAME; "
        "or have the bundle built with image: {base: …}, which puts the base image into it"
    )
    raise HostError(f"the base image {base} is not loaded in {engine.name}", hint=hint)


def _has_image(engine: Engine, image: str) -> bool:
    command = engine.make_exists_command(image)
    return process.run(command.argv, env=_make_env(command), accepted_codes=range(256)).returncode == 0


def _run_smoke(engine: Engine, image: str, lock: VerifiedLock, reporter: Reporter) -> tuple[SmokeResult, ...]:
    """Run the smoke loads inside the image, as an arbitrary user of group 0.

    Raises:
        SmokeError: A smoke load failed.
        ProgramError: The image does not run.
    """
    prefix = dockerfile.get_image_prefix(lock)
    argv = (*dockerfile.get_image_installer(lock), "smoke", "--prefix", str(prefix), "--json")
    run = ContainerRun(image=image, user=ARBITRARY_USER_ID, writable_folders=("/tmp",), argv=argv)  # noqa: S108 (in memory)
    with reporter.stage(f"run {image}"):
        command = engine.make_run_command(run)
        completed = process.run(command.argv, env=_make_env(command), accepted_codes=range(256))
    try:
        answer = json.loads(completed.stdout)
    except ValueError as error:
        last_lines = "\n".join((completed.stderr or completed.stdout).strip().splitlines()[-5:])
        hint = f"the image is still there: start its Python with {engine.name} to see the error"
        raise ProgramError(f"the image was built but does not run:\n{last_lines}", where=image, hint=hint) from error
    if not answer["ok"]:
        raise SmokeError(f"inside the image: {answer['error']['message']}", where=image, hint=answer["error"]["hint"])
    return _decode_results(answer, image)


def _decode_results(answer: Mapping[str, Any], image: str) -> tuple[SmokeResult, ...]:
    """Return the smoke results of the program inside the image, whose version may differ from this one."""
    try:
        return documents.decode(tuple[SmokeResult, ...], answer["result"]["smoke"])
    except documents.DocumentError as error:
        hint = "build the image with the bundle.pyz that is in the bundle"
        message = f"the smoke results of the image can't be read: {json_files.format_problems(error)}"
        raise ProgramError(message, where=image, hint=hint) from error


def _save_image(engine: Engine, image: str, path: Path, reporter: Reporter) -> None:
    """Write the image's archive; it gets its name only when it is complete."""
    with tempfile.TemporaryDirectory(prefix=".bundle-image-", dir=path.absolute().parent) as folder:
        partial = Path(folder, "image.tar")
        with reporter.stage(f"save {path.name}"):
            _run_engine(engine.make_save_command(image, partial))
        partial.replace(path)


def _write_run_files(
    lock: VerifiedLock, results: Sequence[SmokeResult], image: str, archive_path: Path
) -> tuple[str, ...]:
    """Write the compose and Kubernetes files beside the archive, with the image's name and the memory measured in it."""
    written = []
    for name, text in dockerfile.render_run_files(lock, results, image).items():
        path = archive_path.with_name(f"{archive_path.name}.{name}")
        disk.write_atomically(path, text.encode())
        written.append(str(path))
    return tuple(written)


def _run_engine(command: Command) -> process.CompletedProcess:
    """Run an engine's command.

    Raises:
        HostError: The engine left a network up, or its disk is full.
        ProgramError: The command failed for another reason.
    """
    try:
        return process.run(command.argv, env=_make_env(command))
    except ProgramError as error:
        if match := _NETWORK_UP.search(str(error)):
            hint = "as configured here, this engine does not cut the network: try another engine, or another isolation"
            raise HostError(
                f"the network is not cut during the build: {match[1]} is up", where=error.where, hint=hint
            ) from error
        if _DISK_FULL.search(str(error)):
            hint = "free space where the engine keeps its images (its command 'info' names the folder), or remove old images"
            raise HostError("the engine's disk is full", where=error.where, hint=hint) from error
        raise


def _make_env(command: Command) -> dict[str, str]:
    return process.inherit_env(drop_prefixes=command.drop_prefixes, **command.env)
