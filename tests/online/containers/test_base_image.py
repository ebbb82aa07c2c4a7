"""Base images out of registries: Debian's own on loopback, by skopeo and straight, and one that misbehaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from bundler.errors import FetchError, IntegrityError, ResolveError
from bundler.format.documents import InvalidValueError
from bundler.format.lock.entries import BLOBS_FOLDER
from bundler.format.lock.platforms import PLATFORMS, Platform
from bundler.format.lock.target import Target
from bundler.online.containers import base_image, registry, registry_auth, skopeo
from bundler.online.containers.base_image import BaseImage
from bundler.online.manifest import image_reference
from bundler.online.manifest.image_spec import ImageSpec
from bundler.online.transfer import http
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import RecordingReporter
from tests.support.bundles import TARGET
from tests.support.programs import require_tool
from tests.support.servers import registries
from tests.support.servers.registries import Crooked, Tiny

AMD = "linux/amd64"
ARM = Target(python="3.11", platform="linux-aarch64", libc="glibc-2.17", accelerator="cpu")
WAYS = ("skopeo", "straight")


@pytest.fixture(scope="module")
def image() -> Tiny:
    return registries.tiny(AMD, "linux/arm64", "windows/amd64")


@pytest.fixture(scope="module")
def host(image: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("registry")
    with registries.real(folder) as named:
        registries.push(image.layout(folder / "layout"), f"{named}/team/base:1")
        yield named


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to a registry, each where the other can't be meant."""
    if request.param == "straight":
        monkeypatch.setattr(skopeo, "find_skopeo", lambda: "")
    else:
        require_tool("skopeo")
    return str(request.param)


@pytest.fixture
def pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BaseImage]:
    quick = http.RetryPolicy(max_tries=2, first_delay=0.01)
    monkeypatch.setattr(registry, "DEFAULT_RETRY_POLICY", quick)

    def pulled(base: str, target: Target = TARGET, pinned: str = "", **options: bool) -> BaseImage:
        wanted = ImageSpec(base=base, **options)
        return base_image.pull(
            wanted, target, FileCache(tmp_path / "shelf"), PipConfig(retries=1), RecordingReporter(), digest=pinned
        )

    return pulled


def contents(pulled: BaseImage, shelf: Path) -> dict[str, bytes]:
    return {one.path: FileCache(shelf).require(one.sha256).read_bytes() for one in pulled.artifacts}


@pytest.mark.usefixtures("way")
def test_the_platform_of_the_target_is_pinned_and_carried(
    pull: Callable[..., BaseImage], host: str, image: Tiny, tmp_path: Path
) -> None:
    pulled = pull(f"{host}/team/base:1")
    assert pulled.image.digest == image.manifests[AMD]
    held = contents(pulled, tmp_path / "shelf")
    blobs = {path.removeprefix(BLOBS_FOLDER): data for path, data in held.items() if path.startswith(BLOBS_FOLDER)}
    assert {digest: registries.sha256(data) for digest, data in blobs.items()} == {digest: digest for digest in blobs}
    manifest = json.loads(blobs[pulled.image.digest.removeprefix("sha256:")])
    named = {manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"]), pulled.image.digest}
    assert {f"sha256:{digest}" for digest in blobs} == named
    assert pull(f"{host}/team/base:1", ARM).image.digest == image.manifests["linux/arm64"]


@pytest.mark.usefixtures("way")
def test_what_is_carried_is_a_layout_that_other_programs_read(
    pull: Callable[..., BaseImage], host: str, tmp_path: Path
) -> None:
    pulled = pull(f"{host}/team/base:1")
    for path, data in contents(pulled, tmp_path / "shelf").items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    told = [
        require_tool("skopeo"),
        "inspect",
        "--format",
        "{{.Digest}} {{.Os}}/{{.Architecture}}",
        f"oci:{tmp_path / 'images'}",
    ]
    done = subprocess.run(told, check=True, capture_output=True, text=True)
    assert done.stdout == f"{pulled.image.digest} {AMD}\n"
    # and packed with nothing but tar, as docker load takes it
    packed = tmp_path / "base.tar"
    subprocess.run([require_tool("tar"), "cf", packed, "-C", tmp_path / "images", "."], check=True)
    told = [require_tool("skopeo"), "inspect", "--format", "{{.Os}}/{{.Architecture}}", f"docker-archive:{packed}"]
    assert subprocess.run(told, check=True, capture_output=True, text=True).stdout == f"{AMD}\n"


@pytest.mark.usefixtures("way")
def test_both_ways_and_every_time_give_the_same(pull: Callable[..., BaseImage], host: str, image: Tiny) -> None:
    pulled = pull(f"{host}/team/base:1")
    assert pull(f"{host}/team/base@{image.manifests[AMD]}").artifacts == pulled.artifacts
    assert pull(f"{host}/team/base@sha256:{registries.sha256(image.index)}").image.digest == image.manifests[AMD]
    assert pull(f"{host}/team/base:moved-on", pinned=pulled.image.digest).artifacts == pulled.artifacts


@pytest.mark.usefixtures("way")
def test_a_base_that_is_not_carried_is_only_pinned(
    pull: Callable[..., BaseImage], host: str, image: Tiny, tmp_path: Path
) -> None:
    pulled = pull(f"{host}/team/base:1", carry=False)
    assert (pulled.image.digest, pulled.artifacts) == (image.manifests[AMD], ())
    assert pulled.image.pinned_name == f"{host}/team/base@{image.manifests[AMD]}"
    assert not list((tmp_path / "shelf").rglob("?" * 64))


@pytest.mark.usefixtures("way")
def test_what_is_not_there_is_said(pull: Callable[..., BaseImage], host: str, image: Tiny, rare: Target) -> None:
    with pytest.raises(ResolveError, match="the registry has no such image") as error:
        pull(f"{host}/team/base:2")
    assert error.value.where == f"{host}/team/base:2"
    with pytest.raises(ResolveError, match="does not exist for linux/s390x") as error:
        pull(f"{host}/team/base:1", rare)
    assert error.value.hint.startswith("it exists for: linux/amd64, linux/arm64, windows/amd64")
    with pytest.raises(ResolveError, match="the image is for linux/arm64, the target is linux/amd64"):
        pull(f"{host}/team/base@{image.manifests['linux/arm64']}")


@pytest.fixture
def rare(monkeypatch: pytest.MonkeyPatch) -> Target:
    """A target of a platform that images may lack: one more row of the table is all it takes."""
    row = replace(PLATFORMS[TARGET.platform], name="linux-s390x", oci_architecture="s390x")
    monkeypatch.setitem(cast("dict[str, Platform]", PLATFORMS), row.name, row)
    return replace(TARGET, platform=row.name)


@pytest.mark.usefixtures("way")
def test_a_registry_that_is_away(pull: Callable[..., BaseImage]) -> None:
    with pytest.raises(FetchError, match="refused"):
        pull("127.0.0.1:9/team/base:1")


@pytest.mark.usefixtures("way")
def test_who_is_not_logged_in_and_who_is(
    pull: Callable[..., BaseImage], image: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = image.layout(tmp_path / "layout")
    with registries.real(tmp_path / "locked", locked=True) as host:
        registries.push(layout, f"{host}/x:1", "--dest-creds", f"{registries.USER}:{registries.PASSWORD}")
        with pytest.raises(FetchError, match="denies access") as error:
            pull(f"{host}/x:1")
        assert "docker login" in error.value.hint
        wrong = registries.auth_file(tmp_path / "wrong.json", host, "open barley")
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(wrong))
        with pytest.raises(FetchError, match="denies access"):
            pull(f"{host}/x:1")
        monkeypatch.delenv("REGISTRY_AUTH_FILE")
        registries.auth_file(tmp_path / "home" / ".docker" / "config.json", host)
        pulled = pull(f"{host}/x:1")
    assert pulled.image.digest == image.manifests[AMD]
    shelf = b"".join(path.read_bytes() for path in (tmp_path / "shelf").rglob("*") if path.is_file())
    assert registries.PASSWORD.encode() not in shelf


@pytest.fixture
def straight(monkeypatch: pytest.MonkeyPatch, image: Tiny) -> Iterator[Crooked]:
    monkeypatch.setattr(skopeo, "find_skopeo", lambda: "")
    with registries.crooked(replace(image, blobs=dict(image.blobs))) as state:
        yield state


def test_a_token_is_asked_for_when_the_registry_wants_one(
    pull: Callable[..., BaseImage], straight: Crooked, image: Tiny
) -> None:
    assert pull(f"{straight.host}/library/x:1").image.digest == image.manifests[AMD]
    assert straight.asked.count("/token") == 1


def test_a_token_that_ends_on_the_way_is_had_anew(
    pull: Callable[..., BaseImage], straight: Crooked, image: Tiny, tmp_path: Path
) -> None:
    straight.lasts = 2  # the index and the manifest; then the blobs
    pulled = pull(f"{straight.host}/library/x:1")
    assert pulled.image.digest == image.manifests[AMD]
    assert len(contents(pulled, tmp_path / "shelf")) == len(pulled.artifacts)
    assert straight.asked.count("/token") == 2


def test_a_registry_that_takes_no_token_of_its_own(pull: Callable[..., BaseImage], straight: Crooked) -> None:
    straight.lasts = 0
    with pytest.raises(FetchError, match="denies access"):
        pull(f"{straight.host}/library/x:1")
    assert straight.asked.count("/token") == 1


def test_credentials_go_to_no_place_less_safe_than_the_registry(
    pull: Callable[..., BaseImage], straight: Crooked
) -> None:
    straight.realm = "ftp://elsewhere.example/token"
    with pytest.raises(FetchError, match="denies access"):
        pull(f"{straight.host}/library/x:1")
    assert "/token" not in straight.asked


@pytest.mark.parametrize("what", ["manifest", "layer"])
def test_bytes_that_are_not_what_the_digest_says(
    pull: Callable[..., BaseImage], straight: Crooked, image: Tiny, what: str
) -> None:
    digest = image.manifests[AMD].removeprefix("sha256:")
    if what == "layer":
        digest = json.loads(image.blobs[digest])["layers"][0]["digest"].removeprefix("sha256:")
    straight.image.blobs[digest] = image.blobs[digest].replace(image.blobs[digest][-8:], b"damaged!")
    with pytest.raises(IntegrityError, match="sha256"):
        pull(f"{straight.host}/library/x:1")


@pytest.mark.parametrize(
    "document",
    [
        b"<html>",
        b"[]",
        b'{"manifests": [{"platform": null}]}',
        b'{"manifests": ["x"]}',
        b'{"manifests": null}',
        b'{"manifests": [{"platform": "linux"}]}',
        b'{"schemaVersion": 1}',
    ],
)
def test_what_is_no_manifest(pull: Callable[..., BaseImage], straight: Crooked, document: bytes) -> None:
    straight.image = replace(straight.image, index=document)
    with pytest.raises(
        (IntegrityError, ResolveError), match=r"not a manifest|does not exist|unsupported manifest|is invalid"
    ):
        pull(f"{straight.host}/library/x:1")


def test_credentials_that_a_helper_keeps_need_skopeo(
    pull: Callable[..., BaseImage], straight: Crooked, tmp_path: Path
) -> None:
    path = tmp_path / "home" / ".docker" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"credHelpers": {straight.host: "vault"}}))
    with pytest.raises(FetchError, match="a credential helper") as error:
        pull(f"{straight.host}/library/x:1")
    assert "install skopeo" in error.value.hint
    path.write_text(json.dumps({"auths": {straight.host: {"auth": "", "identitytoken": "t"}}}))
    with pytest.raises(FetchError, match="is an identity token") as error:
        pull(f"{straight.host}/library/x:1")
    assert "install skopeo" in error.value.hint
    path.write_text("{")
    with pytest.raises(FetchError, match="can't be read"):
        pull(f"{straight.host}/library/x:1")


@pytest.mark.parametrize("key", ["docker.io", "https://index.docker.io/v1/"])
def test_helpers_of_docker_s_own_registry_are_known_by_each_of_its_names(tmp_path: Path, key: str) -> None:
    path = tmp_path / "home" / ".docker" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"credHelpers": {key: "vault"}}))
    with pytest.raises(FetchError, match="a credential helper"):
        registry_auth.find_login(image_reference.parse_reference("team/private:1"))


def test_where_no_session_was_begun_podman_keeps_its_file_below_run(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Path(f"/run/containers/{os.getuid()}/auth.json")
    assert kept in registry_auth._list_auth_files()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert kept not in registry_auth._list_auth_files()


@pytest.mark.parametrize(
    ("base", "host", "repository", "reference", "loopback"),
    [
        ("python", "registry-1.docker.io", "library/python", "latest", False),
        ("team/app:1.0", "registry-1.docker.io", "team/app", "1.0", False),
        ("localhost/base:1", "localhost", "base", "1", True),
        ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000", "a/b", "c", True),
        ("registry:5000/a", "registry:5000", "a", "latest", False),
        ("quay.example/a/b:1@sha256:" + "a" * 64, "quay.example", "a/b", "sha256:" + "a" * 64, False),
    ],
)
def test_names_are_taken_apart_as_docker_does(
    base: str, host: str, repository: str, reference: str, loopback: bool
) -> None:
    name = image_reference.parse_reference(base)
    assert (name.api_host, name.repository, name.tag_or_digest, name.is_loopback) == (
        host,
        repository,
        reference,
        loopback,
    )


@pytest.mark.parametrize("base", ["UPPER/case:1", "a b", "x@sha256:short", "-x", "a//b:1:2"])
def test_names_that_are_none(base: str) -> None:
    with pytest.raises(InvalidValueError):
        ImageSpec(base=base)


def test_plain_http_is_for_loopback_unless_told_otherwise(tmp_path: Path) -> None:
    def root(base: str, *, plain_http: bool) -> str:
        store = FileCache(tmp_path)
        made = registry.HttpRegistryClient(
            reference=image_reference.parse_reference(base),
            plain_http=plain_http,
            config=PipConfig(),
            cache=store,
            reporter=RecordingReporter(),
        )
        return made._base_url.partition(":")[0]

    assert root("registry.example/x", plain_http=False) == "https"
    assert root("registry.example/x", plain_http=True) == "http"
    assert root("127.0.0.1:5000/x", plain_http=False) == "http"


def test_skopeo_is_found_where_it_is() -> None:
    assert skopeo.find_skopeo() == (shutil.which("skopeo") or "")
