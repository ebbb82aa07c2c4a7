"""Combinations that are known not to work, looked for before anything travels; the rules are data, in lint.yaml."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bundler.errors import ManifestError, ResolveError
from bundler.format import documents
from bundler.format.documents import InvalidValueError, describe_field
from bundler.format.lock.entries import Artifact, Model
from bundler.format.lock.lockfile import Lock
from bundler.online.manifest import yaml_document
from bundler.progress import Reporter


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What must hold for a rule to speak; what is empty is not looked at."""

    packages: Mapping[str, str] = describe_field("name: versions; each is in the environment", default_factory=dict)
    absent: tuple[str, ...] = describe_field("packages none of which is there", default=())
    wheels: tuple[str, ...] = describe_field("patterns: one matches a wheel's file name", default=())
    assets: tuple[str, ...] = describe_field("patterns: one matches an asset's path", default=())
    no_assets: tuple[str, ...] = describe_field("patterns: none does", default=())
    files: tuple[str, ...] = describe_field("patterns: one matches a file of a model", default=())
    no_files: tuple[str, ...] = describe_field("patterns: none does", default=())
    loaders: tuple[str, ...] = describe_field("of a model", default=())
    pickles: bool = describe_field("whether the model must hold a pickle", default=False)
    python: str = describe_field("pattern over the target's", default="")
    platform: str = describe_field("pattern over the target's", default="")
    accelerator: str = describe_field("pattern over the target's", default="")
    host_pip: str = describe_field("versions of the host's own pip", default="")

    def __post_init__(self) -> None:
        documents.raise_together(self._faults())

    def _faults(self) -> Iterator[InvalidValueError]:
        for key, ranges in (("packages", self.packages.values()), ("host_pip", [self.host_pip])):
            for wanted in ranges:
                try:
                    SpecifierSet(wanted)
                except InvalidSpecifier:
                    yield InvalidValueError(f"{wanted!r} is no range of versions (PEP 440)", key)

    @property
    def is_about_models(self) -> bool:
        """Whether it speaks of models, and so of each apart."""
        return bool(self.files or self.no_files or self.loaders or self.pickles)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One thing that is known to go wrong."""

    id: str = describe_field("names it")
    severity: Literal["error", "warning", "off"] = describe_field("what it does to a build")
    what: str = describe_field("goes wrong")
    do: str = describe_field("what to do about it")
    link: str = describe_field("where it was seen")
    when: Condition = describe_field("what must hold")


@dataclass(frozen=True, kw_only=True, slots=True)
class _RuleFile:
    rules: tuple[Rule, ...]


def load_rules(files: Iterable[Path] = ()) -> tuple[Rule, ...]:
    """Our rules, and those of files, of which one with the id of another takes its place; raises ManifestError."""
    found: dict[str, Rule] = {}
    own = resources.files("bundler.online.manifest").joinpath("lint.yaml").read_bytes()
    for text, where in [(own, "lint.yaml"), *((path.read_bytes(), str(path)) for path in files)]:
        found |= {rule.id: rule for rule in _parse_rules(text, where)}
    return tuple(found.values())


def check_lock(lock: Lock, rules: Sequence[Rule], host_pip: str | None, reporter: Reporter) -> None:
    """Say what is known of a lock's combinations; raises ResolveError that lists every error among it."""
    errors = []
    for rule in rules:
        if rule.severity == "off" or (held := _match_condition(rule.when, lock, host_pip)) is None:
            continue
        here = f" (here: {', '.join(held)})" if held else ""
        said = f"{rule.what}{here}: {rule.do}; see {rule.link} [{rule.id}]"
        if rule.severity == "error":
            errors.append(f"  {said}")
        else:
            reporter.warn(said)
    if errors:
        hint = "change the manifest as each line says; a rule of that id and 'severity: off' in a file of 'lint' silences it"
        raise ResolveError("known not to work on the host:\n" + "\n".join(errors), hint=hint)


def _parse_rules(text: bytes, where: str) -> tuple[Rule, ...]:
    document = yaml_document.read(text, where)
    found, faults = documents.decode_leniently(_RuleFile, document.value, document.places)
    if described := document.described(faults):
        shown = "\n".join(described)
        raise ManifestError(f"these are no rules:\n{shown}", where=where, hint="see docs/manifest.md")
    return found.rules


def _match_condition(condition: Condition, lock: Lock, host_pip: str | None) -> list[str] | None:
    """What in the lock a rule speaks of, in words; None where it does not hold."""
    versions = {canonicalize_name(one.name): one.version for one in lock.python.packages}
    named = {canonicalize_name(name): wanted for name, wanted in condition.packages.items()}
    if not all(name in versions and _is_in_range(versions[name], wanted) for name, wanted in named.items()):
        return None
    if any(canonicalize_name(name) in versions for name in condition.absent):
        return None
    if condition.host_pip and not (host_pip and _is_in_range(host_pip, condition.host_pip)):
        return None
    target = lock.target
    said = (
        (target.python, condition.python),
        (target.platform, condition.platform),
        (target.accelerator, condition.accelerator),
    )
    if any(pattern and not fnmatch.fnmatchcase(value, pattern) for value, pattern in said):
        return None
    wheels, assets = (
        _list_paths(lock.list_artifacts("wheel"), "wheels/"),
        _list_paths(lock.list_artifacts("asset"), "assets/"),
    )
    if (condition.wheels and not _has_match(wheels, condition.wheels)) or (
        condition.assets and not _has_match(assets, condition.assets)
    ):
        return None
    if _has_match(assets, condition.no_assets):
        return None
    concerned = [
        model.alias for model, files in lock.list_files_by_model() if _is_about_model(condition, lock, model, files)
    ]
    if condition.is_about_models and not concerned:
        return None
    return [*(f"{name} {versions[name]}" for name in named), *(concerned if condition.is_about_models else ())]


def _is_about_model(condition: Condition, lock: Lock, model: Model, files: Sequence[Artifact]) -> bool:
    """Whether what a rule says of models holds for this one."""
    names = _list_paths(files, model.folder)
    return (
        (not condition.files or _has_match(names, condition.files))
        and not _has_match(names, condition.no_files)
        and (not condition.loaders or model.loader in condition.loaders)
        and (not condition.pickles or any(one.path.startswith(model.folder) for one in lock.pickles))
    )


def _is_in_range(version: str, version_range: str) -> bool:
    """Whether a version is in a range; the build of a version (+cpu) says nothing here."""
    try:
        return SpecifierSet(version_range, prereleases=True).contains(Version(version).public)
    except InvalidVersion:
        return False


def _list_paths(artifacts: Iterable[Artifact], folder: str) -> list[str]:
    return [artifact.path.removeprefix(folder) for artifact in artifacts]


def _has_match(names: Iterable[str], patterns: Iterable[str]) -> bool:
    kept = tuple(patterns)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in kept)
