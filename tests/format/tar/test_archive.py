"""Format 1: the bytes of a bundle, who can read them, and every way they can be wrong."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundler.errors import HostError, IntegrityError
from bundler.format.documents import InvalidValueError
from bundler.format.hashing import Sha256
from bundler.format.lock import entries, lockfile
from bundler.format.tar import archive, tar_layout
from bundler.progress import RecordingReporter
from tests.support.bundles import SMALL, PackedBundle, make_lock
from tests.support.paths import ROOT
from tests.support.programs import find_public_python, grant_read_access, make_nobody_command, require_tool

Pack = Callable[..., PackedBundle]

ODD = SMALL | {
    "models/k/한글 모델/가중치.bin": os.urandom(10_000),
    f"models/k/{'d' * 90}/{'e' * 90}/{'f' * 90}/w.bin": b"long" * 2000,
    f"models/k/{'한' * 60}.bin": b"wide",
    "models/k/empty": b"",
    "models/k/also empty": b"",
    "models/k/same.json": SMALL["models/m/config.json"],
    f"models/k/{'l' * 120}/{'same ' * 5}.json": SMALL["models/m/w.bin"],
    "models/k/" + "n" * 91: b"just a hundred bytes of name",
    "assets/x": b"y" * 4096,
}

READERS = {
    "GNU tar": ["tar", "xf", "{bundle}", "-C", "{folder}"],
    "bsdtar": ["bsdtar", "xf", "{bundle}", "-C", "{folder}"],
    "busybox": ["busybox", "tar", "xf", "{bundle}", "-C", "{folder}"],
    "Python": [sys.executable, "-m", "tarfile", "-e", "{bundle}", "{folder}"],
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("reader", READERS)
def test_any_tar_reads_it_and_sha256sum_checks_it(pack: Pack, tmp_path: Path, reader: str, signed: bool) -> None:
    packed = pack(ODD)
    if signed:
        archive.rewrite_head(packed.path, packed.lock, b"s" * 3000)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    command = [part.format(bundle=packed.path, folder=folder) for part in READERS[reader]]
    done = subprocess.run([require_tool(command[0]), *command[1:]], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        *ODD, lockfile.LOCK_FILE, lockfile.SUMS_FILE, *([lockfile.SIGNATURE_FILE] if signed else []),
    }  # fmt: skip
    checked = subprocess.run(
        [require_tool("sha256sum"), "--check", "--strict", "--quiet", "SHA256SUMS"],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_members_stand_in_order_aligned_and_anonymous(pack: Pack) -> None:
    packed = pack(ODD)
    with tarfile.open(packed.path) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [
        lockfile.LOCK_FILE,
        lockfile.SUMS_FILE,
        *(a.path for a in packed.lock.artifacts),
    ]
    for member in members:
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
        assert member.mtime == packed.lock.source_date_epoch
        assert member.mode == (0o755 if member.name == "bundle.pyz" else 0o644)
        assert member.isreg() or member.islnk()
        assert member.islnk() or member.offset_data % 4096 == 0
    assert members[2].offset_data == packed.lock.head_size
    linked = {m.name: m.linkname for m in members if m.islnk()}
    assert linked["models/k/same.json"] == "models/m/config.json"
    assert len(linked) == 2


def test_the_file_is_the_layout_and_nothing_else(pack: Pack) -> None:
    packed = pack(ODD)
    plan = tar_layout.compute_layout(packed.lock, None)
    data = packed.path.read_bytes()
    assert len(data) == plan.size
    rebuilt = bytearray(len(data))
    rebuilt[: len(plan.head_bytes)] = plan.head_bytes
    for member in plan.iter_artifacts():
        rebuilt[member.header_offset : member.content_offset] = member.make_header()
        if not member.link:
            rebuilt[member.content_offset : member.end] = ODD[member.name]
    assert bytes(rebuilt) == data


def test_the_same_lock_gives_the_same_bytes_anywhere(pack: Pack, tmp_path: Path) -> None:
    packed = pack(ODD)
    script = (
        "import os, sys; from pathlib import Path; from bundler.format.lock import lockfile; from bundler.format.tar import archive; from bundler.progress import RecordingReporter\n"
        "lock = lockfile.read_lock(Path(sys.argv[1]).read_bytes(), '')\n"
        "archive.write_bundle(Path(sys.argv[3]), lock, lambda a: Path(sys.argv[2]) / a.path, RecordingReporter())\n"
    )
    kept = tmp_path / "kept.json"
    kept.write_bytes(packed.lock.canonical_bytes)
    elsewhere = tmp_path / "한 folder"
    elsewhere.mkdir(mode=0o777)
    elsewhere.chmod(0o777)
    grant_read_access(kept, *(path for path in packed.contents.rglob("*")))
    again = elsewhere / "again.tar"
    environment = {
        "TZ": "Asia/Seoul",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "LC_ALL": "C",
    }
    subprocess.run(
        [
            *make_nobody_command(),
            find_public_python(),
            "-c",
            f"import os; os.umask(0o077)\n{script}",
            kept,
            packed.contents,
            again,
        ],
        check=True,
        env=environment,
    )
    assert again.read_bytes() == packed.path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_no_flipped_byte_goes_unseen(pack: Pack, data: st.DataObject) -> None:
    packed = pack(SMALL)
    archive.rewrite_head(packed.path, packed.lock, b"signature")
    good = packed.path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[at] ^= data.draw(st.integers(1, 255))
    assert read_refusal(bytes(flipped)), at


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(data=st.data())
def test_no_cut_or_longer_bundle_goes_unseen(pack: Pack, data: st.DataObject) -> None:
    good = pack(SMALL).path.read_bytes()
    cut = data.draw(st.integers(0, len(good) - 1))
    assert read_refusal(good[:cut])
    assert read_refusal(good + data.draw(st.binary(min_size=1, max_size=600)))


def read_refusal(data: bytes) -> str:
    """What a reader says of these bytes as a file and as a pipe; both must agree that something is wrong."""
    said = []
    path = Path(f"/dev/shm/{os.getpid()}.bundle.tar") if Path("/dev/shm").is_dir() else Path("faults.bundle.tar")
    path.write_bytes(data)
    try:
        for opened in (path, io.BytesIO(data)):
            try:
                with archive.open_bundle(opened) as carried:
                    archive.require_intact(carried.check_content(RecordingReporter()), carried.where)
                    said.append("")
            except IntegrityError as error:
                said.append(str(error))
    finally:
        path.unlink()
    assert bool(said[0]) == bool(said[1]), said
    return said[0]


def test_a_damaged_member_is_named_with_its_bytes(pack: Pack) -> None:
    packed = pack(ODD)
    member = next(
        m for m in tar_layout.compute_layout(packed.lock, None).iter_artifacts() if m.name == "models/m/w.bin"
    )
    data = bytearray(packed.path.read_bytes())
    data[member.content_offset + 17] ^= 1
    data[-2000] ^= 1
    said = read_refusal(bytes(data))
    assert f"models/m/w.bin (bytes {member.content_offset}-{member.end}): content differs: sha256 " in said
    assert "2 places differ from what the lock says" in said


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "the bundle is empty: it has 0 bytes"),
        (lambda data: b"PK" + data, "this is not a bundle"),
        (lambda data: data[:-7000], "the bundle ends inside it"),
        (lambda data: data[:-1], "the bundle ends before it"),
        (lambda data: data + b"\0", "there are bytes after the end"),
        (lambda data: data + data, "there are bytes after the end"),
        (lambda data: data[:5000], "bundle.json"),
    ],
    ids=[
        "empty",
        "not a tar",
        "cut in a member",
        "cut at the end",
        "a byte more",
        "a second tar behind",
        "cut in the head",
    ],
)
def test_what_a_reader_says(pack: Pack, damage: Callable[[bytes], bytes], message: str) -> None:
    assert message in read_refusal(damage(pack(SMALL).path.read_bytes()))


def test_a_tar_packed_by_hand_is_not_a_bundle(pack: Pack, tmp_path: Path) -> None:
    packed = pack(SMALL)
    folder = tmp_path / "by hand"
    folder.mkdir()
    subprocess.run([require_tool("tar"), "xf", packed.path, "-C", folder], check=True)
    again = tmp_path / "by-hand.tar"
    subprocess.run(
        [
            require_tool("tar"),
            "cf",
            again,
            "-C",
            folder,
            lockfile.LOCK_FILE,
            lockfile.SUMS_FILE,
            "bundle.pyz",
            "models",
        ],
        check=True,
    )
    with pytest.raises(IntegrityError, match="this is not a bundle"), archive.open_bundle(again):
        pass


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="can't be read: No such file"), archive.open_bundle(tmp_path / "none"):
        pass


def test_seal_rewrites_the_head_alone(pack: Pack) -> None:
    packed = pack(ODD)
    before = packed.path.read_bytes()
    rehearsed = lockfile.replace_fields(packed.lock, rehearsed=True)
    archive.rewrite_head(packed.path, rehearsed, b"a signature")
    after = packed.path.read_bytes()
    assert after[packed.lock.head_size :] == before[packed.lock.head_size :]
    with archive.open_bundle(packed.path) as carried:
        assert carried.lock == rehearsed
        assert carried.signature == b"a signature"
        assert carried.check_content(RecordingReporter()).damages == ()


def test_seal_refuses_what_does_not_fit(pack: Pack) -> None:
    packed = pack(SMALL)
    with pytest.raises(InvalidValueError, match="does not match this head"):
        archive.rewrite_head(packed.path, packed.lock, b"s" * packed.lock.head_size)
    with pytest.raises(IntegrityError, match="about another bundle"):
        archive.rewrite_head(packed.path, make_lock({"bundle.pyz": b"other"}), None)
    with archive.open_bundle(packed.path) as carried:
        assert carried.check_content(RecordingReporter()).damages == ()


def test_content_that_changed_since_it_was_locked_is_not_packed(pack: Pack, tmp_path: Path) -> None:
    packed = pack(SMALL)
    out = tmp_path / "again.tar"
    for data in (b"W" * 5000, b"shorter"):
        (packed.contents / "models/m/w.bin").write_bytes(data)
        with pytest.raises(archive.ContentChangedError, match=r"models/m/w\.bin") as caught:
            archive.write_bundle(
                out, packed.lock, lambda artifact: packed.contents / artifact.path, RecordingReporter()
            )
        assert [artifact.path for artifact in caught.value.artifacts] == ["models/m/w.bin"]
        assert not [path for path in tmp_path.iterdir() if "again" in path.name]


def test_eight_gibibytes_are_named_in_both_ways() -> None:
    size = 9 << 30
    big = make_lock({"bundle.pyz": b"x", "assets/big": b""})
    artifact = entries.Artifact(path="assets/big", kind="asset", size=size, sha256=Sha256("1" * 64), origin="a test")
    plan = tar_layout.compute_layout(lockfile.replace_fields(big, artifacts=(big.artifacts[0], artifact)), None)
    header = plan.members[-1].make_header()
    assert b" size=%d\n" % size in header
    assert header[-512:][124:136] == b"\x80" + size.to_bytes(11, "big")
    info = tarfile.TarInfo.frombuf(header[-512:], "utf-8", "strict")
    assert info.size == size


@pytest.mark.long
@pytest.mark.parametrize("reader", READERS)
def test_eight_gibibytes_are_read_by_any_tar(tmp_path: Path, reader: str) -> None:
    """A sparse file stands for the content, and the member after it must still be found."""
    size = 9 << 30
    small = make_lock({"bundle.pyz": b"x", "assets/big": b"", "assets/z": b"after"})
    artifacts = tuple(
        entries.Artifact(path=a.path, kind=a.kind, size=size, sha256=Sha256("1" * 64), origin="a test")
        if a.path == "assets/big"
        else a
        for a in small.artifacts
    )
    plan = tar_layout.compute_layout(lockfile.replace_fields(small, artifacts=artifacts), None)
    path = tmp_path / "big.tar"
    with path.open("wb") as file:
        file.write(plan.head_bytes + b"x")
        for member in list(plan.iter_artifacts())[1:]:
            file.seek(member.header_offset)
            file.write(member.make_header() + (b"after" if member.name == "assets/z" else b""))
        file.truncate(plan.size)
    commands: dict[str, list[str | Path]] = {
        "GNU tar": ["tar", "xOf", path, "assets/z"],
        "bsdtar": ["bsdtar", "xOf", path, "assets/z"],
        "busybox": ["busybox", "tar", "xOf", path, "assets/z"],
        "Python": [
            sys.executable,
            "-c",
            f"import tarfile; print(tarfile.open({str(path)!r}).extractfile('assets/z').read().decode(), end='')",
        ],
    }
    command = commands[reader]
    done = subprocess.run([require_tool(str(command[0])), *command[1:]], check=True, capture_output=True)
    assert done.stdout == b"after"
