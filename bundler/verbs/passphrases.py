"""Passphrases: from a file, the environment, or a person at a terminal; never from an argument."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from bundler.errors import UsageError

ENV_NAME = "BUNDLE_KEY_PASSPHRASE"
_MAX_PASSPHRASE_BYTES = 1023
"""Bytes; OpenSSL takes no longer one."""


def read_new_passphrase(file: Path | None) -> bytes | None:
    """The passphrase for a new key; None where a person wants none, or nobody is there to say."""
    told = _read_given_passphrase(file)
    if told is not None or not sys.stdin.isatty():
        return told
    typed = _prompt("Passphrase of the new key (empty for none)")
    if not typed:
        return None
    if _prompt("The same again") != typed:
        raise UsageError("the two passphrases differ", hint="run it again")
    return _check_passphrase(typed.encode(), "the terminal")


def make_passphrase_reader(file: Path | None) -> Callable[[Path], bytes]:
    """Gives the passphrase of a key's file, and asks a person where it was not told."""
    told = _read_given_passphrase(file)

    def ask(path: Path) -> bytes:
        if told is not None:
            return told
        if not sys.stdin.isatty():
            hint = f"give it by --passphrase-file or in {ENV_NAME}, or run this at a terminal"
            raise UsageError("this key is encrypted and no passphrase is given", where=str(path), hint=hint)
        return _check_passphrase(_prompt(f"Passphrase of {path}").encode(), "the terminal")

    return ask


def _read_given_passphrase(file: Path | None) -> bytes | None:
    inherited = os.environ.pop(ENV_NAME, None)  # programs that are run from here have no use for it
    if file is None:
        return None if inherited is None else _check_passphrase(inherited.encode(errors="surrogateescape"), ENV_NAME)
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_PASSPHRASE_BYTES + 3)
    except OSError as error:
        raise UsageError(f"the passphrase can't be read: {error.strerror}", where=str(file)) from error
    return _check_passphrase(text.removesuffix(b"\n").removesuffix(b"\r"), str(file))


def _prompt(prompt: str) -> str:
    try:
        return str(typer.prompt(prompt, default="", hide_input=True, show_default=False, err=True))
    except typer.Abort as error:
        raise KeyboardInterrupt from error


def _check_passphrase(passphrase: bytes, where: str) -> bytes:
    if not 0 < len(passphrase) <= _MAX_PASSPHRASE_BYTES or b"\n" in passphrase:
        raise UsageError(f"a passphrase is one line of 1 to {_MAX_PASSPHRASE_BYTES} bytes", where=where)
    return passphrase
