"""The manifest entry for a repository that a model needs and no entry names yet."""

from __future__ import annotations

import json

import yaml

from bundler.format.lock.entries import RepoType
from bundler.online.manifest.schema import ModelSpec


def make_spec(
    repo: str, repo_type: RepoType, *, alias: str, revision: str | None = None, include: tuple[str, ...] = ()
) -> ModelSpec:
    """Make the entry for a repository that travels and that no smoke load opens."""
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
    """Format an entry as one line of YAML."""
    key = "repo" if spec.repo else spec.repo_type
    values = {key: spec.hub_name, "revision": spec.revision or "main"}
    if spec.alias and spec.alias != spec.hub_name.rpartition("/")[2]:
        values["alias"] = spec.alias
    if spec.repo and spec.loader:
        values["loader"] = spec.loader
    pairs = [f"{name}: {_quote_if_needed(value)}" for name, value in values.items()]
    if spec.include:
        pairs.append(f"include: {json.dumps(spec.include)}")
    return f"{{{', '.join(pairs)}}}"


def _quote_if_needed(text: str) -> str:
    """Quote a text that YAML would read as a number, a date or a boolean."""
    return text if yaml.safe_load(text) == text else json.dumps(text)
