"""The command lines that engines are given, and engines that can't be used."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.errors import HostError, ProgramError
from bundler.format.lock import lockfile
from bundler.offline.container import engine_registry, engines, image_build
from bundler.offline.container.engines.buildah import Buildah
from bundler.offline.container.engines.docker import Docker
from bundler.offline.container.engines.engine import Command, ContainerRun, Engine, ImageBuild
from bundler.offline.container.engines.podman import Podman
from bundler.offline.container.image_build import ImageOptions
from bundler.offline.trust.verification import VerifiedLock
from bundler.online import installer
from tests.support.bundles import SMALL, make_lock
from tests.support.programs import require_tool

BAKE = ImageBuild(
    context=Path("/c"),
    dockerfile=Path("/c/Dockerfile.offline"),
    image="localhost/demo:1.0",
    base="localhost/b:1",
    epoch=315532800,
)
TRIAL = ContainerRun(
    image="localhost/demo:1.0", user=54321, writable_folders=("/tmp", "/opt/demo/var"), argv=("/py", "-I", "x")
)
END = "--build-arg BASE=localhost/b:1 --file /c/Dockerfile.offline --tag localhost/demo:1.0 /c"
HARDENED = "--read-only --tmpfs /tmp:exec,mode=1777 --tmpfs /opt/demo/var:exec,mode=1777 --user 54321:0 --cap-drop ALL --security-opt no-new-privileges --entrypoint /py localhost/demo:1.0 -I x"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (Docker().make_build_command(BAKE), f"docker build --network none --provenance=false --progress plain {END}"),
        (Docker().make_run_command(TRIAL), f"docker run --rm --no-healthcheck --network none {HARDENED}"),
        (Docker().make_exists_command("a"), "docker image inspect --format {{.Id}} a"),
        (Docker().make_load_command(Path("/b.tar")), "docker load --quiet --input /b.tar"),
        (Docker().make_save_command("a", Path("/f")), "docker save --output /f a"),
        (Docker().make_version_command(), "docker version --format {{.Server.Version}}"),
        (Docker().make_history_command("a"), "docker history --no-trunc --human=false --format {{json .}} a"),
        (
            Podman().make_build_command(BAKE),
            f"podman build --network none --pull=never --http-proxy=false --no-hosts --no-cache --layers --force-rm --timestamp 315532800 --format docker {END}",
        ),
        (
            Podman().make_run_command(TRIAL),
            f"podman run --rm --no-healthcheck --network none --pull=never --http-proxy=false {HARDENED}",
        ),
        (Podman().make_exists_command("a"), "podman image exists a"),
        (Podman().make_load_command(Path("/b.tar")), "podman load --quiet --input /b.tar"),
        (Podman().make_save_command("a", Path("/f")), "podman save --quiet --format oci-archive --output /f a"),
        (Podman().make_version_command(), "podman version --format {{.Client.Version}}"),
        (Podman().make_history_command("a"), "podman history --no-trunc --human=false --format json a"),
        (
            Buildah().make_build_command(BAKE),
            f"unshare --net -- buildah bud --isolation chroot --pull-never --http-proxy=false --no-hosts --no-cache --layers --force-rm --timestamp 315532800 --format docker {END}",
        ),
        (Buildah().make_save_command("a:1", Path("/f")), "buildah push --quiet a:1 oci-archive:/f:a:1"),
    ],
)
def test_command_lines(command: Command, line: str) -> None:
    assert " ".join(command.argv) == line


def test_docker_builds_with_buildkit_whatever_it_was_told() -> None:
    assert Docker().make_build_command(BAKE).env == {"DOCKER_BUILDKIT": "1"}


def test_a_builder_of_a_person_s_own_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDX_BUILDER", "mine")
    told = image_build._make_env(Docker().make_build_command(BAKE))
    assert (told.get("BUILDX_BUILDER"), told["DOCKER_BUILDKIT"]) == (None, "1")


def test_layers_are_read_from_the_lowest_up_and_empty_ones_left_out() -> None:
    steps = [{"CreatedBy": "RUN b", "Size": "20"}, {"CreatedBy": "ENV", "Size": "0"}, {"CreatedBy": "a", "Size": "10"}]
    printed = "\n".join(json.dumps(step) for step in steps)
    assert [(layer.size, layer.made_by) for layer in Docker().parse_layers(printed)] == [(10, "a"), (20, "RUN b")]
    said = json.dumps(
        [{"CreatedBy": "RUN b", "size": 20}, {"CreatedBy": "ENV", "size": 0}, {"CreatedBy": "a", "size": 9}]
    )
    assert [(layer.size, layer.made_by) for layer in Podman().parse_layers(said)] == [(9, "a"), (20, "RUN b")]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A host that has programs of these names; each prints what it is told and ends with a code."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def has(name: str, prints: str, code: int = 0, to: int = 1) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\necho '{prints}' >&{to}\nexit {code}\n")
        path.chmod(0o755)

    return has


@pytest.mark.usefixtures("host")
def test_no_engine_at_all() -> None:
    with pytest.raises(HostError, match="no container engine on this host can build an image") as error:
        image_build.choose_engine(ImageOptions())
    assert str(error.value).splitlines()[1:] == [
        f"  {name}: is not on PATH" for name in ("docker", "podman", "buildah")
    ]
    assert "install podman or docker" in error.value.hint


def test_an_engine_that_is_too_old_or_away_is_passed_over_with_its_reason(host: Callable[..., None]) -> None:
    host("docker", "Cannot connect to the Docker daemon", 1, 2)
    host("podman", "3.4.2")
    with pytest.raises(HostError) as error:
        image_build.choose_engine(ImageOptions())
    assert "  docker: Cannot connect to the Docker daemon" in str(error.value)
    assert "  podman: is 3.4, needs 4.2 or newer" in str(error.value)
    host("podman", "5.0.3")
    assert image_build.choose_engine(ImageOptions()).name == "podman"
    with pytest.raises(HostError, match="docker: Cannot connect"):
        image_build.choose_engine(ImageOptions(engine="docker"))


def test_docker_without_buildx_is_passed_over(host: Callable[..., None], tmp_path: Path) -> None:
    host("docker", "26.1.5")
    (tmp_path / "bin" / "docker").write_text(
        '#!/bin/sh\n[ $1 = buildx ] && { echo "unknown command: docker buildx" >&2; exit 1; }\necho 26.1.5\n'
    )
    host("podman", "5.0.3")
    assert image_build.choose_engine(ImageOptions()).name == "podman"
    with pytest.raises(HostError, match="docker: unknown command: docker buildx"):
        image_build.choose_engine(ImageOptions(engine="docker"))


def test_layers_of_a_base_that_does_not_say_how_it_was_made() -> None:
    said = {"Docker": {"history": [{"created_by": "RUN b"}, {"created_by": "ENV", "empty_layer": True}]}}
    said["Manifest"] = json.dumps({"layers": [{"size": 1, "digest": "d"}, {"size": 2, "digest": "e"}]})  # type: ignore[assignment]
    found = Buildah().parse_layers(json.dumps(said))
    assert [(layer.made_by, layer.size, layer.digest) for layer in found] == [("", 1, "d"), ("RUN b", 2, "e")]


def test_saving_needs_a_newer_docker_than_baking(host: Callable[..., None], tmp_path: Path) -> None:
    host("docker", "24.0.7")
    assert image_build.choose_engine(ImageOptions()).name == "docker"
    with pytest.raises(HostError, match=r"is 24\.0, needs 25\.0 or newer for --output"):
        image_build.choose_engine(ImageOptions(engine="docker", archive_path=tmp_path / "x"))


def test_an_engine_that_does_not_say_its_version(host: Callable[..., None]) -> None:
    host("podman", "hello")
    with pytest.raises(HostError, match="printed no version: 'hello'"):
        image_build.choose_engine(ImageOptions(engine="podman"))


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ("network not cut: eth0", "the network is not cut during the build: eth0 is up"),
        ("write /x: no space left on device", "the engine.s disk is full"),
    ],
)
def test_what_an_engine_says_means_something(host: Callable[..., None], printed: str, message: str) -> None:
    host("docker", printed, 1, 2)
    with pytest.raises(HostError, match=message) as error:
        image_build._run_engine(Docker().make_build_command(BAKE))
    assert error.value.hint


def test_a_disk_that_is_too_small_for_the_layers(host: Callable[..., None], tmp_path: Path) -> None:
    locked = make_lock(SMALL)
    large = tuple(dataclasses.replace(one, size=1 << 50) if one.kind == "model" else one for one in locked.artifacts)
    huge = VerifiedLock(lockfile.replace_fields(locked, artifacts=large))
    host("docker", f"{tmp_path}\nvfs")
    image_build._require_free_space(Docker(), VerifiedLock(locked), 1)
    with pytest.raises(HostError, match="the disk is too small"):  # docker keeps the bundle in its build cache
        image_build._require_free_space(Docker(), VerifiedLock(locked), 1 << 60)
    with pytest.raises(HostError, match=r"the image's layers in docker's storage \(vfs\) needs") as error:
        image_build._require_free_space(Docker(), huge, 1)
    assert error.value.where == str(tmp_path)
    host("docker", "/another/machine/s/folder\noverlay2")
    image_build._require_free_space(Docker(), huge, 1)  # is for that machine to say


def test_the_text_of_the_look_at_the_network_is_no_finding(host: Callable[..., None]) -> None:
    host("docker", 'STEP: sys.exit(f"network not cut: {up}"): exit status 1', 1, 2)
    with pytest.raises(ProgramError):
        image_build._run_engine(Docker().make_build_command(BAKE))


def test_a_file_of_the_folder_is_all_that_an_engine_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nerdctl.py").write_text(
        "from bundler.offline.container.engines.podman import Podman\n"
        "class Nerdctl(Podman):\n    name, rank = 'nerdctl', 0\nENGINE = Nerdctl()\n"
    )
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(tmp_path)])
    assert list(engine_registry._load_engines()) == ["nerdctl", "docker", "podman", "buildah"]
    monkeypatch.delitem(sys.modules, f"{engines.__name__}.nerdctl")


def test_the_engines_are_found_inside_the_installer_too(tmp_path: Path) -> None:
    program = tmp_path / "bundle.pyz"
    program.write_bytes(installer.build_installer())
    command = [str(require_tool("python3.11")), "-I", "-S", str(program), "image", "--engine", "none"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "'none' is not one of 'docker', 'podman', 'buildah'" in done.stderr


@pytest.mark.parametrize("engine", engine_registry.ENGINES.values())
def test_every_engine_is_found_by_its_own_name(engine: Engine) -> None:
    assert engine_registry.ENGINES[engine.name] is engine
