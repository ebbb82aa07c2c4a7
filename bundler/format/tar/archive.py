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
from bundler.format.tar.bundle_head import Head
from bundler.format.tar.damage import Damage, DamagedError, Survey
from bundler.format.tar.reader import Carrier, FileCarrier, StreamCarrier
from bundler.format.tar.tar_layout import Layout, Member
from bundler.progress import Report

Contents = Callable[[Artifact], Path]
"""Where the content of an artifact lies while a bundle is written."""


class ChangedError(IntegrityError):
    """Content was not what the lock says when it was packed; ``artifacts`` says which."""

    def __init__(self, artifacts: list[Artifact], where: str) -> None:
        listed = "\n".join(f"  {artifact.path} (from {artifact.origin})" for artifact in artifacts)
        hint = "build again: what was kept here is fetched anew, and a folder that changed is locked anew"
        super().__init__(f"these files are not what the lock says:\n{listed}", where=where, hint=hint)
        self.artifacts = artifacts


def room_for(path: Path, packed: Lock, here: Mapping[str, Path]) -> int:
    """Bytes that a bundle will take on its disk.

    ``here`` is where content lies, by sha256, or any file of the disk where it will; what is not here counts in full,
    and so does what lies on a disk from which ``path``'s can't share blocks.
    """
    plan = tar_layout.layout(packed, None)
    sharing: dict[int, bool] = {}
    room = plan.size
    for member in plan.artifacts():
        content = here.get(_artifact(member).sha256)
        if content is None or member.link or member.size < tar_layout.ALIGNMENT:
            continue
        device = content.stat().st_dev
        if device not in sharing:
            sharing[device] = disk.shares_blocks(content, path.parent)
        room -= member.size if sharing[device] else 0
    return room


def write(path: Path, packed: Lock, contents: Contents, report: Report, signature: bytes | None = None) -> None:
    """Write the bundle of a lock, signed or not; it appears under its name only when it is whole.

    Every content is hashed where it arrived. Raises ChangedError when some is not what the lock says,
    OSError when it can't be written.
    """
    with disk.replacing(path) as fd:
        pack(fd, packed, contents, report, signature)


def pack(fd: int, packed: Lock, contents: Contents, report: Report, signature: bytes | None = None) -> None:
    """The same into an open file, which is whole and on the disk afterwards."""
    _pack(fd, tar_layout.layout(packed, signature), contents, report)
    with report.stage("sync"):
        os.fsync(fd)


def _pack(fd: int, plan: Layout, contents: Contents, report: Report) -> None:
    hashing.write_at(fd, plan.head, 0)
    found: list[tuple[Artifact, Future[Sha256]]] = []
    size = sum(member.size for member in plan.artifacts() if not member.link)
    with report.stage("pack", size) as stage, HashingCopier(stage.advance) as copier:
        for member in plan.artifacts():
            if member.name != entries.INSTALLER:
                hashing.write_at(fd, member.header(), member.header_at)
            if not member.link:
                found.append((_artifact(member), _pack_one(fd, member, contents, copier)))
        os.ftruncate(fd, plan.size)  # padding and end are zeros, and so is what was never written
        changed = [artifact for artifact, digest in found if digest.result() != artifact.sha256]
    if changed:
        raise ChangedError(changed, "")


def _pack_one(fd: int, member: Member, contents: Contents, copier: HashingCopier) -> Future[Sha256]:
    artifact = _artifact(member)
    source = hashing.open_to_read(contents(artifact))
    try:
        if os.fstat(source).st_size != artifact.size:
            raise ChangedError([artifact], str(contents(artifact)))
        return copier.copy(FileSource(source), artifact.size, fd, member.content_at)
    finally:
        os.close(source)


def seal(path: Path, sealed: Lock, signature: bytes | None) -> None:
    """Rewrite the head of a bundle in place: the same content under a lock that says more, or signed.

    Raises IntegrityError when the new lock speaks of other content, and fields.Invalid when it does
    not fit the head. Where this is ended half-way, ``sealing.mend`` makes the new head whole.
    """
    with opened(path) as carried:
        if carried.lock.artifacts != sealed.artifacts or carried.lock.head_size != sealed.head_size:
            raise IntegrityError("the new lock is of another bundle", where=str(path))
        if carried.lock.source_date_epoch != sealed.source_date_epoch:
            raise IntegrityError("the new lock gives its members another time", where=str(path))
    journal.rewrite(path, tar_layout.layout(sealed, signature).head)


class OpenBundle:
    """A bundle whose head was read and compared with its lock; no content is read yet."""

    def __init__(self, found: Head, carrier: Carrier, where: str) -> None:
        self.layout = found.layout
        self.lock = found.layout.lock
        self.signature = found.layout.signature
        self.where = where
        self.carrier = carrier
        self._head = found

    @property
    def damaged(self) -> bool:
        """Whether the head is not what its lock gives, as far as it was read."""
        return bool(self._head.damages)

    def refuse_if_damaged(self) -> None:
        """Raises DamagedError when the head is not what its lock gives."""
        bundle_head.refuse(self._head, self.carrier, self.where)

    def refuse_if_cut(self) -> None:
        """Raises DamagedError when a file is shorter than its lock says, before anything is read or written."""
        size = self.carrier.size
        if size is not None and size < self.layout.size:
            raise DamagedError(self._survey([]), self.where)

    def check(self, report: Report) -> Survey:
        """Read every byte, on every core, and name all that is not what it must be, and all that is."""
        members = list(self.layout.artifacts())
        with report.stage("verify", sum(member.size for member in members if not member.link)) as stage:
            if self.carrier.seekable:
                members.sort(key=_size, reverse=True)
                found = hashing.side_by_side(self._damage_of, members, stage.advance)
            else:
                found = [self._damage_of(member, stage.advance) for member in members]
        return self._survey(zip(members, found, strict=True))

    def copy_out(self, wanted: Mapping[str, Path], advance: Callable[[int], None]) -> Survey:
        """Copy the content of members, named by ``wanted``, to new files; tells all damage found on the way.

        A hard link's content is copied by naming its holder. Content that is not wanted is passed over.
        Raises OSError where a file can't be written.
        """
        damages: dict[str, list[Damage]] = {}
        digests: list[tuple[Member, Future[Sha256]]] = []
        with HashingCopier(advance) as copier:
            for member in self.layout.artifacts():
                damages[member.name] = self._damage_of_header(member)
                if member.name in wanted:
                    into = hashing.open_to_write(wanted[member.name])
                    try:
                        source = self.carrier.source(member.content_at)
                        digests.append((member, copier.copy(source, member.size, into, 0, close=True)))
                    except EOFError as error:
                        damages[member.name].append(_cut_short(member, error))
                        break
                    except ReadError as error:
                        damages[member.name].append(_unreadable(member.name, error))
                        if not self.carrier.seekable:
                            break
                        continue
                damages[member.name] += self._damage_of_padding(member)
            for member, digest in digests:
                damages[member.name] += _compare(member, digest.result())
        return self._survey(
            (member, damages[member.name])
            for member in self.layout.artifacts()
            if member.name in damages
            and (damages[member.name] or member.holder.name in wanted or not member.holder.size)
        )

    def _survey(self, found: Iterable[tuple[Member, list[Damage]]]) -> Survey:
        after = self._damage_at_end()  # a pipe's size is known once its end was looked for
        return damage.survey(self.layout, self.carrier.size, [*self._head.members(), *found], after)

    def _damage_of(self, member: Member, advance: Callable[[int], None]) -> list[Damage]:
        found = self._damage_of_header(member)
        if not member.link:
            try:
                found += _compare(member, self.carrier.digest(member.content_at, member.size, advance))
            except EOFError as error:
                return [*found, _cut_short(member, error)]
            except ReadError as error:
                return [*found, _unreadable(member.name, error)]
        return found + self._damage_of_padding(member)

    def _damage_of_header(self, member: Member) -> list[Damage]:
        if member.name == entries.INSTALLER:  # the head ends with it and was compared when the bundle was opened
            return self._head.damages_of(member.name)
        return self._damage_of_form(
            member.name, member.header_at, member.header(), "its header is not what the lock gives"
        )

    def _damage_of_padding(self, member: Member) -> list[Damage]:
        return self._damage_of_form(
            member.name, member.end, bytes(member.padding), "what follows it must be zero bytes"
        )

    def _damage_at_end(self) -> list[Damage]:
        end_at = self.layout.end_at
        found = self._damage_of_form("end of the bundle", end_at, tar_layout.END, "must be two blocks of zero bytes")
        if self._more():
            found.append(
                Damage(
                    member="end of the bundle",
                    start=self.layout.size,
                    end=self.carrier.size or self.layout.size + 1,
                    message="bytes follow that belong to nothing",
                )
            )
        return found

    def _more(self) -> bool:
        """Whether bytes follow the end; a medium that does not give them back has some."""
        try:
            return bool(self.carrier.read(self.layout.size, 1))
        except ReadError:
            return True

    def _damage_of_form(self, name: str, at: int, expected: bytes, message: str) -> list[Damage]:
        try:
            found = self.carrier.read(at, len(expected))
        except ReadError as error:
            return [_unreadable(name, error)]
        return damage.between(name, at, found, expected, message)


@contextmanager
def opened(bundle: Path | BinaryIO, *, damaged: bool = False) -> Iterator[OpenBundle]:
    """Open a bundle, from a file or from a pipe, and read its head.

    Raises IntegrityError when the head is not that of a bundle, or not what its lock gives; the latter is left to
    ``OpenBundle.check`` where ``damaged`` bundles are to be looked at too.
    """
    if not isinstance(bundle, Path):
        yield _open(StreamCarrier(bundle), "standard input", damaged=damaged)
        return
    try:
        fd = os.open(
            bundle, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )  # a FIFO must not block
    except OSError as error:
        raise HostError(f"the bundle can't be read: {error.strerror}", where=str(bundle)) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise HostError(
                "the bundle is not a regular file", where=str(bundle), hint="to read a pipe, give '-' as the bundle"
            )
        yield _open_file(fd, bundle, damaged=damaged)
    finally:
        os.close(fd)


def _open_file(fd: int, path: Path, *, damaged: bool) -> OpenBundle:
    half_way = journal.beside(path).exists()
    try:
        return _open(FileCarrier(fd), str(path), damaged=damaged and not half_way)
    except IntegrityError as error:
        if not half_way:
            raise
        hint = "wait until that run ends; if it was killed, run it again: 'bundle sign' makes the head whole first"
        message = "the head of this bundle is half-way between two: a run is rewriting it, or was ended while it did"
        raise IntegrityError(message, where=str(path), hint=hint) from error


def _open(carrier: Carrier, where: str, *, damaged: bool) -> OpenBundle:
    try:
        found = bundle_head.read(carrier, where)
    except ReadError as error:
        message = f"the head of the bundle can't be read (bytes {error.at}-{error.end}): {error.strerror}"
        raise IntegrityError(message, where=where, hint=damage.CARRY_AGAIN) from error
    if not damaged:
        bundle_head.refuse(found, carrier, where)
    return OpenBundle(found, carrier, where)


def refuse(survey: Survey, where: str) -> None:
    """Raises DamagedError that names every damage, if there is any, and what is whole."""
    if survey.damages:
        raise DamagedError(survey, where)


def _compare(member: Member, found: str) -> list[Damage]:
    expected = _artifact(member).sha256
    if found == expected:
        return []
    message = f"content differs: sha256 {found}, expected {expected}"
    return [Damage(member=member.name, start=member.content_at, end=member.end, message=message)]


def _unreadable(name: str, error: ReadError) -> Damage:
    message = f"the medium does not give it back: {error.strerror}; copy what is left to a sound one"
    return Damage(member=name, start=error.at, end=error.end, message=message)


def _cut_short(member: Member, error: EOFError) -> Damage:
    message = f"the bundle ends inside it: {error}"
    return Damage(member=member.name, start=member.content_at, end=member.end, message=message)


def _artifact(member: Member) -> Artifact:
    if member.artifact is None:
        raise TypeError(f"{member.name} is no artifact")
    return member.artifact


def _size(member: Member) -> int:
    return 0 if member.link else member.size
