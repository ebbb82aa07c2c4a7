"""What can't be resolved is named, with the target and the way out, and no password."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bundler.online.packages import resolution
from bundler.online.packages.resolution import PackageRequest
from tests.online import loopback
from tests.online.bench import LINUX, Bench, sdist
from tests.online.certificates import make_certificates
from tests.online.loopback import serving
from tests.wheelmaking import make_wheel


def test_source_code_alone(bench: Bench) -> None:
    bench.wheel("top", "1.0", requires=["sourced"])
    bench.index.offer(sdist(bench.made, "sourced", "1.0"))
    error = bench.refused("top")
    assert "there is no wheel of sourced for linux-x86_64-glibc-2.28-py3.11-cpu" in str(error)
    assert "top" in str(error)
    assert "--no-build" not in str(error)
    assert error.where == "sourced"
    for way_out in ("older or a newer version", "newer than glibc-2.28", "pip wheel --no-deps sourced", "find-links"):
        assert way_out in error.hint


@pytest.mark.parametrize(
    "tag", ["cp39-cp39-manylinux_2_17_x86_64", "cp311-cp311-win_amd64", "cp311-cp311-manylinux_2_39_x86_64"]
)
def test_no_wheel_that_fits(bench: Bench, tag: str) -> None:
    bench.wheel("one", "1.0", tag=tag)
    error = bench.refused("one")
    assert "there is no wheel of one for linux-x86_64-glibc-2.28-py3.11-cpu" in str(error)
    assert any(part in str(error) for part in tag.split("-")[1:])


def test_an_unknown_package(bench: Bench) -> None:
    error = bench.refused("misspelt")
    assert "there is no package misspelt on 127.0.0.1" in str(error)
    assert "python.indexes" in error.hint


def test_a_conflict(bench: Bench) -> None:
    bench.wheel("one", "1.0", requires=["base<2"])
    bench.wheel("two", "1.0", requires=["base>=2"])
    for version in ("1.0", "2.0"):
        bench.wheel("base", version)
    error = bench.refused("one", "two")
    assert "no set of packages fits together for linux-x86_64-glibc-2.28-py3.11-cpu" in str(error)
    assert "two" in str(error)
    assert "base<2" in str(error)
    assert "loosen" in error.hint


def test_an_index_that_can_not_be_reached(bench: Bench) -> None:
    bench.config = dataclasses.replace(bench.config, extra_index_urls=("http://user:secret@127.0.0.1:9/simple",))
    bench.wheel("one", "1.0")
    error = bench.refused("one")
    assert "127.0.0.1 can't be reached" in str(error)
    assert error.where == "http://127.0.0.1:9/simple/one/"
    assert "proxy" in error.hint
    assert "secret" not in f"{error} {error.where} {error.hint}"


def test_find_links_that_can_not_be_read(bench: Bench) -> None:
    bench.wheel("one", "1.0")
    bench.config = dataclasses.replace(bench.config, find_links=(f"{bench.index.url}/missing",))
    error = bench.refused("one")
    assert "127.0.0.1 answers 404" in str(error)
    assert error.where == f"{bench.index.url}/missing"


def test_an_index_that_fails(bench: Bench) -> None:
    bench.index.faults["/simple/one/"] = [loopback.status(500)]
    error = bench.refused("one")
    assert "127.0.0.1 answers 500" in str(error)


def test_an_index_that_wants_a_password(bench: Bench) -> None:
    bench.wheel("one", "1.0")
    bench.index.logins["/simple"] = "user:p@ss"
    error = bench.refused("one")
    assert "one can't be looked up: the index answers 401" in str(error)
    assert error.where == f"{bench.index.url}/simple/one/"
    assert "netrc" in error.hint
    bench.config = dataclasses.replace(bench.config, index_url=f"{bench.index.with_login('user:p%40ss')}/simple")
    found = bench.resolve("one")["one"]
    assert (found.publisher, found.origin.count("@")) == (bench.index.host, 0)
    resolution.fetch_wheels([found], bench.store, bench.config, bench.report)
    assert bench.store.find(found.sha256)


def test_passwords_are_on_no_command_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    run = subprocess.run

    def watched(command: list[str], **options: Any) -> Any:
        lines.extend(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    bench.index.logins["/"] = "user:secret"
    bench.index.offer(make_wheel(bench.made, "mine", "1.0"), "/mine")
    bench.wheel("one", "1.0")
    bench.config = dataclasses.replace(bench.config, index_url=f"{bench.index.with_login('user:secret')}/simple")
    found = bench.resolve(
        "one", "mine", index_assignments=((f"{bench.index.with_login('user:secret')}/mine", ("mine",)),)
    )
    assert lines
    assert "secret" not in " ".join([*lines, *map(str, found.values())])


def test_a_certificate_of_its_own(bench: Bench, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with serving(certificates.for_a_server()) as secure:
        secure.offer(make_wheel(bench.made, "one", "1.0"))
        bench.config = dataclasses.replace(bench.config, index_url=f"{secure.url}/simple")
        error = bench.refused("one")
        assert "the certificate of 127.0.0.1 is not trusted" in str(error)
        assert "global.cert" in error.hint
        for told in ({"cert": str(certificates.authority)}, {"trusted_hosts": ("127.0.0.1",)}):
            config = dataclasses.replace(bench.config, **told)
            found = resolution.resolve_packages(
                PackageRequest(requirements=("one",)), LINUX, config, bench.store, bench.report
            )
            resolution.fetch_wheels(found, bench.store, config, bench.report)
            bench.store.remove(found[0].sha256)
