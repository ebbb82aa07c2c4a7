"""Writing and reading a bundle as one file. The same lock gives the same bytes."""

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
"""Returns the file with an artifact's content, while a bundle is written."""


class ContentChangedError(IntegrityError):
    """Content differed from the lock when it was packed. ``artifacts`` lists it."""

    def __init__(self, artifacts: list[Artifact], where: str) -> None:
        lines = "\n".join(f"  {artifact.path} (from {artifact.origin})" for artifact in artifacts)
        hint = "build again: damaged files in the cache are fetched again, and changed folders are locked again"
        super().__init__(f"these files are not what the lock says:\n{lines}", where=where, hint=hint)
        self.artifacts = artifacts


def estimate_space(path: Path, lock: Lock, content_paths: Mapping[str, Path]) -> int:
    """Estimate the bytes that a bundle will take on its disk.

    Content that can share its blocks with the bundle takes none.

    Args:
        path: the bundle to write.
        lock: its lock.
        content_paths: the file with each content, by SHA-256, or any file on the disk where it will be.
    """
    layout = tar_layout.compute_layout(lock, None)
    sharing: dict[int, bool] = {}
    needed = layout.size
    for member in layout.iter_artifacts():
        content = content_paths.get(_get_artifact(member).sha256)
        if content is None or member.link or member.size < tar_layout.ALIGNMENT:
            continue
        device = content.stat().st_dev
        if device not in sharing:
            sharing[device] = disk.can_share_blocks(content, path.parent)
        needed -= member.size if sharing[device] else 0
    return needed


def write_bundle(
    path: Path, lock: Lock, find_content: FindContent, reporter: Reporter, signature: bytes | None = None
) -> None:
    """Write the bundle of a lock, signed or not. The file appears only when it is complete.

    Raises:
        ContentChangedError: The bytes that were written are not what the lock says.
        OSError: The bundle can't be written.
    """
    with disk.replace_file(path) as fd:
        pack_bundle(fd, lock, find_content, reporter, signature)


def pack_bundle(
    fd: int, lock: Lock, find_content: FindContent, reporter: Reporter, signature: bytes | None = None
) -> None:
    """Write the bundle of a lock into an open file and sync it (see `write_bundle`)."""
    _pack_members(fd, tar_layout.compute_layout(lock, signature), find_content, reporter)
    with reporter.stage("sync"):
        os.fsync(fd)


def _pack_members(fd: int, layout: Layout, find_content: FindContent, reporter: Reporter) -> None:
    hashing.write_at(fd, layout.head_bytes, 0)
    digests: list[tuple[Artifact, Future[Sha256]]] = []
    size = sum(member.size for member in layout.iter_artifacts() if not member.link)
    with reporter.stage("pack", size) as stage, HashingCopier(stage.advance) as copier:
        for member in layout.iter_artifacts():
            if member.name != entries.INSTALLER:
                hashing.write_at(fd, member.make_header(), member.header_offset)
            if not member.link:
                digests.append((_get_artifact(member), _pack_member(fd, member, find_content, copier)))
        os.ftruncate(fd, layout.size)  # padding and end are zero bytes, like every byte that was never written
        changed = [artifact for artifact, digest in digests if digest.result() != artifact.sha256]
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
    """Rewrite the head of a bundle in place, with another lock for the same content, or with a signature.

    After an interruption ``sign_in_place.repair_head`` completes the new head.

    Raises:
        IntegrityError: The new lock is about other content.
        InvalidValueError: The new head has another size.
    """
    with open_bundle(path) as bundle:
        if bundle.lock.artifacts != lock.artifacts or bundle.lock.head_size != lock.head_size:
            raise IntegrityError("the new lock is about another bundle", where=str(path))
        if bundle.lock.source_date_epoch != lock.source_date_epoch:
            raise IntegrityError("the new lock gives its members another time", where=str(path))
    journal.rewrite_head(path, tar_layout.compute_layout(lock, signature).head_bytes)


class OpenBundle:
    """A bundle whose head was read and compared with its lock. No content was read yet."""

    def __init__(self, head: BundleHead, reader: BundleReader, where: str) -> None:
        self.layout = head.layout
        self.lock = head.layout.lock
        self.signature = head.layout.signature
        self.where = where
        self.reader = reader
        self._head = head

    @property
    def is_damaged(self) -> bool:
        """Whether the head differs from what its lock requires."""
        return bool(self._head.damages)

    def require_intact_head(self) -> None:
        """Raise DamagedError if the head differs from what its lock requires."""
        bundle_head.require_intact_head(self._head, self.reader, self.where)

    def require_full_length(self) -> None:
        """Raise DamagedError if the file is shorter than its lock says. Nothing is read or written."""
        size = self.reader.size
        if size is not None and size < self.layout.size:
            raise DamagedError(self._make_damage_report([]), self.where)

    def check_content(self, reporter: Reporter) -> DamageReport:
        """Read every byte, on every core, and report the damaged and the intact members."""
        members = list(self.layout.iter_artifacts())
        with reporter.stage("verify", sum(member.size for member in members if not member.link)) as stage:
            if self.reader.is_seekable:
                members.sort(key=_get_stored_size, reverse=True)
                damages = hashing.map_parallel(self._check_member, members, stage.advance)
            else:
                damages = [self._check_member(member, stage.advance) for member in members]
        return self._make_damage_report(zip(members, damages, strict=True))

    def extract_members(self, targets: Mapping[str, Path], advance: Callable[[int], None]) -> DamageReport:
        """Copy the content of members to new files, and report all damage on the way.

        Args:
            targets: the new file for each member, by its name. For a hard link, name the member with the content.
            advance: called with the number of finished bytes.

        Raises:
            OSError: A file can't be written.
        """
        damages: dict[str, list[Damage]] = {}
        digests: list[tuple[Member, Future[Sha256]]] = []
        with HashingCopier(advance) as copier:
            for member in self.layout.iter_artifacts():
                damages[member.name] = self._check_header(member)
                if member.name in targets:
                    target_fd = hashing.open_to_write(targets[member.name])
                    try:
                        source = self.reader.get_source(member.content_offset)
                        digests.append((member, copier.copy(source, member.size, target_fd, 0, close=True)))
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
        trailing_damages = self._check_end()  # first: the size of a pipe is known only after its end was read
        return damage.make_damage_report(
            self.layout, self.reader.size, [*self._head.list_members(), *member_damages], trailing_damages
        )

    def _check_member(self, member: Member, advance: Callable[[int], None]) -> list[Damage]:
        damages = self._check_header(member)
        if not member.link:
            try:
                damages += _compare_digest(
                    member, self.reader.compute_digest(member.content_offset, member.size, advance)
                )
            except EOFError as error:
                return [*damages, _make_cut_damage(member, error)]
            except ReadError as error:
                return [*damages, _make_unreadable_damage(member.name, error)]
        return damages + self._check_padding(member)

    def _check_header(self, member: Member) -> list[Damage]:
        if member.name == entries.INSTALLER:  # part of the head, which was compared when the bundle was opened
            return self._head.list_damages(member.name)
        return self._check_bytes(
            member.name, member.header_offset, member.make_header(), "its header does not match the lock"
        )

    def _check_padding(self, member: Member) -> list[Damage]:
        return self._check_bytes(member.name, member.end, bytes(member.padding), "the bytes after it must be zero")

    def _check_end(self) -> list[Damage]:
        damages = self._check_bytes(
            "end of the bundle", self.layout.end_offset, tar_layout.END_BLOCKS, "must be two blocks of zero bytes"
        )
        if self._has_trailing_bytes():
            damages.append(
                Damage(
                    member="end of the bundle",
                    start=self.layout.size,
                    end=self.reader.size or self.layout.size + 1,
                    message="there are bytes after the end",
                )
            )
        return damages

    def _has_trailing_bytes(self) -> bool:
        """Return whether there are bytes after the end, readable or not."""
        try:
            return bool(self.reader.read(self.layout.size, 1))
        except ReadError:
            return True

    def _check_bytes(self, name: str, offset: int, expected: bytes, message: str) -> list[Damage]:
        try:
            actual = self.reader.read(offset, len(expected))
        except ReadError as error:
            return [_make_unreadable_damage(name, error)]
        return damage.compare_bytes(name, offset, actual, expected, message)


@contextmanager
def open_bundle(source: Path | BinaryIO, *, allow_damage: bool = False) -> Iterator[OpenBundle]:
    """Open a bundle from a file or a pipe and read its head.

    Args:
        source: the file, or the stream of a pipe.
        allow_damage: whether to open a bundle whose head differs from what its lock requires. Its damage report says
            where.

    Raises:
        HostError: The file can't be read.
        IntegrityError: The head is not the head of a bundle, or is damaged.
    """
    if not isinstance(source, Path):
        yield _open_reader(PipeReader(source), "standard input", allow_damage=allow_damage)
        return
    try:
        fd = os.open(
            source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )  # opening a FIFO must not block
    except OSError as error:
        hint = "check the path and its permissions"
        raise HostError(f"the bundle can't be read: {error.strerror}", where=str(source), hint=hint) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise HostError(
                "the bundle is not a regular file", where=str(source), hint="to read a pipe, give '-' as the bundle"
            )
        yield _open_file(fd, source, allow_damage=allow_damage)
    finally:
        os.close(fd)


def _open_file(fd: int, path: Path, *, allow_damage: bool) -> OpenBundle:
    is_being_rewritten = journal.get_journal_path(path).exists()
    try:
        return _open_reader(FileReader(fd), str(path), allow_damage=allow_damage and not is_being_rewritten)
    except IntegrityError as error:
        if not is_being_rewritten:
            raise
        hint = "wait until that run ends; if it was killed, run it again: 'bundle sign' first completes the head"
        message = "the head of this bundle is incomplete: a run is rewriting it, or was killed while it did"
        raise IntegrityError(message, where=str(path), hint=hint) from error


def _open_reader(reader: BundleReader, where: str, *, allow_damage: bool) -> OpenBundle:
    try:
        head = bundle_head.read_head(reader, where)
    except ReadError as error:
        message = f"the head of the bundle can't be read (bytes {error.start}-{error.end}): {error.strerror}"
        raise IntegrityError(message, where=where, hint=damage.CARRY_AGAIN_HINT) from error
    if not allow_damage:
        bundle_head.require_intact_head(head, reader, where)
    return OpenBundle(head, reader, where)


def require_intact(damage_report: DamageReport, where: str) -> None:
    """Raise DamagedError if there is any damage."""
    if damage_report.damages:
        raise DamagedError(damage_report, where)


def _compare_digest(member: Member, digest: str) -> list[Damage]:
    expected = _get_artifact(member).sha256
    if digest == expected:
        return []
    message = f"content differs: sha256 {digest}, expected {expected}"
    return [Damage(member=member.name, start=member.content_offset, end=member.end, message=message)]


def _make_unreadable_damage(name: str, error: ReadError) -> Damage:
    message = f"the medium can't be read here: {error.strerror}; copy the rest to a good medium"
    return Damage(member=name, start=error.start, end=error.end, message=message)


def _make_cut_damage(member: Member, error: EOFError) -> Damage:
    message = f"the bundle ends inside it: {error}"
    return Damage(member=member.name, start=member.content_offset, end=member.end, message=message)


def _get_artifact(member: Member) -> Artifact:
    if member.artifact is None:
        raise TypeError(f"{member.name} is not an artifact")
    return member.artifact


def _get_stored_size(member: Member) -> int:
    return 0 if member.link else member.size
