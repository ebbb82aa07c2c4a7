"""Podman, as root or not."""

from __future__ import annotations

import json
from pathlib import Path

from bundler.offline.container.engines.engine import Command, ContainerRun, ImageBuild, Layer, Version


class Podman:
    """Podman, which needs no daemon."""

    name = "podman"
    copies_context = False
    min_version: Version = (4, 2)  # build --no-hosts
    min_save_version: Version = (4, 2)

    def make_version_command(self) -> Command:
        return _make_command("version", "--format", "{{.Client.Version}}")

    def make_check_commands(self) -> tuple[Command, ...]:
        return ()

    def make_storage_command(self) -> Command:
        return _make_command("info", "--format", "{{.Store.GraphRoot}}\n{{.Store.GraphDriverName}}")

    def make_exists_command(self, image: str) -> Command:
        return _make_command("image", "exists", image)

    def make_load_command(self, archive: Path) -> Command:
        return _make_command("load", "--quiet", "--input", str(archive))

    def make_build_command(self, build: ImageBuild) -> Command:
        return _make_command(
            "build", "--network", "none", "--pull=never", "--http-proxy=false", "--no-hosts",
            # a cache would not see what a mount holds; times are constant, so that layers are
            "--no-cache", "--layers", "--force-rm", "--timestamp", str(build.epoch),
            "--format", "docker", "--build-arg", f"BASE={build.base}", "--file", str(build.dockerfile),
            "--tag", build.image, str(build.context),
        )  # fmt: skip

    def make_run_command(self, run: ContainerRun) -> Command:
        program, *arguments = run.argv
        memory = [option for folder in run.writable_folders for option in ("--tmpfs", f"{folder}:exec,mode=1777")]
        return _make_command(
            "run", "--rm", "--no-healthcheck", "--network", "none", "--pull=never", "--http-proxy=false", "--read-only", *memory,
            "--user", f"{run.user}:0", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--entrypoint", program, run.image, *arguments,
        )  # fmt: skip

    def make_history_command(self, image: str) -> Command:
        return _make_command("history", "--no-trunc", "--human=false", "--format", "json", image)

    def parse_layers(self, output: str) -> tuple[Layer, ...]:
        made = [Layer(size=int(one["size"]), made_by=one["CreatedBy"]) for one in reversed(json.loads(output))]
        return tuple(layer for layer in made if layer.size)

    def make_save_command(self, image: str, archive: Path) -> Command:
        return _make_command("save", "--quiet", "--format", "oci-archive", "--output", str(archive), image)


def _make_command(*arguments: str) -> Command:
    return Command(argv=("podman", *arguments))
