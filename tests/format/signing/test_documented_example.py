"""docs/format.md holds a worked example: it holds, for this program and for others."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from bundler.format.lock import lockfile
from bundler.format.lock.lockfile import Lock
from bundler.format.signing import public_key, signature_envelope
from bundler.format.signing.signature_envelope import Envelope, Signature
from tests.support.bundles import PackedBundle
from tests.support.paths import ROOT
from tests.support.signing import Pair

PAGE = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## The signature") : PAGE.index("## What `bundle.pyz`")]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", SECTION, flags=re.MULTILINE | re.DOTALL)


def test_the_example_holds() -> None:
    (pem,) = [block for block in blocks("") if "PUBLIC KEY" in block]
    statement, envelope = (block.encode() for block in blocks("json"))
    key = public_key.parse_pem(pem.encode())
    assert f"Its fingerprint is `{key.fingerprint}`." in SECTION
    assert f"The statement, {len(statement)} bytes with the LF" in SECTION
    document = json.loads(envelope)
    assert base64.b64decode(document["payload"]) == statement
    (one,) = document["signatures"]
    signature = base64.b64decode(one["sig"])
    found = Envelope(statement, (Signature(one["keyid"], signature),))
    assert found.canonical_bytes == envelope
    assert found.has_valid_signature(key, "the page")
    public = load_pem_public_key(pem.encode())
    assert isinstance(public, Ed25519PublicKey)
    public.verify(signature, b"DSSEv1 28 application/vnd.in-toto+json %d " % len(statement) + statement)


def test_the_example_is_in_the_form_that_follows_from_a_lock() -> None:
    statement = blocks("json")[0].encode()
    said = json.loads(statement)
    assert signature_envelope.make_statement(cast("Lock", SimpleNamespace(**said["predicate"]))) == statement
    assert lockfile.encode_canonical_json(said) == statement
    for name in (signature_envelope.PAYLOAD_TYPE, signature_envelope.PREDICATE_TYPE, signature_envelope.STATEMENT_TYPE):
        assert f"`{name}`" in SECTION
    assert f"at most {signature_envelope.MAX_ENVELOPE_BYTES:,} bytes" in SECTION
    assert f"1 to {signature_envelope.MAX_SIGNATURES} of them" in SECTION


def test_a_bundle_is_checked_as_the_page_says(signed: PackedBundle, builder: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "by hand"
    folder.mkdir()
    (folder / "B").symlink_to(signed.path)
    (folder / "KEY.pub").symlink_to(builder.public)
    (script,) = blocks("sh")
    done = subprocess.run(["sh", "-ec", script], check=False, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Signature Verified Successfully" in done.stdout
    assert done.stdout.count(signed.lock.digest) == 3  # the subject, the predicate, and sha256sum
