"""What can't be resolved is named, with the target and the way out, and no password."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bundler.online.packages import resolution
from bundler.online.packages.resolution import PackageRequest
from tests.support.resolving import LINUX, ResolverHarness, make_sdist
from tests.support.servers import loopback
from tests.support.servers.certificates import make_certificates
from tests.support.servers.loopback import serve
from tests.support.wheelmaking import make_wheel


def test_source_code_alone(harness: ResolverHarness) -> None:
    harness.add_to_index("top", "1.0", requires=["sourced"])
    harness.index.offer(make_sdist(harness.wheel_folder, "sourced", "1.0"))
    error = harness.get_resolve_error("top")
    assert "there is no wheel of sourced for linux-x86_64-glibc-2.28-py3.11-cpu" in str(error)
    assert "top" in str(error)
    assert "--no-build" not in str(error)
    assert error.where == "sourced"
    for way_out in (
        "older or a newer version",
        "a newer C library than glibc-2.28",
        "pip wheel --no-deps sourced",
        "find-links",
    ):
        assert way_out in error.hint


@pytest.mark.parametrize(
    "tag", ["cp39-cp39-manylinux_2_17_x86_64", "cp311-cp311-win_amd64", "cp311-cp311-manylinux_2_39_x86_64"]
)
def test_no_wheel_that_fits(harness: ResolverHarness, tag: str) -> None:
    harness.add_to_index("one", "1.0", tag=tag)
    error = harness.get_resolve_error("one")
    assert "there is no wheel of one for linux-x86_64-glibc-2.28-py3.11-cpu" in str(error)
    assert any(part in str(error) for part in tag.split("-")[1:])


def test_an_unknown_package(harness: ResolverHarness) -> None:
    error = harness.get_resolve_error("misspelt")
    assert "there is no package misspelt on 127.0.0.1" in str(error)
    assert "python.indexes" in error.hint


def test_a_conflict(harness: ResolverHarness) -> None:
    harness.add_to_index("one", "1.0", requires=["base<2"])
    harness.add_to_index("two", "1.0", requires=["base>=2"])
    for version in ("1.0", "2.0"):
        harness.add_to_index("base", version)
    error = harness.get_resolve_error("one", "two")
    assert "no versions fit together for linux-x86_64-glibc-2.28-py3.11-cpu" in str(error)
    assert "two" in str(error)
    assert "base<2" in str(error)
    assert "loosen" in error.hint


def test_an_index_that_can_not_be_reached(harness: ResolverHarness) -> None:
    harness.config = dataclasses.replace(harness.config, extra_index_urls=("http://user:secret@127.0.0.1:9/simple",))
    harness.add_to_index("one", "1.0")
    error = harness.get_resolve_error("one")
    assert "127.0.0.1 can't be reached" in str(error)
    assert error.where == "http://127.0.0.1:9/simple/one/"
    assert "proxy" in error.hint
    assert "secret" not in f"{error} {error.where} {error.hint}"


def test_find_links_that_can_not_be_read(harness: ResolverHarness) -> None:
    harness.add_to_index("one", "1.0")
    harness.config = dataclasses.replace(harness.config, find_links=(f"{harness.index.url}/missing",))
    error = harness.get_resolve_error("one")
    assert "127.0.0.1 answers 404" in str(error)
    assert error.where == f"{harness.index.url}/missing"


def test_an_index_that_fails(harness: ResolverHarness) -> None:
    harness.index.faults["/simple/one/"] = [loopback.status(500)]
    error = harness.get_resolve_error("one")
    assert "127.0.0.1 answers 500" in str(error)


def test_an_index_that_wants_a_password(harness: ResolverHarness) -> None:
    harness.add_to_index("one", "1.0")
    harness.index.logins["/simple"] = "user:p@ss"
    error = harness.get_resolve_error("one")
    assert "one can't be looked up: the index answers 401" in str(error)
    assert error.where == f"{harness.index.url}/simple/one/"
    assert "netrc" in error.hint
    harness.config = dataclasses.replace(harness.config, index_url=f"{harness.index.with_login('user:p%40ss')}/simple")
    found = harness.resolve("one")["one"]
    assert (found.publisher, found.origin.count("@")) == (harness.index.host, 0)
    resolution.fetch_wheels([found], harness.cache, harness.config, harness.reporter)
    assert harness.cache.find(found.sha256)


def test_passwords_are_on_no_command_line(harness: ResolverHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    popen = subprocess.Popen

    def watched(command: list[str], **options: Any) -> Any:
        lines.extend(command)
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", watched)
    harness.index.logins["/"] = "user:secret"
    harness.index.offer(make_wheel(harness.wheel_folder, "mine", "1.0"), "/mine")
    harness.add_to_index("one", "1.0")
    harness.config = dataclasses.replace(harness.config, index_url=f"{harness.index.with_login('user:secret')}/simple")
    found = harness.resolve(
        "one", "mine", index_assignments=((f"{harness.index.with_login('user:secret')}/mine", ("mine",)),)
    )
    assert lines
    assert "secret" not in " ".join([*lines, *map(str, found.values())])


def test_a_certificate_of_its_own(harness: ResolverHarness, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with serve(certificates.for_a_server()) as secure:
        secure.offer(make_wheel(harness.wheel_folder, "one", "1.0"))
        harness.config = dataclasses.replace(harness.config, index_url=f"{secure.url}/simple")
        error = harness.get_resolve_error("one")
        assert "the certificate of 127.0.0.1 is not trusted" in str(error)
        assert "global.cert" in error.hint
        for told in ({"cert": str(certificates.authority)}, {"trusted_hosts": ("127.0.0.1",)}):
            config = dataclasses.replace(harness.config, **told)
            found = resolution.resolve_packages(
                PackageRequest(requirements=("one",)), LINUX, config, harness.cache, harness.reporter
            )
            resolution.fetch_wheels(found, harness.cache, config, harness.reporter)
            harness.cache.remove(found[0].sha256)
