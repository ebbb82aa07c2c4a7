"""Buildah as root, in chroot isolation: for hosts where no container can be run, such as one that is a container.

In that isolation buildah cuts no network, whatever it is told (tried: ``--network none`` keeps the host's without a
word where the isolation comes from BUILDAH_ISOLATION), so that all of it runs in a network namespace.
"""

from __future__ import annotations

import json
from pathlib import Path

from bundler.offline.container.engines.engine import Bake, Command, Layer, Trial, Version

_RUN = """
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
    copies_the_folder = False
    oldest: Version = (1, 26)  # bud --no-hosts
    oldest_to_save: Version = (1, 26)

    def version(self) -> Command:
        return _buildah("version", "--json")

    def needs(self) -> tuple[Command, ...]:
        return ()

    def storage(self) -> Command:
        return _buildah("info", "--format", "{{.store.GraphRoot}}\n{{.store.GraphDriverName}}")

    def known(self, image: str) -> Command:
        return _buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", image)

    def load(self, archive: Path) -> Command:
        return _buildah("pull", "--quiet", f"oci-archive:{archive}")

    def bake(self, wanted: Bake) -> Command:
        made = _buildah(
            "bud", "--isolation", "chroot", "--pull-never", "--http-proxy=false", "--no-hosts",
            # a cache would not see what a mount holds; times are constant, so that layers are
            "--no-cache", "--layers", "--force-rm", "--timestamp", str(wanted.epoch),
            "--format", "docker", "--build-arg", f"BASE={wanted.base}", "--file", str(wanted.dockerfile),
            "--tag", wanted.image, str(wanted.context),
        )  # fmt: skip
        return Command(argv=("unshare", "--net", "--", *made.argv))

    def run(self, trial: Trial) -> Command:
        argv = ("bash", "-c", _RUN, "bash", trial.image, str(trial.user), " ".join(trial.writable), *trial.argv)
        return Command(argv=argv)

    def layers(self, image: str) -> Command:
        return _buildah("inspect", "--type", "image", image)

    def read_layers(self, printed: str) -> tuple[Layer, ...]:
        said = json.loads(printed)
        steps = [one["created_by"] for one in said["Docker"]["history"] if not one.get("empty_layer")]
        listed = json.loads(said["Manifest"])["layers"]
        unknown = [""] * (len(listed) - len(steps))  # a base need not say how it was made
        return tuple(
            Layer(size=int(one["size"]), made_by=step, digest=one["digest"])
            for one, step in zip(listed, [*unknown, *steps], strict=True)
        )

    def save(self, image: str, archive: Path) -> Command:
        return _buildah("push", "--quiet", image, f"oci-archive:{archive}:{image}")


def _buildah(*arguments: str) -> Command:
    return Command(argv=("buildah", *arguments))
