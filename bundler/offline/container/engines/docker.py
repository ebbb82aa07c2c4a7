"""Docker, with BuildKit."""

from __future__ import annotations

import json
from pathlib import Path

from bundler.offline.container.engines.engine import Command, ContainerRun, Engine, ImageBuild, Layer, Version


class Docker:
    """Docker's client and its daemon."""

    name = "docker"
    rank = 1
    needs_root = False
    copies_context = True
    min_version: Version = (23, 0)  # BuildKit is the default builder: it leaves no empty mount folder in a layer
    min_save_version: Version = (25, 0)

    def make_version_command(self) -> Command:
        """Return the command that prints the version."""
        return _make_command("version", "--format", "{{.Server.Version}}")

    def make_check_commands(self) -> tuple[Command, ...]:
        """Return the commands that must succeed before a build."""
        return (_make_command("buildx", "version"),)  # some distributions package it separately

    def make_storage_command(self) -> Command:
        """Return the command that prints the storage folder and driver."""
        return _make_command("info", "--format", "{{.DockerRootDir}}\n{{.Driver}}")

    def make_exists_command(self, image: str) -> Command:
        """Return the command that fails unless the image is loaded."""
        return _make_command("image", "inspect", "--format", "{{.Id}}", image)

    def make_load_command(self, archive: Path) -> Command:
        """Return the command that loads an OCI archive."""
        return _make_command("load", "--quiet", "--input", str(archive))

    def make_build_command(self, build: ImageBuild) -> Command:
        """Return the command that builds an image without a network."""
        command = _make_command(
            "build", "--network", "none", "--provenance=false", "--progress", "plain",
            "--build-arg", f"BASE={build.base}", "--file", str(build.dockerfile), "--tag", build.image,
            str(build.context),
        )  # fmt: skip
        # A custom builder may not see the daemon's images, nor load into it what it builds.
        return Command(argv=command.argv, env={"DOCKER_BUILDKIT": "1"}, drop_prefixes=("BUILDX_BUILDER",))

    def make_run_command(self, run: ContainerRun) -> Command:
        """Return the command that runs a program in an image."""
        program, *arguments = run.argv
        tmpfs = [option for folder in run.writable_folders for option in ("--tmpfs", f"{folder}:exec,mode=1777")]
        return _make_command(
            "run", "--rm", "--no-healthcheck", "--network", "none", "--read-only", *tmpfs, "--user", f"{run.user}:0",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--entrypoint", program, run.image,
            *arguments,
        )  # fmt: skip

    def make_history_command(self, image: str) -> Command:
        """Return the command whose output `parse_layers` reads."""
        return _make_command("history", "--no-trunc", "--human=false", "--format", "{{json .}}", image)

    def parse_layers(self, output: str) -> tuple[Layer, ...]:
        """Return the layers, the lowest first."""
        steps = [json.loads(line) for line in output.splitlines() if line]
        layers = [Layer(size=int(step["Size"]), made_by=step["CreatedBy"]) for step in reversed(steps)]
        return tuple(layer for layer in layers if layer.size)

    def make_save_command(self, image: str, archive: Path) -> Command:
        """Return the command that writes an image as an OCI archive."""
        return _make_command("save", "--output", str(archive), image)


def _make_command(*arguments: str) -> Command:
    return Command(argv=("docker", *arguments))


ENGINE: Engine = Docker()
