"""Images baked by buildah in a network namespace, and what runs inside them."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bundler.format.lock import lockfile
from bundler.format.tar import archive
from bundler.offline.container.engines.buildah import Buildah
from bundler.offline.container.engines.engine import ContainerRun
from tests.support.bundles import InstalledBundle
from tests.support.images import BASE, ImageBundles, run_buildah
from tests.support.programs import require_tool, run_bundle

pytestmark = pytest.mark.long
Baked = dict[str, Any]


def build_image(engine: dict[str, str], *arguments: object) -> Baked:
    done = run_bundle("image", *arguments, "--engine", "buildah", "--json", env=engine)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout)["result"])


def run_inside(engine: dict[str, str], image: str, *argv: str, user: int = 77777) -> subprocess.CompletedProcess[str]:
    """Run a program in an image as ``bundle image`` does."""
    trial = ContainerRun(image=image, user=user, writable_folders=("/tmp",), argv=argv)
    return subprocess.run(
        Buildah().make_run_command(trial).argv, check=False, capture_output=True, text=True, env=engine
    )


def find_step(baked: Baked, words: str) -> str:
    """The digest of the layer that a step made."""
    (digest,) = [layer["digest"] for layer in baked["layers"] if words in layer["made_by"]]
    return str(digest)


@pytest.fixture(scope="module")
def first(image_bundles: ImageBundles, engine: dict[str, str]) -> tuple[Path, Baked]:
    path = image_bundles.build("1", "1.0")
    saved = image_bundles.folder / "small.oci.tar"
    latest = image_bundles.folder / "latest.bundle.tar"
    latest.symlink_to(path.name)  # inside the bake a link leads nowhere
    return path, build_image(engine, latest, "--output", f"oci-archive:{saved}")


def test_the_base_came_with_the_bundle_and_is_what_the_registry_has(
    first: tuple[Path, Baked], image_bundles: ImageBundles, engine: dict[str, str]
) -> None:
    with archive.open_bundle(first[0]) as carried:
        locked = carried.lock
    assert locked.image.base == image_bundles.base
    assert first[1]["base"] == locked.image.loaded_name
    told = json.loads(run_buildah(engine, "inspect", "--type", "image", locked.image.loaded_name))
    assert told["FromImageDigest"] == locked.image.digest


def test_another_requirement_leaves_the_layers_of_the_models_as_they_were(
    first: tuple[Path, Baked], image_bundles: ImageBundles, engine: dict[str, str]
) -> None:
    second = build_image(engine, image_bundles.build("2", "1.1"))
    for part in ("--only model:m", "--only model:n"):
        assert find_step(second, part) == find_step(first[1], part)
    assert find_step(second, "--only environment") != find_step(first[1], "--only environment")
    parts = [layer["made_by"].partition("--only ")[2].split()[:1] for layer in second["layers"]]
    assert [part for part in parts if part] == [["model:m"], ["model:n"], ["environment"], ["app"]]


def test_the_application_has_a_layer_of_its_own(first: tuple[Path, Baked]) -> None:
    with tarfile.open(first[1]["archive"]) as saved:
        names = []
        for layer in _layers(saved)[-2:]:
            with tarfile.open(fileobj=saved.extractfile(layer)) as packed:
                names.append([name for name in packed.getnames() if "/app/" in name])
    assert [Path(name).name for name in names[0]] == ["myapp", "__main__.py"]
    assert not names[1], "what the last step did not change is not there again"


def test_a_model_s_layer_holds_its_folder_and_nothing_else(first: tuple[Path, Baked]) -> None:
    with tarfile.open(first[1]["archive"]) as saved:
        layers = _layers(saved)
        with tarfile.open(fileobj=saved.extractfile(layers[-5])) as layer:
            members = layer.getmembers()
    names = [member.name for member in members]
    home = next(name for name in names if name.startswith("opt/small/models/m-"))
    expected = {"opt", "opt/small", "opt/small/models", home, f"{home}/config.json", f"{home}/sub"}
    assert set(names) - {"run"} == expected | {f"{home}/w.bin", f"{home}/sub/w.bin"}
    assert {member.mtime for member in members} == {lockfile.ZIP_EPOCH}


def _layers(saved: tarfile.TarFile) -> list[str]:
    def read(digest: str) -> dict[str, Any]:
        found = saved.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
        assert found is not None
        return dict(json.load(found))

    index = saved.extractfile("index.json")
    assert index is not None
    manifest = read(json.load(index)["manifests"][0]["digest"])
    return [f"blobs/sha256/{layer['digest'].removeprefix('sha256:')}" for layer in manifest["layers"]]


def test_the_application_runs_as_anybody_and_can_write_nothing(
    first: tuple[Path, Baked], engine: dict[str, str]
) -> None:
    image = str(first[1]["image"])
    home = "/opt/small/current"
    code = (
        "import os, sys; os.chdir('/opt/small/current/app'); os.environ['MODEL_PATH'] = '/m'; sys.path.insert(0, '.')\n"
        "import runpy; runpy.run_module('myapp', run_name='__main__')\n"
        "print(os.getuid(), os.getgid(), open('/opt/small/current/models/m/config.json').read())\n"
        "for place in ('/opt/small/current/x', '/x', '/opt/small/var/x'):\n"
        "    try: open(place, 'w'); print('written', place)\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    done = run_inside(engine, image, f"{home}/venv/bin/python", "-c", code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("alpha 1.0 /m ")
    assert lines[1:] == ["77777 0 {}", *["Read-only file system"] * 3]


def test_the_image_s_own_start_runs_the_application(first: tuple[Path, Baked], engine: dict[str, str]) -> None:
    """With exactly the variables, the folder and the program that the image gives, as an engine starts it."""
    told = json.loads(run_buildah(engine, "inspect", "--type", "image", str(first[1]["image"])))["Docker"]["config"]
    start = 'cd "$0" && exec env -i HOME=/tmp "$@"'
    argv = ["sh", "-c", start, told["WorkingDir"], *told["Env"], *told["Entrypoint"]]
    done = run_inside(engine, str(first[1]["image"]), *argv)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["alpha", "1.0", "/opt/small/current/models/m", done.stdout.split()[-1]]
    assert done.stdout.rstrip().endswith("/app"), "Python says where the link of the live release leads"


def test_a_saved_image_has_its_name_and_what_runs_it_beside(first: tuple[Path, Baked]) -> None:
    saved = Path(first[1]["archive"])
    with tarfile.open(saved) as opened:
        index = json.load(opened.extractfile("index.json"))  # type: ignore[arg-type]
    (manifest,) = index["manifests"]
    assert manifest["annotations"]["org.opencontainers.image.ref.name"] == first[1]["image"]
    assert first[1]["runners"] == [f"{saved}.{name}" for name in ("compose.offline.yaml", "kubernetes.offline.yaml")]
    assert all(f'image: "{first[1]["image"]}"' in Path(path).read_text() for path in first[1]["runners"])


def test_the_health_check_of_the_image_says_that_it_is_well(first: tuple[Path, Baked], engine: dict[str, str]) -> None:
    told = json.loads(run_buildah(engine, "inspect", "--type", "image", str(first[1]["image"])))["Docker"]["config"]
    assert told["Healthcheck"]["Test"][0] == "CMD"
    done = run_inside(engine, str(first[1]["image"]), *told["Healthcheck"]["Test"][1:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert (told["User"], told["Entrypoint"]) == ("1234:0", ["python", "-m", "myapp"])
    assert told["WorkingDir"] == "/opt/small/current/app"
    assert "HF_HUB_OFFLINE=1" in told["Env"]
    assert told["Labels"]["bundle.digest"] == f"sha256:{first[1]['digest']}"


def test_a_network_that_is_left_on_ends_the_bake(
    first: tuple[Path, Baked], engine: dict[str, str], tmp_path: Path
) -> None:
    """Without its namespace, buildah's chroot isolation keeps the host's network: an unshare that does nothing."""
    lax = tmp_path / "unshare"
    lax.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    lax.chmod(0o755)
    told = engine | {"PATH": f"{tmp_path}:{engine['PATH']}", "BUILDAH_ISOLATION": "chroot"}
    done = run_bundle("image", first[0], "--engine", "buildah", env=told)
    assert done.returncode == 9, done.stderr
    assert "the network is not cut during the build: [" in done.stderr
    assert not run_buildah(engine, "containers", "--quiet"), "what a failed bake began is left"


def test_a_base_that_is_not_there_and_what_to_do(first: tuple[Path, Baked], engine: dict[str, str]) -> None:
    done = run_bundle("image", first[0], "--engine", "buildah", "--base", "registry.example/x:1", env=engine)
    assert (done.returncode, "registry.example/x:1 is not loaded in buildah" in done.stderr) == (9, True), done.stderr
    assert "buildah pull registry.example/x:1" in done.stderr


def test_a_prefix_stands_for_the_bundle_that_it_came_from(
    first: tuple[Path, Baked], engine: dict[str, str], tmp_path: Path
) -> None:
    carried = tmp_path / first[0].name
    carried.hardlink_to(first[0])
    prefix = tmp_path / "opt"
    done = run_bundle("install", carried, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    done = run_bundle("image", "--prefix", prefix, "--engine", "buildah", "--base", "registry.example/x:1", env=engine)
    assert (done.returncode, "registry.example/x:1 is not loaded" in done.stderr) == (9, True), done.stderr
    carried.unlink()
    done = run_bundle("image", "--prefix", prefix, env=engine)
    assert (done.returncode, "no longer exists" in done.stderr) == (2, True), done.stderr


def test_the_demo_embeds_inside_its_image(demo: InstalledBundle, base: str, engine: dict[str, str]) -> None:
    baked = build_image(engine, demo.bundle, "--base", base)
    (proof,) = baked["smoke"]
    assert (proof["ok"], proof["width"], proof["network"]["interfaces"]) == (True, 384, ["lo"])
    assert all(one["nearer"] > one["farther"] for one in proof["closer"])
    assert baked["base"] == BASE
    assert not subprocess.run(
        [require_tool("buildah"), "rmi", baked["image"]], check=False, env=engine, capture_output=True
    ).returncode
