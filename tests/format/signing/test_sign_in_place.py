"""Signatures added to a bundle that is there already: here, elsewhere, and by a run that is killed."""

from __future__ import annotations

import base64
import fcntl
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.format.signing import sign_in_place
from bundler.format.tar import archive, journal
from bundler.progress import RecordingReporter
from tests.support.bundles import SMALL, PackedBundle
from tests.support.programs import require_tool
from tests.support.signing import Pair

Run = Callable[..., subprocess.CompletedProcess[str]]


def read_signers(path: Path) -> set[str]:
    with archive.open_bundle(path) as carried:
        assert carried.check_content(RecordingReporter()).damages == ()
        envelope = sign_in_place.read_envelope(carried)
        return set(envelope.signed_by) if envelope else set()


def test_the_content_is_not_touched_and_others_signatures_stay(
    run_in_process: Run, small: PackedBundle, make_key_pair: Callable[[str], Pair]
) -> None:
    before = small.path.read_bytes()
    one, two = make_key_pair("one"), make_key_pair("two")
    assert run_in_process("sign", small.path, "--key", one.private).returncode == 0
    done = run_in_process("sign", small.path, "--key", two.private)
    assert done.returncode == 0
    assert f"signed by  {one.fingerprint}" in done.stdout
    assert f"signed by  {two.fingerprint}" in done.stdout
    assert small.lock.digest in done.stdout
    assert read_signers(small.path) == {one.fingerprint, two.fingerprint}
    after = small.path.read_bytes()
    assert after[small.lock.head_size :] == before[small.lock.head_size :]
    assert sorted(path.name for path in small.path.parent.glob(".*")) == []


def sign_elsewhere(pair: Pair, message: Path, into: Path) -> None:
    """OpenSSL stands for a module that never gives its key away."""
    command = ["pkeyutl", "-sign", "-rawin", "-inkey", str(pair.private), "-in", str(message), "-out", str(into)]
    subprocess.run([require_tool("openssl"), *command], check=True)


def test_signed_elsewhere(
    run_in_process: Run, small: PackedBundle, make_key_pair: Callable[[str], Pair], tmp_path: Path
) -> None:
    hsm, other = make_key_pair("hsm"), make_key_pair("other")
    message, raw = tmp_path / "message", tmp_path / "raw"
    told = run_in_process("sign", small.path, "--export", message)
    assert (told.returncode, small.lock.digest in told.stdout) == (0, True)
    assert message.read_bytes().startswith(b"DSSEv1 28 application/vnd.in-toto+json ")
    assert read_signers(small.path) == set()
    sign_elsewhere(hsm, message, raw)
    before = small.path.read_bytes()
    wrong = run_in_process("sign", small.path, "--import", raw, "--public", other.public)
    assert (wrong.returncode, f"not by the key {other.fingerprint}" in wrong.stderr) == (7, True)
    assert small.path.read_bytes() == before
    assert run_in_process("sign", small.path, "--import", raw, "--public", hsm.public).returncode == 0
    assert run_in_process("verify", small.path, "--trust", hsm.public).returncode == 0
    in_place = small.path.read_bytes()
    small.path.write_bytes(before)
    (tmp_path / "text").write_bytes(base64.encodebytes(raw.read_bytes()))
    assert run_in_process("sign", small.path, "--import", tmp_path / "text", "--public", hsm.public).returncode == 0
    assert small.path.read_bytes() == in_place


def test_signed_elsewhere_with_the_installer_alone(
    small: PackedBundle, builder: Pair, run_installer: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Where the key is, there may be nothing but Python and OpenSSL."""
    assert run_installer("sign", small.path, "--export", tmp_path / "message").returncode == 0
    sign_elsewhere(builder, tmp_path / "message", tmp_path / "raw")
    assert run_installer("sign", small.path, "--import", tmp_path / "raw", "--public", builder.public).returncode == 0
    assert run_installer("verify", small.path, "--trust", builder.public).returncode == 0
    done = run_installer("sign", small.path, "--key", builder.private)
    assert (done.returncode, "this verb needs the online side" in done.stderr) == (2, True)


@pytest.mark.parametrize("data", [b"", b"x" * 63, b"x" * 65, b"x" * 3000, base64.b64encode(b"x" * 63), b"=" * 88])
def test_what_is_no_signature(
    run_in_process: Run, small: PackedBundle, builder: Pair, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "sig").write_bytes(data)
    done = run_in_process("sign", small.path, "--import", tmp_path / "sig", "--public", builder.public)
    assert (done.returncode, "this is not an Ed25519 signature" in done.stderr) == (2, True), done.stderr


def test_what_makes_no_sense(run_in_process: Run, small: PackedBundle, builder: Pair, tmp_path: Path) -> None:
    some = ["--key", builder.private]
    for arguments in (
        [],
        [*some, "--export", tmp_path / "x"],
        ["--import", tmp_path / "x"],
        ["--public", builder.public],
        [*some, "--public", builder.public],
    ):
        done = run_in_process("sign", small.path, *arguments)
        assert (done.returncode, "give --key, or --export, or --import with --public" in done.stderr) == (2, True)
    assert not (tmp_path / "x").exists()
    done = run_in_process("sign", tmp_path / "none", *some)
    assert (done.returncode, "the bundle can't be read: No such file" in done.stderr) == (9, True)


def test_a_bundle_that_is_cut_short_is_not_signed(run_in_process: Run, small: PackedBundle, builder: Pair) -> None:
    small.path.write_bytes(small.path.read_bytes()[:-3000])
    done = run_in_process("sign", small.path, "--key", builder.private)
    assert (done.returncode, "the bundle is cut short" in done.stderr) == (6, True)


def test_two_runs_at_once(run_in_process: Run, small: PackedBundle, builder: Pair) -> None:
    with small.path.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        done = run_in_process("sign", small.path, "--key", builder.private)
    assert (done.returncode, "another run is signing this bundle" in done.stderr) == (13, True)
    assert read_signers(small.path) == set()


KILLED = """
import os, signal, sys
from bundler.format import hashing
from bundler.cli import main
left, real = int(sys.argv.pop(1)), os.pwrite
def pwrite(fd, data, at):  # the head is written in pieces, and the power goes within one
    global left
    for start in range(0, len(data), 512):
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= real(fd, data[start : start + 512], at + start)
    return len(data)
os.pwrite = pwrite
sys.exit(main())
"""


MOMENTS = ["before", "first", "a quarter", "half", "three quarters", "last", "after"]


def count_head_bytes(moment: str, bundle_path: Path, signer: Pair) -> int:
    """Bytes of the new head that are written before the kill: the same lock and keys give the same head."""
    again = bundle_path.with_name("again.tar")
    again.write_bytes(bundle_path.read_bytes())
    sign_in_place.sign_bundle(again, sign_in_place.sign_with([signer.signer]))
    pairs = zip(bundle_path.read_bytes(), again.read_bytes(), strict=True)
    differ = [at for at, (old, new) in enumerate(pairs) if old != new]
    again.unlink()
    first, last = differ[0] // 512 * 512, differ[-1] // 512 * 512
    between = {"a quarter": 4, "half": 2, "three quarters": 4 / 3}
    return {"before": 0, "first": first + 512, "last": last, "after": last + 512}.get(
        moment, first + int((last - first) / between.get(moment, 1))
    )


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_the_head_is_written(run_in_process: Run,
    signed: PackedBundle, builder: Pair, make_key_pair: Callable[[str], Pair], run_installer: Callable[..., subprocess.CompletedProcess[str]],
    moment: str,
) -> None:  # fmt: skip
    second = make_key_pair("second")
    sign = ["sign", str(signed.path), "--key", str(second.private)]
    written = count_head_bytes(moment, signed.path, second)
    done = subprocess.run([sys.executable, "-c", KILLED, str(written), *sign], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert journal.get_journal_path(signed.path).exists()
    read = run_installer("verify", signed.path, "--trust", builder.public)
    if moment in ("before", "after"):  # the old head, or the new one
        assert read.returncode == 0, read.stderr
    else:  # between the two: no reader takes it, and each says what to do
        assert (read.returncode, "'bundle sign' first completes the head" in read.stderr) == (
            6, True,
        ), read.stderr  # fmt: skip
    again = run_in_process(*sign)
    assert (again.returncode, again.stderr) == (0, "")
    assert read_signers(signed.path) == {builder.fingerprint, second.fingerprint}
    assert not journal.get_journal_path(signed.path).exists()


def test_killed_before_the_journal_is_whole(
    run_in_process: Run, signed: PackedBundle, make_key_pair: Callable[[str], Pair]
) -> None:
    old = signed.path.read_bytes()
    script = "import os, signal, sys\nfrom bundler.cli import main\n"
    script += "os.write = lambda fd, data: os.kill(os.getpid(), signal.SIGKILL)\nsys.exit(main())\n"
    command = [sys.executable, "-c", script, "sign", str(signed.path), "--key", str(make_key_pair("second").private)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert signed.path.read_bytes() == old
    assert run_in_process("sign", signed.path, "--key", make_key_pair("third").private).returncode == 0
    assert not list(signed.path.parent.glob(".*"))


def test_any_signer_mends_what_another_left(
    run_in_process: Run, signed: PackedBundle, builder: Pair, make_key_pair: Callable[[str], Pair]
) -> None:
    """The run that mends need not have the key of the one that was killed."""
    second, third = make_key_pair("second"), make_key_pair("third")
    written = count_head_bytes("half", signed.path, second)
    sign = [sys.executable, "-c", KILLED, str(written), "sign", str(signed.path), "--key", str(second.private)]
    assert subprocess.run(sign, check=False).returncode == -signal.SIGKILL
    assert run_in_process("sign", signed.path, "--key", third.private).returncode == 0
    assert read_signers(signed.path) == {builder.fingerprint, second.fingerprint, third.fingerprint}


def test_what_lies_beside_a_whole_bundle_changes_nothing(
    run_in_process: Run,
    signed: PackedBundle,
    builder: Pair,
    make_key_pair: Callable[[str], Pair],
    pack: Callable[..., PackedBundle],
) -> None:
    """Somebody else's head under that name would otherwise have the builder sign another bundle."""
    other = pack(SMALL | {"models/m/more": b"evil"}, "other.bundle.tar")
    journal.get_journal_path(signed.path).write_bytes(other.path.read_bytes()[: other.lock.head_size])
    second = make_key_pair("second")
    assert run_in_process("sign", signed.path, "--key", second.private).returncode == 0
    assert read_signers(signed.path) == {builder.fingerprint, second.fingerprint}
    with archive.open_bundle(signed.path) as carried:
        assert carried.lock == signed.lock


def test_the_head_of_another_bundle_mends_nothing(
    run_in_process: Run, signed: PackedBundle, builder: Pair, pack: Callable[..., PackedBundle]
) -> None:
    other = pack(SMALL | {"models/m/more": b"evil"}, "other.bundle.tar")
    journal.get_journal_path(signed.path).write_bytes(other.path.read_bytes()[: other.lock.head_size])
    damaged = bytearray(signed.path.read_bytes())
    damaged[5000] ^= 1
    signed.path.write_bytes(damaged)
    done = run_in_process("sign", signed.path, "--key", builder.private)
    assert (done.returncode, "this is not the head of the bundle beside it" in done.stderr) == (6, True), done.stderr
    assert signed.path.read_bytes() == bytes(damaged)


def test_a_bundle_that_is_built_anew_has_nothing_beside_it(
    signed: PackedBundle, pack: Callable[..., PackedBundle]
) -> None:
    journal.get_journal_path(signed.path).write_bytes(b"left by a run that was killed")
    draft = signed.path.with_name(f".{signed.path.name}.0123.partial")  # a build seals before it gives the name
    journal.get_journal_path(draft).write_bytes(b"left by another run that was killed")
    assert pack(SMALL).path == signed.path
    assert not list(signed.path.parent.glob(".*"))


def test_through_a_link(run_in_process: Run, signed: PackedBundle, builder: Pair, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.tar"
    link.parent.mkdir()
    link.symlink_to(signed.path)
    assert journal.get_journal_path(link) == journal.get_journal_path(signed.path)
    assert run_in_process("sign", link, "--key", builder.private).returncode == 0
    assert link.is_symlink()
    assert [path.name for path in link.parent.iterdir()] == ["link.tar"]


def test_a_journal_that_can_not_be_written_leaves_the_old_head(small: PackedBundle, builder: Pair) -> None:
    """No file may grow beyond 4 KiB stands for a full disk: the bundle itself could still be written in place."""
    old = small.path.read_bytes()
    script = "import resource, signal, sys\nfrom bundler.cli import main\n"
    script += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    command = [
        sys.executable,
        "-c",
        script + "sys.exit(main())\n",
        "sign",
        str(small.path),
        "--key",
        str(builder.private),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, "File too large" in done.stderr, "Traceback" in done.stderr) == (9, True, False)
    assert small.path.read_bytes() == old
    assert not list(small.path.parent.glob(".*"))
