"""Finds combinations that are known not to work. The rules are data, in ``lint.yaml``."""

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
    """When a rule applies: all of its fields match; an empty field matches always."""

    packages: Mapping[str, str] = describe_field(
        "name: versions; the environment has each of these packages", default_factory=dict
    )
    absent: tuple[str, ...] = describe_field("packages; the environment has none of them", default=())
    wheels: tuple[str, ...] = describe_field("patterns; one matches a wheel's file name", default=())
    assets: tuple[str, ...] = describe_field("patterns; one matches an asset's path", default=())
    no_assets: tuple[str, ...] = describe_field("patterns; none matches an asset's path", default=())
    files: tuple[str, ...] = describe_field("patterns; one matches a file of a model", default=())
    no_files: tuple[str, ...] = describe_field("patterns; none matches a file of the model", default=())
    loaders: tuple[str, ...] = describe_field("loaders; the model has one of them", default=())
    pickles: bool = describe_field("whether the model has a pickle", default=False)
    python: str = describe_field("pattern for the target's Python", default="")
    platform: str = describe_field("pattern for the target's platform", default="")
    accelerator: str = describe_field("pattern for the target's accelerator", default="")
    host_pip: str = describe_field("versions of the host's own pip", default="")

    def __post_init__(self) -> None:
        documents.raise_together(self._list_problems())

    def _list_problems(self) -> Iterator[InvalidValueError]:
        for key, ranges in (("packages", self.packages.values()), ("host_pip", [self.host_pip])):
            for version_range in ranges:
                try:
                    SpecifierSet(version_range)
                except InvalidSpecifier:
                    yield InvalidValueError(f"{version_range!r} is not a range of versions (PEP 440)", key)

    @property
    def is_about_models(self) -> bool:
        """Whether it is about models, so that it is checked for each of them."""
        return bool(self.files or self.no_files or self.loaders or self.pickles)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One combination that is known not to work."""

    id: str = describe_field("name of the rule")
    severity: Literal["error", "warning", "off"] = describe_field(
        "error: the build fails; warning: it goes on; off: the rule is not used"
    )
    what: str = describe_field("what goes wrong")
    do: str = describe_field("what to do about it")
    link: str = describe_field("where it is documented")
    when: Condition = describe_field("when the rule applies")


@dataclass(frozen=True, kw_only=True, slots=True)
class _RuleFile:
    rules: tuple[Rule, ...]


def load_rules(files: Iterable[Path] = ()) -> tuple[Rule, ...]:
    """Return the built-in rules and those of files; a later rule replaces an earlier one with the same id.

    Raises:
        ManifestError: A file is not YAML, or a rule in it is malformed.
    """
    rules: dict[str, Rule] = {}
    built_in = resources.files("bundler.online.manifest").joinpath("lint.yaml").read_bytes()
    for text, where in [(built_in, "lint.yaml"), *((path.read_bytes(), str(path)) for path in files)]:
        rules |= {rule.id: rule for rule in _parse_rules(text, where)}
    return tuple(rules.values())


def check_lock(lock: Lock, rules: Sequence[Rule], host_pip: str | None, reporter: Reporter) -> None:
    """Warn of each rule that applies to a lock; raise ResolveError that lists all rules of severity error."""
    errors = []
    for rule in rules:
        if rule.severity == "off" or (subjects := _match_condition(rule.when, lock, host_pip)) is None:
            continue
        listed = f" (here: {', '.join(subjects)})" if subjects else ""
        message = f"{rule.what}{listed}: {rule.do}; see {rule.link} [{rule.id}]"
        if rule.severity == "error":
            errors.append(f"  {message}")
        else:
            reporter.warn(message)
    if errors:
        hint = (
            "change the manifest as each line says; to turn a rule off, give its id 'severity: off' in a file of 'lint'"
        )
        raise ResolveError("known not to work on the host:\n" + "\n".join(errors), hint=hint)


def _parse_rules(text: bytes, where: str) -> tuple[Rule, ...]:
    document = yaml_document.parse_document(text, where)
    rule_file, problems = documents.decode_leniently(_RuleFile, document.value, document.places)
    if lines := document.format_problems(problems):
        listed = "\n".join(lines)
        raise ManifestError(f"the file of lint rules is malformed:\n{listed}", where=where, hint="see docs/manifest.md")
    return rule_file.rules


def _match_condition(condition: Condition, lock: Lock, host_pip: str | None) -> list[str] | None:
    """Return the packages and models that a rule applies to, as text; None if it does not apply."""
    versions = {canonicalize_name(package.name): package.version for package in lock.python.packages}
    ranges = {canonicalize_name(name): version_range for name, version_range in condition.packages.items()}
    if not all(name in versions and _is_in_range(versions[name], ranges[name]) for name in ranges):
        return None
    if any(canonicalize_name(name) in versions for name in condition.absent):
        return None
    if condition.host_pip and not (host_pip and _is_in_range(host_pip, condition.host_pip)):
        return None
    target = lock.target
    patterns = (
        (target.python, condition.python),
        (target.platform, condition.platform),
        (target.accelerator, condition.accelerator),
    )
    if any(pattern and not fnmatch.fnmatchcase(value, pattern) for value, pattern in patterns):
        return None
    wheels = _list_paths(lock.list_artifacts("wheel"), "wheels/")
    assets = _list_paths(lock.list_artifacts("asset"), "assets/")
    if condition.wheels and not _has_match(wheels, condition.wheels):
        return None
    if condition.assets and not _has_match(assets, condition.assets):
        return None
    if _has_match(assets, condition.no_assets):
        return None
    models = [
        model.alias for model, files in lock.list_files_by_model() if _matches_model(condition, lock, model, files)
    ]
    if condition.is_about_models and not models:
        return None
    return [*(f"{name} {versions[name]}" for name in ranges), *(models if condition.is_about_models else ())]


def _matches_model(condition: Condition, lock: Lock, model: Model, files: Sequence[Artifact]) -> bool:
    """Return whether the model fields of a condition match this model."""
    names = _list_paths(files, model.folder)
    return (
        (not condition.files or _has_match(names, condition.files))
        and not _has_match(names, condition.no_files)
        and (not condition.loaders or model.loader in condition.loaders)
        and (not condition.pickles or any(pickle.path.startswith(model.folder) for pickle in lock.pickles))
    )


def _is_in_range(version: str, version_range: str) -> bool:
    """Return whether a version is in a range; a local version (``+cpu``) is ignored."""
    try:
        return SpecifierSet(version_range, prereleases=True).contains(Version(version).public)
    except InvalidVersion:
        return False


def _list_paths(artifacts: Iterable[Artifact], folder: str) -> list[str]:
    return [artifact.path.removeprefix(folder) for artifact in artifacts]


def _has_match(names: Iterable[str], patterns: Iterable[str]) -> bool:
    patterns = tuple(patterns)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)
