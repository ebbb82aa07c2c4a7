"""Finds the Python version that a project is pinned to, and what its Dockerfiles say about the host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bundler.format.lock.platforms import PLATFORMS

_FROM = re.compile(r"\s*FROM\s+(?P<flags>(--\S+\s+)*)(?P<image>\S+)(\s+AS\s+(?P<stage>\S+))?\s*", re.IGNORECASE)
_ARG = re.compile(r"\s*ARG\s+(?P<name>\w+)=[\"']?(?P<value>[^\"'\s]*)[\"']?\s*", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::?-(?P<default>[^}]*))?\}|(?P<plain>\w+))")
_TAGGED_IMAGE = re.compile(r"python[:-]?v?(?P<version>3\.\d+)")
"""Matches ``python:3.11-slim`` and ``uv:python3.11-bookworm``."""
_NAMED_IMAGE = re.compile(r"python-(?P<version>3\d{1,2})(?=$|[:@/-])")
"""Matches ``ubi9/python-311``."""
_GENERATED_FILES = ("Dockerfile.offline",)
_USUAL_PLATFORM = f"linux/{PLATFORMS['linux-x86_64'].oci_architecture}"
"""How an image names the platform of most hosts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """A minor version of Python, such as 3.11 ("" if it is unknown), and the file that says so."""

    version: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stage:
    image: str
    line: int
    name: str
    platform: str


def read_pins(folder: Path) -> list[Pin]:
    """Return all pins, those for deployment first: Dockerfiles, runtime.txt, .python-version, .tool-versions."""
    pins = [pin for path in _find_dockerfiles(folder) for pin in _read_dockerfile(path, folder)]
    for name, pattern in (
        ("runtime.txt", r"\s*python-(3\.\d+)"),
        (".python-version", r"(?:#.*\n|\s)*(?:cpython-)?(3\.\d+)"),
        (".tool-versions", r"(?s:.*?)^\s*python\s+(3\.\d+)"),
    ):
        path = folder / name
        if path.is_file() and (match := re.match(pattern, _read_text(path), re.MULTILINE)):
            pins.append(Pin(version=match[1], source=name))
    return pins


def _find_dockerfiles(folder: Path) -> list[Path]:
    """Return the Dockerfiles of the project's folder, plain names first, then those in ``docker/``."""
    patterns = ("Dockerfile", "Containerfile", "Dockerfile.*", "*.Dockerfile", "docker/Dockerfile*")
    files = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return [path for path in dict.fromkeys(files) if path.is_file() and path.name not in _GENERATED_FILES]


def list_image_notes(folder: Path, accelerator: str) -> list[str]:
    """Return, for a person, what the Dockerfiles say about the host that ``bundle init`` does not use."""
    notes: list[str] = []
    for path in _find_dockerfiles(folder):
        for stage in _find_last_stage(list(_parse_stages(_read_text(path)))):
            source = f"{path.relative_to(folder).as_posix()}:{stage.line} FROM {stage.image}"
            if "alpine" in stage.image:
                notes.append(f"{source}: has musl, but target.libc below is glibc")
            if re.search(r"cuda|rocm|nvidia", stage.image) and accelerator == "cpu":
                notes.append(f"{source}: is for a GPU, but target.accelerator below is cpu")
            if stage.platform and stage.platform != _USUAL_PLATFORM:
                notes.append(f"{source}: is for {stage.platform}; compare target.platform below")
    return notes


def _find_last_stage(stages: list[_Stage]) -> list[_Stage]:
    """Return the stage whose image the last stage is built from, as a list; [] if there are no stages."""
    by_name = {stage.name.lower(): stage for stage in stages if stage.name}
    chain = stages[-1:]
    while chain and (parent := by_name.get(chain[-1].image.lower())) and parent not in chain:
        chain.append(parent)
    return chain[-1:]


def _read_dockerfile(path: Path, folder: Path) -> Iterator[Pin]:
    """Yield the Python of the image: that of its last stage, or of the last stage whose image names a Python."""
    stages = list(_parse_stages(_read_text(path)))
    for stage in [*_find_last_stage(stages), *reversed(stages)]:
        repository = stage.image.partition("@")[0]
        source = f"{path.relative_to(folder).as_posix()}:{stage.line} FROM {stage.image}"
        if match := _TAGGED_IMAGE.search(repository):
            yield Pin(version=match["version"], source=source)
            return
        if match := _NAMED_IMAGE.search(repository):
            yield Pin(version=f"3.{match['version'][1:]}", source=source)
            return
        if re.search(r"(^|/)python(:|$)", repository):
            yield Pin(version="", source=source)
            return


def _parse_stages(text: str) -> Iterator[_Stage]:
    """Yield the FROM lines; variables in them have the default of their ARG line."""
    arguments: dict[str, str] = {}
    for number, line in _iter_lines(text):
        if match := _ARG.fullmatch(line):
            arguments[match["name"]] = match["value"]
        elif match := _FROM.fullmatch(line):
            image = _VARIABLE.sub(
                lambda variable: (
                    arguments.get(variable["braced"] or variable["plain"]) or variable["default"] or variable[0]
                ),
                match["image"],
            )
            platform = re.search(r"--platform=([\w/]+)", match["flags"])
            yield _Stage(image=image, line=number, name=match["stage"] or "", platform=platform[1] if platform else "")


def _iter_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line with its number; continued lines are joined."""
    pending, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        first = first or number
        pending += line.rstrip().removesuffix("\\") + " "
        if not line.rstrip().endswith("\\"):
            yield first, pending.strip()
            pending, first = "", 0


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
