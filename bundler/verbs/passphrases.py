"""Private keys for signing, and their passphrases: from a file, the environment or a terminal, never an argument."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bundler.errors import UsageError
from bundler.progress import Reporter

if TYPE_CHECKING:
    from bundler.format.signing.signature_envelope import Signer

ENV_NAME = "BUNDLE_KEY_PASSPHRASE"
_MAX_PASSPHRASE_BYTES = 1023
"""The limit of OpenSSL."""


def load_signers(keys: list[Path] | None, passphrase_file: Path | None, reporter: Reporter) -> list[Signer]:
    """Load the private keys of these files; asks for a passphrase only if a key needs one."""
    read_passphrase = make_passphrase_reader(passphrase_file)
    if not keys:
        return []
    from bundler.online import private_keys

    return [private_keys.load_key(path, read_passphrase, reporter) for path in keys]


def read_new_passphrase(file: Path | None) -> bytes | None:
    """Read the passphrase for a new key; None if the user wants none, or if there is no terminal to ask at."""
    given = _read_given_passphrase(file)
    if given is not None or not sys.stdin.isatty():
        return given
    passphrase = _prompt("Passphrase of the new key (empty for none)")
    if not passphrase:
        return None
    if _prompt("Repeat the passphrase") != passphrase:
        raise UsageError("the two passphrases differ", hint="run the same command again")
    return _check_passphrase(passphrase.encode(), "the terminal")


def make_passphrase_reader(file: Path | None) -> Callable[[Path], bytes]:
    """Make a function that returns the passphrase of a key's file, and asks at the terminal if none is given."""
    given = _read_given_passphrase(file)

    def read_passphrase(path: Path) -> bytes:
        if given is not None:
            return given
        if not sys.stdin.isatty():
            hint = f"give it with --passphrase-file or in {ENV_NAME}, or run this at a terminal"
            raise UsageError("this key is encrypted and no passphrase is given", where=str(path), hint=hint)
        return _check_passphrase(_prompt(f"Passphrase of {path}").encode(), "the terminal")

    return read_passphrase


def _read_given_passphrase(file: Path | None) -> bytes | None:
    inherited = os.environ.pop(ENV_NAME, None)  # child processes do not need it
    if file is None:
        return None if inherited is None else _check_passphrase(inherited.encode(errors="surrogateescape"), ENV_NAME)
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_PASSPHRASE_BYTES + 3)
    except OSError as error:
        hint = "check the name after --passphrase-file, and that you may read the file"
        raise UsageError(f"the passphrase can't be read: {error.strerror}", where=str(file), hint=hint) from error
    return _check_passphrase(text.removesuffix(b"\n").removesuffix(b"\r"), str(file))


def _prompt(prompt: str) -> str:
    try:
        return str(typer.prompt(prompt, default="", hide_input=True, show_default=False, err=True))
    except typer.Abort as error:
        raise KeyboardInterrupt from error


def _check_passphrase(passphrase: bytes, where: str) -> bytes:
    if not 0 < len(passphrase) <= _MAX_PASSPHRASE_BYTES or b"\n" in passphrase:
        hint = "shorten it to one line, or give another one"
        raise UsageError(f"a passphrase is one line of 1 to {_MAX_PASSPHRASE_BYTES} bytes", where=where, hint=hint)
    return passphrase
