"""What would ask for a repository that nobody named, and the line of a manifest that says so."""

from __future__ import annotations

import json

import yaml

from bundler.format.lock.entries import RepoType
from bundler.online.manifest.schema import ModelSpec


def make_spec(
    repo: str, repo_type: RepoType, *, alias: str, revision: str | None = None, include: tuple[str, ...] = ()
) -> ModelSpec:
    """What asks for a repository that is carried and not loaded."""
    return ModelSpec(
        repo=repo if repo_type == "model" else None,
        dataset=repo if repo_type == "dataset" else None,
        kernel=repo if repo_type == "kernel" else None,
        revision=revision,
        alias=alias,
        loader="files",
        include=include,
    )


def format_entry(spec: ModelSpec) -> str:
    """The line of a manifest that asks for it."""
    key = "repo" if spec.repo else spec.repo_type
    said = {key: spec.hub_name, "revision": spec.revision or "main"}
    if spec.alias and spec.alias != spec.hub_name.rpartition("/")[2]:
        said["alias"] = spec.alias
    if spec.repo and spec.loader:
        said["loader"] = spec.loader
    words = [f"{name}: {_quote_if_needed(text)}" for name, text in said.items()]
    return f"{{{', '.join([*words, f'include: {json.dumps(spec.include)}'] if spec.include else words)}}}"


def _quote_if_needed(text: str) -> str:
    """In quotes where YAML would take it for a number, a date or a truth."""
    return text if yaml.safe_load(text) == text else json.dumps(text)
