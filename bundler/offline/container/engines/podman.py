"""Podman, as root or not."""

from __future__ import annotations

import json
from pathlib import Path

from bundler.offline.container.engines.engine import Bake, Command, Layer, Trial, Version


class Podman:
    """Podman, which needs no daemon."""

    name = "podman"
    copies_the_folder = False
    oldest: Version = (4, 2)  # build --no-hosts
    oldest_to_save: Version = (4, 2)

    def version(self) -> Command:
        return _podman("version", "--format", "{{.Client.Version}}")

    def needs(self) -> tuple[Command, ...]:
        return ()

    def storage(self) -> Command:
        return _podman("info", "--format", "{{.Store.GraphRoot}}\n{{.Store.GraphDriverName}}")

    def known(self, image: str) -> Command:
        return _podman("image", "exists", image)

    def load(self, archive: Path) -> Command:
        return _podman("load", "--quiet", "--input", str(archive))

    def bake(self, wanted: Bake) -> Command:
        return _podman(
            "build", "--network", "none", "--pull=never", "--http-proxy=false", "--no-hosts",
            # a cache would not see what a mount holds; times are constant, so that layers are
            "--no-cache", "--layers", "--force-rm", "--timestamp", str(wanted.epoch),
            "--format", "docker", "--build-arg", f"BASE={wanted.base}", "--file", str(wanted.dockerfile),
            "--tag", wanted.image, str(wanted.context),
        )  # fmt: skip

    def run(self, trial: Trial) -> Command:
        program, *arguments = trial.argv
        memory = [option for folder in trial.writable for option in ("--tmpfs", f"{folder}:exec,mode=1777")]
        return _podman(
            "run", "--rm", "--no-healthcheck", "--network", "none", "--pull=never", "--http-proxy=false", "--read-only", *memory,
            "--user", f"{trial.user}:0", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--entrypoint", program, trial.image, *arguments,
        )  # fmt: skip

    def layers(self, image: str) -> Command:
        return _podman("history", "--no-trunc", "--human=false", "--format", "json", image)

    def read_layers(self, printed: str) -> tuple[Layer, ...]:
        made = [Layer(size=int(one["size"]), made_by=one["CreatedBy"]) for one in reversed(json.loads(printed))]
        return tuple(layer for layer in made if layer.size)

    def save(self, image: str, archive: Path) -> Command:
        return _podman("save", "--quiet", "--format", "oci-archive", "--output", str(archive), image)


def _podman(*arguments: str) -> Command:
    return Command(argv=("podman", *arguments))
