"""What would ask for a repository that nobody named, and the line of a manifest that says so."""

from __future__ import annotations

import json

import yaml

from bundler.format.lock.entries import RepoType
from bundler.online.manifest.schema import WantedModel


def model(
    repo: str, repo_type: RepoType, *, alias: str, revision: str | None = None, include: tuple[str, ...] = ()
) -> WantedModel:
    """What asks for a repository that is carried and not loaded."""
    return WantedModel(
        repo=repo if repo_type == "model" else None,
        dataset=repo if repo_type == "dataset" else None,
        kernel=repo if repo_type == "kernel" else None,
        revision=revision,
        alias=alias,
        loader="files",
        include=include,
    )


def line(wanted: WantedModel) -> str:
    """The line of a manifest that asks for it."""
    key = "repo" if wanted.repo else wanted.repo_type
    said = {key: wanted.on_hub, "revision": wanted.revision or "main"}
    if wanted.alias and wanted.alias != wanted.on_hub.rpartition("/")[2]:
        said["alias"] = wanted.alias
    if wanted.repo and wanted.loader:
        said["loader"] = wanted.loader
    words = [f"{name}: {_as_yaml(text)}" for name, text in said.items()]
    return f"{{{', '.join([*words, f'include: {json.dumps(wanted.include)}'] if wanted.include else words)}}}"


def _as_yaml(text: str) -> str:
    """In quotes where YAML would take it for a number, a date or a truth."""
    return text if yaml.safe_load(text) == text else json.dumps(text)
