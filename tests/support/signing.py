"""Keys, and a small bundle that they sign."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

from bundler.cli import app
from bundler.format.signing import public_key, sign_in_place
from bundler.format.signing.public_key import PublicKey
from bundler.online import private_keys
from bundler.online.private_keys import PrivateKey
from bundler.progress import RecordingReporter
from tests.support.bundles import SMALL, PackedBundle


@dataclass(frozen=True, slots=True)
class Pair:
    """A key pair in two files."""

    private: Path
    public: Path

    @property
    def key(self) -> PublicKey:
        return public_key.read_key(self.public)

    @property
    def fingerprint(self) -> str:
        return self.key.fingerprint

    @property
    def signer(self) -> PrivateKey:
        return private_keys.load_key(self.private, lambda path: b"", RecordingReporter())


@pytest.fixture
def make_key_pair(tmp_path: Path) -> Callable[[str], Pair]:
    """Makes a key pair of a name."""

    def made(name: str) -> Pair:
        private, public, _ = private_keys.generate_pair(tmp_path / name, None)
        return Pair(private, public)

    return made


@pytest.fixture
def builder(make_key_pair: Callable[[str], Pair]) -> Pair:
    return make_key_pair("builder")


@pytest.fixture
def small(pack: Callable[..., PackedBundle]) -> PackedBundle:
    return pack(SMALL)


@pytest.fixture
def signed(small: PackedBundle, builder: Pair) -> PackedBundle:
    """A bundle that the builder signed."""
    sign_in_place.sign_bundle(small.path, sign_in_place.sign_with([builder.signer]))
    return small


@pytest.fixture
def run_in_process(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in this process: what a start of Python costs is not what most tests are about."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = list(map(str, arguments))
        capsys.readouterr()
        code = typer.main.get_command(app).main(command, standalone_mode=False)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(command, int(code or 0), said.out, said.err)

    return run
