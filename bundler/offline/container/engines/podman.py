"""Podman, as root or not."""

from __future__ import annotations

import json
from pathlib import Path

from bundler.offline.container.engines.engine import Command, ContainerRun, Engine, ImageBuild, Layer, Version


class Podman:
    """Podman: no daemon, no root."""

    name = "podman"
    rank = 2
    needs_root = False
    copies_context = False
    min_version: Version = (4, 2)  # build --no-hosts
    min_save_version: Version = (4, 2)

    def make_version_command(self) -> Command:
        """Return the command that prints the version."""
        return _make_command("version", "--format", "{{.Client.Version}}")

    def make_check_commands(self) -> tuple[Command, ...]:
        """Return the commands that must succeed before a build."""
        return ()

    def make_storage_command(self) -> Command:
        """Return the command that prints the storage folder and driver."""
        return _make_command("info", "--format", "{{.Store.GraphRoot}}\n{{.Store.GraphDriverName}}")

    def make_exists_command(self, image: str) -> Command:
        """Return the command that fails unless the image is loaded."""
        return _make_command("image", "exists", image)

    def make_load_command(self, archive: Path) -> Command:
        """Return the command that loads an OCI archive."""
        return _make_command("load", "--quiet", "--input", str(archive))

    def make_build_command(self, build: ImageBuild) -> Command:
        """Return the command that builds an image without a network."""
        return _make_command(
            "build", "--network", "none", "--pull=never", "--http-proxy=false", "--no-hosts",
            # The cache key leaves out what a mount holds. Constant times make layers reproducible.
            "--no-cache", "--layers", "--force-rm", "--timestamp", str(build.epoch),
            "--format", "docker", "--build-arg", f"BASE={build.base}", "--file", str(build.dockerfile),
            "--tag", build.image, str(build.context),
        )  # fmt: skip

    def make_run_command(self, run: ContainerRun) -> Command:
        """Return the command that runs a program in an image."""
        program, *arguments = run.argv
        tmpfs = [option for folder in run.writable_folders for option in ("--tmpfs", f"{folder}:exec,mode=1777")]
        return _make_command(
            "run", "--rm", "--no-healthcheck", "--network", "none", "--pull=never", "--http-proxy=false", "--read-only", *tmpfs,
            "--user", f"{run.user}:0", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--entrypoint", program, run.image, *arguments,
        )  # fmt: skip

    def make_history_command(self, image: str) -> Command:
        """Return the command whose output `parse_layers` reads."""
        return _make_command("history", "--no-trunc", "--human=false", "--format", "json", image)

    def parse_layers(self, output: str) -> tuple[Layer, ...]:
        """Return the layers, the lowest first."""
        layers = [Layer(size=int(step["size"]), made_by=step["CreatedBy"]) for step in reversed(json.loads(output))]
        return tuple(layer for layer in layers if layer.size)

    def make_save_command(self, image: str, archive: Path) -> Command:
        """Return the command that writes an image as an OCI archive."""
        return _make_command("save", "--quiet", "--format", "oci-archive", "--output", str(archive), image)


def _make_command(*arguments: str) -> Command:
    return Command(argv=("podman", *arguments))


ENGINE: Engine = Podman()
