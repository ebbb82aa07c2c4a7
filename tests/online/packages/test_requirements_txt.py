"""Requirements are read as pip reads them, and what can't cross is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.errors import ResolveError
from bundler.format.lock.target import Target
from bundler.online.packages import requirements_txt
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import RecordingReporter
from tests.support.servers.loopback import Loopback

DIGEST = "ab" * 32


@pytest.fixture
def report() -> RecordingReporter:
    return RecordingReporter()


def read(
    path: Path, text: str, report: RecordingReporter, config: PipConfig | None = None
) -> requirements_txt.RequirementsSpec:
    path.write_text(text, encoding="utf-8")
    return requirements_txt.read_requirements((), [path], (), config or PipConfig(), report)


def list_requirements(found: requirements_txt.RequirementsSpec) -> list[str]:
    return [str(line.requirement) for line in found.requirements]


def test_lines_comments_variables_and_continuations(
    tmp_path: Path, report: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANTED_VERSION", "2.0")
    text = "\ufeff# all of it\n\none==1.0  # why\ntwo\\\n  ==${WANTED_VERSION}\n  three[extra]>=1; python_version<'4'\n${UNSET}\n"
    path = tmp_path / "requirements.txt"
    with pytest.raises(ResolveError, match=r"'\${UNSET}' is not a valid requirement") as caught:
        read(path, text, report)
    assert caught.value.where == f"{path}:7"
    found = read(path, text.replace("${UNSET}", ""), report)
    assert list_requirements(found) == ["one==1.0", "two==2.0", 'three[extra]>=1; python_version < "4"']
    assert [line.where for line in found.requirements] == [f"{path}:{n}" for n in (3, 4, 6)]


def test_files_within_files(tmp_path: Path, report: RecordingReporter) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "more.txt").write_text("two\n-c ../constraints.txt\n")
    (tmp_path / "constraints.txt").write_text("two<3\n")
    found = read(tmp_path / "r.txt", "one\n--requirement=deep/more.txt\n", report)
    assert list_requirements(found) == ["one", "two"]
    assert [str(line.requirement) for line in found.constraints] == ["two<3"]


def test_files_that_include_one_another(tmp_path: Path, report: RecordingReporter) -> None:
    with pytest.raises(ResolveError, match="include one another"):
        read(tmp_path / "r.txt", "-r r.txt\n", report)


def test_a_file_over_http(tmp_path: Path, server: Loopback, report: RecordingReporter) -> None:
    server.files |= {"/c.txt": b"one<2\n-r more.txt\n", "/more.txt": b"two<2\n"}
    config = PipConfig(constraints=(f"{server.url}/c.txt",))
    found = read(tmp_path / "r.txt", "one\n", report, config)
    assert [str(line.requirement) for line in found.constraints] == ["one<2", "two<2"]


def test_options_count_as_if_pip_had_been_told(tmp_path: Path, report: RecordingReporter) -> None:
    text = (
        "-i https://index.test/simple\n--extra-index-url https://one.test/simple\n--extra-index-url=https://two.test/\n"
        "-f wheels\n--find-links=https://links.test/\n--trusted-host one.test\n--no-index\n--pre\n--only-binary :all:\n"
    )
    found = read(tmp_path / "r.txt", text, report, PipConfig(extra_index_urls=("https://before.test/",)))
    assert found.config == PipConfig(
        index_url="https://index.test/simple",
        extra_index_urls=("https://before.test/", "https://one.test/simple", "https://two.test/"),
        find_links=((tmp_path / "wheels").as_uri(), "https://links.test/"),
        trusted_hosts=("one.test",),
        no_index=True,
        pre=True,
    )
    assert report.warnings == []


def test_an_option_that_can_not_be_honoured(tmp_path: Path, report: RecordingReporter) -> None:
    with pytest.raises(ResolveError, match=r"the option .* is not supported"):
        read(tmp_path / "r.txt", "--global-option=x\n", report)
    with pytest.raises(ResolveError, match="quote that is not closed"):
        read(tmp_path / "r.txt", "--find-links 'x\n", report)
    read(tmp_path / "r.txt", "--no-binary one\n", report)
    assert "--no-binary one is ignored" in report.warnings[0]


def test_digests_are_kept(tmp_path: Path, report: RecordingReporter) -> None:
    found = read(tmp_path / "r.txt", f"One==1 \\\n  --hash=sha256:{DIGEST} \\\n  --hash sha512:00\n", report)
    assert list_requirements(found) == ["One==1"]
    assert found.get_allowed_sha256("one") == {DIGEST}
    assert found.get_allowed_sha256("two") == frozenset()
    with pytest.raises(ResolveError, match="one==1 has hashes, but no sha256"):
        read(tmp_path / "r.txt", "one==1 --hash=sha512:00\n", report)


@pytest.mark.parametrize(
    "line",
    [
        "one @ git+https://user:secret@host.test/one.git",
        "git+ssh://git@host.test/one.git#egg=one",
        "one @ https://host.test/one-1.0.tar.gz",
        "https://user:secret@host.test/one-1.0.zip",
        "./one",
        "/abs/one",
        "-e ./one",
        "--editable=./one",
    ],
)
def test_source_code_is_refused_by_name(tmp_path: Path, report: RecordingReporter, line: str) -> None:
    path = tmp_path / "r.txt"
    with pytest.raises(ResolveError, match=r"one.* is source code, and a bundle holds only wheels") as caught:
        read(path, line + "\n", report)
    assert caught.value.where == f"{path}:1"
    assert "pip wheel --no-deps" in caught.value.hint
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("one @ https://host.test/one-1.0-py3-none-any.whl", "https://host.test/one-1.0-py3-none-any.whl"),
        ("https://host.test/one-1.0%2Bcpu-py3-none-any.whl", "https://host.test/one-1.0%2Bcpu-py3-none-any.whl"),
        ("./wheels/One-1.0-py3-none-any.whl", "wheels/One-1.0-py3-none-any.whl"),
    ],
)
def test_wheels_by_address_and_path(tmp_path: Path, report: RecordingReporter, line: str, url: str) -> None:
    found = read(tmp_path / "r.txt", line + "\n", report).requirements[0]
    assert found.name == "one"
    assert found.requirement.url == (url if "://" in url else (tmp_path / url).as_uri())


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path, report: RecordingReporter) -> None:
    with pytest.raises(ResolveError, match="can't be read: No such file") as caught:
        requirements_txt.read_requirements((), [tmp_path / "r.txt"], (), PipConfig(), report)
    assert caught.value.where == str(tmp_path / "r.txt")
    (tmp_path / "r.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResolveError, match="is not UTF-8 text"):
        requirements_txt.read_requirements((), [tmp_path / "r.txt"], (), PipConfig(), report)


@pytest.mark.parametrize(
    ("platform", "libc", "holds"),
    [
        ("linux-x86_64", "glibc-2.28", "sys_platform == 'linux' and platform_machine == 'x86_64'"),
        ("linux-aarch64", "musl-1.2", "platform_system == 'Linux' and platform_machine == 'aarch64'"),
        ("macos-arm64", "", "sys_platform == 'darwin' and os_name == 'posix'"),
        ("windows-x86_64", "", "os_name == 'nt' and platform_machine == 'AMD64' and extra == ''"),
    ],
)
def test_markers_are_those_of_the_target(report: RecordingReporter, platform: str, libc: str, holds: str) -> None:
    target = Target(python="3.12", platform=platform, libc=libc, accelerator="cpu")
    wanted = (
        f"one; {holds} and python_version == '3.12'",
        f"two; not_{holds}".replace("not_", "python_version < '3.12' and "),
    )
    lines = requirements_txt.read_requirements(wanted, (), (), PipConfig(), report).requirements
    assert [line.is_applicable(target) for line in lines] == [True, False]
