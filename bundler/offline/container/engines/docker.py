"""Docker, with BuildKit."""

from __future__ import annotations

import json
from pathlib import Path

from bundler.offline.container.engines.engine import Bake, Command, Layer, Trial, Version


class Docker:
    """Docker's client, and the daemon that it speaks to."""

    name = "docker"
    copies_the_folder = True
    oldest: Version = (23, 0)  # BuildKit as the default builder, which leaves no folder behind for a mount
    oldest_to_save: Version = (25, 0)

    def version(self) -> Command:
        return _docker("version", "--format", "{{.Server.Version}}")

    def needs(self) -> tuple[Command, ...]:
        return (_docker("buildx", "version"),)  # a package of its own on some systems

    def storage(self) -> Command:
        return _docker("info", "--format", "{{.DockerRootDir}}\n{{.Driver}}")

    def known(self, image: str) -> Command:
        return _docker("image", "inspect", "--format", "{{.Id}}", image)

    def load(self, archive: Path) -> Command:
        return _docker("load", "--quiet", "--input", str(archive))

    def bake(self, wanted: Bake) -> Command:
        made = _docker(
            "build", "--network", "none", "--provenance=false", "--progress", "plain",
            "--build-arg", f"BASE={wanted.base}", "--file", str(wanted.dockerfile), "--tag", wanted.image,
            str(wanted.context),
        )  # fmt: skip
        # a builder of a person's own may see no image that is loaded here, and load none that it makes
        return Command(argv=made.argv, variables={"DOCKER_BUILDKIT": "1"}, without=("BUILDX_BUILDER",))

    def run(self, trial: Trial) -> Command:
        program, *arguments = trial.argv
        memory = [option for folder in trial.writable for option in ("--tmpfs", f"{folder}:exec,mode=1777")]
        return _docker(
            "run", "--rm", "--no-healthcheck", "--network", "none", "--read-only", *memory, "--user", f"{trial.user}:0",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--entrypoint", program, trial.image,
            *arguments,
        )  # fmt: skip

    def layers(self, image: str) -> Command:
        return _docker("history", "--no-trunc", "--human=false", "--format", "{{json .}}", image)

    def read_layers(self, printed: str) -> tuple[Layer, ...]:
        found = [json.loads(line) for line in printed.splitlines() if line]
        made = [Layer(size=int(one["Size"]), made_by=one["CreatedBy"]) for one in reversed(found)]
        return tuple(layer for layer in made if layer.size)

    def save(self, image: str, archive: Path) -> Command:
        return _docker("save", "--output", str(archive), image)


def _docker(*arguments: str) -> Command:
    return Command(argv=("docker", *arguments))
