"""What changed from one lock to another, and how many bytes that makes to carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bundler.format.lock.lockfile import Lock, digest_of_files
from bundler.progress import counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing that differs: what it was and what it is, "" where it is not there."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """From one lock to another. ``carry`` is the bytes of the content that the first does not hold."""

    about: tuple[Change, ...]
    models: tuple[Change, ...]
    packages: tuple[Change, ...]
    assets: tuple[Change, ...]
    carry: int
    whole: int

    @property
    def nothing(self) -> bool:
        """Whether both hold the same."""
        return not (self.about or self.models or self.packages or self.assets or self.carry)


def between(old: Lock, new: Lock) -> Difference:
    """What changed from ``old`` to ``new``."""
    known = {artifact.sha256 for artifact in old.artifacts}
    content = {artifact.sha256: artifact.size for artifact in new.artifacts}
    return Difference(
        about=_changes(_about(old), _about(new)),
        models=_changes(_models(old), _models(new)),
        packages=_changes(
            {package.name: package.version for package in old.python.packages},
            {package.name: package.version for package in new.python.packages},
        ),
        assets=_changes(
            {asset.path: asset.sha256[:12] for asset in old.of_kind("asset")},
            {asset.path: asset.sha256[:12] for asset in new.of_kind("asset")},
        ),
        carry=sum(size for sha256, size in content.items() if sha256 not in known),
        whole=sum(content.values()),
    )


def _about(lock: Lock) -> dict[str, str]:
    told = {"name": lock.name, "version": lock.version, "sequence": str(lock.sequence), "target": str(lock.target)}
    if lock.image.base:
        told["base image"] = f"{lock.image.base} ({lock.image.digest[:19]})"
    if files := lock.of_kind("app"):
        digest = digest_of_files((one.sha256, one.path) for one in files)
        told["application"] = f"{counted(len(files), 'file')} ({digest[:12]})"
    return told | {f"variable {name}": value for name, value in lock.env.items()}


def _models(lock: Lock) -> dict[str, str]:
    return {model.alias: f"{model.source} ({model.digest[:12]}, by {model.loader})" for model in lock.models}


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Change, ...]:
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return tuple(Change(name=name, before=old.get(name, ""), after=new.get(name, "")) for name in names)
