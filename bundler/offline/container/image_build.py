"""Bakes the container image with whichever engine the host has, and runs it once to see that it works."""

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
from bundler.offline.container.engines.buildah import Buildah
from bundler.offline.container.engines.docker import Docker
from bundler.offline.container.engines.engine import Command, ContainerRun, Engine, ImageBuild, Layer
from bundler.offline.container.engines.podman import Podman
from bundler.offline.prefix import receipts, releases
from bundler.offline.rendering import dockerfile
from bundler.offline.trust import verification
from bundler.offline.trust.trusted_keys import TrustPolicy
from bundler.offline.trust.verification import VerifiedLock
from bundler.progress import Reporter

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (Docker(), Podman(), Buildah())}
"""Every engine that is known, the one to be tried first before."""

ARBITRARY_USER_ID = 54321
"""A user that no image knows, as OpenShift gives them."""

_UNPACK_RATIO = 5
"""Bytes of an installed wheel, with what Python compiles of it, for each of its own."""
_NETWORK_LEFT = re.compile(r"network not cut: (?!\{)(.+)")
_DISK_FULL = re.compile(r"no space left on device", re.IGNORECASE)
_IMAGES_FOLDER = "images"
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOptions:
    """How to bake: empty values leave it to the lock, and to what the host has.

    ``base`` is the name under which the engine has the base image, ``archive`` the file that the image is saved to.
    ``trusts`` say whose bundles to bake.
    """

    engine: str = ""
    image: str = ""
    base: str = ""
    archive_path: Path | None = None
    policies: tuple[TrustPolicy, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltImage:
    """An image that was baked and ran; ``smoke`` is what its models measured inside it.

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
    """The bundle that the live release of a prefix was installed from.

    Raises UsageError where it is not where it was: a release keeps no wheels, so that nothing can be baked from it.
    """
    release = releases.require_live(releases.get_absolute_prefix(prefix))
    receipt = receipts.read(release.receipt_path)
    path = Path(receipt.bundle)
    hint = "give the bundle itself: bundle image BUNDLE"
    if not path.is_file():
        where = receipt.bundle or str(prefix)
        raise UsageError("the bundle that the live release came from is not there any more", where=where, hint=hint)
    with archive.open_bundle(path) as bundle:
        if bundle.lock.digest != receipt.digest:
            raise UsageError("another bundle stands where the live release's was", where=str(path), hint=hint)
    return path


def build_image(bundle_path: Path, options: ImageOptions, reporter: Reporter) -> BuiltImage:
    """Bake the image of a bundle, run it once with no network and a read-only root, and say what that measured.

    Raises HostError, ProgramError, IntegrityError, TrustError or SmokeError.
    """
    bundle_path = bundle_path.resolve()  # a link would lead nowhere from inside the bake
    with archive.open_bundle(bundle_path) as carried:
        lock, _ = verification.verify_bundle(carried, options.policies, reporter)
        preflight.check_platform(lock)
        carried.require_full_length()
        engine = choose_engine(options)
        image = options.image or dockerfile.get_image_name(lock)
        _require_free_space(engine, lock, bundle_path.stat().st_size)
        with _make_context(bundle_path, carried, lock, options, reporter) as context:
            base = _ensure_base(engine, carried, lock, options, reporter)
            with reporter.stage(f"bake with {engine.name}"):
                wanted = ImageBuild(
                    context=context, dockerfile=context / dockerfile.DOCKERFILE_NAME, image=image, base=base,
                    epoch=lock.source_date_epoch,
                )  # fmt: skip
                _run_engine(engine.make_build_command(wanted))
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
    """The engine to bake with; raises HostError with what is wrong with each."""
    reasons: list[str] = []
    for engine in [ENGINES[options.engine]] if options.engine else ENGINES.values():
        if why := _find_engine_problem(engine, with_save=options.archive_path is not None):
            reasons.append(f"  {engine.name}: {why}")
        else:
            return engine
    listed = "\n".join(reasons)
    hint = (
        "install podman or docker from the host's own packages, or start docker's service; docs/containers.md has each"
    )
    raise HostError(f"no container engine here can bake an image:\n{listed}", hint=hint)


def _find_engine_problem(engine: Engine, *, with_save: bool) -> str:
    """Why an engine can't be used, in words; "" when it can."""
    if shutil.which(engine.name) is None:
        return "is not on PATH"
    if engine.name == Buildah.name and getattr(os, "geteuid", lambda: 0)() != 0:
        return "bakes as root alone; podman needs no root"
    try:
        said = _run_engine(engine.make_version_command()).stdout
        for command in engine.make_check_commands():
            _run_engine(command)
    except ProgramError as error:
        return str(error).strip().splitlines()[-1]
    version = re.search(r"(\d+)\.(\d+)", said)
    if version is None:
        return f"does not say its version, but {said.strip()[:80]!r}"
    oldest = engine.min_save_version if with_save else engine.min_version
    if tuple(map(int, version.groups())) < oldest:
        needed = ".".join(map(str, oldest))
        return f"is {version[0]}, and {needed} is the oldest that will do" + (" for --output" if with_save else "")
    return ""


def _require_free_space(engine: Engine, lock: VerifiedLock, bundle_bytes: int) -> None:
    """Raises HostError when the engine's disk has too little room for the layers; ``carried`` are the bundle's bytes."""
    root, driver = [*_run_engine(engine.make_storage_command()).stdout.strip().splitlines(), "", ""][:2]
    if not root or not Path(root).is_dir():
        return  # the engine's disk is another machine's
    looked, tried = 0, 0  # steps that write nothing: the look at the network, the first run
    sizes = [sum(one.size for one in lock.list_artifacts("image")) * 3, looked]
    sizes += [sum(one.size for one in files) for _, files in lock.list_files_by_model()]
    sizes += [sum(one.size for one in lock.list_artifacts("wheel")) * _UNPACK_RATIO]
    sizes += [sum(one.size for one in lock.list_artifacts(kind)) for kind in ("app", "asset")]
    sizes += [tried]
    # vfs keeps a whole copy of all that lies below with each layer
    needed = sum(sum(sizes[: n + 1]) for n in range(len(sizes))) if driver == "vfs" else sum(sizes)
    needed += bundle_bytes if engine.copies_context else 0
    disk.require_free_space([(Path(root), needed, f"the image's layers in {engine.name}'s storage ({driver})")])


@contextmanager
def _make_context(
    bundle_path: Path, bundle: OpenBundle, lock: VerifiedLock, options: ImageOptions, reporter: Reporter
) -> Iterator[Path]:
    """A folder with the bundle, its installer and the Dockerfile: beside the bundle where that spares a copy."""
    beside = bundle_path.absolute().parent
    with tempfile.TemporaryDirectory(
        prefix=".bundle-image-", dir=beside if os.access(beside, os.W_OK) else None
    ) as made:
        context = Path(made)
        try:
            (context / lock.file_name).hardlink_to(bundle_path)
        except OSError:
            disk.require_free_space([(context, bundle_path.stat().st_size, "a copy of the bundle for the engine")])
            _copy(bundle_path, context / lock.file_name, reporter)
        _extract_members(bundle, {entries.INSTALLER: context / entries.TRUSTED_INSTALLER})
        trust = next(iter(options.policies), None)
        if trust is not None:
            dockerfile.write_keys(context, trust)
        (context / dockerfile.DOCKERFILE_NAME).write_text(dockerfile.render_dockerfile(lock, trust), encoding="utf-8")
        (context / dockerfile.IGNORE_FILE).write_text(dockerfile.render_ignore_file(lock), encoding="utf-8")
        yield context


def _copy(bundle_path: Path, into: Path, reporter: Reporter) -> None:
    size = bundle_path.stat().st_size
    with reporter.stage("copy the bundle", size) as stage, bundle_path.open("rb") as source, into.open("wb") as copy:
        while data := source.read(_CHUNK):
            copy.write(data)
            stage.advance(len(data))


def _extract_members(bundle: OpenBundle, targets: Mapping[str, Path]) -> None:
    """Members of a bundle as files; raises IntegrityError where one is damaged."""
    holders = {member.name: member.content_member.name for member in bundle.layout.iter_artifacts()}
    first: dict[str, Path] = {}
    for name, path in targets.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        first.setdefault(holders[name], path)
    archive.require_intact(bundle.extract_members(first, lambda _: None), bundle.where)
    for name, path in targets.items():
        if path != first[holders[name]]:
            shutil.copyfile(first[holders[name]], path)


def _ensure_base(
    engine: Engine, bundle: OpenBundle, lock: VerifiedLock, options: ImageOptions, reporter: Reporter
) -> str:
    """The name of the base that the engine now has; raises HostError where it has none."""
    base = options.base or dockerfile.get_base_name(lock)
    if _has_image(engine, base):
        return base
    if lock.list_artifacts("image") and not options.base:
        with reporter.stage("load the base image"), tempfile.TemporaryDirectory(prefix="bundle-base-") as made:
            folder = Path(made)
            disk.require_free_space(
                [(folder, 2 * sum(one.size for one in lock.list_artifacts("image")), "the base image, to be loaded")]
            )
            _extract_members(bundle, {one.path: folder / one.path for one in lock.list_artifacts("image")})
            packed = folder / "base.tar"
            with tarfile.open(packed, "w") as tar:
                for path in sorted((folder / _IMAGES_FOLDER).rglob("*")):
                    tar.add(path, str(path.relative_to(folder / _IMAGES_FOLDER)), recursive=False)
            _run_engine(engine.make_load_command(packed))
        if _has_image(engine, base):
            return base
    hint = (
        f"load it first, such as by: {engine.name} pull {base}; or say with --base under which name it is here; "
        "or have the bundle built with image: {base: …}, which then carries it"
    )
    raise HostError(f"the base image {base} is not loaded in {engine.name}", hint=hint)


def _has_image(engine: Engine, image: str) -> bool:
    command = engine.make_exists_command(image)
    return process.run(command.argv, env=_make_env(command), accepted_codes=range(256)).returncode == 0


def _run_smoke(engine: Engine, image: str, lock: VerifiedLock, reporter: Reporter) -> tuple[SmokeResult, ...]:
    """What the smoke loads say inside the image, as any user of group 0; raises SmokeError when they fail."""
    home = dockerfile.get_image_prefix(lock)
    argv = (*dockerfile.get_image_installer(lock), "smoke", "--prefix", str(home), "--json")
    trial = ContainerRun(image=image, user=ARBITRARY_USER_ID, writable_folders=("/tmp",), argv=argv)  # noqa: S108 (in memory)
    with reporter.stage(f"run {image}"):
        command = engine.make_run_command(trial)
        done = process.run(command.argv, env=_make_env(command), accepted_codes=range(256))
    try:
        said = json.loads(done.stdout)
    except ValueError as error:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        hint = f"the image is there: look with {engine.name} what its Python says"
        raise ProgramError(f"the image was baked and does not run:\n{last}", where=image, hint=hint) from error
    if not said["ok"]:
        raise SmokeError(f"inside the image: {said['error']['message']}", where=image, hint=said["error"]["hint"])
    return _results(said, image)


def _results(said: Mapping[str, Any], image: str) -> tuple[SmokeResult, ...]:
    """What the program inside the image measured; it may be of another version than this one."""
    try:
        return documents.decode(tuple[SmokeResult, ...], said["result"]["smoke"])
    except documents.DocumentError as faults:
        hint = "bake with the bundle.pyz that is in the bundle"
        message = f"what the smoke loads measured can't be read: {json_files.format_problems(faults)}"
        raise ProgramError(message, where=image, hint=hint) from faults


def _save_image(engine: Engine, image: str, path: Path, reporter: Reporter) -> None:
    """Write the image's archive; it appears under its name only when it is whole."""
    with tempfile.TemporaryDirectory(prefix=".bundle-image-", dir=path.absolute().parent) as made:
        partial = Path(made, "image.tar")
        with reporter.stage(f"save {path.name}"):
            _run_engine(engine.make_save_command(image, partial))
        partial.replace(path)


def _write_run_files(
    lock: VerifiedLock, results: Sequence[SmokeResult], image: str, archive_path: Path
) -> tuple[str, ...]:
    """Put what runs the image beside its archive: the image's own name, and the memory that was measured inside it."""
    written = []
    for name, text in dockerfile.render_run_files(lock, results, image).items():
        path = archive_path.with_name(f"{archive_path.name}.{name}")
        disk.write_atomically(path, text.encode())
        written.append(str(path))
    return tuple(written)


def _run_engine(command: Command) -> process.CompletedProcess:
    """Run an engine; raises HostError for what its words mean here, ProgramError for the rest."""
    try:
        return process.run(command.argv, env=_make_env(command))
    except ProgramError as error:
        if left := _NETWORK_LEFT.search(str(error)):
            hint = "this engine does not cut the network as it is set up here: try another, or another isolation"
            raise HostError(
                f"the network is not cut inside the bake: {left[1]} is up", where=error.where, hint=hint
            ) from error
        if _DISK_FULL.search(str(error)):
            hint = "free room where the engine keeps its images (its 'info' names the folder), or remove old images"
            raise HostError("the engine's disk is full", where=error.where, hint=hint) from error
        raise


def _make_env(command: Command) -> dict[str, str]:
    return process.inherit_env(drop_prefixes=command.drop_prefixes, **command.env)
