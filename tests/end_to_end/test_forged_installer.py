"""Why the installer must come another way than the bundle: a forgery that brings its own."""

from __future__ import annotations

import io
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

from bundler.format.signing import signature_envelope
from bundler.format.signing.signature_envelope import Envelope, Signature
from bundler.format.tar import archive
from tests.support.bundles import SMALL, PackedBundle
from tests.support.programs import require_tool
from tests.support.signing import Pair

WEIGHTS = "models/m/w.bin"


def forged_installer(true: Path) -> bytes:
    """The true installer, in which every signature holds."""
    forged = io.BytesIO(b"#!/usr/bin/env python3\n")
    forged.seek(0, io.SEEK_END)
    with zipfile.ZipFile(true) as good, zipfile.ZipFile(forged, "a") as bad:
        for info in good.infolist():
            data = good.read(info)
            if info.filename == "bundler/format/signing/public_key.py":
                text = data.decode()
                assert text.count("if (\n            len(signature) != 64") == 1
                data = text.replace(
                    "if (\n            len(signature) != 64",
                    "return True\n        if (\n            len(signature) != 64",
                ).encode()
            bad.writestr(info, data)
    return forged.getvalue()


def test_a_forged_bundle_with_its_own_installer(
    pack: Callable[..., PackedBundle], builder: Pair, installer: Path, tmp_path: Path,
    run_installer: Callable[..., subprocess.CompletedProcess[str]],
) -> None:  # fmt: skip
    """What its builder signed, with other weights, another installer, and the signature's name on it."""
    true = pack(SMALL | {"bundle.pyz": installer.read_bytes()}, "true.tar")
    archive.rewrite_head(true.path, true.lock, signature_envelope.sign_lock(true.lock, [builder.signer]))
    assert run_installer("install", true.path, "--prefix", tmp_path / "true", "--trust", builder.public).returncode == 0

    evil = pack(SMALL | {"bundle.pyz": forged_installer(installer), WEIGHTS: b"evil" * 1250}, "forged.tar")
    statement = signature_envelope.make_statement(evil.lock)
    forged = Envelope(statement, (Signature(builder.fingerprint, bytes(range(64))),))
    archive.rewrite_head(evil.path, evil.lock, forged.canonical_bytes)
    subprocess.run([require_tool("tar"), "xf", evil.path, "-C", tmp_path, "bundle.pyz"], check=True)

    # by what the bundle brings along: trusted, and installed
    fooled = run_installer("verify", evil.path, "--trust", builder.public, program=tmp_path / "bundle.pyz")
    assert (fooled.returncode, f"signed by  {builder.fingerprint}  (trusted, the signature is valid)" in fooled.stdout) == (
        0, True,
    ), fooled.stderr  # fmt: skip
    prefix = tmp_path / "fooled"
    fooled = run_installer(
        "install", evil.path, "--prefix", prefix, "--trust", builder.public, program=tmp_path / "bundle.pyz"
    )
    assert fooled.returncode == 0, fooled.stderr
    assert (prefix / "current" / WEIGHTS).read_bytes() == b"evil" * 1250

    # by the installer that came another way: refused, and nothing is made
    message = f"a signature names the key {builder.fingerprint} and is not by it"
    for verb in (["verify", evil.path], ["install", evil.path, "--prefix", tmp_path / "opt"]):
        refused = run_installer(*verb, "--trust", builder.public)
        assert (refused.returncode, message in refused.stderr) == (7, True), refused.stderr
    assert not (tmp_path / "opt").exists()

    # a host without keys gets a warning
    told = run_installer("verify", evil.path)
    assert (told.returncode, "warning: signature not checked" in told.stderr) == (0, True)
