"""The difference between two locks, and how many bytes it adds to carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bundler.format.lock.lockfile import Lock, compute_files_digest
from bundler.progress import pluralize


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing that differs: its old and its new value, "" where it does not exist."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What changed from one lock to another.

    ``carry`` is the bytes of content that the first does not have, ``whole`` the bytes of all content of the second.
    """

    about: tuple[Change, ...]
    models: tuple[Change, ...]
    packages: tuple[Change, ...]
    assets: tuple[Change, ...]
    carry: int
    whole: int

    @property
    def is_empty(self) -> bool:
        """Whether both have the same content."""
        return not (self.about or self.models or self.packages or self.assets or self.carry)


def compare_locks(old: Lock, new: Lock) -> Difference:
    """Compare two locks."""
    old_content = {artifact.sha256 for artifact in old.artifacts}
    content = {artifact.sha256: artifact.size for artifact in new.artifacts}
    return Difference(
        about=_list_changes(_describe_lock(old), _describe_lock(new)),
        models=_list_changes(_describe_models(old), _describe_models(new)),
        packages=_list_changes(
            {package.name: package.version for package in old.python.packages},
            {package.name: package.version for package in new.python.packages},
        ),
        assets=_list_changes(
            {asset.path: asset.sha256[:12] for asset in old.list_artifacts("asset")},
            {asset.path: asset.sha256[:12] for asset in new.list_artifacts("asset")},
        ),
        carry=sum(size for sha256, size in content.items() if sha256 not in old_content),
        whole=sum(content.values()),
    )


def _describe_lock(lock: Lock) -> dict[str, str]:
    values = {"name": lock.name, "version": lock.version, "sequence": str(lock.sequence), "target": str(lock.target)}
    if lock.image.base:
        values["base image"] = f"{lock.image.base} ({lock.image.digest[:19]})"
    if files := lock.list_artifacts("app"):
        digest = compute_files_digest((artifact.sha256, artifact.path) for artifact in files)
        values["application"] = f"{pluralize(len(files), 'file')} ({digest[:12]})"
    return values | {f"variable {name}": value for name, value in lock.env.items()}


def _describe_models(lock: Lock) -> dict[str, str]:
    return {model.alias: f"{model.source} ({model.digest[:12]}, by {model.loader})" for model in lock.models}


def _list_changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Change, ...]:
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return tuple(Change(name=name, before=old.get(name, ""), after=new.get(name, "")) for name in names)
