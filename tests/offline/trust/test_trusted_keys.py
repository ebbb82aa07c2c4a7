"""Whose bundles are taken: with keys given, with none, by a prefix that remembers, and after a key is revoked."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.format.lock import lockfile
from bundler.format.lock.target import Target
from bundler.format.signing import signature_envelope
from bundler.format.tar import archive
from bundler.offline import preflight
from tests.support.bundles import SMALL, PackedBundle
from tests.support.programs import require_tool, run_bundle
from tests.support.signing import Pair

Run = Callable[..., subprocess.CompletedProcess[str]]
Pairs = Callable[[str], Pair]


def sign(packed: PackedBundle, *pairs: Pair) -> PackedBundle:
    envelope = signature_envelope.sign_lock(packed.lock, [pair.signer for pair in pairs])
    archive.rewrite_head(packed.path, packed.lock, envelope)
    return packed


def read_result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return dict(json.loads(done.stdout))


@pytest.fixture
def prefix() -> Iterator[Path]:
    """In memory where there is such a place: every install syncs its file system, which others write to as well."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder) / "opt"


@pytest.fixture
def installed(signed: PackedBundle, builder: Pair, prefix: Path, run_in_process: Run) -> PackedBundle:
    """The builder's bundle, in a prefix that was told to trust the builder."""
    done = run_in_process("install", signed.path, "--prefix", prefix, "--trust", builder.public)
    assert done.returncode == 0, done.stderr
    return signed


# With keys given.


def test_a_signed_bundle_is_taken_and_all_say_who_vouched(
    signed: PackedBundle, builder: Pair, make_key_pair: Pairs, prefix: Path, run_in_process: Run
) -> None:
    other = make_key_pair("other")
    sign(signed, builder, other)
    claimed = sorted([builder.fingerprint, other.fingerprint])
    shown = read_result(run_in_process("inspect", signed.path, "--json"))["result"]
    assert shown["signed_by"] == claimed
    checked = read_result(run_in_process("verify", signed.path, "--trust", builder.public, "--json"))
    assert (checked["result"]["signed_by"], checked["result"]["trusted"]) == (claimed, [builder.fingerprint])
    assert checked["warnings"] == []
    words = run_in_process("verify", signed.path, "--trust", builder.public).stdout
    assert f"signed by  {builder.fingerprint}  (trusted, the signature is valid)" in words
    assert f"signed by  {other.fingerprint}  (not checked: the bundle says so)" in words
    done = run_in_process("install", signed.path, "--prefix", prefix, "--trust", builder.public, "--json")
    assert done.returncode == 0, done.stderr
    receipt = json.loads((prefix / "current" / "receipt.json").read_bytes())
    assert (receipt["signed_by"], receipt["trusted"]) == (claimed, [builder.fingerprint])
    assert (prefix / "current" / "bundle.sig").read_bytes() == signature_envelope.sign_lock(
        signed.lock, [builder.signer, other.signer]
    )


def remove_signature(packed: PackedBundle, _: Pairs) -> str:
    archive.rewrite_head(packed.path, packed.lock, None)
    return "nobody signed it"


def sign_by_another(packed: PackedBundle, pair: Pairs) -> str:
    other = pair("other")
    sign(packed, other)
    return f"it says it is signed by {other.fingerprint}, which is not one of them"


def forge_signature(packed: PackedBundle, pair: Pairs) -> str:
    """The keyid of the trusted key, over the bytes of another one's signature."""
    known = json.loads(signature_envelope.sign_lock(packed.lock, [pair("forger").signer]) or b"")
    with archive.open_bundle(packed.path) as carried:
        real = json.loads(carried.signature or b"")["signatures"][0]
    known["signatures"][0]["keyid"] = real["keyid"]
    archive.rewrite_head(packed.path, packed.lock, lockfile.encode_canonical_json(known))
    return f"a signature names the key {real['keyid']} and is not by it"


def forge_one_signature(packed: PackedBundle, _: Pairs) -> str:
    """The trusted signature is there, and another one that claims to be the same key's."""
    with archive.open_bundle(packed.path) as carried:
        document = json.loads(carried.signature or b"")
    good = document["signatures"][0]
    document["signatures"].append({"keyid": good["keyid"], "sig": "A" * 85 + "Q" + "=="})
    archive.rewrite_head(packed.path, packed.lock, lockfile.encode_canonical_json(document))
    return "and is not by it"


@pytest.mark.parametrize("spoil", [remove_signature, sign_by_another, forge_signature, forge_one_signature])
def test_what_the_trusted_did_not_sign_is_refused_before_anything_is_written(
    signed: PackedBundle,
    builder: Pair,
    make_key_pair: Pairs,
    prefix: Path,
    run_in_process: Run,
    spoil: Callable[[PackedBundle, Pairs], str],
) -> None:
    message = spoil(signed, make_key_pair)
    for verb in (["verify", signed.path], ["install", signed.path, "--prefix", prefix]):
        done = run_in_process(*verb, "--trust", builder.public)
        assert (done.returncode, message in done.stderr, "what to do:" in done.stderr) == (7, True, True), done.stderr
    assert not prefix.exists()


def test_no_content_is_read_before_the_signature_is_checked(
    signed: PackedBundle, make_key_pair: Pairs, prefix: Path, run_installer: Run
) -> None:
    """A pipe that gives the head and then nothing more: whoever waited for content would wait for ever."""
    head = signed.path.read_bytes()[: signed.lock.head_size]
    other = make_key_pair("other")
    for verb in (["verify", "-"], ["install", "-", "--prefix", prefix]):
        read, write = os.pipe()
        with os.fdopen(read, "rb") as stdin, os.fdopen(write, "wb") as feed:
            os.set_blocking(write, True)
            feeder = subprocess.Popen([require_tool("cat"), "-"], stdin=subprocess.PIPE, stdout=feed)
            assert feeder.stdin is not None
            feeder.stdin.write(head)
            feeder.stdin.flush()
            done = run_installer(*verb, "--trust", other.public, stdin=stdin)
            feeder.stdin.close()
            feeder.wait()
        assert (done.returncode, "which is not one of them" in done.stderr) == (7, True), done.stderr
    assert not prefix.exists()


def test_a_part_and_an_image_are_asked_for_their_signature_too(
    signed: PackedBundle, make_key_pair: Pairs, prefix: Path, run_in_process: Run
) -> None:
    other = make_key_pair("other")
    for verb in (["install", signed.path, "--prefix", prefix, "--only", "model:m"], ["image", signed.path]):
        done = run_in_process(*verb, "--trust", other.public)
        assert (done.returncode, "which is not one of them" in done.stderr) == (7, True), done.stderr
    assert not prefix.exists()


@pytest.mark.usefixtures("installed")
def test_an_image_of_a_prefix_asks_for_what_the_prefix_remembers(
    signed: PackedBundle, make_key_pair: Pairs, prefix: Path, run_in_process: Run
) -> None:
    sign(signed, make_key_pair("other"))  # in the place that the live release came from
    done = run_in_process("image", "--prefix", prefix)
    assert (done.returncode, "of this prefix" in done.stderr) == (7, True), done.stderr


def test_damage_to_the_signature_is_told_from_forgery(signed: PackedBundle, builder: Pair, run_in_process: Run) -> None:
    data = bytearray(signed.path.read_bytes())
    at = data.index(b'"sig":"') + 20
    data[at] ^= 1
    signed.path.write_bytes(data)
    for arguments in (["--trust", builder.public], []):
        done = run_in_process("verify", signed.path, *arguments)
        assert (done.returncode, "bundle.sig (bytes " in done.stderr) == (6, True), done.stderr


def test_a_threshold_counts_different_trusted_keys(
    signed: PackedBundle, builder: Pair, make_key_pair: Pairs, run_in_process: Run
) -> None:
    second, third = make_key_pair("second"), make_key_pair("third")
    trusted = ["--trust", builder.public, "--trust", second.public, "--trust-threshold", 2]
    one = run_in_process("verify", signed.path, *trusted)
    assert (one.returncode, f"it is signed by {builder.fingerprint}\n" in one.stderr) == (7, True), one.stderr
    assert "must be signed by 2 of the keys" in one.stderr
    sign(signed, builder, third)
    assert run_in_process("verify", signed.path, *trusted).returncode == 7
    with archive.open_bundle(signed.path) as carried:
        document = json.loads(carried.signature or b"")
    twice = [entry for entry in document["signatures"] if entry["keyid"] == builder.fingerprint] * 2
    archive.rewrite_head(signed.path, signed.lock, lockfile.encode_canonical_json(document | {"signatures": twice}))
    assert run_in_process("verify", signed.path, *trusted).returncode == 7
    again = run_in_process(
        "verify", signed.path, "--trust", builder.public, "--trust", builder.public, "--trust-threshold", 2
    )
    assert (again.returncode, "the threshold is 2, but the number of different keys is 1" in again.stderr) == (
        2,
        True,
    )
    sign(signed, builder, second)
    assert run_in_process("verify", signed.path, *trusted).returncode == 0


@pytest.mark.parametrize("threshold", [0, -1, 2])
def test_a_threshold_that_makes_no_sense(
    signed: PackedBundle, builder: Pair, run_in_process: Run, threshold: int
) -> None:
    done = run_in_process("verify", signed.path, "--trust", builder.public, "--trust-threshold", threshold)
    assert (done.returncode, "but the number of different keys is 1" in done.stderr) == (2, True)
    none = run_in_process("verify", signed.path, "--trust-threshold", 1)
    assert (none.returncode, "the threshold is 1, but the number of different keys is 0" in none.stderr) == (2, True)


def test_a_folder_and_a_variable(
    signed: PackedBundle, builder: Pair, make_key_pair: Pairs, tmp_path: Path, run_in_process: Run
) -> None:
    folder = tmp_path / "trusted keys"
    folder.mkdir()
    (folder / "b.pub").write_text(builder.public.read_text())
    (folder / "README").write_text("not a key")
    assert run_in_process("verify", signed.path, "--trust", folder).returncode == 0
    other = make_key_pair("other")
    for value in (str(folder), os.pathsep.join([str(other.public), str(folder)])):
        done = run_bundle("verify", signed.path, "--json", env=os.environ | {"BUNDLE_TRUST": value})
        assert (done.returncode, read_result(done)["result"]["trusted"]) == (0, [builder.fingerprint])
    refused = run_bundle("verify", signed.path, env=os.environ | {"BUNDLE_TRUST": str(other.public)})
    assert (refused.returncode, "of BUNDLE_TRUST" in refused.stderr) == (7, True)
    gone = run_bundle("verify", signed.path, env=os.environ | {"BUNDLE_TRUST": str(tmp_path / "none")})
    assert (gone.returncode, "the public key can't be read" in gone.stderr) == (2, True)


# With no keys.


def test_without_keys_a_warning_says_that_no_signature_was_checked(
    small: PackedBundle, builder: Pair, prefix: Path, run_in_process: Run
) -> None:
    done = run_in_process("install", small.path, "--prefix", prefix)
    assert (done.returncode, "the bundle is not signed: damage is detected" in done.stderr) == (0, True)
    assert "signed by  nobody" in done.stdout
    sign(small, builder)
    done = run_in_process("install", small.path, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    assert f"signature not checked: the bundle says it is signed by {builder.fingerprint}" in done.stderr
    assert "--trust KEY.pub" in done.stderr
    assert f"signed by  {builder.fingerprint}  (not checked: the bundle says so)" in done.stdout
    assert not (prefix / "trust.json").exists()


# Revoked.


def test_a_revoked_key_counts_for_nothing(
    signed: PackedBundle, builder: Pair, make_key_pair: Pairs, tmp_path: Path, prefix: Path, run_in_process: Run
) -> None:
    second = make_key_pair("second")
    folder = tmp_path / "trusted"
    folder.mkdir()
    for one in (builder, second):
        (folder / one.public.name).write_text(one.public.read_text())
    (folder / "revoked").write_text(f"# stolen in spring\n\n  {builder.fingerprint.upper()}  # builder\n")
    done = run_in_process("install", signed.path, "--prefix", prefix, "--trust", folder)
    words = f"it says it is signed by {builder.fingerprint}, which is revoked and does not count"
    assert (done.returncode, words in done.stderr) == (7, True), done.stderr
    assert not prefix.exists()
    sign(signed, builder, second)
    done = run_in_process("verify", signed.path, "--trust", folder, "--json")
    assert (done.returncode, read_result(done)["result"]["trusted"]) == (0, [second.fingerprint])
    two = run_in_process("verify", signed.path, "--trust", folder, "--trust-threshold", 2)
    assert (two.returncode, "which is revoked and does not count" in two.stderr) == (7, True)
    # a key that is given by its file is no less revoked
    only = run_in_process("verify", sign(signed, builder).path, "--trust", folder, "--trust", builder.public)
    assert only.returncode == 7


def test_all_keys_revoked_is_not_the_same_as_no_keys(
    signed: PackedBundle, builder: Pair, tmp_path: Path, run_in_process: Run
) -> None:
    folder = tmp_path / "trusted"
    folder.mkdir()
    (folder / "b.pub").write_text(builder.public.read_text())
    (folder / "revoked").write_text(builder.fingerprint)
    done = run_in_process("verify", signed.path, "--trust", folder)
    assert (done.returncode, ": all are revoked" in done.stderr) == (7, True), done.stderr


def test_a_list_of_revoked_keys_that_can_not_be_read(
    signed: PackedBundle, builder: Pair, tmp_path: Path, run_in_process: Run
) -> None:
    folder = tmp_path / "trusted"
    folder.mkdir()
    (folder / "b.pub").write_text(builder.public.read_text())
    (folder / "revoked").write_text("# ok\nabc\n")
    done = run_in_process("verify", signed.path, "--trust", folder)
    assert (done.returncode, f"{folder}/revoked, line 2" in done.stderr) == (2, True), done.stderr
    (folder / "revoked").unlink()
    (folder / "revoked").mkdir()
    done = run_in_process("verify", signed.path, "--trust", folder)
    assert (done.returncode, "the list of revoked keys can't be read" in done.stderr) == (2, True), done.stderr


# A prefix remembers.


def next_one(pack: Callable[..., PackedBundle], *pairs: Pair, sequence: int = 2, **contents: bytes) -> PackedBundle:
    files = SMALL | {f"models/m/{name}": data for name, data in contents.items()}
    packed = pack(files, f"next-{sequence}-{len(files)}.tar", version=str(sequence), sequence=sequence)
    return sign(packed, *pairs) if pairs else packed


@pytest.mark.usefixtures("installed")
def test_a_prefix_remembers_and_refuses_others(
    builder: Pair, make_key_pair: Pairs, pack: Callable[..., PackedBundle], prefix: Path, run_in_process: Run
) -> None:
    live = (prefix / "current").readlink()
    memory = prefix / "trust.json"
    assert json.loads(memory.read_bytes()) == {
        "format": 1, "keys": [builder.public.read_text()], "revoked": [], "threshold": 1,
    }  # fmt: skip
    assert stat.S_IMODE(memory.stat().st_mode) == 0o644
    other = make_key_pair("other")
    for bad in (next_one(pack, sequence=2), next_one(pack, other, sequence=3)):
        for arguments in ([], ["--trust", other.public]):
            done = run_in_process("install", bad.path, "--prefix", prefix, *arguments)
            assert (done.returncode, (prefix / "current").readlink()) == (7, live), done.stderr
    assert "of this prefix" in done.stderr
    good = next_one(pack, builder, sequence=4)
    done = run_in_process("install", good.path, "--prefix", prefix, "--json")
    assert (done.returncode, read_result(done)["result"]["trusted"]) == (0, [builder.fingerprint])
    assert "signature not checked" not in done.stderr


@pytest.mark.usefixtures("installed")
def test_a_new_key_takes_over(
    builder: Pair, make_key_pair: Pairs, pack: Callable[..., PackedBundle], prefix: Path, run_in_process: Run
) -> None:
    new = make_key_pair("new")
    both = next_one(pack, builder, new, sequence=2)
    done = run_in_process("install", both.path, "--prefix", prefix, "--trust", new.public)
    assert (done.returncode, f"to make it trust {new.fingerprint} as well" in done.stderr) == (0, True), done.stderr
    shown = read_result(run_in_process("trust", "--prefix", prefix, "--json"))["result"]
    assert shown == {"keys": [builder.fingerprint], "revoked": [], "threshold": 1}
    assert run_in_process("trust", "--prefix", prefix, "--add", new.public).returncode == 0
    done = run_in_process("trust", "--prefix", prefix, "--remove", builder.fingerprint)
    assert (done.returncode, new.fingerprint in done.stdout, builder.fingerprint in done.stdout) == (0, True, False)
    assert run_in_process("install", next_one(pack, builder, sequence=3).path, "--prefix", prefix).returncode == 7
    assert run_in_process("install", next_one(pack, new, sequence=4).path, "--prefix", prefix).returncode == 0


def test_what_changes_a_memory_and_what_does_not(
    installed: PackedBundle, builder: Pair, make_key_pair: Pairs, tmp_path: Path, prefix: Path, run_in_process: Run
) -> None:
    before = (prefix / "trust.json").read_bytes()
    last = run_in_process("trust", "--prefix", prefix, "--remove", builder.fingerprint)
    assert (last.returncode, "0 keys would be left, and 1 must sign" in last.stderr) == (2, True)
    unknown = run_in_process("trust", "--prefix", prefix, "--remove", "0" * 64)
    assert (unknown.returncode, "the prefix does not trust" in unknown.stderr) == (2, True)
    both = run_in_process("trust", "--prefix", prefix, "--forget", "--add", builder.public)
    assert (both.returncode, "--forget excludes --add and --remove" in both.stderr) == (2, True)
    assert (prefix / "trust.json").read_bytes() == before
    folder = tmp_path / "trusted"
    folder.mkdir()
    (folder / "new.pub").write_text(make_key_pair("new").public.read_text())
    (folder / "revoked").write_text(builder.fingerprint + "\n")
    assert run_in_process("trust", "--prefix", prefix, "--add", folder).returncode == 0
    shown = run_in_process("trust", "--prefix", prefix)
    assert f"{builder.fingerprint}  (revoked, not trusted)" in shown.stdout
    assert run_in_process("install", installed.path, "--prefix", prefix).returncode == 7
    again = run_in_process("trust", "--prefix", prefix, "--add", builder.public)
    assert (again.returncode, "this key is revoked" in again.stderr) == (7, True)
    assert run_in_process("trust", "--prefix", prefix, "--forget").returncode == 0
    assert run_in_process("install", installed.path, "--prefix", prefix).returncode == 0, "any bundle is taken now"
    done = run_in_process("install", installed.path, "--prefix", prefix, "--trust", builder.public)
    assert (done.returncode, "which is revoked and does not count" in done.stderr) == (7, True), (
        "who is revoked stays so"
    )


@pytest.mark.usefixtures("installed")
def test_a_revoked_key_is_learned_from_an_install_that_passes(
    builder: Pair,
    make_key_pair: Pairs,
    pack: Callable[..., PackedBundle],
    tmp_path: Path,
    prefix: Path,
    run_in_process: Run,
) -> None:
    second = make_key_pair("second")
    assert run_in_process("trust", "--prefix", prefix, "--add", second.public).returncode == 0
    folder = tmp_path / "trusted"
    folder.mkdir()
    (folder / "second.pub").write_text(second.public.read_text())
    (folder / "revoked").write_text(builder.fingerprint + "\n")
    done = run_in_process("install", next_one(pack, second, sequence=2).path, "--prefix", prefix, "--trust", folder)
    assert done.returncode == 0, done.stderr
    done = run_in_process("install", next_one(pack, builder, sequence=3).path, "--prefix", prefix)
    assert (done.returncode, "which is revoked and does not count" in done.stderr) == (7, True), done.stderr


def test_a_threshold_is_remembered(
    signed: PackedBundle, builder: Pair, make_key_pair: Pairs, prefix: Path, run_in_process: Run
) -> None:
    second = make_key_pair("second")
    trusted = ["--trust", builder.public, "--trust", second.public]
    sign(signed, builder, second)
    assert run_in_process("install", signed.path, "--prefix", prefix, *trusted, "--trust-threshold", 2).returncode == 0
    sign(signed, builder)
    done = run_in_process("install", signed.path, "--prefix", prefix)
    assert (done.returncode, "must be signed by 2 of the keys" in done.stderr) == (7, True), done.stderr


def test_keys_may_be_there_before_the_first_install(
    small: PackedBundle, builder: Pair, prefix: Path, run_in_process: Run
) -> None:
    done = run_in_process("trust", "--prefix", prefix)
    assert (done.returncode, "there is no such prefix" in done.stderr, prefix.exists()) == (2, True, False)
    assert run_in_process("trust", "--prefix", prefix, "--add", builder.public).returncode == 0
    assert run_in_process("install", small.path, "--prefix", prefix).returncode == 7
    assert run_in_process("install", sign(small, builder).path, "--prefix", prefix).returncode == 0


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"[]", b"[" * 100_000, b'{"format":1,"keys":[],"revoked":[],"threshold":1}',
        b'{"format":2,"keys":["x"],"revoked":[],"threshold":1}', b'{"format":1,"keys":["x"],"revoked":[],"threshold":1}',
        b'{"format":1,"keys":["x"],"revoked":["y"],"threshold":1}', b'{"format":1,"keys":["x"],"revoked":[],"threshold":0}',
    ],
)  # fmt: skip
def test_a_damaged_memory_trusts_nobody(
    installed: PackedBundle, prefix: Path, run_in_process: Run, damage: bytes
) -> None:
    (prefix / "trust.json").write_bytes(damage)
    done = run_in_process("install", installed.path, "--prefix", prefix)
    assert (done.returncode, "the prefix's trusted keys are damaged" in done.stderr) == (7, True), done.stderr
    assert "--forget" in done.stderr
    assert run_in_process("trust", "--prefix", prefix, "--forget").returncode == 0


def test_a_failed_install_remembers_nothing(
    signed: PackedBundle, builder: Pair, prefix: Path, run_in_process: Run
) -> None:
    data = bytearray(signed.path.read_bytes())
    data[signed.lock.head_size + 10] ^= 1
    signed.path.write_bytes(data)
    assert run_in_process("install", signed.path, "--prefix", prefix, "--trust", builder.public).returncode == 6
    assert not (prefix / "trust.json").exists()


# Older than what is live.


def test_an_older_bundle_needs_to_be_allowed(
    installed: PackedBundle, builder: Pair, pack: Callable[..., PackedBundle], prefix: Path, run_in_process: Run
) -> None:
    newer = next_one(pack, builder, sequence=5)
    assert run_in_process("install", newer.path, "--prefix", prefix).returncode == 0
    live = (prefix / "current").readlink()
    done = run_in_process("install", installed.path, "--prefix", prefix)
    assert (done.returncode, "sequence 1 is older than 5, which was installed here" in done.stderr) == (7, True), (
        done.stderr
    )
    assert (prefix / "current").readlink() == live
    allowed = run_in_process("install", installed.path, "--prefix", prefix, "--allow-downgrade")
    assert (allowed.returncode, "this is a downgrade, as allowed" in allowed.stderr) == (0, True), allowed.stderr
    assert (prefix / "current").readlink() != live
    assert run_in_process("install", newer.path, "--prefix", prefix).returncode == 0
    assert run_in_process("rollback", "--prefix", prefix).returncode == 0


def test_neither_another_bundle_nor_a_lost_release_makes_room_for_an_older_one(
    installed: PackedBundle, builder: Pair, pack: Callable[..., PackedBundle], prefix: Path, run_in_process: Run
) -> None:
    assert run_in_process("install", next_one(pack, builder, sequence=5).path, "--prefix", prefix).returncode == 0
    other = sign(pack_named(pack, "other", sequence=0), builder)
    assert run_in_process("install", other.path, "--prefix", prefix).returncode == 0
    assert run_in_process("install", installed.path, "--prefix", prefix).returncode == 7
    assert run_in_process("prune", "--prefix", prefix, "--keep", "1").returncode == 0
    done = run_in_process("install", installed.path, "--prefix", prefix)
    assert (done.returncode, "sequence 1 is older than 5" in done.stderr) == (7, True), done.stderr
    (prefix / "sequences.json").write_bytes(b"{")
    done = run_in_process("install", installed.path, "--prefix", prefix)
    assert (done.returncode, "the stored sequence numbers are damaged" in done.stderr) == (7, True), done.stderr


@pytest.mark.parametrize("receipt", [b"{", None], ids=["damaged", "gone"])
def test_a_receipt_that_does_not_say_lets_no_older_bundle_pass(
    installed: PackedBundle,
    builder: Pair,
    pack: Callable[..., PackedBundle],
    prefix: Path,
    run_in_process: Run,
    receipt: bytes | None,
) -> None:
    assert run_in_process("install", next_one(pack, builder, sequence=5).path, "--prefix", prefix).returncode == 0
    (prefix / "sequences.json").unlink()  # as an older version of this program leaves a prefix
    (prefix / "current" / "receipt.json").unlink()
    if receipt is not None:
        (prefix / "current" / "receipt.json").write_bytes(receipt)
    done = run_in_process("install", installed.path, "--prefix", prefix)
    assert (done.returncode, "sequence 1 is older than 5" in done.stderr) == (7, True), done.stderr


def test_the_live_bundle_may_be_installed_again_whatever_was_rolled_back(
    installed: PackedBundle, builder: Pair, pack: Callable[..., PackedBundle], prefix: Path, run_in_process: Run
) -> None:
    assert run_in_process("install", next_one(pack, builder, sequence=5).path, "--prefix", prefix).returncode == 0
    assert run_in_process("rollback", "--prefix", prefix).returncode == 0
    assert run_in_process("install", installed.path, "--prefix", prefix).returncode == 0
    between = next_one(pack, builder, sequence=3)
    assert run_in_process("install", between.path, "--prefix", prefix).returncode == 7, "mending lowers nothing"


def test_what_another_run_learned_meanwhile_counts(
    signed: PackedBundle, builder: Pair, make_key_pair: Pairs, pack: Callable[..., PackedBundle], prefix: Path, run_in_process: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """This run was let in before the other one; it finds the prefix trusting others when its turn comes."""
    other = next_one(pack, make_key_pair("other"), sequence=9)
    find = preflight.find_python

    def another_run_meanwhile(target: Target) -> Path:
        monkeypatch.setattr(preflight, "find_python", find)
        assert run_in_process("install", signed.path, "--prefix", prefix, "--trust", builder.public).returncode == 0
        return find(target)

    monkeypatch.setattr(preflight, "find_python", another_run_meanwhile)
    done = run_in_process("install", other.path, "--prefix", prefix)
    assert (done.returncode, "of this prefix" in done.stderr) == (7, True), done.stderr
    assert (prefix / "current").readlink().name == signed.lock.release_name


def test_another_bundle_of_the_same_sequence_is_warned_about(
    installed: PackedBundle, builder: Pair, pack: Callable[..., PackedBundle], prefix: Path, run_in_process: Run
) -> None:
    same = run_in_process("install", installed.path, "--prefix", prefix, "--json")
    assert (same.returncode, "another bundle" in same.stderr) == (0, False)
    twin = next_one(pack, builder, sequence=1, more=b"x")
    done = run_in_process("install", twin.path, "--prefix", prefix)
    assert (done.returncode, "another bundle of sequence 1 is live" in done.stderr) == (0, True), done.stderr


def pack_named(pack: Callable[..., PackedBundle], name: str, sequence: int) -> PackedBundle:
    """A bundle of another name; the fixture's own ``name`` is the file's."""
    packed = pack(SMALL, f"{name}.tar")
    locked = lockfile.replace_fields(packed.lock, name=name, sequence=sequence)
    archive.rewrite_head(packed.path, locked, None)
    return PackedBundle(packed.path, locked, packed.contents)


@pytest.mark.usefixtures("installed")
def test_a_bundle_of_another_name_has_a_sequence_of_its_own(
    builder: Pair, pack: Callable[..., PackedBundle], prefix: Path, run_in_process: Run
) -> None:
    other = sign(pack_named(pack, "other", sequence=0), builder)
    assert run_in_process("install", other.path, "--prefix", prefix).returncode == 0
