"""Which Python a project is pinned to: by the image that it is deployed in, by its platform's file, or for its developers.

And what else its images say of the host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bundler.format.lock.platforms import PLATFORMS

_FROM = re.compile(r"\s*FROM\s+(?P<flags>(--\S+\s+)*)(?P<image>\S+)(\s+AS\s+(?P<stage>\S+))?\s*", re.IGNORECASE)
_ARG = re.compile(r"\s*ARG\s+(?P<name>\w+)=[\"']?(?P<value>[^\"'\s]*)[\"']?\s*", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::?-(?P<default>[^}]*))?\}|(?P<plain>\w+))")
_TAGGED = re.compile(r"python[:-]?v?(?P<version>3\.\d+)")
"""``python:3.11-slim``, ``uv:python3.11-bookworm``."""
_NAMED = re.compile(r"python-(?P<version>3\d{1,2})(?=$|[:@/-])")
"""``ubi9/python-311``."""
_OURS = ("Dockerfile.offline",)
_USUAL_PLATFORM = f"linux/{PLATFORMS['linux-x86_64'].oci_architecture}"
"""How an image names the platform of most hosts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """A minor version of Python, such as 3.11 ("" where it can't be told), and the place that says so."""

    version: str
    says: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stage:
    image: str
    line: int
    name: str
    platform: str


def read(folder: Path) -> list[Pin]:
    """Every pin, what is deployed before what developers use: Dockerfiles, runtime.txt, .python-version, .tool-versions."""
    found = [pin for path in _dockerfiles(folder) for pin in _of_dockerfile(path, folder)]
    for name, pattern in (
        ("runtime.txt", r"\s*python-(3\.\d+)"),
        (".python-version", r"(?:#.*\n|\s)*(?:cpython-)?(3\.\d+)"),
        (".tool-versions", r"(?s:.*?)^\s*python\s+(3\.\d+)"),
    ):
        path = folder / name
        if path.is_file() and (match := re.match(pattern, _text(path), re.MULTILINE)):
            found.append(Pin(version=match[1], says=name))
    return found


def _dockerfiles(folder: Path) -> list[Path]:
    """Those of the project's own folder, the plain names first, then those of a folder for them."""
    patterns = ("Dockerfile", "Containerfile", "Dockerfile.*", "*.Dockerfile", "docker/Dockerfile*")
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return [path for path in dict.fromkeys(found) if path.is_file() and path.name not in _OURS]


def notes(folder: Path, accelerator: str) -> list[str]:
    """What the images say of the host that ``init`` does not take from them, in words."""
    found: list[str] = []
    for path in _dockerfiles(folder):
        for stage in _last(list(_stages(_text(path)))):
            says = f"{path.relative_to(folder).as_posix()}:{stage.line} FROM {stage.image}"
            if "alpine" in stage.image:
                found.append(f"{says}: has musl, and target.libc below is glibc")
            if re.search(r"cuda|rocm|nvidia", stage.image) and accelerator == "cpu":
                found.append(f"{says}: is for a GPU, and target.accelerator below is cpu")
            if stage.platform and stage.platform != _USUAL_PLATFORM:
                found.append(f"{says}: is for {stage.platform}; compare target.platform below")
    return found


def _last(stages: list[_Stage]) -> list[_Stage]:
    """The stage whose image the last one is made from; none where there are no stages."""
    by_name = {stage.name.lower(): stage for stage in stages if stage.name}
    seen = stages[-1:]
    while seen and (before := by_name.get(seen[-1].image.lower())) and before not in seen:
        seen.append(before)
    return seen[-1:]


def _of_dockerfile(path: Path, folder: Path) -> Iterator[Pin]:
    """The Python of the image that is built: that of its last stage, or of the last one whose image names a Python."""
    stages = list(_stages(_text(path)))
    for stage in [*_last(stages), *reversed(stages)]:
        repository = stage.image.partition("@")[0]
        says = f"{path.relative_to(folder).as_posix()}:{stage.line} FROM {stage.image}"
        if match := _TAGGED.search(repository):
            yield Pin(version=match["version"], says=says)
            return
        if match := _NAMED.search(repository):
            yield Pin(version=f"3.{match['version'][1:]}", says=says)
            return
        if re.search(r"(^|/)python(:|$)", repository):
            yield Pin(version="", says=says)
            return


def _stages(text: str) -> Iterator[_Stage]:
    """The FROM lines, with the defaults of ARG lines before them filled in."""
    arguments: dict[str, str] = {}
    for number, line in _lines(text):
        if match := _ARG.fullmatch(line):
            arguments[match["name"]] = match["value"]
        elif match := _FROM.fullmatch(line):
            image = _VARIABLE.sub(
                lambda one: arguments.get(one["braced"] or one["plain"]) or one["default"] or one[0], match["image"]
            )
            platform = re.search(r"--platform=([\w/]+)", match["flags"])
            yield _Stage(image=image, line=number, name=match["stage"] or "", platform=platform[1] if platform else "")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with those that go on joined, each with the number of its first."""
    pending, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        first = first or number
        pending += line.rstrip().removesuffix("\\") + " "
        if not line.rstrip().endswith("\\"):
            yield first, pending.strip()
            pending, first = "", 0


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
