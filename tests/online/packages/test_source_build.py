"""Packages without a wheel are built here, if the manifest names them: real pip, a real compiler, no other code run."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import IntegrityError, ProgramError, ResolveError, UnsafeError
from bundler.format.hashing import compute_file_sha256
from bundler.format.lock.entries import Resolver
from bundler.format.lock.target import detect_target
from bundler.online.packages import resolution, source_build
from bundler.online.packages.resolution import PackageRequest
from bundler.online.packages.source_build import Sdist
from bundler.online.transfer.cache import FileCache
from tests.support.programs import require_tool
from tests.support.resolving import LINUX, WINDOWS, ResolverHarness
from tests.support.sourcemaking import make_backend, make_source
from tests.support.wheelmaking import make_wheel

HERE = detect_target()


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def count_runs(mark: Path) -> set[str]:
    """The packages whose build has run."""
    return set(mark.read_text().split()) if mark.exists() else set()


def offer(bench: ResolverHarness, name: str, version: str, **options: Any) -> Path:
    path = make_source(bench.wheel_folder, name, version, **options)
    bench.index.offer(path)
    return path


@pytest.mark.parametrize("target", [LINUX, WINDOWS, dataclasses.replace(LINUX, python="3.12")])
def test_a_package_of_source_code_alone(harness: ResolverHarness, mark: Path, target: Any) -> None:
    """A pure wheel fits any target; what it needs is resolved with the rest."""
    source = offer(harness, "sourced", "1.0", requires=["base<2", "winonly; sys_platform == 'win32'"], mark=mark)
    for version in ("1.0", "2.0"):
        harness.add_to_index("base", version)
    harness.add_to_index("winonly", "1.0")
    harness.add_to_index("top", "1.0", requires=["sourced"])
    found = harness.resolve("top", target=target, build_from_source=("Sourced",))
    one = found["sourced"]
    assert found["base"].version == "1.0"
    assert ("winonly" in found) == (target is WINDOWS)
    assert (one.filename, one.version) == ("sourced-1.0-py3-none-any.whl", "1.0")
    assert one.origin == f"{harness.index.url}/simple/files/{source.name}"
    assert (one.publisher, one.is_digest_published) == (harness.index.host, True)
    assert one.sdist_sha256 == compute_file_sha256(source)[1]
    assert compute_file_sha256(harness.cache.require(one.sha256)) == (one.size, one.sha256)
    assert count_runs(mark) == {"sourced"}
    assert "building sourced 1.0 from source code" in " ".join(harness.reporter.notes)
    resolution.fetch_wheels(list(found.values()), harness.cache, harness.config, harness.reporter)


def test_the_same_bytes_each_time(harness: ResolverHarness, mark: Path, tmp_path: Path) -> None:
    offer(harness, "sourced", "1.0", compiled=True, mark=mark)
    require_tool("gcc")
    first = harness.resolve("sourced", target=HERE, build_from_source=("sourced",))["sourced"]
    mark.unlink()
    assert harness.resolve("sourced", target=HERE, build_from_source=("sourced",))["sourced"] == first
    harness.cache = FileCache(tmp_path / "another shelf")
    again = harness.resolve("sourced", target=HERE, build_from_source=("sourced",))["sourced"]
    assert again == first
    with zipfile.ZipFile(harness.cache.require(first.sha256)) as packed:
        infos = packed.infolist()
    assert {(info.date_time, info.compress_type) for info in infos} == {((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED)}
    assert infos[-1].filename == "sourced-1.0.dist-info/RECORD"


def test_a_compiled_wheel_says_how_old_a_c_library_will_do(harness: ResolverHarness, tmp_path: Path) -> None:
    require_tool("gcc")
    offer(harness, "sourced", "1.0", compiled=True)
    found = harness.resolve("sourced", target=HERE, build_from_source=("sourced",))["sourced"]
    assert "-manylinux_2_" in found.filename
    assert harness.resolve("sourced", target=LINUX, build_from_source=("sourced",))["sourced"] == found
    carried = tmp_path / found.filename
    carried.write_bytes(harness.cache.require(found.sha256).read_bytes())
    site = tmp_path / "site"
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-index",
        "--target",
        site,
        "--no-cache-dir",
        carried,
    ]
    subprocess.run(pip, check=True, capture_output=True)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import _sourced; print(_sourced.answer())"
    done = subprocess.run([sys.executable, "-c", code, site], check=True, capture_output=True, text=True)
    assert done.stdout == "42\n"


def test_a_compiled_wheel_that_needs_a_newer_c_library(harness: ResolverHarness) -> None:
    """This machine's C library has a newer version of pow than the target's floor."""
    require_tool("gcc")
    code = "#include <math.h>\nvolatile double two = 2.0;"
    offer(harness, "sourced", "1.0", compiled=True, code=code, answer="(long)pow(two, 3.0)", libraries=["-lm"])
    error = harness.get_resolve_error("sourced", target=LINUX, build_from_source=("sourced",))
    assert "the one that was built here from its source code, sourced-1.0-" in str(error)
    assert re.search(r"does not fit there: it needs glibc 2\.\d\d; the target's C library is glibc-2\.28, ", str(error))
    assert "on a machine like the target" in error.hint
    assert harness.resolve("sourced", target=HERE, build_from_source=("sourced",))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"python": "3.12"}, "the target's Python is 3.12"),
        ({"platform": "windows-x86_64", "libc": ""}, "the target's platform is windows-x86_64"),
        ({"libc": "musl-1.2"}, "the target's C library is musl-1.2"),
    ],
)
def test_a_compiled_wheel_for_another_machine(harness: ResolverHarness, change: dict[str, str], words: str) -> None:
    require_tool("gcc")
    offer(harness, "sourced", "1.0", compiled=True)
    error = harness.get_resolve_error(
        "sourced", target=dataclasses.replace(HERE, **change), build_from_source=("sourced",)
    )
    assert words in str(error)
    assert "does not fit there" in str(error)


def test_a_compiled_wheel_that_needs_a_library_of_this_machine(harness: ResolverHarness) -> None:
    require_tool("gcc")
    own = harness.wheel_folder / "libown.so"
    own.parent.mkdir(parents=True, exist_ok=True)
    (harness.wheel_folder / "own.c").write_text("long own(void) { return 7; }")
    subprocess.run([require_tool("gcc"), "-shared", "-fPIC", "-o", own, harness.wheel_folder / "own.c"], check=True)
    libraries = [str(own), f"-Wl,-rpath,{harness.wheel_folder}"]
    offer(harness, "sourced", "1.0", compiled=True, code="long own(void);", answer="own()", libraries=libraries)
    error = harness.get_resolve_error("sourced", target=HERE, build_from_source=("sourced",))
    assert "the wheel that was built from sourced 1.0 needs libown.so of this machine" in str(error)
    assert "auditwheel repair" in error.hint


def test_source_code_that_is_not_named_is_not_run(harness: ResolverHarness, mark: Path) -> None:
    offer(harness, "sourced", "1.0", mark=mark)
    offer(harness, "other", "1.0", mark=mark)
    harness.add_to_index("top", "1.0", requires=["sourced", "other"])
    error = harness.get_resolve_error("top", build_from_source=("sourced",))
    assert "there is no wheel of other" in str(error)
    assert "python: {build_from_source: [other]}" in error.hint
    assert "other" not in count_runs(mark)


def test_a_build_runs_no_other_source_code(harness: ResolverHarness, mark: Path) -> None:
    offer(harness, "tools", "1.0", mark=mark)
    offer(harness, "sourced", "1.0", build_requires=["tools"], mark=mark)
    with pytest.raises(ProgramError, match=r"can't build a wheel of sourced==1\.0"):
        harness.resolve("sourced", build_from_source=("sourced",))
    assert count_runs(mark) == set()


def test_what_a_build_needs_comes_from_where_pip_looks(harness: ResolverHarness) -> None:
    harness.add_to_find_links("tools", "1.0")
    backend = "import tools\n" + make_backend("sourced", "1.0")
    offer(harness, "sourced", "1.0", build_requires=["tools"], backend=backend)
    assert harness.resolve("sourced", build_from_source=("sourced",))["sourced"].sdist_sha256


def test_a_build_that_fails(harness: ResolverHarness) -> None:
    words = "raise SystemExit('the header xyz.h is missing')"
    offer(harness, "sourced", "1.0", backend=f"def build_wheel(*_, **__):\n    {words}\n")
    with pytest.raises(ProgramError, match=r"(?s)can't build a wheel of sourced==1\.0.*xyz\.h") as caught:
        harness.resolve("sourced", build_from_source=("sourced",))
    assert "compiler or headers are missing" in caught.value.hint
    with pytest.raises(ProgramError, match=r"(?s)can't build a wheel.*xyz\.h"):
        harness.resolve("sourced", target=HERE, resolver="pip-tools", build_from_source=("sourced",))


def test_a_build_that_fails_when_metadata_did_not(harness: ResolverHarness) -> None:
    backend = (
        "import os\n"
        "def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
        "    os.mkdir(os.path.join(folder, 'sourced-1.0.dist-info'))\n"
        "    with open(os.path.join(folder, 'sourced-1.0.dist-info', 'METADATA'), 'w') as file:\n"
        "        file.write('Metadata-Version: 2.1\\nName: sourced\\nVersion: 1.0\\n')\n"
        "    return 'sourced-1.0.dist-info'\n"
        "def build_wheel(*_, **__):\n"
        "    raise SystemExit('cc: no such program')\n"
    )
    offer(harness, "sourced", "1.0", backend=backend)
    with pytest.raises(ProgramError, match=r"(?s)can't build a wheel of sourced 1\.0.*cc: no such program") as caught:
        harness.resolve("sourced", build_from_source=("sourced",))
    assert caught.value.code == 10
    assert not list(harness.cache.root.rglob("built-wheel-*"))


@pytest.mark.parametrize("built", [("another", "1.0"), ("sourced", "1.1")])
def test_a_build_that_gives_another_package(harness: ResolverHarness, tmp_path: Path, built: tuple[str, str]) -> None:
    path = make_source(tmp_path, "sourced", "1.0", backend=make_backend(*built))
    source = Sdist(name="sourced", version="1.0", filename=path.name, sha256=harness.cache.copy_in(path)[1])
    with pytest.raises(UnsafeError, match=f"the source code of sourced 1.0 builds {'-'.join(built)}-py3"):
        source_build.build_wheel(source, HERE, harness.config, harness.cache, harness.reporter)


def test_a_wheel_is_preferred(harness: ResolverHarness, mark: Path) -> None:
    offer(harness, "sourced", "2.0", mark=mark)
    wheel = harness.add_to_index("sourced", "2.0")
    found = harness.resolve("sourced", build_from_source=("sourced",))["sourced"]
    assert (found.filename, found.sdist_sha256) == (wheel.name, "")
    assert count_runs(mark) == set()
    assert harness.reporter.warnings == ["python.build_from_source names sourced, which has a wheel: the wheel is used"]


def test_a_version_without_a_wheel_is_built_where_it_is_asked_for(harness: ResolverHarness) -> None:
    harness.add_to_index("sourced", "1.0")
    offer(harness, "sourced", "2.0")
    assert harness.resolve_versions("sourced", build_from_source=("sourced",)) == {"sourced": "1.0"}
    found = harness.resolve("sourced>=2", build_from_source=("sourced",))["sourced"]
    assert (found.version, bool(found.sdist_sha256)) == ("2.0", True)


def test_a_name_that_nothing_asks_for(harness: ResolverHarness) -> None:
    harness.add_to_index("one", "1.0")
    assert harness.resolve_versions("one", build_from_source=("elsewhere",)) == {"one": "1.0"}
    assert harness.reporter.warnings == ["python.build_from_source names elsewhere, which is not among the packages"]


def test_both_resolvers_build_alike(harness: ResolverHarness) -> None:
    offer(harness, "sourced", "1.0", requires=["base"])
    harness.add_to_index("base", "1.0")
    by_uv = harness.resolve("sourced", target=HERE, build_from_source=("sourced",))
    by_pip = harness.resolve("sourced", target=HERE, resolver="pip-tools", build_from_source=("sourced",))
    assert by_pip == by_uv


def test_source_code_in_a_find_links_folder(harness: ResolverHarness) -> None:
    source = make_source(harness.find_links_folder, "sourced", "1.0")
    found = harness.resolve("sourced", build_from_source=("sourced",))["sourced"]
    assert (found.publisher, found.is_digest_published) == ("find-links", False)
    assert found.sdist_sha256 == compute_file_sha256(source)[1]


def test_source_code_that_is_not_what_was_published(harness: ResolverHarness, mark: Path) -> None:
    source = offer(harness, "sourced", "1.0")
    other = make_source(harness.wheel_folder / "other", "sourced", "1.0", mark=mark)
    harness.index.files[f"/simple/files/{source.name}"] = other.read_bytes()
    with pytest.raises(
        IntegrityError, match=r"the source code of sourced==1\.0 has another digest than its index states"
    ) as caught:
        harness.resolve("sourced", build_from_source=("sourced",))
    assert compute_file_sha256(source)[1] in str(caught.value)
    assert count_runs(mark) == set()


@pytest.mark.parametrize("resolver", ["uv", "pip-tools"])
def test_source_code_with_another_digest_than_is_demanded_is_not_run(
    harness: ResolverHarness, tmp_path: Path, mark: Path, resolver: Resolver
) -> None:
    good = make_source(harness.find_links_folder, "sourced", "1.0")
    offer(harness, "sourced", "1.0", mark=mark)
    path = tmp_path / "r.txt"
    wanted = PackageRequest(requirements_files=(path,), build_from_source=("sourced",), resolver=resolver)
    path.write_text(f"sourced==1.0 --hash=sha256:{compute_file_sha256(good)[1]}\n")
    (found,) = resolution.resolve_packages(wanted, HERE, harness.config, harness.cache, harness.reporter)
    assert (found.sdist_sha256, found.publisher) == (compute_file_sha256(good)[1], "find-links")
    path.write_text(f"sourced==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(ResolveError, match="no source code of sourced has an allowed digest"):
        resolution.resolve_packages(wanted, HERE, harness.config, harness.cache, harness.reporter)
    assert count_runs(mark) == set()


def test_a_note_of_a_build_that_is_damaged(harness: ResolverHarness) -> None:
    offer(harness, "sourced", "1.0")
    found = harness.resolve("sourced", build_from_source=("sourced",))
    (note,) = harness.cache.root.rglob("built-wheel-*")
    kept = harness.cache.find(note.read_text())
    assert kept
    kept.chmod(0o644)
    kept.write_bytes(b"{}")
    assert harness.resolve("sourced", build_from_source=("sourced",)) == found


def test_a_local_wheel_of_another_machine_is_none(harness: ResolverHarness) -> None:
    harness.index.offer(make_wheel(harness.wheel_folder, "sourced", "1.0", tag="cp311-cp311-win_amd64"))
    offer(harness, "sourced", "1.0")
    found = harness.resolve("sourced", build_from_source=("sourced",))["sourced"]
    assert found.filename == "sourced-1.0-py3-none-any.whl"
    assert found.sdist_sha256
