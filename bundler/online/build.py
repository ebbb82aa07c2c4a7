"""The route: manifest → lock → fetch → pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import parse_wheel_filename

from bundler.errors import FetchError, HostError, IntegrityError, ManifestError, UnsafeError
from bundler.format import disk, hashing
from bundler.format.disk import Draft
from bundler.format.lock import entries, lockfile
from bundler.format.lock.entries import Artifact, Kind
from bundler.format.lock.lockfile import Lock
from bundler.format.scan import wheel_check
from bundler.format.signing import signature_envelope
from bundler.format.signing.signature_envelope import Signer
from bundler.format.tar import archive
from bundler.online import installer, rehearsal, resolve
from bundler.online.assets import collect
from bundler.online.inspection import pickle_scan
from bundler.online.manifest import schema
from bundler.online.manifest.schema import Asked
from bundler.online.models import closure, model_resolution
from bundler.online.models.safetensors_conversion import Bench
from bundler.online.packages import resolution
from bundler.online.packages.resolution import ResolvedWheel
from bundler.online.transfer import download, pip_config, remote_sizes
from bundler.online.transfer.cache import Store
from bundler.online.transfer.context import Workshop
from bundler.progress import Report

WHEELS: tuple[Kind, ...] = ("tool", "wheel")


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A bundle that was written: where, how large in bytes, the SHA-256 of its file, and from which lock."""

    path: Path
    size: int
    sha256: str
    lock: Lock


def workshop(report: Report) -> Workshop:
    """The shelf and pip's configuration of the person who runs this."""
    return Workshop(store=Store.of_this_user(), config=pip_config.read(), report=report)


def make_lock(path: Path, shop: Workshop) -> Lock:
    """Resolve a manifest."""
    return resolve.resolve(schema.load(path), shop)


def to_fetch(locked: Lock, shop: Workshop) -> tuple[Artifact, ...]:
    """What a lock names and this machine does not have yet, each content once."""
    named = {artifact.sha256: artifact for artifact in locked.artifacts}
    return tuple(one for one in named.values() if _here(one, shop) is None)


def write_lock(path: Path, locked: Lock) -> None:
    """Keep a lock in a file, whole or not at all."""
    disk.write_whole(path, locked.canonical)


def build(
    path: Path,
    out: Path | None,
    kept: Path | None,
    shop: Workshop,
    *,
    no_pickles: bool = False,
    signers: Sequence[Signer] = (),
    rehearsing: bool = True,
) -> Built:
    """Build the bundle of a manifest, from a kept lock where one is given.

    ``out`` is the bundle's file, or an existing folder for it; default: the working folder. ``no_pickles`` refuses
    models that hold any. With ``rehearsing`` the bundle is installed and its models are loaded before it gets its
    name; golden outputs that come of it are added to the kept lock as well. Each of ``signers`` signs the bundle.
    Raises BundleError; then there is no file of that name, or the one that was there before.
    """
    asked = schema.load(path)
    _require_folder(Path.cwd() if out is None else out if out.is_dir() else out.parent)
    locked = resolve.resolve(asked, shop) if kept is None else _kept(kept, asked)
    if no_pickles:
        pickle_scan.refuse(locked)
    if kept is not None:
        _gather_again(locked, asked, shop)
    final = _file(out, locked)
    why_not = rehearsal.why_not(locked) if rehearsing else "the builder left it out (--no-rehearse)"
    locked = rehearsal.unrehearsed(locked, why_not) if why_not else locked
    away, late = _away(locked, shop), _late(locked, shop)
    coming = sum(one.size for one in away) + remote_sizes.to_come(((one, one.size) for one in late), shop.store)
    _require_room(final, locked, coming, shop, rehearsing=not why_not)
    _fetch(away, locked, asked, shop)
    if late:
        download.fetch(late, shop.store, shop.config, shop.report, title="fetch models")
    _require_all(locked, shop)
    _look_into(locked, shop, late=True)
    wheel_check.refuse(wheel_check.of(locked, shop.path_of), shop.report, contents=True)
    if why_not and rehearsing:
        shop.report.warn(f"this bundle is not rehearsed: {why_not}")
    with disk.drafting(final) as draft:
        _pack(draft, locked, shop)
        sealed = locked if why_not else _rehearsed(draft, locked, shop)
        signature = signature_envelope.signed(sealed, signers)
        if sealed != locked or signature is not None:
            archive.seal(draft.path, sealed, signature)
    if kept is not None and sealed != locked:
        write_lock(kept, sealed)
        shop.report.note(f"{kept} now says what the rehearsal showed: the next build from it gives the same bundle")
    # Only now are the first bytes of the file its last ones, and the digest of a file begins with those.
    with shop.report.stage("hash the file", final.stat().st_size) as stage:
        size, sha256 = hashing.digest_of_file(final, stage.advance)
    return Built(path=final, size=size, sha256=sha256, lock=sealed)


def _pack(draft: Draft, locked: Lock, shop: Workshop) -> None:
    try:
        archive.pack(draft.fd, locked, shop.path_of, shop.report)
    except archive.ChangedError as error:
        for artifact in error.artifacts:
            shop.store.drop(artifact.sha256)  # the next build fetches it anew
        raise


def _rehearsed(draft: Draft, locked: Lock, shop: Workshop) -> Lock:
    return rehearsal.rehearse(draft.path, locked, shop.path_of(locked.artifacts[0]), shop.store.root, shop.report)


def _file(out: Path | None, locked: Lock) -> Path:
    if out is None:
        return Path.cwd() / locked.file_name
    return out / locked.file_name if out.is_dir() else out


def _kept(path: Path, asked: Asked) -> Lock:
    try:
        locked = lockfile.read(path.read_bytes(), str(path))
    except OSError as error:
        raise ManifestError(f"the lock can't be read: {error.strerror}", where=str(path)) from error
    if locked.manifest_sha256 != asked.sha256:
        hint = "run bundle lock again, or take the manifest that it was made from"
        raise ManifestError("the lock was made from another text of this manifest", where=str(path), hint=hint)
    return locked


def _gather_again(locked: Lock, asked: Asked, shop: Workshop) -> None:
    """See that what a kept lock names still is what the lock says, and bring home what must be looked into for that."""
    shop.store.put_bytes(lockfile.requirements_text(locked.python, locked.artifacts))
    if shop.store.path_of(locked.artifacts[0].sha256) is None:
        shop.store.put_bytes(installer.build())
    if any(model.convert for model in asked.manifest.models):
        _fetch(_away(locked, shop), locked, asked, shop)  # conversion runs on the bundle's own packages
    packages = [_as_wheel(one, _address(one, shop)) for one in locked.of_kind("wheel")]
    bench = Bench(target=locked.target, packages=packages, shop=shop)
    named = len(asked.manifest.models)
    added = [closure.again(model, locked.files_of(model)) for model in locked.models[named:]]
    for wanted, model in zip([*asked.manifest.models, *added], locked.models, strict=True):
        if wanted.on_hub and all(shop.store.path_of(one.sha256, one.size) for one in locked.files_of(model)):
            continue  # a commit can't change: nothing is left to ask the hub
        with shop.report.stage(f"gather {model.alias}"):
            found, _ = model_resolution.whole(wanted, asked, shop, bench, pinned=model.source)
        if lockfile.digest_of_files((file.sha256, file.path) for file in found.files) != model.digest:
            hint = "run bundle lock again if the change is wanted; else restore the source"
            raise IntegrityError(f"the files of {model.alias} are not those of the lock", where=model.source, hint=hint)
    _look_into(locked, shop, late=False)
    collect.bring_again(asked.manifest.assets, locked, shop)
    if any(shop.store.path_of(blob.sha256, blob.size) is None for blob in locked.of_kind("image")):
        resolve.pull(asked, locked.target, shop, pinned=locked.image.digest)
    if tuple(resolve.app_files(asked, shop)) != locked.of_kind("app"):
        hint = "run bundle lock again if the change is wanted; else restore the folder"
        raise IntegrityError("the application's files are not those of the lock", where=str(asked.folder), hint=hint)


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise HostError("there is no such folder", where=str(folder), hint="create it, or give another with -o")


def _require_room(final: Path, locked: Lock, coming: int, shop: Workshop, *, rehearsing: bool) -> None:
    """A look at the disks before what is away is fetched, ``coming`` bytes of it, and anything is packed."""
    known = {artifact.sha256: _here(artifact, shop) for artifact in locked.artifacts}
    on_the_shelf = next(filter(None, (shop.store.path_of(sha256) for sha256 in known)), None)
    here: dict[str, Path] = {sha256: place for sha256, content in known.items() if (place := content or on_the_shelf)}
    disk.require(
        [
            (final.parent, archive.room_for(final, locked, here), "the bundle"),
            (shop.store.root, coming, "fetching packages and models"),
            (shop.store.root, rehearsal.room(locked) if rehearsing else 0, "the rehearsal"),
        ]
    )


def _here(artifact: Artifact, shop: Workshop) -> Path | None:
    return shop.contents.get(artifact.sha256) or shop.store.path_of(artifact.sha256, artifact.size)


def _late(locked: Lock, shop: Workshop) -> list[download.Wanted]:
    """Files of models that were locked by what is published of them, and are still to be fetched."""
    return [shop.awaited[one.sha256] for one in to_fetch(locked, shop) if one.sha256 in shop.awaited]


def _look_into(locked: Lock, shop: Workshop, *, late: bool) -> None:
    """Hold a lock to what the files of its models are: those that were awaited (``late``), or all others.

    The scanner may also know more by now than when the lock was made. Raises UnsafeError.
    """
    listed = {pickle.path for pickle in locked.pickles}
    for model, files in locked.by_model():
        those = [one for one in files if (one.sha256 in shop.awaited) is late]
        contents = ((one.path[len(model.folder) :], shop.path_of(one)) for one in those)
        found = pickle_scan.scan(model.alias, contents, shop.report)
        if hidden := ", ".join(one.path for one in found if one.path not in listed):
            hint = "leave it out with exclude; bundle lock would list it now that it is here, for somebody to look at"
            raise UnsafeError(f"a pickle that the lock does not list: {hidden}", where=model.source, hint=hint)


def _away(locked: Lock, shop: Workshop) -> list[Artifact]:
    """The wheels that are not on the shelf."""
    return [a for kind in WHEELS for a in locked.of_kind(kind) if shop.store.path_of(a.sha256, a.size) is None]


def _fetch(away: list[Artifact], locked: Lock, asked: Asked, shop: Workshop) -> None:
    """Bring the wheels home that are not on the shelf: from where they were found, or wherever pip looks here."""
    addressed = [artifact for artifact in away if _address(artifact, shop)]
    lost = [artifact for artifact in away if artifact not in addressed]
    found = {one.sha256: one for one in _found_again(lost, locked, asked, shop)}
    missing = [artifact for artifact in lost if artifact.sha256 not in found]
    if changed := [artifact.path for artifact in missing if artifact.origin.startswith(entries.BUILT)]:
        hint = "compiler or build requirements are others by now: bring the shelf that has it, or run bundle lock again"
        raise IntegrityError(
            f"built again from source code, this is not what the lock has: {', '.join(changed)}", hint=hint
        )
    if missing:
        hint = "give pip the folder or index that had them when the lock was made, or run bundle lock again"
        raise FetchError(f"other files than the lock's are here: {', '.join(one.path for one in missing)}", hint=hint)
    known = [_as_wheel(artifact, _address(artifact, shop)) for artifact in addressed]
    known_to = [index.url for index in asked.manifest.python.indexes]  # their credentials serve their files too
    resolution.fetch([*known, *found.values()], shop.store, shop.config, shop.report, also=known_to)


def _require_all(locked: Lock, shop: Workshop) -> None:
    if gone := [a.path for a in locked.artifacts if a.sha256 not in shop.contents and not shop.store.path_of(a.sha256)]:
        hint = "run bundle lock again: this version of the tool, or the source, gives other files"
        raise IntegrityError(f"what the lock names can't be had any more: {', '.join(gone[:5])}", hint=hint)


def _address(artifact: Artifact, shop: Workshop) -> str:
    """Where a wheel can be fetched, or "" where the lock names a folder of the machine that made it."""
    address = shop.addresses.get(artifact.sha256) or artifact.origin
    return address if address.startswith(("http:", "https:", "file:")) else ""


def _found_again(lost: list[Artifact], locked: Lock, asked: Asked, shop: Workshop) -> list[ResolvedWheel]:
    """Wheels that pip finds again here, and those that are built again from source code."""
    found: list[ResolvedWheel] = []
    built = {one.path for one in lost if one.origin.startswith(entries.BUILT)}
    found += _pinned([one for one in lost if one.path in built], locked, asked, shop, build=True)
    for kind in WHEELS:  # apart: the environment may hold another version of a tool
        plain = [one for one in lost if one.kind == kind and one.path not in built]
        found += _pinned(plain, locked, asked, shop, build=False)
    return found


def _pinned(
    artifacts: list[Artifact], locked: Lock, asked: Asked, shop: Workshop, *, build: bool
) -> tuple[ResolvedWheel, ...]:
    named = [parse_wheel_filename(one.path.partition("/")[2])[:2] for one in artifacts]
    pins = [f"{name}=={version}" for name, version in named]
    if build:  # the code that is run must be the code that the lock was made with
        digests = [one.origin.rpartition("#sha256=")[2] for one in artifacts]
        pins = [f"{pin} --hash=sha256:{digest}" for pin, digest in zip(pins, digests, strict=True)]
    sources = [name for name, _ in named] if build else []
    indexes = asked.manifest.python.tied if build else ()
    return resolution.alone(pins, locked.target, shop.config, shop.store, shop.report, indexes=indexes, sources=sources)


def _as_wheel(artifact: Artifact, address: str) -> ResolvedWheel:
    filename = artifact.path.partition("/")[2]
    name, version, *_ = parse_wheel_filename(filename)
    return ResolvedWheel(
        name=name,
        version=str(version),
        filename=filename,
        origin=address,
        size=artifact.size,
        sha256=artifact.sha256,
        publisher="lock",
        published=bool(artifact.upstream),
    )
