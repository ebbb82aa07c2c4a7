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
from bundler.format.documents import Invalid, about
from bundler.format.lock.entries import Artifact, Model
from bundler.format.lock.lockfile import Lock
from bundler.online.manifest import yaml_document
from bundler.progress import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class When:
    """What must hold for a rule to speak; what is empty is not looked at."""

    packages: Mapping[str, str] = about("name: versions; each is in the environment", default_factory=dict)
    absent: tuple[str, ...] = about("packages none of which is there", default=())
    wheels: tuple[str, ...] = about("patterns: one matches a wheel's file name", default=())
    assets: tuple[str, ...] = about("patterns: one matches an asset's path", default=())
    no_assets: tuple[str, ...] = about("patterns: none does", default=())
    files: tuple[str, ...] = about("patterns: one matches a file of a model", default=())
    no_files: tuple[str, ...] = about("patterns: none does", default=())
    loaders: tuple[str, ...] = about("of a model", default=())
    pickles: bool = about("whether the model must hold a pickle", default=False)
    python: str = about("pattern over the target's", default="")
    platform: str = about("pattern over the target's", default="")
    accelerator: str = about("pattern over the target's", default="")
    host_pip: str = about("versions of the host's own pip", default="")

    def __post_init__(self) -> None:
        documents.refuse(self._faults())

    def _faults(self) -> Iterator[Invalid]:
        for key, ranges in (("packages", self.packages.values()), ("host_pip", [self.host_pip])):
            for wanted in ranges:
                try:
                    SpecifierSet(wanted)
                except InvalidSpecifier:
                    yield Invalid(f"{wanted!r} is no range of versions (PEP 440)", key)

    @property
    def of_models(self) -> bool:
        """Whether it speaks of models, and so of each apart."""
        return bool(self.files or self.no_files or self.loaders or self.pickles)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One thing that is known to go wrong."""

    id: str = about("names it")
    severity: Literal["error", "warning", "off"] = about("what it does to a build")
    what: str = about("goes wrong")
    do: str = about("what to do about it")
    link: str = about("where it was seen")
    when: When = about("what must hold")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rules:
    rules: tuple[Rule, ...]


def rules(files: Iterable[Path] = ()) -> tuple[Rule, ...]:
    """Our rules, and those of files, of which one with the id of another takes its place; raises ManifestError."""
    found: dict[str, Rule] = {}
    own = resources.files("bundler.online.manifest").joinpath("lint.yaml").read_bytes()
    for text, where in [(own, "lint.yaml"), *((path.read_bytes(), str(path)) for path in files)]:
        found |= {rule.id: rule for rule in _read(text, where)}
    return tuple(found.values())


def check(locked: Lock, known: Sequence[Rule], host_pip: str | None, report: Report) -> None:
    """Say what is known of a lock's combinations; raises ResolveError that lists every error among it."""
    errors = []
    for rule in known:
        if rule.severity == "off" or (held := _holds(rule.when, locked, host_pip)) is None:
            continue
        here = f" (here: {', '.join(held)})" if held else ""
        said = f"{rule.what}{here}: {rule.do}; see {rule.link} [{rule.id}]"
        if rule.severity == "error":
            errors.append(f"  {said}")
        else:
            report.warn(said)
    if errors:
        hint = "change the manifest as each line says; a rule of that id and 'severity: off' in a file of 'lint' silences it"
        raise ResolveError("known not to work on the host:\n" + "\n".join(errors), hint=hint)


def _read(text: bytes, where: str) -> tuple[Rule, ...]:
    document = yaml_document.read(text, where)
    found, faults = documents.examine(_Rules, document.value, document.places)
    if described := document.described(faults):
        shown = "\n".join(described)
        raise ManifestError(f"these are no rules:\n{shown}", where=where, hint="see docs/manifest.md")
    return found.rules


def _holds(when: When, locked: Lock, host_pip: str | None) -> list[str] | None:
    """What in the lock a rule speaks of, in words; None where it does not hold."""
    versions = {canonicalize_name(one.name): one.version for one in locked.python.packages}
    named = {canonicalize_name(name): wanted for name, wanted in when.packages.items()}
    if not all(name in versions and _within(versions[name], wanted) for name, wanted in named.items()):
        return None
    if any(canonicalize_name(name) in versions for name in when.absent):
        return None
    if when.host_pip and not (host_pip and _within(host_pip, when.host_pip)):
        return None
    target = locked.target
    said = ((target.python, when.python), (target.platform, when.platform), (target.accelerator, when.accelerator))
    if any(pattern and not fnmatch.fnmatchcase(value, pattern) for value, pattern in said):
        return None
    wheels, assets = _paths(locked.of_kind("wheel"), "wheels/"), _paths(locked.of_kind("asset"), "assets/")
    if (when.wheels and not _any(wheels, when.wheels)) or (when.assets and not _any(assets, when.assets)):
        return None
    if _any(assets, when.no_assets):
        return None
    concerned = [model.alias for model, files in locked.by_model() if _concerns(when, locked, model, files)]
    if when.of_models and not concerned:
        return None
    return [*(f"{name} {versions[name]}" for name in named), *(concerned if when.of_models else ())]


def _concerns(when: When, locked: Lock, model: Model, files: Sequence[Artifact]) -> bool:
    """Whether what a rule says of models holds for this one."""
    names = _paths(files, model.folder)
    return (
        (not when.files or _any(names, when.files))
        and not _any(names, when.no_files)
        and (not when.loaders or model.loader in when.loaders)
        and (not when.pickles or any(one.path.startswith(model.folder) for one in locked.pickles))
    )


def _within(version: str, wanted: str) -> bool:
    """Whether a version is in a range; the build of a version (+cpu) says nothing here."""
    try:
        return SpecifierSet(wanted, prereleases=True).contains(Version(version).public)
    except InvalidVersion:
        return False


def _paths(artifacts: Iterable[Artifact], folder: str) -> list[str]:
    return [artifact.path.removeprefix(folder) for artifact in artifacts]


def _any(names: Iterable[str], patterns: Iterable[str]) -> bool:
    kept = tuple(patterns)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in kept)
