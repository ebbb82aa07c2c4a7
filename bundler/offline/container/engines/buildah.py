"""Buildah as root, in chroot isolation: for hosts where no container can be run, such as one that is a container.

In that isolation buildah cuts no network, whatever it is told (tried: ``--network none`` keeps the host's without a
word where the isolation comes from BUILDAH_ISOLATION), so that all of it runs in a network namespace.
"""

from __future__ import annotations

import json
from pathlib import Path

from bundler.offline.container.engines.engine import Command, ContainerRun, ImageBuild, Layer, Version

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
    """Buildah alone, which bakes and can't run."""

    name = "buildah"
    copies_context = False
    min_version: Version = (1, 26)  # bud --no-hosts
    min_save_version: Version = (1, 26)

    def make_version_command(self) -> Command:
        return _make_command("version", "--json")

    def make_check_commands(self) -> tuple[Command, ...]:
        return ()

    def make_storage_command(self) -> Command:
        return _make_command("info", "--format", "{{.store.GraphRoot}}\n{{.store.GraphDriverName}}")

    def make_exists_command(self, image: str) -> Command:
        return _make_command("inspect", "--type", "image", "--format", "{{.FromImageID}}", image)

    def make_load_command(self, archive: Path) -> Command:
        return _make_command("pull", "--quiet", f"oci-archive:{archive}")

    def make_build_command(self, build: ImageBuild) -> Command:
        made = _make_command(
            "bud", "--isolation", "chroot", "--pull-never", "--http-proxy=false", "--no-hosts",
            # a cache would not see what a mount holds; times are constant, so that layers are
            "--no-cache", "--layers", "--force-rm", "--timestamp", str(build.epoch),
            "--format", "docker", "--build-arg", f"BASE={build.base}", "--file", str(build.dockerfile),
            "--tag", build.image, str(build.context),
        )  # fmt: skip
        return Command(argv=("unshare", "--net", "--", *made.argv))

    def make_run_command(self, run: ContainerRun) -> Command:
        argv = ("bash", "-c", _RUN_SCRIPT, "bash", run.image, str(run.user), " ".join(run.writable_folders), *run.argv)
        return Command(argv=argv)

    def make_history_command(self, image: str) -> Command:
        return _make_command("inspect", "--type", "image", image)

    def parse_layers(self, output: str) -> tuple[Layer, ...]:
        said = json.loads(output)
        steps = [one["created_by"] for one in said["Docker"]["history"] if not one.get("empty_layer")]
        listed = json.loads(said["Manifest"])["layers"]
        unknown = [""] * (len(listed) - len(steps))  # a base need not say how it was made
        return tuple(
            Layer(size=int(one["size"]), made_by=step, digest=one["digest"])
            for one, step in zip(listed, [*unknown, *steps], strict=True)
        )

    def make_save_command(self, image: str, archive: Path) -> Command:
        return _make_command("push", "--quiet", image, f"oci-archive:{archive}:{image}")


def _make_command(*arguments: str) -> Command:
    return Command(argv=("buildah", *arguments))
