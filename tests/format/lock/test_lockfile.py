"""The lock: canonical bytes, and everything that a reader refuses."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from bundler.errors import IntegrityError, UnsafeError
from bundler.format import documents, hashing, paths
from bundler.format.lock import entries, goldens, lockfile
from tests.support.bundles import SMALL, make_lock

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@given(
    files=st.dictionaries(
        st.from_regex(r"models/[a-c]/[a-z가-힣]{1,8}(/[a-z]{1,4})?\.bin", fullmatch=True),
        st.binary(max_size=40),
        max_size=6,
    ),
    texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=3),
    sequence=st.integers(0, 2**53 - 1),
)
def test_a_lock_survives_its_own_bytes(files: dict[str, bytes], texts: list[str], sequence: int) -> None:
    known = make_lock({"bundle.pyz": b"x", **files}, sequence=sequence, smoke=entries.SmokeSettings(texts=tuple(texts)))
    again = lockfile.read_lock(known.canonical_bytes, "here")
    assert again == known
    assert again.canonical_bytes == known.canonical_bytes


def test_the_bytes_are_canonical_json() -> None:
    data = make_lock(SMALL).canonical_bytes
    assert data == rfc8785.dumps(json.loads(data)) + b"\n"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
@example({"\uffff": 1, "\U00010000": 2, "a": {"\ue000": 1, "\U0001f600": 2}})
def test_canonical_json_is_that_of_rfc_8785(document: Any) -> None:
    assert lockfile.encode_canonical_json(document) == rfc8785.dumps(document) + b"\n"


def test_an_integer_that_is_not_exact_in_every_language_is_refused() -> None:
    data = make_lock(SMALL).canonical_bytes.replace(b'"size":5000', b'"size":9007199254740992')
    with pytest.raises(IntegrityError, match=r"artifacts\[2\]\.size: must be at most 9007199254740991"):
        lockfile.read_lock(data, "here")


FROM_THE_REHEARSAL = ("goldens", "rehearsed", "unrehearsed")


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Values for some fields of a lock that the rehearsal does not fill."""
    path = draw(st.from_regex(r"assets/[a-z]{1,8}", fullmatch=True))
    digest = hashing.Sha256(draw(st.from_regex(r"[0-9a-f]{64}", fullmatch=True)))
    origin = draw(st.from_regex(r"[a-z]{1,9}", fullmatch=True))
    extra = entries.Artifact(path=path, kind="asset", size=draw(st.integers(0, 99)), sha256=digest, origin=origin)
    base = make_lock(SMALL)
    model = dataclasses.replace(base.models[0], trust_remote_code=True, loader=origin, licence=origin)
    known: dict[str, Any] = {
        "name": origin,
        "version": origin,
        "sequence": draw(st.integers(2, 1 << 40)),
        "created_by": origin,
        "source_date_epoch": draw(st.integers(0, 99)),
        "manifest_sha256": digest,
        "target": dataclasses.replace(base.target, python=f"3.{draw(st.integers(12, 14))}"),
        "models": (model,),
        "closure": (entries.ModelDependency(model="m", file="w.bin", reason=origin, to="m"),),
        "pickles": (entries.PickleFile(path="models/m/w.bin", scanner=origin, verdict="innocuous"),),
        "conversions": (entries.Conversion(path="models/m/w.bin", source=origin, sha256=digest, by=origin),),
        "python": entries.PythonEnvironment(requirements=(origin,)),
        "smoke": entries.SmokeSettings(texts=(origin,)),
        "env": {"A": origin},
        "image": entries.Image(base=origin, digest=f"sha256:{digest}"),
        "app": entries.App(entrypoint=(origin,)),
        "head_size": base.head_size + lockfile.HEAD_ALIGNMENT,
        "artifacts": (*base.artifacts, extra),
    }
    assert set(known) == {field.name for field in dataclasses.fields(lockfile.Lock)} - {"format", *FROM_THE_REHEARSAL}
    names = draw(st.lists(st.sampled_from(sorted(known)), min_size=1, unique=True))
    return {name: known[name] for name in names}


@given(changed=changes(), why=st.from_regex(r"[a-z ]{1,20}", fullmatch=True), rehearsed=st.booleans())
def test_the_reviewed_digest_covers_all_but_what_the_rehearsal_adds(
    changed: dict[str, Any], why: str, rehearsed: bool
) -> None:
    known = make_lock(SMALL)
    golden = goldens.Golden(alias="m", device="cpu", dtype=why, machine="x", versions={}, outputs=())
    added = {"rehearsed": True, "goldens": (golden,)} if rehearsed else {"unrehearsed": why}
    sealed = lockfile.replace_fields(known, **added)
    assert (sealed.reviewed_digest, sealed.digest == known.digest) == (known.reviewed_digest, False)
    other = lockfile.replace_fields(known, **changed)
    assert other.reviewed_digest != known.reviewed_digest
    assert lockfile.replace_fields(sealed, **changed).reviewed_digest == other.reviewed_digest
    left = {key: value for key, value in json.loads(other.canonical_bytes).items() if key not in FROM_THE_REHEARSAL}
    assert json.loads(other.reviewed_bytes) == left


def break_lock(change: Any) -> bytes:
    document = documents.encode(make_lock(SMALL))
    change(document)
    return lockfile.encode_canonical_json(document)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "this version does not read format 2"),
        (lambda d: d.update(extra=1), "extra: unknown key"),
        (lambda d: d.pop("name"), "name: is required"),
        (lambda d: d.update(sequence=True), "sequence: must be an integer"),
        (lambda d: d.update(name="Über"), "is not a valid name"),
        (lambda d: d.update(head_size=1000), "head_size: must be a multiple of 65536"),
        (lambda d: d.update(image={"base": "a", "digest": "md5:1", "user": 1}), "image.digest: must be sha256:"),
        (lambda d: d.update(image={"base": "", "digest": f"sha256:{'0' * 64}", "user": 1}), "and needs a base"),
        (lambda d: d.update(env={"A B": "x"}), "env: 'A B' is not the name of a variable"),
        (lambda d: d.update(env={"A": "x\nUSER root"}), "env.A contains '\\n', which is not printable"),
        (
            lambda d: d.update(env={"A": "{model:../../etc}"}),
            "env: A names '../../etc', which the bundle does not contain",
        ),
        (lambda d: d["artifacts"].reverse(), "artifacts: must begin with bundle.pyz"),
        (lambda d: d["artifacts"].append(d["artifacts"][1]), "is listed twice"),
        (lambda d: d["artifacts"][1].update(path="/etc/passwd"), "artifacts[1].path: '/etc/passwd' is absolute"),
        (lambda d: d["artifacts"][1].update(path="models/m/../../x"), "contains '..'"),
        (lambda d: d["artifacts"][1].update(path="wheels/x"), "is not where an artifact of kind model belongs"),
        (lambda d: d["artifacts"][1].update(size=-1), "artifacts[1].size: must be a number of bytes"),
        (lambda d: d["artifacts"][1].update(sha256="A" * 64), "artifacts[1].sha256: must be 64 lower-case"),
        (lambda d: d["artifacts"][1].update(sha256="0" * 64), "the digest of m does not match its files"),
        (lambda d: d["models"][0].update(alias="other"), "belongs to no model"),
        (lambda d: d["models"][0].update(commit="main"), "models[0].commit: must be 40"),
        (lambda d: d["models"][0].update(revisions=["../../x"]), "is not the name of a revision"),
        (lambda d: d["target"].update(libc="2.28"), "target.libc: must be such as glibc-2.28"),
        (lambda d: d["smoke"].update(tolerance="a little"), "smoke.tolerance: must be a decimal number"),
        (
            lambda d: d["python"].update(packages=[{"name": "a", "version": "1", "wheel": "wheels/a.whl"}]),
            "wheels and packages do not match",
        ),
    ],
)
def test_what_breaks_the_format_is_refused_by_name(change: Any, message: str) -> None:
    with pytest.raises((IntegrityError, UnsafeError)) as caught:
        lockfile.read_lock(break_lock(change), "there")
    assert message in str(caught.value)
    assert isinstance(caught.value, UnsafeError) == any(bad in message for bad in ("is absolute", "'..'"))
    assert caught.value.where == "there"


@pytest.mark.parametrize(
    "data",
    [b"", b"not json", b"[]", b'{"format":1.0}\n', b'{"format":NaN}\n', b"[" * 100_000, b'{"format":1}'],
    ids=["empty", "words", "list", "float", "nan", "deep", "fields missing"],
)
def test_what_is_no_lock_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        lockfile.read_lock(data, "there")


def test_another_spelling_of_the_same_lock_is_refused() -> None:
    known = make_lock(SMALL).canonical_bytes
    for other in (known[:-1], known + b"\n", known.replace(b'{"', b'{ "', 1)):
        with pytest.raises(IntegrityError):
            lockfile.read_lock(other, "there")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "empty"), ("/a", "absolute"), ("a/../b", "'..'"), ("./a", "'.'"), ("a//b", "empty component"), ("a/", "empty component"),
        ("a\\b", "'\\\\'"), ("c:x", "':'"), ("a\nb", "control"), ("a\x85b", "control"), ("nul", "device"), ("x/COM1.txt", "device"),
        ("a.", "dot"), ("a ", "space"), ("a?", "'?'"), ("가" * 86, "255"), ("a/" * 600 + "b", "1024"), ("\ud800", "Unicode"),
    ],
)  # fmt: skip
def test_paths_that_may_not_stand_in_a_bundle(path: str, why: str) -> None:
    assert why in paths.find_path_problem(path)


@given(NAMES)
def test_no_accepted_path_escapes(path: str) -> None:
    from pathlib import PurePosixPath, PureWindowsPath

    if not paths.find_path_problem(path):
        for flavour in (PurePosixPath, PureWindowsPath):
            joined = flavour("/home") / path
            assert flavour("/home") in joined.parents
            assert ".." not in joined.parts


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/B", "a/b"], "differs from 'a/B' only by case"),
        (["caf\u00e9", "cafe\u0301"], "only by case or accent form"),
        (["a", "a/b"], "is a file and a folder"),
        (["A/x", "a/y"], "folder 'a' differs from 'A'"),
        (["x", "x"], "is listed twice"),
        (["stra\u00dfe", "STRASSE"], "only by case"),
    ],
)
def test_names_that_clash_somewhere(names: list[str], message: str) -> None:
    assert message in "; ".join(paths.find_collisions(names))


def test_names_that_do_not_clash() -> None:
    assert paths.find_collisions(["a/b", "a/c", "b", "한글/가", "한글/나"]) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(created_by="x\n  digest 0000"),
        lambda d: d["models"][0].update(licence="mit\x1b[32m"),
        lambda d: d["models"][0].update(source="\u202egnp.exe"),
        lambda d: d["artifacts"][1].update(origin="\u200b"),
        lambda d: d["python"].update(requirements=["a\rb"]),
    ],
)
def test_words_that_would_deceive_their_reader_are_refused(change: Any) -> None:
    with pytest.raises(IntegrityError, match="is not printable") as caught:
        lockfile.read_lock(break_lock(change), "there")
    assert not paths.find_unprintable(str(caught.value).replace("\n", ""))


def test_a_lone_surrogate_is_refused() -> None:
    data = make_lock(SMALL).canonical_bytes.replace(b'"created_by":"a test"', b'"created_by":"\\ud800"')
    with pytest.raises(IntegrityError, match="is not printable"):
        lockfile.read_lock(data, "there")


def test_a_deep_or_crowded_lock_is_refused_at_once() -> None:
    assert "folders deep" in paths.find_path_problem("/".join("a" * 40))
    many = {f"models/m{n}/x": b"" for n in range(lockfile.MAX_MODELS + 1)}
    with pytest.raises(documents.InvalidValueError, match="more than 1000 models"):
        make_lock({"bundle.pyz": b"x", **many})


def test_two_ids_of_one_hub_folder_are_refused() -> None:
    contents = {"bundle.pyz": b"x", "models/a/x": b"1", "models/b/x": b"2"}
    first, second = make_lock(contents).models
    models = (dataclasses.replace(first, repo_id="a/b--c"), dataclasses.replace(second, repo_id="a--b/c"))
    with pytest.raises(documents.InvalidValueError, match="is listed twice"):
        make_lock(contents, models=models)


def make_carried_image(name: str, digest: str) -> lockfile.Lock:
    """A lock with one blob of a base image."""
    image = entries.Image(base="python", digest=f"sha256:{digest}")
    return make_lock({"bundle.pyz": b"x", f"{entries.BLOBS_FOLDER}{name}": b"{}"}, image=image)


def test_a_carried_base_holds_the_manifest_that_is_pinned_and_blobs_by_their_digests() -> None:
    right = hashing.compute_sha256(b"{}")
    assert (
        lockfile.read_lock(make_carried_image(right, right).canonical_bytes, "").image.loaded_name
        == f"localhost/bundle-base:{right[:12]}"
    )
    with pytest.raises(documents.InvalidValueError, match=r"must contain the manifest that image\.digest names"):
        make_carried_image(right, "0" * 64)
    with pytest.raises(documents.InvalidValueError, match="is not named by its digest"):
        make_carried_image("0" * 64, "0" * 64)


@pytest.mark.parametrize("base", ["host:5000/a/b", "host:5000/a/b:1", "host:5000/a/b:1@sha256:" + "1" * 64])
def test_a_pinned_name_has_the_digest_and_no_tag(base: str) -> None:
    digest = f"sha256:{'0' * 64}"
    assert entries.Image(base=base, digest=digest).pinned_name == f"host:5000/a/b@{digest}"
