"""What is signed and how: by other people's programs too, and every way that an envelope can be strange."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib._vendor.ed25519 import ed25519
from securesystemslib.dsse import Envelope as Dsse
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from bundler.errors import TrustError
from bundler.format.documents import InvalidValueError
from bundler.format.lock import lockfile
from bundler.format.signing import signature_envelope
from bundler.format.signing.public_key import PublicKey
from bundler.format.tar import archive, tar_layout
from bundler.offline.trust import trusted_keys, verification
from bundler.progress import RecordingReporter
from tests.support.bundles import SMALL, PackedBundle, make_lock
from tests.support.programs import require_tool, run_bundle
from tests.support.signing import Pair

PRIME, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493


def read_envelope(path: Path) -> bytes:
    """``bundle.sig`` by GNU tar."""
    return subprocess.run(
        [require_tool("tar"), "xOf", path, lockfile.SIGNATURE_FILE], check=True, capture_output=True
    ).stdout


def test_any_dsse_verifier_can_check_it(signed: PackedBundle, builder: Pair) -> None:
    """securesystemslib's own DSSE with cryptography's Ed25519: neither is what this program verifies with."""
    found = Dsse.from_dict(json.loads(read_envelope(signed.path)))
    public = load_pem_public_key(builder.public.read_bytes())
    assert isinstance(public, Ed25519PublicKey)
    key = SSlibKey.from_crypto(public, keyid=builder.fingerprint)
    assert list(found.verify([key], 1)) == [builder.fingerprint]
    statement = json.loads(found.payload)
    assert statement == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "bundle.json", "digest": {"sha256": signed.lock.digest}}],
        "predicateType": signature_envelope.PREDICATE_TYPE,
        "predicate": {"name": "test", "version": "1", "sequence": 1, "digest": signed.lock.digest},
    }


def test_openssl_can_check_it(signed: PackedBundle, builder: Pair, tmp_path: Path) -> None:
    document = json.loads(read_envelope(signed.path))
    payload = base64.b64decode(document["payload"])
    (tmp_path / "message").write_bytes(b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload)
    (tmp_path / "sig").write_bytes(base64.b64decode(document["signatures"][0]["sig"]))
    command = [require_tool("openssl"), "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", str(builder.public)]
    command += ["-in", str(tmp_path / "message"), "-sigfile", str(tmp_path / "sig")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Signature Verified Successfully\n")


def test_the_fingerprint_is_what_openssl_gives(builder: Pair) -> None:
    der = subprocess.run(
        [require_tool("openssl"), "pkey", "-pubin", "-in", builder.public, "-outform", "DER"],
        check=True,
        capture_output=True,
    ).stdout
    assert builder.fingerprint == hashlib.sha256(der).hexdigest()


def test_signing_again_gives_the_same_bytes(small: PackedBundle, make_key_pair: Callable[[str], Pair]) -> None:
    one, two = make_key_pair("one"), make_key_pair("two")
    assert run_bundle("sign", small.path, "--key", one.private, "--key", two.private).returncode == 0
    once = small.path.read_bytes()
    assert run_bundle("sign", small.path, "--key", two.private, "--key", one.private).returncode == 0
    assert small.path.read_bytes() == once
    assert len(json.loads(read_envelope(small.path))["signatures"]) == 2


def change_envelope(data: bytes, **changes: Any) -> bytes:
    """An envelope with other values in some fields."""
    return lockfile.encode_canonical_json(json.loads(data) | changes)


def restate(data: bytes, **changes: Any) -> bytes:
    """An envelope whose statement has other values in some fields."""
    statement = json.loads(base64.b64decode(json.loads(data)["payload"])) | changes
    return change_envelope(data, payload=base64.b64encode(lockfile.encode_canonical_json(statement)).decode())


def sign_again(data: bytes, **changes: Any) -> bytes:
    """An envelope whose signature has other values in some fields."""
    return change_envelope(data, signatures=[json.loads(data)["signatures"][0] | changes])


def add_spaces(data: bytes) -> bytes:
    payload = base64.b64decode(json.loads(data)["payload"])
    return change_envelope(data, payload=base64.b64encode(json.dumps(json.loads(payload)).encode()).decode())


def set_spare_bits(data: bytes) -> bytes:
    """The same 64 bytes in another base64: the last letter holds four bits that nobody reads."""
    text = json.loads(data)["signatures"][0]["sig"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = text[:-3] + letters[letters.index(text[-3]) ^ 1] + "=="
    assert base64.b64decode(other) == base64.b64decode(text)
    return sign_again(data, sig=other)


STRANGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda data: b"\n", "not JSON"),
    "not JSON": (lambda data: b"signature", "not JSON"),
    "not UTF-8": (lambda data: b'{"\xff": 1}\n', "not JSON"),
    "half a letter": (lambda data: b'"\\ud800"\n', "not JSON"),
    "nested deeply": (lambda data: b"[" * 60_000, "not JSON"),
    "a list": (lambda data: b"[]\n", "not a DSSE envelope"),
    "not canonical": (lambda data: data + b"\n", "not in canonical form"),
    "a key twice": (lambda data: data[:-2] + b',"payloadType":"x"}\n', "not in canonical form"),
    "a field more": (lambda data: change_envelope(data, extra=1), "not a DSSE envelope"),
    "another payloadType": (lambda data: change_envelope(data, payloadType="text/plain"), "its payloadType is not"),
    "a payload that is no text": (lambda data: change_envelope(data, payload=1), "the payload is not base64"),
    "a payload in bad base64": (lambda data: change_envelope(data, payload="a b="), "the payload is not base64"),
    "a payload that is not JSON": (lambda data: change_envelope(data, payload="YWJj"), "not a statement in JSON"),
    "another statement type": (lambda data: restate(data, _type="https://in-toto.io/Statement/v0.1"), "is not a http"),
    "another predicateType": (lambda data: restate(data, predicateType="https://slsa.dev/provenance/v1"), "its pred"),
    "another subject": (
        lambda data: restate(data, subject=[{"name": "bundle.json", "digest": {"sha256": "0" * 64}}]),
        "is not about this bundle",
    ),
    "two subjects": (
        lambda data: restate(data, subject=json.loads(base64.b64decode(json.loads(data)["payload"]))["subject"] * 2),
        "is not about this bundle",
    ),
    "another predicate": (lambda data: restate(data, predicate={}), "another name, version, sequence or digest"),
    "a statement that says more": (lambda data: restate(data, more=1), "not in the canonical form"),
    "a statement with spaces": (add_spaces, "not in the canonical form"),
    "no signatures": (lambda data: change_envelope(data, signatures=[]), "it has no signatures"),
    "signatures that are no list": (lambda data: change_envelope(data, signatures={}), "it has no signatures"),
    "too many signatures": (
        lambda data: change_envelope(data, signatures=json.loads(data)["signatures"] * 65),
        "it has 65 signatures; at most 64",
    ),
    "too large": (lambda data: change_envelope(data, payload="A" * 70_000), "at most 65,536 are read"),
    "a signature that is no object": (lambda data: change_envelope(data, signatures=["x"]), "is not a keyid and a sig"),
    "a signature that says more": (lambda data: sign_again(data, cert="x"), "is not a keyid and a sig"),
    "a keyid that is no fingerprint": (lambda data: sign_again(data, keyid="me"), "is not a fingerprint"),
    "a keyid in capitals": (lambda data: sign_again(data, keyid="A" * 64), "is not a fingerprint"),
    "a sig in bad base64": (lambda data: sign_again(data, sig="!!!!"), "is not base64"),
    "a sig without padding": (lambda data: sign_again(data, sig="A" * 86), "is not base64"),
    "a sig with spare bits": (set_spare_bits, "is not base64"),
    "a sig that is too short": (lambda data: sign_again(data, sig="AAAA"), "has 3 bytes"),
}


@pytest.mark.parametrize("strangely", STRANGE)
def test_what_is_strangely_signed_is_refused(signed: PackedBundle, builder: Pair, strangely: str) -> None:
    change, message = STRANGE[strangely]
    data = signature_envelope.sign_lock(signed.lock, [builder.signer])
    assert data is not None
    archive.rewrite_head(signed.path, signed.lock, change(data))
    for trusts in (
        [],
        [trusted_keys.TrustPolicy(keys=(builder.key,), revoked=frozenset(), threshold=1, source="a test")],
    ):
        with archive.open_bundle(signed.path) as carried, pytest.raises(TrustError) as caught:
            verification.verify_bundle(carried, trusts, RecordingReporter())
        assert str(caught.value).startswith("bundle.sig is malformed: ")
        assert message in str(caught.value)
        assert (caught.value.code, caught.value.where) == (7, str(signed.path))


def test_a_strange_signature_is_shown_by_inspect_alone(signed: PackedBundle, builder: Pair) -> None:
    archive.rewrite_head(signed.path, signed.lock, b"signature")
    message = "bundle.sig is malformed: it is not JSON in the form of this format"
    for arguments in (["--trust", builder.public], []):
        done = run_bundle("verify", signed.path, *arguments)
        assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (7, True, False), done.stderr
    shown = run_bundle("inspect", signed.path, "--json")
    assert (shown.returncode, json.loads(shown.stdout)["result"]["signed_by"]) == (0, [])
    assert message in json.loads(shown.stdout)["warnings"][0]


def test_the_signature_of_another_bundle_is_refused(
    signed: PackedBundle, builder: Pair, pack: Callable[..., PackedBundle]
) -> None:
    other = pack(SMALL | {"models/m/more": b"evil"}, "other.bundle.tar")
    archive.rewrite_head(other.path, other.lock, read_envelope(signed.path))
    done = run_bundle("verify", other.path, "--trust", builder.public)
    assert (done.returncode, "is not about this bundle" in done.stderr) == (7, True)


# Ed25519: what every verifier takes, and what only lax ones take.


@settings(deadline=None, max_examples=60)
@given(message=st.binary(max_size=200), flip=st.integers(0, 512), seed=st.binary(min_size=32, max_size=32))
def test_it_agrees_with_cryptography(message: bytes, flip: int, seed: bytes) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = bytearray(private.sign(message))
    if flip < 512:
        signature[flip // 8] ^= 1 << flip % 8
    try:
        private.public_key().verify(bytes(signature), message)
        holds = True
    except InvalidSignature:
        holds = False
    assert holds == (flip == 512)
    assert PublicKey(raw).has_signed(message, bytes(signature)) == holds


SMALL_ORDER = [
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    )
]
NOT_CANONICAL = [(PRIME + n).to_bytes(32, "little") for n in (0, 1, 3, 4, 18)] + [b"\xff" * 32]


@pytest.mark.parametrize("raw", SMALL_ORDER, ids=bytes.hex)
def test_a_key_of_small_order_is_refused(raw: bytes) -> None:
    point = ed25519.decodepoint(raw)  # type: ignore[no-untyped-call]
    eightfold = ed25519.scalarmult(point, 8)  # type: ignore[no-untyped-call]
    assert ed25519.encodepoint(eightfold) == SMALL_ORDER[0]  # type: ignore[no-untyped-call]
    with pytest.raises(InvalidValueError, match="are not a valid point"):
        PublicKey(raw)


@pytest.mark.parametrize("raw", NOT_CANONICAL, ids=bytes.hex)
def test_a_key_in_another_form_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidValueError, match="are not a valid point"):
        PublicKey(raw)


def test_a_key_beside_the_curve_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="are not a valid point"):
        PublicKey((2).to_bytes(32, "little"))


@pytest.mark.parametrize("point", [*SMALL_ORDER, *NOT_CANONICAL], ids=bytes.hex)
def test_a_signature_with_a_bad_point_is_refused(builder: Pair, point: bytes) -> None:
    """For the identity as R, and S = 0, a lax verifier needs no key at all where the key is of small order."""
    assert not builder.key.has_signed(b"message", point + bytes(32))


def test_a_signature_turned_into_another_is_refused(signed: PackedBundle, builder: Pair) -> None:
    """S + L is the same scalar, and many verifiers took it: RFC 8032 says that S must be below L."""
    document = json.loads(read_envelope(signed.path))
    good = base64.b64decode(document["signatures"][0]["sig"])
    other = good[:32] + (int.from_bytes(good[32:], "little") + ORDER).to_bytes(32, "little")
    ed25519.checkvalid(  # type: ignore[no-untyped-call]  # the library takes it
        other, signature_envelope.Envelope(signature_envelope.make_statement(signed.lock)).message, builder.key.raw
    )  # it would pass
    archive.rewrite_head(
        signed.path, signed.lock, sign_again(read_envelope(signed.path), sig=base64.b64encode(other).decode())
    )
    done = run_bundle("verify", signed.path, "--trust", builder.public)
    said = f"a signature names the key {builder.fingerprint} and is not by it"
    assert (done.returncode, said in done.stderr) == (7, True), done.stderr


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_size_does_not_hold(builder: Pair, size: int) -> None:
    assert not builder.key.has_signed(b"", bytes(size))


# Room.


def test_three_signatures_and_many_fit_and_too_many_are_refused_in_words(
    small: PackedBundle, make_key_pair: Callable[[str], Pair]
) -> None:
    three = [make_key_pair(name) for name in ("one", "two", "three")]
    command = [part for one in three for part in ("--key", one.private)]
    assert run_bundle("sign", small.path, *command).returncode == 0
    done = run_bundle(
        "verify", small.path, "--trust-threshold", 3, *(p for one in three for p in ("--trust", one.public))
    )
    assert done.returncode == 0, done.stderr
    envelope = signature_envelope.Envelope(signature_envelope.make_statement(small.lock))
    for number in range(signature_envelope.MAX_SIGNATURES):
        envelope = signature_envelope.Envelope(
            envelope.payload, (*envelope.signatures, signature_envelope.Signature(f"{number:064x}", bytes([1] * 64)))
        )
    archive.rewrite_head(small.path, small.lock, envelope.canonical_bytes)
    before = small.path.read_bytes()
    assert signature_envelope.parse_envelope(envelope.canonical_bytes, small.lock, "") == envelope
    done = run_bundle("sign", small.path, "--key", three[0].private)
    assert (done.returncode, "the bundle has no space for another signature" in done.stderr) == (2, True)
    assert small.path.read_bytes() == before


def test_a_head_without_room_is_said_in_words(pack: Callable[..., PackedBundle], builder: Pair) -> None:
    """A lock that leaves no slack: padded by its own words up to where another member does not fit."""
    full = next(
        locked
        for size in range(30_000, 66_000, 500)
        if (locked := make_lock(SMALL, head_size=65536, env={"WORDS": "w" * size}))
        and not fits(locked, b"s" * 900)
        and fits(locked, None)
    )
    packed = pack(SMALL, head_size=65536, env=dict(full.env))
    before = packed.path.read_bytes()
    done = run_bundle("sign", packed.path, "--key", builder.private)
    assert (done.returncode, "the bundle has no space for another signature" in done.stderr) == (2, True), done.stderr
    assert packed.path.read_bytes() == before


def fits(locked: lockfile.Lock, signature: bytes | None) -> bool:
    try:
        tar_layout.compute_layout(locked, signature)
    except InvalidValueError:
        return False
    return True
