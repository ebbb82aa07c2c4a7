"""The interface of a container engine: an adapter returns commands and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Version = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A program with its arguments, variables to add to the environment, and prefixes of variables to drop."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    drop_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBuild:
    """A build: ``context`` holds the bundle, its installer and the Dockerfile; ``epoch`` is the time of all files."""

    context: Path
    dockerfile: Path
    image: str
    base: str
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerRun:
    """A run of an image as a user of group 0; ``writable_folders`` are in memory, the rest is read-only."""

    image: str
    user: int
    writable_folders: tuple[str, ...]
    argv: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer of an image: its size in bytes and the step that made it; ``digest`` is "" where the engine has none."""

    size: int
    made_by: str
    digest: str = ""


class Engine(Protocol):
    """A container engine. A command succeeds with exit code 0; callers read its standard output."""

    @property
    def name(self) -> str:
        """Name of its program."""

    @property
    def rank(self) -> int:
        """Place in the order in which engines are tried, the lowest first."""

    @property
    def needs_root(self) -> bool:
        """Whether it builds only as root."""

    @property
    def copies_context(self) -> bool:
        """Whether it keeps a copy of the build context on the disk that holds its images."""

    @property
    def min_version(self) -> Version:
        """Oldest version that has every flag used here."""

    @property
    def min_save_version(self) -> Version:
        """Oldest version that saves an OCI archive."""

    def make_version_command(self) -> Command:
        """Return the command that prints the version; it fails where the engine can't be used."""

    def make_check_commands(self) -> tuple[Command, ...]:
        """Return the other commands that must succeed before a build."""

    def make_storage_command(self) -> Command:
        """Return the command that prints the folder of its images, then its storage driver, a line each."""

    def make_exists_command(self, image: str) -> Command:
        """Return the command that fails unless the engine has the image."""

    def make_load_command(self, archive: Path) -> Command:
        """Return the command that loads an OCI archive, under the name that the archive gives the image."""

    def make_build_command(self, build: ImageBuild) -> Command:
        """Return the command that builds an image without a network, from local content alone."""

    def make_run_command(self, run: ContainerRun) -> Command:
        """Return the command that runs a program in an image, without a network and with a read-only root."""

    def make_history_command(self, image: str) -> Command:
        """Return the command whose output `parse_layers` reads."""

    def parse_layers(self, output: str) -> tuple[Layer, ...]:
        """Return the layers of an image, the lowest first.

        Raises:
            ValueError: The output is not JSON.
            KeyError: A field is missing.
        """

    def make_save_command(self, image: str, archive: Path) -> Command:
        """Return the command that writes an image as an OCI archive."""
