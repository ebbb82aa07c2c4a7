"""Keys: made once and never over another, for this program and for OpenSSL, and never shown."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bundles import PackedBundle
from tests.support.programs import require_tool, run_bundle
from tests.support.signing import Pair

SECRET = "correct horse 배터리"
PLAIN = {name: value for name, value in os.environ.items() if name != "BUNDLE_KEY_PASSPHRASE"}

Run = Callable[..., subprocess.CompletedProcess[str]]


def openssl(*arguments: object) -> str:
    done = subprocess.run([require_tool("openssl"), *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout


def test_keygen_writes_two_files_and_says_the_fingerprint(tmp_path: Path) -> None:
    done = run_bundle("keygen", "-o", tmp_path / "k", "--json", umask=0)
    told = json.loads(done.stdout)
    private, public = tmp_path / "k.key", tmp_path / "k.pub"
    assert told["result"] == {
        "key": str(private), "public": str(public), "fingerprint": Pair(private, public).fingerprint, "encrypted": False,
    }  # fmt: skip
    assert "is not encrypted: anyone who can read it can sign" in told["warnings"][0]
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    assert openssl("pkey", "-in", private, "-pubout") == public.read_text()
    assert not [line for line in private.read_text().splitlines() if line in done.stdout + done.stderr]


@pytest.mark.parametrize("there", ["k.key", "k.pub"])
def test_nothing_is_overwritten(run_in_process: Run, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    done = run_in_process("keygen", "-o", tmp_path / "k")
    assert (done.returncode, "there is already a file of this name" in done.stderr, there in done.stderr) == (
        9, True, True,
    )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_a_link_in_the_way_is_not_followed(run_in_process: Run, tmp_path: Path) -> None:
    (tmp_path / "k.key").symlink_to(tmp_path / "elsewhere")
    assert run_in_process("keygen", "-o", tmp_path / "k").returncode == 9
    assert not (tmp_path / "elsewhere").exists()


def test_keys_of_openssl_sign_here(run_in_process: Run, small: PackedBundle, tmp_path: Path) -> None:
    private, public = tmp_path / "o.pem", tmp_path / "o.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    private.chmod(0o600)
    public.write_text(openssl("pkey", "-in", private, "-pubout"))
    assert run_in_process("sign", small.path, "--key", private).returncode == 0
    assert run_in_process("verify", small.path, "--trust", public).returncode == 0


def test_encrypted_keys_of_openssl_sign_here(run_in_process: Run, small: PackedBundle, tmp_path: Path) -> None:
    private, passphrase = tmp_path / "o.pem", tmp_path / "pass"
    passphrase.write_text(SECRET + "\n")
    openssl("genpkey", "-algorithm", "ed25519", "-aes256", "-pass", f"file:{passphrase}", "-out", private)
    assert run_in_process("sign", small.path, "--key", private, "--passphrase-file", passphrase).returncode == 0


def test_openssl_reads_an_encrypted_key_of_ours(tmp_path: Path) -> None:
    done = run_bundle("keygen", "-o", tmp_path / "k", env=PLAIN | {"BUNDLE_KEY_PASSPHRASE": SECRET})
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "k.key").read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    (tmp_path / "pass").write_text(SECRET)
    shown = openssl("pkey", "-in", tmp_path / "k.key", "-passin", f"file:{tmp_path / 'pass'}", "-pubout")
    assert shown == (tmp_path / "k.pub").read_text()


@pytest.fixture
def locked(tmp_path: Path) -> Pair:
    """A pair whose private key is encrypted."""
    done = run_bundle("keygen", "-o", tmp_path / "locked", env=PLAIN | {"BUNDLE_KEY_PASSPHRASE": SECRET})
    assert done.returncode == 0
    return Pair(tmp_path / "locked.key", tmp_path / "locked.pub")


def test_a_passphrase_that_is_missing_or_wrong_is_said_in_words_and_never_shown(
    small: PackedBundle, locked: Pair, tmp_path: Path
) -> None:
    before = small.path.read_bytes()
    command = ["sign", small.path, "--key", locked.private, "--debug"]
    missing = run_bundle(*command, env=PLAIN, stdin=subprocess.DEVNULL)
    assert (missing.returncode, "this key is encrypted and no passphrase is given" in missing.stderr) == (2, True)
    wrong = run_bundle(*command, env=PLAIN | {"BUNDLE_KEY_PASSPHRASE": "open sesame"})
    assert (wrong.returncode, "the passphrase is wrong for this key" in wrong.stderr) == (2, True)
    assert "open sesame" not in wrong.stdout + wrong.stderr
    assert small.path.read_bytes() == before
    for bad in ("", "\n", "two\nlines\n", "x" * 1024):
        (tmp_path / "pass").write_text(bad)
        done = run_bundle(*command, "--passphrase-file", tmp_path / "pass", env=PLAIN)
        assert (done.returncode, "a passphrase is one line of 1 to 1023 bytes" in done.stderr) == (2, True)


def test_no_secret_is_shown_or_handed_on(small: PackedBundle, locked: Pair) -> None:
    """strace would see argument lists too; sign runs no program at all, and takes the variable out of its own."""
    done = run_bundle(
        "sign", small.path, "--key", locked.private, "--debug", env=PLAIN | {"BUNDLE_KEY_PASSPHRASE": SECRET}
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0
    assert SECRET not in said
    assert not [line for line in locked.private.read_text().splitlines() if line in said]
    script = (
        "import os, subprocess, sys\n"
        "from bundler.verbs import passphrases\n"
        "passphrases.make_passphrase_reader(None)\n"
        "sys.stdout.write(subprocess.run(['env'], capture_output=True, text=True).stdout)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env=PLAIN | {"BUNDLE_KEY_PASSPHRASE": SECRET},
    )
    assert "PATH=" in shown.stdout
    assert SECRET not in shown.stdout


def type_at_terminal(command: list[str], answers: list[str]) -> tuple[int, str]:
    """Run a command at a terminal of its own and type answers; its exit code and what the terminal showed."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(command[0], command, PLAIN)  # noqa: S606 (it needs a terminal of its own)
    shown = b""
    try:
        while data := os.read(terminal, 4096):
            shown += data
            if shown.endswith(b": "):
                time.sleep(0.2)  # getpass drops what was typed before it turned the echo off
                os.write(terminal, answers.pop(0).encode() + b"\n" if answers else b"\x03")
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()


def test_a_passphrase_is_asked_for_at_a_terminal(small: PackedBundle, tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("bundle"))
    code, shown = type_at_terminal([program, "keygen", "-o", str(tmp_path / "k")], ["sesame", "sesame"])
    assert (code, "sesame" in shown) == (0, False), shown
    assert (tmp_path / "k.key").read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    code, shown = type_at_terminal([program, "sign", str(small.path), "--key", str(tmp_path / "k.key")], ["sesame"])
    assert (code, "sesame" in shown) == (0, False), shown
    code, shown = type_at_terminal([program, "keygen", "-o", str(tmp_path / "none")], [""])
    assert (code, "is not encrypted" in shown) == (0, True), shown


def test_a_key_that_others_can_read_is_warned_about(run_in_process: Run, small: PackedBundle, builder: Pair) -> None:
    builder.private.chmod(0o644)
    done = run_in_process("sign", small.path, "--key", builder.private)
    assert (done.returncode, "other users of this machine may use this private key: chmod 600" in done.stderr) == (
        0, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, pair: path.write_text("no key"), "this is not a private key in PEM"),
        (lambda path, pair: path.write_bytes(pair.private.read_bytes()[:-40]), "this is not a private key in PEM"),
        (
            lambda path, pair: path.write_text(pair.public.read_text()),
            "this is a public key: sign with the private one",
        ),
        (lambda path, pair: openssl("genpkey", "-algorithm", "x25519", "-out", path), "this is not an Ed25519 key"),
        (lambda path, pair: None, "the private key can't be read: No such file or directory"),
    ],
    ids=["no key", "cut short", "a public key", "another algorithm", "not there"],
)
def test_what_is_no_private_key(
    run_in_process: Run, small: PackedBundle, builder: Pair, tmp_path: Path, make: object, message: str
) -> None:
    assert callable(make)
    make(tmp_path / "odd", builder)
    done = run_in_process("sign", small.path, "--key", tmp_path / "odd", "--debug")
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not [line for line in builder.private.read_text().splitlines()[1:-1] if line[:20] in done.stderr]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, pair: path.write_text("no key"), "this is not one public key in PEM"),
        (lambda path, pair: path.write_text(pair.public.read_text() * 2), "this is not one public key in PEM"),
        (lambda path, pair: path.write_bytes(b"x" * 20_000), "this is not one public key in PEM"),
        (lambda path, pair: path.write_bytes(pair.private.read_bytes()), "this is a private key, which must stay"),
        (lambda path, pair: path.write_text(pair.public.read_text().replace("MCow", "MCo=")), "is damaged"),
        (lambda path, pair: path.write_text(make_rsa_key()), "this is not an Ed25519 key"),
        (lambda path, pair: None, "the public key can't be read: No such file or directory"),
        (lambda path, pair: path.mkdir(), "this folder holds no keys"),
    ],
    ids=["no key", "two keys", "too large", "a private key", "bad base64", "another algorithm", "not there", "no keys"],
)
def test_what_is_no_key_to_trust(
    run_in_process: Run, signed: PackedBundle, builder: Pair, tmp_path: Path, make: object, message: str
) -> None:
    assert callable(make)
    make(tmp_path / "odd", builder)
    done = run_in_process("verify", signed.path, "--trust", tmp_path / "odd", "--trust", builder.public)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not [line for line in builder.private.read_text().splitlines()[1:-1] if line[:20] in done.stderr]


def make_rsa_key() -> str:
    private = subprocess.run(
        [require_tool("openssl"), "genpkey", "-algorithm", "x25519"], check=True, capture_output=True
    )
    command = [require_tool("openssl"), "pkey", "-pubout"]
    return subprocess.run(command, input=private.stdout, check=True, capture_output=True).stdout.decode()
