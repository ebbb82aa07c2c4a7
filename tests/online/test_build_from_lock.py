"""A lock keeps who resolved it and what was built from which source code, and a build from it gives the same again."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.errors import IntegrityError, ResolveError
from bundler.format.hashing import compute_file_sha256
from bundler.format.lock.entries import Artifact, Upstream
from bundler.format.lock.lockfile import Lock
from bundler.format.lock.target import detect_target
from bundler.online import build
from bundler.online.build import BuildOptions, BuiltBundle
from bundler.online.transfer.context import BuildContext
from bundler.output import lock_text
from tests.support.resolving import ResolverHarness
from tests.support.sourcemaking import make_backend, make_source

HERE = detect_target()


@pytest.fixture
def context(harness: ResolverHarness) -> BuildContext:
    harness.add_to_index("pip", "90.0")
    harness.add_to_index("uv", "90.0")
    return BuildContext(cache=harness.cache, config=harness.config, reporter=harness.reporter)


def lock_manifest(tmp_path: Path, shop: BuildContext, python: str) -> tuple[Path, Path, Lock]:
    """A manifest, its lock in a file, and the lock."""
    path, kept = tmp_path / "m.yaml", tmp_path / "m.lock.json"
    path.write_text(f"name: t\nversion: '1'\nsequence: 1\npython: {{{python}}}\n")
    found = build.make_lock(path, shop)
    build.write_lock(kept, found)
    return path, kept, found


def build_bundle(path: Path, out: Path, kept: Path, shop: BuildContext) -> BuiltBundle:
    """A bundle that is not rehearsed: its pip and uv are none."""
    return build.build_bundle(path, BuildOptions(output=out, lock_path=kept, with_rehearsal=False), shop)


def find_wheel(found: Lock) -> Artifact:
    (wheel,) = found.list_artifacts("wheel")
    return wheel


def test_what_the_target_leaves_out_is_said(harness: ResolverHarness, context: BuildContext, tmp_path: Path) -> None:
    harness.add_to_index("one", "1.0")
    lock_manifest(tmp_path, context, "requirements: [one]")
    (said,) = [one for one in harness.reporter.warnings if "libc" in one]
    assert said.startswith(
        f"target.libc is left out, so hosts need this machine's C library or a newer one: {HERE.libc};"
    )
    assert said.endswith("target: {libc: glibc-2.28}")
    taken = f"python {HERE.python}, platform {HERE.platform}, accelerator cpu"
    assert f"the manifest leaves these fields of its target to this machine: {taken}" in harness.reporter.notes
    (tmp_path / "m.yaml").write_text(
        f"name: t\nversion: '1'\ntarget: {{python: '{HERE.python}', platform: {HERE.platform}, libc: {HERE.libc}, accelerator: cpu}}\n"
    )
    before = len(harness.reporter.warnings), len(harness.reporter.notes)
    build.make_lock(tmp_path / "m.yaml", context)
    found = [*harness.reporter.warnings[before[0] :], *harness.reporter.notes[before[1] :]]
    assert not [one for one in found if "left out" in one or "leaves out" in one]


@pytest.mark.parametrize("resolver", ["uv", "pip-tools"])
def test_the_lock_says_who_resolved(
    harness: ResolverHarness, context: BuildContext, tmp_path: Path, resolver: str
) -> None:
    harness.add_to_index("one", "1.0")
    *_, found = lock_manifest(tmp_path, context, f"requirements: [one], resolver: {resolver}")
    assert found.python.resolver == resolver
    assert any(f"resolved by {resolver} " in note for note in harness.reporter.notes)


def test_a_built_wheel_and_its_source_code_in_the_lock(
    harness: ResolverHarness, context: BuildContext, tmp_path: Path
) -> None:
    source = make_source(harness.wheel_folder, "sourced", "1.0")
    harness.index.offer(source)
    path, kept, found = lock_manifest(tmp_path, context, "requirements: [sourced], build_from_source: [sourced]")
    sha256 = compute_file_sha256(source)[1]
    wheel = find_wheel(found)
    address = f"{harness.index.url}/simple/files/{source.name}"
    assert wheel.path == "wheels/sourced-1.0-py3-none-any.whl"
    assert wheel.origin == f"built here from {address}#sha256={sha256}"
    published = Upstream(algorithm="sha256 of the source code", digest=sha256, publisher=harness.index.host)
    assert wheel.upstream == (published,)
    assert "built from source code by the builder: sourced-1.0-py3-none-any.whl" in lock_text.format_lock(found)
    first = build_bundle(path, tmp_path / "a.tar", kept, context)
    harness.cache.remove(wheel.sha256)
    again = build_bundle(path, tmp_path / "b.tar", kept, context)
    assert compute_file_sha256(first.path) == compute_file_sha256(again.path)


def test_source_code_of_find_links_is_built_again(
    harness: ResolverHarness, context: BuildContext, tmp_path: Path
) -> None:
    source = make_source(harness.find_links_folder, "sourced", "1.0")
    path, kept, found = lock_manifest(tmp_path, context, "requirements: [sourced], build_from_source: [sourced]")
    wheel = find_wheel(found)
    assert wheel.origin == f"built here from find-links:{source.name}#sha256={compute_file_sha256(source)[1]}"
    assert wheel.upstream == ()
    harness.cache.remove(wheel.sha256)
    harness.add_to_find_links("sourced", "1.0")  # a wheel of it by now is not what the lock has
    assert build_bundle(path, tmp_path / "a.tar", kept, context).lock.artifacts == found.artifacts


def test_a_build_that_gives_other_bytes_each_time(
    harness: ResolverHarness, context: BuildContext, tmp_path: Path
) -> None:
    backend = make_backend("sourced", "1.0").replace("% VERSION).encode()", "% os.urandom(8)).encode()")
    assert "urandom" in backend
    harness.index.offer(make_source(harness.wheel_folder, "sourced", "1.0", backend=backend))
    path, kept, found = lock_manifest(tmp_path, context, "requirements: [sourced], build_from_source: [sourced]")
    assert build_bundle(path, tmp_path / "a.tar", kept, context).lock.artifacts == found.artifacts, "the shelf has it"
    harness.cache.remove(find_wheel(found).sha256)
    with pytest.raises(IntegrityError, match="wheels built again from source code differ from the lock") as caught:
        build_bundle(path, tmp_path / "b.tar", kept, context)
    assert "sourced-1.0-py3-none-any.whl" in str(caught.value)
    assert "run 'bundle lock' again" in caught.value.hint
    assert not (tmp_path / "b.tar").exists()


def test_source_code_that_changed_since_is_not_run(
    harness: ResolverHarness, context: BuildContext, tmp_path: Path
) -> None:
    source = make_source(harness.find_links_folder, "sourced", "1.0")
    path, kept, found = lock_manifest(tmp_path, context, "requirements: [sourced], build_from_source: [sourced]")
    harness.cache.remove(find_wheel(found).sha256)
    source.unlink()
    make_source(harness.find_links_folder, "sourced", "1.0", mark=tmp_path / "runs")
    with pytest.raises(ResolveError, match="no source code of sourced has an allowed digest") as caught:
        build_bundle(path, tmp_path / "a.tar", kept, context)
    assert "lock again" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_an_index_with_a_password_has_it_built_again(
    harness: ResolverHarness, context: BuildContext, tmp_path: Path
) -> None:
    harness.index.logins["/own"] = "user:secret"
    harness.index.offer(make_source(harness.wheel_folder, "sourced", "1.0"), "/own")
    index = f"indexes: [{{url: '{harness.index.with_login('user:secret')}/own', packages: [sourced]}}]"
    path, kept, found = lock_manifest(
        tmp_path, context, f"requirements: [sourced], build_from_source: [sourced], {index}"
    )
    assert "secret" not in str(found)
    harness.cache.remove(find_wheel(found).sha256)
    assert build_bundle(path, tmp_path / "a.tar", kept, context).lock.artifacts == found.artifacts
