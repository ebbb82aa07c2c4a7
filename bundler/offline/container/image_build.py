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
from bundler.offline.container.engines.engine import Bake, Command, Engine, Layer, Trial
from bundler.offline.container.engines.podman import Podman
from bundler.offline.prefix import receipts, releases
from bundler.offline.rendering import dockerfile
from bundler.offline.trust import verification
from bundler.offline.trust.trusted_keys import Trust
from bundler.offline.trust.verification import VerifiedLock
from bundler.progress import Report

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (Docker(), Podman(), Buildah())}
"""Every engine that is known, the one to be tried first before."""

ANY_USER = 54321
"""A user that no image knows, as OpenShift gives them."""

_UNPACKED = 5
"""Bytes of an installed wheel, with what Python compiles of it, for each of its own."""
_LEFT_ON = re.compile(r"network not cut: (?!\{)(.+)")
_FULL = re.compile(r"no space left on device", re.IGNORECASE)
_BASES = "images"
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to bake: empty values leave it to the lock, and to what the host has.

    ``base`` is the name under which the engine has the base image, ``archive`` the file that the image is saved to.
    ``trusts`` say whose bundles to bake.
    """

    engine: str = ""
    image: str = ""
    base: str = ""
    archive: Path | None = None
    trusts: tuple[Trust, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Baked:
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


def bundle_of(prefix: Path) -> Path:
    """The bundle that the live release of a prefix was installed from.

    Raises UsageError where it is not where it was: a release keeps no wheels, so that nothing can be baked from it.
    """
    release = releases.required_live(releases.at(prefix))
    receipt = receipts.read(release.receipt)
    path = Path(receipt.bundle)
    hint = "give the bundle itself: bundle image BUNDLE"
    if not path.is_file():
        where = receipt.bundle or str(prefix)
        raise UsageError("the bundle that the live release came from is not there any more", where=where, hint=hint)
    with archive.opened(path) as carried:
        if carried.lock.digest != receipt.digest:
            raise UsageError("another bundle stands where the live release's was", where=str(path), hint=hint)
    return path


def bake(bundle: Path, options: Options, report: Report) -> Baked:
    """Bake the image of a bundle, run it once with no network and a read-only root, and say what that measured.

    Raises HostError, ProgramError, IntegrityError, TrustError or SmokeError.
    """
    bundle = bundle.resolve()  # a link would lead nowhere from inside the bake
    with archive.opened(bundle) as carried:
        locked, _ = verification.verify(carried, options.trusts, report)
        preflight.check_platform(locked)
        carried.refuse_if_cut()
        engine = found(options)
        image = options.image or dockerfile.image_name(locked)
        _require_room(engine, locked, bundle.stat().st_size)
        with _context(bundle, carried, locked, options, report) as context:
            base = _base(engine, carried, locked, options, report)
            with report.stage(f"bake with {engine.name}"):
                wanted = Bake(
                    context=context, dockerfile=context / dockerfile.DOCKERFILE, image=image, base=base,
                    epoch=locked.source_date_epoch,
                )  # fmt: skip
                _run(engine.bake(wanted))
    results = _tried(engine, image, locked, report)
    layers = engine.read_layers(_run(engine.layers(image)).stdout)
    runners: tuple[str, ...] = ()
    if options.archive is not None:
        _save(engine, image, options.archive, report)
        runners = _write_runners(locked, results, image, options.archive)
    return Baked(
        engine=engine.name, image=image, base=base, digest=locked.digest, layers=layers, smoke=results,
        archive=str(options.archive or ""), runners=runners,
    )  # fmt: skip


def found(options: Options) -> Engine:
    """The engine to bake with; raises HostError with what is wrong with each."""
    reasons: list[str] = []
    for engine in [ENGINES[options.engine]] if options.engine else ENGINES.values():
        if why := _unusable(engine, saves=options.archive is not None):
            reasons.append(f"  {engine.name}: {why}")
        else:
            return engine
    listed = "\n".join(reasons)
    hint = (
        "install podman or docker from the host's own packages, or start docker's service; docs/containers.md has each"
    )
    raise HostError(f"no container engine here can bake an image:\n{listed}", hint=hint)


def _unusable(engine: Engine, *, saves: bool) -> str:
    """Why an engine can't be used, in words; "" when it can."""
    if shutil.which(engine.name) is None:
        return "is not on PATH"
    if engine.name == Buildah.name and getattr(os, "geteuid", lambda: 0)() != 0:
        return "bakes as root alone; podman needs no root"
    try:
        said = _run(engine.version()).stdout
        for command in engine.needs():
            _run(command)
    except ProgramError as error:
        return str(error).strip().splitlines()[-1]
    version = re.search(r"(\d+)\.(\d+)", said)
    if version is None:
        return f"does not say its version, but {said.strip()[:80]!r}"
    oldest = engine.oldest_to_save if saves else engine.oldest
    if tuple(map(int, version.groups())) < oldest:
        needed = ".".join(map(str, oldest))
        return f"is {version[0]}, and {needed} is the oldest that will do" + (" for --output" if saves else "")
    return ""


def _require_room(engine: Engine, locked: VerifiedLock, carried: int) -> None:
    """Raises HostError when the engine's disk has too little room for the layers; ``carried`` are the bundle's bytes."""
    root, driver = [*_run(engine.storage()).stdout.strip().splitlines(), "", ""][:2]
    if not root or not Path(root).is_dir():
        return  # the engine's disk is another machine's
    looked, tried = 0, 0  # steps that write nothing: the look at the network, the first run
    sizes = [sum(one.size for one in locked.of_kind("image")) * 3, looked]
    sizes += [sum(one.size for one in files) for _, files in locked.by_model()]
    sizes += [sum(one.size for one in locked.of_kind("wheel")) * _UNPACKED]
    sizes += [sum(one.size for one in locked.of_kind(kind)) for kind in ("app", "asset")]
    sizes += [tried]
    # vfs keeps a whole copy of all that lies below with each layer
    needed = sum(sum(sizes[: n + 1]) for n in range(len(sizes))) if driver == "vfs" else sum(sizes)
    needed += carried if engine.copies_the_folder else 0
    disk.require([(Path(root), needed, f"the image's layers in {engine.name}'s storage ({driver})")])


@contextmanager
def _context(
    bundle: Path, carried: OpenBundle, locked: VerifiedLock, options: Options, report: Report
) -> Iterator[Path]:
    """A folder with the bundle, its installer and the Dockerfile: beside the bundle where that spares a copy."""
    beside = bundle.absolute().parent
    with tempfile.TemporaryDirectory(
        prefix=".bundle-image-", dir=beside if os.access(beside, os.W_OK) else None
    ) as made:
        context = Path(made)
        try:
            (context / locked.file_name).hardlink_to(bundle)
        except OSError:
            disk.require([(context, bundle.stat().st_size, "a copy of the bundle for the engine")])
            _copy(bundle, context / locked.file_name, report)
        _copy_out(carried, {entries.INSTALLER: context / entries.TRUSTED_INSTALLER})
        trust = next(iter(options.trusts), None)
        if trust is not None:
            dockerfile.write_keys(context, trust)
        (context / dockerfile.DOCKERFILE).write_text(dockerfile.dockerfile_text(locked, trust), encoding="utf-8")
        (context / dockerfile.IGNORE).write_text(dockerfile.ignore_text(locked), encoding="utf-8")
        yield context


def _copy(bundle: Path, into: Path, report: Report) -> None:
    size = bundle.stat().st_size
    with report.stage("copy the bundle", size) as stage, bundle.open("rb") as source, into.open("wb") as copy:
        while data := source.read(_CHUNK):
            copy.write(data)
            stage.advance(len(data))


def _copy_out(carried: OpenBundle, wanted: Mapping[str, Path]) -> None:
    """Members of a bundle as files; raises IntegrityError where one is damaged."""
    holders = {member.name: member.holder.name for member in carried.layout.artifacts()}
    first: dict[str, Path] = {}
    for name, path in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        first.setdefault(holders[name], path)
    archive.refuse(carried.copy_out(first, lambda _: None), carried.where)
    for name, path in wanted.items():
        if path != first[holders[name]]:
            shutil.copyfile(first[holders[name]], path)


def _base(engine: Engine, carried: OpenBundle, locked: VerifiedLock, options: Options, report: Report) -> str:
    """The name of the base that the engine now has; raises HostError where it has none."""
    base = options.base or dockerfile.base_name(locked)
    if _has(engine, base):
        return base
    if locked.of_kind("image") and not options.base:
        with report.stage("load the base image"), tempfile.TemporaryDirectory(prefix="bundle-base-") as made:
            folder = Path(made)
            disk.require(
                [(folder, 2 * sum(one.size for one in locked.of_kind("image")), "the base image, to be loaded")]
            )
            _copy_out(carried, {one.path: folder / one.path for one in locked.of_kind("image")})
            packed = folder / "base.tar"
            with tarfile.open(packed, "w") as tar:
                for path in sorted((folder / _BASES).rglob("*")):
                    tar.add(path, str(path.relative_to(folder / _BASES)), recursive=False)
            _run(engine.load(packed))
        if _has(engine, base):
            return base
    hint = (
        f"load it first, such as by: {engine.name} pull {base}; or say with --base under which name it is here; "
        "or have the bundle built with image: {base: …}, which then carries it"
    )
    raise HostError(f"the base image {base} is not loaded in {engine.name}", hint=hint)


def _has(engine: Engine, image: str) -> bool:
    command = engine.known(image)
    return process.run(command.argv, environment=_environment(command), accept=range(256)).code == 0


def _tried(engine: Engine, image: str, locked: VerifiedLock, report: Report) -> tuple[SmokeResult, ...]:
    """What the smoke loads say inside the image, as any user of group 0; raises SmokeError when they fail."""
    home = dockerfile.prefix_in_image(locked)
    argv = (*dockerfile.installer_in_image(locked), "smoke", "--prefix", str(home), "--json")
    trial = Trial(image=image, user=ANY_USER, writable=("/tmp",), argv=argv)  # noqa: S108 (in memory)
    with report.stage(f"run {image}"):
        command = engine.run(trial)
        done = process.run(command.argv, environment=_environment(command), accept=range(256))
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
    except documents.Faults as faults:
        hint = "bake with the bundle.pyz that is in the bundle"
        message = f"what the smoke loads measured can't be read: {json_files.first_faults(faults)}"
        raise ProgramError(message, where=image, hint=hint) from faults


def _save(engine: Engine, image: str, path: Path, report: Report) -> None:
    """Write the image's archive; it appears under its name only when it is whole."""
    with tempfile.TemporaryDirectory(prefix=".bundle-image-", dir=path.absolute().parent) as made:
        partial = Path(made, "image.tar")
        with report.stage(f"save {path.name}"):
            _run(engine.save(image, partial))
        partial.replace(path)


def _write_runners(locked: VerifiedLock, results: Sequence[SmokeResult], image: str, saved: Path) -> tuple[str, ...]:
    """Put what runs the image beside its archive: the image's own name, and the memory that was measured inside it."""
    written = []
    for name, text in dockerfile.runner_texts(locked, results, image).items():
        path = saved.with_name(f"{saved.name}.{name}")
        disk.write_whole(path, text.encode())
        written.append(str(path))
    return tuple(written)


def _run(command: Command) -> process.Finished:
    """Run an engine; raises HostError for what its words mean here, ProgramError for the rest."""
    try:
        return process.run(command.argv, environment=_environment(command))
    except ProgramError as error:
        if left := _LEFT_ON.search(str(error)):
            hint = "this engine does not cut the network as it is set up here: try another, or another isolation"
            raise HostError(
                f"the network is not cut inside the bake: {left[1]} is up", where=error.where, hint=hint
            ) from error
        if _FULL.search(str(error)):
            hint = "free room where the engine keeps its images (its 'info' names the folder), or remove old images"
            raise HostError("the engine's disk is full", where=error.where, hint=hint) from error
        raise


def _environment(command: Command) -> dict[str, str]:
    return process.clean_environment(without=command.without, **command.variables)
