"""A bundle as one file: same lock in, same bytes out."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bundler.errors import HostError, IntegrityError
from bundler.format import disk, hashing
from bundler.format.hashing import FileSource, HashingCopier, ReadError, Sha256
from bundler.format.lock import entries
from bundler.format.lock.entries import Artifact
from bundler.format.lock.lockfile import Lock
from bundler.format.tar import bundle_head, damage, journal, tar_layout
from bundler.format.tar.bundle_head import BundleHead
from bundler.format.tar.damage import Damage, DamagedError, DamageReport
from bundler.format.tar.reader import BundleReader, FileReader, PipeReader
from bundler.format.tar.tar_layout import Layout, Member
from bundler.progress import Reporter

FindContent = Callable[[Artifact], Path]
"""Where the content of an artifact lies while a bundle is written."""


class ContentChangedError(IntegrityError):
    """Content was not what the lock says when it was packed; ``artifacts`` says which."""

    def __init__(self, artifacts: list[Artifact], where: str) -> None:
        listed = "\n".join(f"  {artifact.path} (from {artifact.origin})" for artifact in artifacts)
        hint = "build again: what was kept here is fetched anew, and a folder that changed is locked anew"
        super().__init__(f"these files are not what the lock says:\n{listed}", where=where, hint=hint)
        self.artifacts = artifacts


def estimate_space(path: Path, lock: Lock, content_paths: Mapping[str, Path]) -> int:
    """Bytes that a bundle will take on its disk.

    ``here`` is where content lies, by sha256, or any file of the disk where it will; what is not here counts in full,
    and so does what lies on a disk from which ``path``'s can't share blocks.
    """
    layout = tar_layout.compute_layout(lock, None)
    sharing: dict[int, bool] = {}
    room = layout.size
    for member in layout.iter_artifacts():
        content = content_paths.get(_get_artifact(member).sha256)
        if content is None or member.link or member.size < tar_layout.ALIGNMENT:
            continue
        device = content.stat().st_dev
        if device not in sharing:
            sharing[device] = disk.can_share_blocks(content, path.parent)
        room -= member.size if sharing[device] else 0
    return room


def write_bundle(
    path: Path, lock: Lock, find_content: FindContent, reporter: Reporter, signature: bytes | None = None
) -> None:
    """Write the bundle of a lock, signed or not; it appears under its name only when it is whole.

    Every content is hashed where it arrived. Raises ChangedError when some is not what the lock says,
    OSError when it can't be written.
    """
    with disk.replace_file(path) as fd:
        pack_bundle(fd, lock, find_content, reporter, signature)


def pack_bundle(
    fd: int, lock: Lock, find_content: FindContent, reporter: Reporter, signature: bytes | None = None
) -> None:
    """The same into an open file, which is whole and on the disk afterwards."""
    _pack_members(fd, tar_layout.compute_layout(lock, signature), find_content, reporter)
    with reporter.stage("sync"):
        os.fsync(fd)


def _pack_members(fd: int, layout: Layout, find_content: FindContent, reporter: Reporter) -> None:
    hashing.write_at(fd, layout.head_bytes, 0)
    found: list[tuple[Artifact, Future[Sha256]]] = []
    size = sum(member.size for member in layout.iter_artifacts() if not member.link)
    with reporter.stage("pack", size) as stage, HashingCopier(stage.advance) as copier:
        for member in layout.iter_artifacts():
            if member.name != entries.INSTALLER:
                hashing.write_at(fd, member.make_header(), member.header_offset)
            if not member.link:
                found.append((_get_artifact(member), _pack_member(fd, member, find_content, copier)))
        os.ftruncate(fd, layout.size)  # padding and end are zeros, and so is what was never written
        changed = [artifact for artifact, digest in found if digest.result() != artifact.sha256]
    if changed:
        raise ContentChangedError(changed, "")


def _pack_member(fd: int, member: Member, find_content: FindContent, copier: HashingCopier) -> Future[Sha256]:
    artifact = _get_artifact(member)
    source = hashing.open_to_read(find_content(artifact))
    try:
        if os.fstat(source).st_size != artifact.size:
            raise ContentChangedError([artifact], str(find_content(artifact)))
        return copier.copy(FileSource(source), artifact.size, fd, member.content_offset)
    finally:
        os.close(source)


def rewrite_head(path: Path, lock: Lock, signature: bytes | None) -> None:
    """Rewrite the head of a bundle in place: the same content under a lock that says more, or signed.

    Raises IntegrityError when the new lock speaks of other content, and fields.Invalid when it does
    not fit the head. Where this is ended half-way, ``sealing.mend`` makes the new head whole.
    """
    with open_bundle(path) as bundle:
        if bundle.lock.artifacts != lock.artifacts or bundle.lock.head_size != lock.head_size:
            raise IntegrityError("the new lock is of another bundle", where=str(path))
        if bundle.lock.source_date_epoch != lock.source_date_epoch:
            raise IntegrityError("the new lock gives its members another time", where=str(path))
    journal.rewrite_head(path, tar_layout.compute_layout(lock, signature).head_bytes)


class OpenBundle:
    """A bundle whose head was read and compared with its lock; no content is read yet."""

    def __init__(self, head: BundleHead, reader: BundleReader, where: str) -> None:
        self.layout = head.layout
        self.lock = head.layout.lock
        self.signature = head.layout.signature
        self.where = where
        self.reader = reader
        self._head = head

    @property
    def is_damaged(self) -> bool:
        """Whether the head is not what its lock gives, as far as it was read."""
        return bool(self._head.damages)

    def require_intact_head(self) -> None:
        """Raises DamagedError when the head is not what its lock gives."""
        bundle_head.require_intact_head(self._head, self.reader, self.where)

    def require_full_length(self) -> None:
        """Raises DamagedError when a file is shorter than its lock says, before anything is read or written."""
        size = self.reader.size
        if size is not None and size < self.layout.size:
            raise DamagedError(self._make_damage_report([]), self.where)

    def check_content(self, reporter: Reporter) -> DamageReport:
        """Read every byte, on every core, and name all that is not what it must be, and all that is."""
        members = list(self.layout.iter_artifacts())
        with reporter.stage("verify", sum(member.size for member in members if not member.link)) as stage:
            if self.reader.is_seekable:
                members.sort(key=_get_stored_size, reverse=True)
                found = hashing.map_parallel(self._check_member, members, stage.advance)
            else:
                found = [self._check_member(member, stage.advance) for member in members]
        return self._make_damage_report(zip(members, found, strict=True))

    def extract_members(self, targets: Mapping[str, Path], advance: Callable[[int], None]) -> DamageReport:
        """Copy the content of members, named by ``wanted``, to new files; tells all damage found on the way.

        A hard link's content is copied by naming its holder. Content that is not wanted is passed over.
        Raises OSError where a file can't be written.
        """
        damages: dict[str, list[Damage]] = {}
        digests: list[tuple[Member, Future[Sha256]]] = []
        with HashingCopier(advance) as copier:
            for member in self.layout.iter_artifacts():
                damages[member.name] = self._check_header(member)
                if member.name in targets:
                    into = hashing.open_to_write(targets[member.name])
                    try:
                        source = self.reader.get_source(member.content_offset)
                        digests.append((member, copier.copy(source, member.size, into, 0, close=True)))
                    except EOFError as error:
                        damages[member.name].append(_make_cut_damage(member, error))
                        break
                    except ReadError as error:
                        damages[member.name].append(_make_unreadable_damage(member.name, error))
                        if not self.reader.is_seekable:
                            break
                        continue
                damages[member.name] += self._check_padding(member)
            for member, digest in digests:
                damages[member.name] += _compare_digest(member, digest.result())
        return self._make_damage_report(
            (member, damages[member.name])
            for member in self.layout.iter_artifacts()
            if member.name in damages
            and (damages[member.name] or member.content_member.name in targets or not member.content_member.size)
        )

    def _make_damage_report(self, member_damages: Iterable[tuple[Member, list[Damage]]]) -> DamageReport:
        after = self._check_end()  # a pipe's size is known once its end was looked for
        return damage.make_damage_report(
            self.layout, self.reader.size, [*self._head.list_members(), *member_damages], after
        )

    def _check_member(self, member: Member, advance: Callable[[int], None]) -> list[Damage]:
        found = self._check_header(member)
        if not member.link:
            try:
                found += _compare_digest(
                    member, self.reader.compute_digest(member.content_offset, member.size, advance)
                )
            except EOFError as error:
                return [*found, _make_cut_damage(member, error)]
            except ReadError as error:
                return [*found, _make_unreadable_damage(member.name, error)]
        return found + self._check_padding(member)

    def _check_header(self, member: Member) -> list[Damage]:
        if member.name == entries.INSTALLER:  # the head ends with it and was compared when the bundle was opened
            return self._head.list_damages(member.name)
        return self._check_bytes(
            member.name, member.header_offset, member.make_header(), "its header is not what the lock gives"
        )

    def _check_padding(self, member: Member) -> list[Damage]:
        return self._check_bytes(member.name, member.end, bytes(member.padding), "what follows it must be zero bytes")

    def _check_end(self) -> list[Damage]:
        end_at = self.layout.end_offset
        found = self._check_bytes(
            "end of the bundle", end_at, tar_layout.END_BLOCKS, "must be two blocks of zero bytes"
        )
        if self._has_trailing_bytes():
            found.append(
                Damage(
                    member="end of the bundle",
                    start=self.layout.size,
                    end=self.reader.size or self.layout.size + 1,
                    message="bytes follow that belong to nothing",
                )
            )
        return found

    def _has_trailing_bytes(self) -> bool:
        """Whether bytes follow the end; a medium that does not give them back has some."""
        try:
            return bool(self.reader.read(self.layout.size, 1))
        except ReadError:
            return True

    def _check_bytes(self, name: str, offset: int, expected: bytes, message: str) -> list[Damage]:
        try:
            found = self.reader.read(offset, len(expected))
        except ReadError as error:
            return [_make_unreadable_damage(name, error)]
        return damage.compare_bytes(name, offset, found, expected, message)


@contextmanager
def open_bundle(source: Path | BinaryIO, *, allow_damage: bool = False) -> Iterator[OpenBundle]:
    """Open a bundle, from a file or from a pipe, and read its head.

    Raises IntegrityError when the head is not that of a bundle, or not what its lock gives; the latter is left to
    ``OpenBundle.check`` where ``damaged`` bundles are to be looked at too.
    """
    if not isinstance(source, Path):
        yield _open_reader(PipeReader(source), "standard input", allow_damage=allow_damage)
        return
    try:
        fd = os.open(
            source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )  # a FIFO must not block
    except OSError as error:
        raise HostError(f"the bundle can't be read: {error.strerror}", where=str(source)) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise HostError(
                "the bundle is not a regular file", where=str(source), hint="to read a pipe, give '-' as the bundle"
            )
        yield _open_file(fd, source, allow_damage=allow_damage)
    finally:
        os.close(fd)


def _open_file(fd: int, path: Path, *, allow_damage: bool) -> OpenBundle:
    half_way = journal.get_journal_path(path).exists()
    try:
        return _open_reader(FileReader(fd), str(path), allow_damage=allow_damage and not half_way)
    except IntegrityError as error:
        if not half_way:
            raise
        hint = "wait until that run ends; if it was killed, run it again: 'bundle sign' makes the head whole first"
        message = "the head of this bundle is half-way between two: a run is rewriting it, or was ended while it did"
        raise IntegrityError(message, where=str(path), hint=hint) from error


def _open_reader(reader: BundleReader, where: str, *, allow_damage: bool) -> OpenBundle:
    try:
        found = bundle_head.read_head(reader, where)
    except ReadError as error:
        message = f"the head of the bundle can't be read (bytes {error.start}-{error.end}): {error.strerror}"
        raise IntegrityError(message, where=where, hint=damage.CARRY_AGAIN_HINT) from error
    if not allow_damage:
        bundle_head.require_intact_head(found, reader, where)
    return OpenBundle(found, reader, where)


def require_intact(damage_report: DamageReport, where: str) -> None:
    """Raises DamagedError that names every damage, if there is any, and what is whole."""
    if damage_report.damages:
        raise DamagedError(damage_report, where)


def _compare_digest(member: Member, digest: str) -> list[Damage]:
    expected = _get_artifact(member).sha256
    if digest == expected:
        return []
    message = f"content differs: sha256 {digest}, expected {expected}"
    return [Damage(member=member.name, start=member.content_offset, end=member.end, message=message)]


def _make_unreadable_damage(name: str, error: ReadError) -> Damage:
    message = f"the medium does not give it back: {error.strerror}; copy what is left to a sound one"
    return Damage(member=name, start=error.start, end=error.end, message=message)


def _make_cut_damage(member: Member, error: EOFError) -> Damage:
    message = f"the bundle ends inside it: {error}"
    return Damage(member=member.name, start=member.content_offset, end=member.end, message=message)


def _get_artifact(member: Member) -> Artifact:
    if member.artifact is None:
        raise TypeError(f"{member.name} is no artifact")
    return member.artifact


def _get_stored_size(member: Member) -> int:
    return 0 if member.link else member.size
