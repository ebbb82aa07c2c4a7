"""pip's configuration as pip itself reads it, and the same said to uv and to requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from bundler.errors import ProgramError, UsageError
from bundler.online.transfer import http_session, pip_config
from bundler.online.transfer.pip_config import PYPI_INDEX, PipConfig
from tests.support.servers.certificates import Certificates, make_certificates
from tests.support.servers.loopback import Loopback, serve

ORACLE = """
import json
from pip._internal.commands import create_command
options, _ = create_command("install").parse_args([])
print(json.dumps([
    options.index_url, options.extra_index_urls, options.find_links, options.no_index, options.trusted_hosts,
    options.cert, options.client_cert, options.proxy, options.timeout, options.retries, options.constraints, options.pre,
]))
"""
FILE = """
[global]
index-url = https://global.test/simple
extra-index-url =
    https://one.test/simple
    https://two.test/simple
find-links = https://links.test/a https://links.test/b
timeout = 20
no-index = off
pre = true
[install]
index-url = https://install.test/simple
trusted-host = one.test two.test:8443
constraint = https://one.test/constraints.txt
[download]
index-url = https://download.test/simple
"""


def write_config(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Writes a configuration file and has pip read it."""

    def write(text: str) -> None:
        monkeypatch.setenv("PIP_CONFIG_FILE", str(write_config(tmp_path / "pip.conf", text)))

    return write


def read_config_by_pip() -> list[object]:
    ran = subprocess.run([sys.executable, "-I", "-c", ORACLE], check=True, capture_output=True, text=True)
    found: list[object] = json.loads(ran.stdout)
    return found


def format_as_pip(config: PipConfig) -> list[object]:
    timeout = 15 if config.timeout is None else config.timeout
    return [
        config.index_url,
        list(config.extra_index_urls),
        list(config.find_links),
        config.no_index,
        list(config.trusted_hosts),
        config.cert or None,
        config.client_cert or None,
        config.proxy or None,
        timeout,
        config.retries,
        list(config.constraints),
        config.pre,
    ]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PIP_INDEX_URL": "https://env.test/simple", "PIP_NO_INDEX": "yes"},
        {"PIP_EXTRA_INDEX_URL": "https://env.test/simple", "PIP_FIND_LINKS": "", "PIP_PRE": "0"},
        {"PIP_DEFAULT_TIMEOUT": "3.5", "PIP_RETRIES": "0", "PIP_PROXY": "http://proxy.test:3128"},
        {"PIP_PYPI_URL": "https://old.test/simple", "PIP_CLIENT_CERT": "~/client.pem", "PIP_CERT": "/etc/ca.pem"},
        {"PIP_TRUSTED_HOST": "a.test b.test", "PIP_CONSTRAINT": "https://env.test/c.txt", "PIP_NO_INDEX": "False"},
    ],
    ids=lambda environment: " ".join(environment) or "file alone",
)
def test_it_is_what_pip_goes_by(
    configured: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    configured(FILE)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert format_as_pip(pip_config.read_config()) == read_config_by_pip()


def test_nothing_told_is_the_public_index() -> None:
    assert pip_config.read_config() == PipConfig()
    assert pip_config.read_config().indexes == (PYPI_INDEX,)


def test_install_goes_before_global_and_the_environment_before_both(
    configured: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(FILE)
    assert pip_config.read_config().index_url == "https://install.test/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.test/simple")
    assert pip_config.read_config().index_url == "https://env.test/simple"


def test_of_two_files_the_later_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_CONFIG_FILE")
    home = Path.home()
    write_config(home / ".config/pip/pip.conf", "[global]\nproxy = http://new.test\nretries = 2\n")
    write_config(home / ".pip/pip.conf", "[global]\nproxy = http://old.test\nretries =\n")
    config = pip_config.read_config()
    assert (config.proxy, config.retries) == ("http://new.test", 2)


def test_a_quiet_pip_still_answers(configured: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    configured("[global]\nquiet = 3\nretries = 4\n")
    assert pip_config.read_config().retries == 4
    monkeypatch.setenv("PIP_QUIET", "1")
    assert pip_config.read_config().retries == 4


def test_paths_become_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels ~/wheels file:///wheels%20here https://links.test/")
    config = pip_config.read_config()
    assert config.index_url == (tmp_path / "index").as_uri()
    assert config.find_links == (
        (tmp_path / "wheels").as_uri(),
        (Path.home() / "wheels").as_uri(),
        "file:///wheels%20here",
        "https://links.test/",
    )
    assert pip_config.get_local_path(config.find_links[2]) == Path("/wheels here")
    assert pip_config.get_local_path(config.find_links[3]) is None


def test_names_in_any_script_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PIP_CERT", "/인증서/ca.pem")
    assert pip_config.read_config().cert == "/인증서/ca.pem"


def test_the_bundle_of_requests_counts_as_it_does_for_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/house/ca.pem")
    assert pip_config.read_config().cert == "/house/ca.pem"
    monkeypatch.setenv("PIP_CERT", "/pip/ca.pem")
    assert pip_config.read_config().cert == "/pip/ca.pem"


@pytest.mark.parametrize(
    ("setting", "message"),
    [("no-index = maybe", "'maybe' is not a boolean"), ("timeout = soon", "'soon' is not a number")],
)
def test_a_value_that_makes_no_sense(configured: Callable[[str], None], setting: str, message: str) -> None:
    configured(f"[install]\n{setting}\n")
    with pytest.raises(UsageError, match=message) as caught:
        pip_config.read_config()
    assert "pip config debug" in caught.value.hint


def test_a_file_that_pip_can_not_read(configured: Callable[[str], None]) -> None:
    configured("no section\n")
    with pytest.raises(ProgramError, match="no section headers"):
        pip_config.read_config()


def test_passwords_are_not_in_its_repr() -> None:
    login = "https://user:secret@house.test/simple"
    config = PipConfig(
        index_url=login, extra_index_urls=(login,), find_links=(login,), proxy=login, constraints=(login,)
    )
    assert "secret" not in repr(config)


def test_what_uv_is_told(tmp_path: Path) -> None:
    (tmp_path / "wheels, mine").mkdir()
    config = PipConfig(
        index_url="https://index.test/simple",
        extra_index_urls=("https://one.test/simple", "https://two.test/simple"),
        find_links=((tmp_path / "wheels, mine").as_uri(), (tmp_path / "gone").as_uri(), "https://links.test/a,b"),
        trusted_hosts=("one.test", "two.test:8443"),
        client_cert="/client.pem",
        cert="/ca.pem",
        timeout=2.5,
        retries=1,
        pre=True,
    )
    assert pip_config.make_uv_env(config, tmp_path) == {
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_INDEX": "https://one.test/simple https://two.test/simple",
        "UV_DEFAULT_INDEX": "https://index.test/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": f"{tmp_path.as_uri()}/wheels%2C%20mine,https://links.test/a%2Cb",
        "UV_INSECURE_HOST": "one.test two.test:8443",
        "UV_HTTP_TIMEOUT": "3",
        "UV_HTTP_RETRIES": "1",
        "UV_PRERELEASE": "allow",
        "SSL_CLIENT_CERT": "/client.pem",
        "SSL_CERT_FILE": "/ca.pem",
    }


def test_without_an_index_uv_is_given_an_empty_one(tmp_path: Path) -> None:
    told = pip_config.make_uv_env(PipConfig(no_index=True, extra_index_urls=("https://one.test/",)), tmp_path)
    assert told["UV_DEFAULT_INDEX"] == tmp_path.as_uri()
    assert "UV_INDEX" not in told
    assert told["UV_SYSTEM_CERTS"] == "1"


def test_a_folder_of_certificates_is_told_as_one(tmp_path: Path) -> None:
    told = pip_config.make_uv_env(PipConfig(cert=str(tmp_path)), tmp_path)
    assert (told["SSL_CERT_DIR"], "SSL_CERT_FILE" in told) == (str(tmp_path), False)


def test_a_proxy_is_told_in_every_spelling_that_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("https_proxy", "http://other.test")
    monkeypatch.setenv("NO_PROXY", "index.test")
    told = pip_config.make_uv_env(PipConfig(proxy="proxy.test:3128"), tmp_path)
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy")
    assert {told[name] for name in names} == {"http://proxy.test:3128"}
    assert told["NO_PROXY"] == ""


def test_credentials_go_with_the_nearest_index(server: Loopback) -> None:
    config = PipConfig(
        index_url=f"{server.with_login('one:1')}/a/simple",
        extra_index_urls=(f"{server.with_login('two:%40')}/b/simple",),
    )
    with http_session.open_session(config, [f"{server.with_login('three:3')}/c/"]) as session:
        for path in ("/a/file", "/b/file", "/c/file"):
            session.get(server.url + path)
    given = [one.headers["Authorization"] for one in server.seen]
    assert given == [requests.auth._basic_auth_str(*login) for login in (("one", "1"), ("two", "@"), ("three", "3"))]


def test_credentials_come_from_netrc_too(server: Loopback) -> None:
    write_config(Path.home() / ".netrc", "machine 127.0.0.1 login user password secret\n").chmod(0o600)
    with http_session.open_session(PipConfig()) as session:
        session.get(f"{server.url}/x")
    assert server.seen[0].headers["Authorization"] == requests.auth._basic_auth_str("user", "secret")


def test_it_says_who_it_is(server: Loopback) -> None:
    with http_session.open_session(PipConfig()) as session:
        session.get(f"{server.url}/x")
    assert server.seen[0].headers["User-Agent"].startswith("airgap-bundler/")


@pytest.mark.parametrize(("name", "value"), [("no_proxy", "*"), ("http_proxy", "http://127.0.0.1:9")])
def test_everything_goes_through_a_proxy_that_was_given(
    server: Loopback, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with http_session.open_session(PipConfig(proxy=server.url)) as session:
        session.get("http://index.test/simple/")
    assert server.asked() == ["http://index.test/simple/"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure(certificates: Certificates) -> Iterator[Loopback]:
    with serve(certificates.for_a_server()) as place:
        place.files["/x"] = b"x"
        yield place


def fetch_page(config: PipConfig, url: str) -> bytes:
    with http_session.open_session(config) as session:
        return session.get(url).content


def test_a_certificate_of_an_unknown_authority_is_not_trusted(secure: Loopback) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        fetch_page(PipConfig(), f"{secure.url}/x")


def test_pips_authority_is_trusted_whatever_the_environment_says(
    secure: Loopback, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", os.devnull)
    assert fetch_page(PipConfig(cert=str(certificates.authority)), f"{secure.url}/x") == b"x"


def test_the_systems_authorities_are_trusted(
    secure: Loopback, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    assert fetch_page(PipConfig(), f"{secure.url}/x") == b"x"


def test_a_trusted_host_is_not_verified_and_no_other(secure: Loopback) -> None:
    assert fetch_page(PipConfig(trusted_hosts=("127.0.0.1",)), f"{secure.url}/x") == b"x"
    assert fetch_page(PipConfig(trusted_hosts=(secure.host,)), f"{secure.url}/x") == b"x"
    for other in ("127.0.0.1:1", "127.0.0", "localhost"):
        with pytest.raises(requests.exceptions.SSLError):
            fetch_page(PipConfig(trusted_hosts=(other,)), f"{secure.url}/x")


def test_a_client_shows_its_certificate(certificates: Certificates) -> None:
    with serve(certificates.for_a_server(asks_back=True)) as place:
        place.files["/x"] = b"x"
        config = PipConfig(cert=str(certificates.authority), client_cert=str(certificates.leaf))
        assert fetch_page(config, f"{place.url}/x") == b"x"
        with pytest.raises(requests.exceptions.ConnectionError):
            fetch_page(PipConfig(cert=str(certificates.authority)), f"{place.url}/x")
