"""Docker, with BuildKit."""

from __future__ import annotations

import json
from pathlib import Path

from bundler.offline.container.engines.engine import Command, ContainerRun, ImageBuild, Layer, Version


class Docker:
    """Docker's client, and the daemon that it speaks to."""

    name = "docker"
    copies_context = True
    min_version: Version = (23, 0)  # BuildKit as the default builder, which leaves no folder behind for a mount
    min_save_version: Version = (25, 0)

    def make_version_command(self) -> Command:
        return _make_command("version", "--format", "{{.Server.Version}}")

    def make_check_commands(self) -> tuple[Command, ...]:
        return (_make_command("buildx", "version"),)  # a package of its own on some systems

    def make_storage_command(self) -> Command:
        return _make_command("info", "--format", "{{.DockerRootDir}}\n{{.Driver}}")

    def make_exists_command(self, image: str) -> Command:
        return _make_command("image", "inspect", "--format", "{{.Id}}", image)

    def make_load_command(self, archive: Path) -> Command:
        return _make_command("load", "--quiet", "--input", str(archive))

    def make_build_command(self, build: ImageBuild) -> Command:
        made = _make_command(
            "build", "--network", "none", "--provenance=false", "--progress", "plain",
            "--build-arg", f"BASE={build.base}", "--file", str(build.dockerfile), "--tag", build.image,
            str(build.context),
        )  # fmt: skip
        # a builder of a person's own may see no image that is loaded here, and load none that it makes
        return Command(argv=made.argv, env={"DOCKER_BUILDKIT": "1"}, drop_prefixes=("BUILDX_BUILDER",))

    def make_run_command(self, run: ContainerRun) -> Command:
        program, *arguments = run.argv
        memory = [option for folder in run.writable_folders for option in ("--tmpfs", f"{folder}:exec,mode=1777")]
        return _make_command(
            "run", "--rm", "--no-healthcheck", "--network", "none", "--read-only", *memory, "--user", f"{run.user}:0",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--entrypoint", program, run.image,
            *arguments,
        )  # fmt: skip

    def make_history_command(self, image: str) -> Command:
        return _make_command("history", "--no-trunc", "--human=false", "--format", "{{json .}}", image)

    def parse_layers(self, output: str) -> tuple[Layer, ...]:
        found = [json.loads(line) for line in output.splitlines() if line]
        made = [Layer(size=int(one["Size"]), made_by=one["CreatedBy"]) for one in reversed(found)]
        return tuple(layer for layer in made if layer.size)

    def make_save_command(self, image: str, archive: Path) -> Command:
        return _make_command("save", "--output", str(archive), image)


def _make_command(*arguments: str) -> Command:
    return Command(argv=("docker", *arguments))
