"""Bundles that lie, one lie at a time, through the real command line: from a file and from a pipe, seen and installed.

Where a lie can be told in the lock, the sums and the headers alike it is: no digest gives it away.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.format.lock import entries, lockfile
from tests.support.bundles import make_bundle_bytes, make_lock
from tests.support.forging import (
    CONTENTS,
    GOOD,
    add_records,
    forge_bundle,
    make_head,
    make_lock_text,
    member,
    record,
    replace_head,
)
from tests.support.programs import Run

Files = list[tuple[str, entries.ArtifactKind, bytes]]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_refused(run: Run, folder: Path, data: bytes, code: int, message: str) -> None:
    """All four ways of reading it end alike, in words, and nothing is left in the prefix or written beside it."""
    path, prefix = folder / "in" / "hostile.bundle.tar", folder / "opt" / "prefix"
    path.parent.mkdir()
    path.write_bytes(data)
    (folder / "victim").write_text("untouched")
    before = tree(folder)
    ways: list[tuple[list[object], bytes]] = [
        (["verify", path], b""),
        (["verify", "-"], data),
        (["install", path, "--prefix", prefix], b""),
        (["install", "-", "--prefix", prefix], data),
    ]
    for arguments, stdin in ways:
        found, told = run(*arguments, stdin=stdin)
        assert (found, told["ok"]) == (code, False), (arguments, told)
        assert message in told["error"]["message"], (arguments, told["error"]["message"])
        assert told["error"]["hint"]
        after = {name: text for name, text in tree(folder).items() if name != "opt/prefix/.lock"}
        assert after == before, arguments
        assert not (prefix / "current").is_symlink()


def test_the_bundle_that_the_lies_are_told_in_is_good(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "good.tar"
    path.write_bytes(GOOD)
    assert run("verify", path)[0] == 0
    assert run("verify", "-", stdin=forge_bundle(lambda files: None))[0] == 0


def putting(*added: tuple[str, entries.ArtifactKind, bytes]) -> Callable[[Files], object]:
    return lambda files: files.extend(added)


def twice(path: str) -> Callable[[Files], object]:
    return lambda files: files.append(next(one for one in files if one[0] == path))


def asset(path: str) -> Callable[[Files], object]:
    return putting((path, "asset", b"evil"))


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (asset("assets/../../../evil"), 8, "contains '..'"),
        (asset("../evil"), 8, "contains '..'"),
        (asset("/tmp/evil"), 8, "is absolute"),
        (asset("assets/\\..\\evil"), 8, "contains '\\\\'"),
        (asset("C:/evil"), 8, "contains ':'"),
        (asset("assets/c:evil"), 6, "contains ':'"),
        (asset("assets/./evil"), 6, "contains '.'"),
        (asset("assets//evil"), 6, "has an empty component"),
        (asset("assets/evil/"), 6, "has an empty component"),
        (asset("assets/a\nb"), 6, "contains a control character"),
        (asset("assets/\u202eevil"), 6, "contains a control character"),
        (asset("assets/nul.txt"), 6, "a device name on Windows"),
        (asset("assets/evil. "), 6, "ends in a space or a dot"),
        (asset("assets/" + "d/" * 40 + "evil"), 6, "folders deep"),
        (asset("assets/" + "e" * 256), 6, "has a component"),
        (asset("evil"), 6, "is not where an artifact of kind asset belongs"),
        (asset("models/m/evil"), 6, "is not where an artifact of kind asset belongs"),
        (asset("venv/bin/python"), 6, "is not where an artifact of kind asset belongs"),
        (twice("assets/words.txt"), 6, "is listed twice"),
        (putting(("assets/WORDS.txt", "asset", b"")), 6, "differs from 'assets/words.txt' only by case"),
        (
            putting(("assets/caf\u00e9", "asset", b""), ("assets/cafe\u0301", "asset", b"")),
            6,
            "only by case or accent form",
        ),
        (putting(("assets/words.txt/x", "asset", b"")), 6, "is a file and a folder"),
        (putting(("models/m/late.bin", "model", b"")), 6, "must be in the order"),
        (lambda files: files.reverse(), 6, "must begin with bundle.pyz"),
        (lambda files: files.pop(0), 6, "must begin with bundle.pyz"),
        (putting(("app/x", "app", b"")), 0, ""),
    ],
)
def test_paths_that_a_forged_lock_names(
    run: Run, tmp_path: Path, change: Callable[[Files], object], code: int, message: str
) -> None:
    data = forge_bundle(change)
    if code == 0:  # the forger tells the truth: what is refused above is refused for the lie alone
        assert run("verify", "-", stdin=data)[0] == 0
    else:
        check_refused(run, tmp_path, data, code, message)


def other_model(files: Files) -> None:
    files.insert(-1, ("models/other/x", "model", b""))


@pytest.mark.parametrize(
    ("change", "changes", "message"),
    [
        (other_model, {}, "belongs to no model"),
        (lambda files: None, {"name": "../evil"}, "is not a valid name"),
        (lambda files: None, {"version": "../../evil"}, "is not a valid version"),
        (lambda files: None, {"env": {"A": "{model:../../x}"}}, "which the bundle does not contain"),
        (lambda files: None, {"env": {"A\nB": "x"}}, "which is not printable"),
        (lambda files: None, {"head_size": 1 << 30}, "must be a multiple of 65536"),
        (lambda files: None, {"sequence": -1}, "sequence"),
        (lambda files: None, {"source_date_epoch": 1 << 33}, "source_date_epoch"),
        (lambda files: None, {"created_by": "x\x1b[2J"}, "which is not printable"),
    ],
)
def test_values_that_a_forged_lock_holds(
    run: Run, tmp_path: Path, change: Callable[[Files], object], changes: dict[str, Any], message: str
) -> None:
    if changes.get("head_size") or changes.get("source_date_epoch"):
        text = lockfile.encode_canonical_json(json.loads(make_lock_text(GOOD)) | changes)
        check_refused(run, tmp_path, make_head(text), 6, message)
    else:
        check_refused(run, tmp_path, forge_bundle(change, **changes), 6, message)


def crowd(count: int) -> bytes:
    document = json.loads(make_lock_text(GOOD))
    document["artifacts"] = document["artifacts"][:1] * count
    return lockfile.encode_canonical_json(document)


def text(old: str, new: str) -> bytes:
    known = make_lock_text(GOOD)
    assert old.encode() in known
    return known.replace(old.encode(), new.encode("utf-8", "surrogatepass"), 1)


HEADS: dict[str, tuple[Callable[[], bytes], str]] = {
    "claims 33 MiB": (lambda: make_head(b"{}", 33 << 20), "bundle.json states 34,603,008 bytes"),
    "claims nothing": (lambda: make_head(b"", 0), "bundle.json states 0 bytes"),
    "claims more than there is": (lambda: make_head(b"{}", 1 << 20), "ends at byte"),
    "100,001 artifacts": (lambda: make_head(crowd(100_001)), "has 100,001 files; at most 100,000 are allowed"),
    "millions of lists": (lambda: make_head(b'{"a":[' + b"[]," * 500_000 + b"[]]}\n"), "is not JSON"),
    "nested 100,000 deep": (lambda: make_head(b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n"), "is not JSON"),
    "an integer of a million digits": (
        lambda: make_head(text('"sequence":1', '"sequence":' + "9" * 1_000_000)),
        "is not JSON",
    ),
    "an integer of 20 digits": (lambda: make_head(text('"sequence":1', '"sequence":' + "9" * 20)), "sequence"),
    "NaN": (lambda: make_head(text('"sequence":1', '"sequence":NaN')), "is not JSON"),
    "Infinity": (lambda: make_head(text('"sequence":1', '"sequence":Infinity')), "is not JSON"),
    "a float": (lambda: make_head(text('"sequence":1', '"sequence":1.0')), "is not JSON"),
    "an exponent": (lambda: make_head(text('"sequence":1', '"sequence":1e999999999')), "is not JSON"),
    "a key twice": (lambda: make_head(text('"sequence":1', '"sequence":1,"sequence":1')), "not in canonical form"),
    "a space": (lambda: make_head(text('"sequence":1', '"sequence": 1')), "not in canonical form"),
    "escapes": (lambda: make_head(text('"a test"', '"\\u0061 test"')), "not in canonical form"),
    "no line end": (lambda: make_head(make_lock_text(GOOD)[:-1]), "not in canonical form"),
    "two line ends": (lambda: make_head(make_lock_text(GOOD) + b"\n"), "its header does not match the lock"),
    "keys in another order": (
        lambda: make_head(json.dumps(dict(reversed(json.loads(make_lock_text(GOOD)).items()))).encode() + b"\n"),
        "not in canonical form",
    ),
    "invalid UTF-8": (lambda: make_head(make_lock_text(GOOD).replace(b"a test", b"a \xff\xfe st", 1)), "is not JSON"),
    "a lone surrogate": (lambda: make_head(text('"a test"', '"\\ud800"')), "is not printable"),
    "a lone surrogate where any text may stand": (
        lambda: make_head(text('"texts":[]', '"texts":["\\ud800"]')),
        "not in canonical form",
    ),
    "a surrogate as bytes": (lambda: make_head(text('"a test"', '"\ud800"')), "is not JSON"),
    "UTF-16": (lambda: make_head(make_lock_text(GOOD).decode().encode("utf-16")), "is not JSON"),
    "a byte order mark": (lambda: make_head(b"\xef\xbb\xbf" + make_lock_text(GOOD)), "is not JSON"),
    "a list": (lambda: make_head(b"[]\n"), "this version does not read format None"),
    "artifacts that are a number": (
        lambda: make_head(text('"artifacts":[', '"artifacts":1,"x":[')),
        "breaks the format",
    ),
    "format 2": (lambda: make_head(text('"format":1', '"format":2')), "this version does not read format 2"),
    "format true": (lambda: make_head(text('"format":1', '"format":true')), "format"),
    "an unknown field": (lambda: make_head(text('"format":1', '"extra":1,"format":1')), "unknown key"),
    "a megabyte of key": (lambda: make_head(text('"format":1', f'"{"k" * 2**20}":1,"format":1')), "breaks the format"),
    "a head of 256 MiB": (
        lambda: make_head(text('"head_size":65536', f'"head_size":{256 << 20}')),
        "the head claims 268,435,456 bytes",
    ),
    "content of an exabyte": (
        lambda: make_head(text('"size":5000', f'"size":{(1 << 53) - 1}')),
        "have more bytes than a file can have",
    ),
    "a negative size": (lambda: make_head(text('"size":5000', '"size":-5000')), "must be a number of bytes"),
    "no bundle at all": (lambda: b"PK\3\4" + bytes(10_000), "this is not a bundle"),
    "nothing": (lambda: b"", "the bundle is empty: it has 0 bytes"),
    "one zero": (lambda: b"\0", "this is not a bundle"),
}


@pytest.mark.parametrize("lie", HEADS)
def test_heads_that_no_builder_writes(run: Run, tmp_path: Path, lie: str) -> None:
    data, message = HEADS[lie]
    check_refused(run, tmp_path, data(), 6, message)


W, LINK, FIRST = "models/m/w.bin", "models/m/z.txt", "models/m/config.json"


def without(name: str) -> bytes:
    one = member(name)
    return GOOD[: one.header_offset] + GOOD[one.end + one.padding :]


def swapped() -> bytes:
    """Two members in each other's place, each with its own header and content."""
    first, second = member(FIRST), member(W)
    a, b = (
        GOOD[first.header_offset : first.end + first.padding],
        GOOD[second.header_offset : second.end + second.padding],
    )
    return GOOD[: first.header_offset] + b + a + GOOD[second.end + second.padding :]


def extra() -> bytes:
    """A member that the lock does not name, before the end."""
    one = member("assets/words.txt")
    again = GOOD[one.header_offset : one.end + one.padding].replace(b"assets/words.txt", b"assets/extra.txt")
    end = one.end + one.padding
    return GOOD[:end] + again + GOOD[end:]


HEADER = "its header does not match the lock"
BEHIND = "there are bytes after the end"

TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a symbolic link out": (lambda: replace_head(W, type=b"2", link=b"/etc/passwd", size=b"0" * 11), HEADER),
    "a symbolic link, then a file through it": (lambda: replace_head(FIRST, type=b"2", link=b"../../.."), HEADER),
    "a hard link to nothing": (lambda: replace_head(LINK, link=b"models/m/none"), HEADER),
    "a hard link forward": (lambda: replace_head(FIRST, type=b"1", link=W.encode()), HEADER),
    "a hard link out": (lambda: replace_head(LINK, link=b"../../../etc/passwd"), HEADER),
    "a hard link to itself": (lambda: replace_head(LINK, link=LINK.encode()), HEADER),
    "a hard link that has content": (lambda: replace_head(LINK, size=b"00000000002"), HEADER),
    "a character device": (lambda: replace_head(W, type=b"3"), HEADER),
    "a block device": (lambda: replace_head(W, type=b"4"), HEADER),
    "a folder": (lambda: replace_head(W, type=b"5"), HEADER),
    "a FIFO": (lambda: replace_head(W, type=b"6"), HEADER),
    "a contiguous file": (lambda: replace_head(W, type=b"7"), HEADER),
    "GNU sparse": (lambda: replace_head(W, type=b"S"), HEADER),
    "an old regular file": (lambda: replace_head(W, type=b"\0"), HEADER),
    "setuid": (lambda: replace_head(W, mode=b"0004755\0"), HEADER),
    "traversal in a header": (lambda: replace_head(W, name=b"../../evil"), HEADER),
    "an absolute path in a header": (lambda: replace_head(W, name=b"/tmp/evil"), HEADER),
    "traversal in a prefix": (lambda: replace_head(W, prefix=b"../.."), HEADER),
    "a size that is smaller": (lambda: replace_head(W, size=b"%011o" % 100), HEADER),
    "a size that is larger": (lambda: replace_head(W, size=b"%011o" % 100_000), HEADER),
    "8 GiB in base-256": (lambda: replace_head(W, size=b"\x80" + (8 << 30).to_bytes(11, "big")), HEADER),
    "a negative size in base-256": (lambda: replace_head(W, size=b"\xff" * 12), HEADER),
    "a size that is no number": (lambda: replace_head(W, size=b"9" * 11), HEADER),
    "another order": (swapped, HEADER),
    "a member that is missing": (lambda: without(W), "the bundle is cut short"),
    "a member that nobody named": (extra, "what the lock says"),
    "a pax record that renames": (lambda: add_records(W, record(b"path", b"../../evil")), HEADER),
    "a pax record that resizes": (lambda: add_records(W, record(b"size", b"10")), HEADER),
    "a pax record that links": (lambda: add_records(LINK, record(b"linkpath", b"/etc/passwd")), HEADER),
    "a pax record for sparse files": (lambda: add_records(W, record(b"GNU.sparse.realsize", b"9")), HEADER),
    "pax records for all that follows": (lambda: add_records(W, record(b"path", b"evil"), b"g"), HEADER),
    "a GNU long name": (lambda: add_records(W, b"../../evil\0", b"L"), HEADER),
    "a GNU long link": (lambda: add_records(LINK, b"/etc/passwd\0", b"K"), HEADER),
    "a second tar behind": (lambda: GOOD + GOOD, BEHIND),
    "a member behind the end": (lambda: GOOD + GOOD[member(W).header_offset :], BEHIND),
    "one byte behind": (lambda: GOOD + b"\0", BEHIND),
    "ten thousand zeros behind": (lambda: GOOD + bytes(10_240 * 100), BEHIND),
    "no end": (lambda: GOOD[:-1024], "the bundle is cut short"),
    "an end of other bytes": (lambda: GOOD[:-1] + b"x", "must be two blocks of zero bytes"),
    "something in the padding": (
        lambda: GOOD[: member(W).end] + b"x" + GOOD[member(W).end + 1 :],
        "the bytes after it must be zero",
    ),
    "a byte of content": (lambda: GOOD.replace(b"w" * 100, b"w" * 99 + b"v", 1), "content differs"),
    "sums of another": (lambda: GOOD.replace(b"  models/m/w.bin\n", b"  models/m/W.bin\n", 1), "SHA256SUMS"),
    "a header for bundle.pyz": (lambda: replace_head("bundle.pyz", type=b"2", link=b"/bin/sh"), HEADER),
    "a header for the lock": (lambda: replace_head("bundle.json", type=b"2", link=b"/etc/passwd"), HEADER),
}


@pytest.mark.parametrize("lie", TARS)
def test_tars_that_say_other_than_their_lock(run: Run, tmp_path: Path, lie: str) -> None:
    data, message = TARS[lie]
    check_refused(run, tmp_path, data(), 6, message)


def test_a_signature_that_is_too_large(run: Run, tmp_path: Path) -> None:
    signed = make_bundle_bytes(make_lock(CONTENTS, head_size=2 * lockfile.HEAD_ALIGNMENT), CONTENTS, b"s" * 100)
    at = signed.index(b"bundle.sig\0")
    block = bytearray(signed[at : at + 512])
    block[124:136] = b"%011o\0" % (2 << 20)
    check_refused(run, tmp_path, signed[:at] + bytes(block) + signed[at + 512 :], 6, "bundle.sig")
