"""What every fuzzer asks of the readers: whatever the bytes, an answer or an error of ours, and nothing written outside."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bundler.errors import BundleError, IntegrityError, UnsafeError
from bundler.format.lock import lockfile
from bundler.format.scan import strict_zip, wheel_check
from bundler.format.tar import archive
from bundler.format.tar.damage import DamageReport
from bundler.progress import RecordingReporter


def read(data: bytes) -> DamageReport | None:
    """Read these bytes as a bundle out of a pipe, and copy what it holds into a folder; None where it has no lock."""
    try:
        with archive.open_bundle(io.BytesIO(data), allow_damage=True) as carried:
            survey = carried.check_content(RecordingReporter())
    except (IntegrityError, UnsafeError) as error:
        check_words(error)
        survey = None
    with watched() as folder:
        copied = copy(data, folder)
    if survey is not None:
        assert bool(survey.damages) == (copied is None or bool(copied.damages))
        assert not {damage.member for damage in survey.damages} & set(survey.whole)
        assert survey.text
    return survey


def check_words(error: BundleError) -> None:
    """An error says what failed and what to do."""
    assert str(error)
    assert error.hint


def copy(data: bytes, folder: Path) -> DamageReport | None:
    """As an installer does: every content into a file of its own, named by us."""
    try:
        with archive.open_bundle(io.BytesIO(data)) as carried:
            held = [member.name for member in carried.layout.iter_artifacts() if not member.link]
            return carried.extract_members({name: folder / str(n) for n, name in enumerate(held)}, lambda _: None)
    except (IntegrityError, UnsafeError) as error:
        check_words(error)
        return None


@contextmanager
def watched() -> Iterator[Path]:
    """A folder to write to, in one that must stay as it is."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as outside:
        inside = Path(outside, "inside")
        inside.mkdir()
        yield inside
        assert [path.name for path in Path(outside).iterdir()] == ["inside"]
        assert not [path for path in inside.iterdir() if path.is_dir() or path.is_symlink()]


def read_lock(data: bytes) -> None:
    """Read these bytes as bundle.json: what is accepted is the one form of what it says."""
    try:
        known = lockfile.read_lock(data, "fuzzed")
    except (IntegrityError, UnsafeError) as error:
        check_words(error)
    else:
        assert known.canonical_bytes == data


def read_wheel(data: bytes) -> None:
    """Vet these bytes as a wheel."""
    with watched() as folder:
        path = folder / "alpha-1.0-py3-none-any.whl"
        path.write_bytes(data)
        try:
            for entry in strict_zip.read_entries(path):
                assert len(strict_zip.read_small(path, entry)) == entry.size
        except strict_zip.MalformedZipError:
            pass  # it was said what is wrong; the next line says it to a person
        try:
            wheel_check.check_wheels(
                [wheel_check.WheelFile(path=path, name=path.name)], RecordingReporter(), compare_contents=False
            )
        except UnsafeError as error:
            check_words(error)


TARGETS = (read, read_lock, read_wheel)


def one(data: bytes) -> None:
    """What a coverage-guided fuzzer calls: the first byte chooses what the others are."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])
