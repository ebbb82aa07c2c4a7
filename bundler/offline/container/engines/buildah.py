"""Buildah as root, in chroot isolation: for hosts that can't run containers, such as a container itself.

In that isolation buildah does not cut the network (tried: ``--network none`` silently keeps the host's network where
BUILDAH_ISOLATION sets the isolation), so every step runs in a network namespace of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

from bundler.offline.container.engines.engine import Command, ContainerRun, Engine, ImageBuild, Layer, Version

_RUN_SCRIPT = """
set -e
container=$(buildah from --quiet --pull-never "$1")
trap 'buildah rm "$container" >/dev/null' EXIT
exec 3>&1
unshare --net --mount --propagation private -- sh -c '
  set -e
  root=$1 user=$2 writable=$3
  shift 3
  mount --bind "$root" "$root"
  mount -o remount,bind,ro "$root"
  mount --rbind /proc "$root/proc"
  mount --rbind /dev "$root/dev"
  for folder in $writable; do mount -t tmpfs -o mode=1777 tmpfs "$root$folder"; done
  exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp chroot --userspec="$user:0" --groups=0 "$root" "$@"
' sh "$(buildah mount "$container")" "$2" "$3" "${@:4}"
"""


class Buildah:
    """Buildah without podman: it builds images; a script with chroot runs them."""

    name = "buildah"
    rank = 3
    needs_root = True
    copies_context = False
    min_version: Version = (1, 26)  # bud --no-hosts
    min_save_version: Version = (1, 26)

    def make_version_command(self) -> Command:
        """Return the command that prints the version."""
        return _make_command("version", "--json")

    def make_check_commands(self) -> tuple[Command, ...]:
        """Return the commands that must succeed before a build."""
        return ()

    def make_storage_command(self) -> Command:
        """Return the command that prints the storage folder and driver."""
        return _make_command("info", "--format", "{{.store.GraphRoot}}\n{{.store.GraphDriverName}}")

    def make_exists_command(self, image: str) -> Command:
        """Return the command that fails unless the image is loaded."""
        return _make_command("inspect", "--type", "image", "--format", "{{.FromImageID}}", image)

    def make_load_command(self, archive: Path) -> Command:
        """Return the command that loads an OCI archive."""
        return _make_command("pull", "--quiet", f"oci-archive:{archive}")

    def make_build_command(self, build: ImageBuild) -> Command:
        """Return the command that builds an image without a network."""
        command = _make_command(
            "bud", "--isolation", "chroot", "--pull-never", "--http-proxy=false", "--no-hosts",
            # The cache key leaves out what a mount holds. Constant times make layers reproducible.
            "--no-cache", "--layers", "--force-rm", "--timestamp", str(build.epoch),
            "--format", "docker", "--build-arg", f"BASE={build.base}", "--file", str(build.dockerfile),
            "--tag", build.image, str(build.context),
        )  # fmt: skip
        return Command(argv=("unshare", "--net", "--", *command.argv))

    def make_run_command(self, run: ContainerRun) -> Command:
        """Return the command that runs a program in an image."""
        argv = ("bash", "-c", _RUN_SCRIPT, "bash", run.image, str(run.user), " ".join(run.writable_folders), *run.argv)
        return Command(argv=argv)

    def make_history_command(self, image: str) -> Command:
        """Return the command whose output `parse_layers` reads."""
        return _make_command("inspect", "--type", "image", image)

    def parse_layers(self, output: str) -> tuple[Layer, ...]:
        """Return the layers, the lowest first."""
        image = json.loads(output)
        steps = [step["created_by"] for step in image["Docker"]["history"] if not step.get("empty_layer")]
        layers = json.loads(image["Manifest"])["layers"]
        unknown = [""] * (len(layers) - len(steps))  # a base image may have no history
        return tuple(
            Layer(size=int(layer["size"]), made_by=step, digest=layer["digest"])
            for layer, step in zip(layers, [*unknown, *steps], strict=True)
        )

    def make_save_command(self, image: str, archive: Path) -> Command:
        """Return the command that writes an image as an OCI archive."""
        return _make_command("push", "--quiet", image, f"oci-archive:{archive}:{image}")


def _make_command(*arguments: str) -> Command:
    return Command(argv=("buildah", *arguments))


ENGINE: Engine = Buildah()
