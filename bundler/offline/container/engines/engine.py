"""What an engine must be able to do, as commands: an adapter says them and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Version = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A program with its arguments; variables that it needs besides those of this process, and such as it must not have."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    drop_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBuild:
    """What is baked: ``context`` holds the bundle, its installer and the Dockerfile; ``epoch`` dates what is written."""

    context: Path
    dockerfile: Path
    image: str
    base: str
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerRun:
    """One run of an image as any user of group 0; ``writable`` are folders in memory, all else is read-only."""

    image: str
    user: int
    writable_folders: tuple[str, ...]
    argv: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer of an image: bytes, and the step that made it; ``digest`` where the engine tells it, else ""."""

    size: int
    made_by: str
    digest: str = ""


class Engine(Protocol):
    """A container engine. Each command succeeds with exit code 0; what is read is its standard output."""

    @property
    def name(self) -> str:
        """Its program."""

    @property
    def copies_context(self) -> bool:
        """Whether it keeps a copy of the folder that is built from on the disk of its images."""

    @property
    def min_version(self) -> Version:
        """The oldest version that has every flag used here."""

    @property
    def min_save_version(self) -> Version:
        """The oldest version that saves an OCI archive."""

    def make_version_command(self) -> Command:
        """Prints the version; fails where the engine can't be used."""

    def make_check_commands(self) -> tuple[Command, ...]:
        """What must succeed besides, for a bake."""

    def make_storage_command(self) -> Command:
        """Prints the folder of its images and its storage driver, in two lines."""

    def make_exists_command(self, image: str) -> Command:
        """Fails where the engine does not have an image."""

    def make_load_command(self, archive: Path) -> Command:
        """Takes the image of an archive in, under the name that the archive gives it."""

    def make_build_command(self, build: ImageBuild) -> Command:
        """Builds an image with the network cut, out of what is here alone."""

    def make_run_command(self, run: ContainerRun) -> Command:
        """Runs a program in an image with no network and a read-only root; gives what it prints."""

    def make_history_command(self, image: str) -> Command:
        """Prints what ``read_layers`` reads."""

    def parse_layers(self, output: str) -> tuple[Layer, ...]:
        """The layers of an image, the lowest first; raises ValueError or KeyError for what is none."""

    def make_save_command(self, image: str, archive: Path) -> Command:
        """Writes an image as an OCI archive."""
