"""Reads a manifest, and checks what its types can't: fields against each other, and the files that it names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bundler.errors import ManifestError
from bundler.format import documents, paths
from bundler.format.documents import FieldPath, FieldProblem
from bundler.format.hashing import Sha256, compute_sha256
from bundler.format.lock import entries, env_values
from bundler.format.lock.platforms import PLATFORMS
from bundler.format.lock.target import detect_target
from bundler.online.assets import asset_spec
from bundler.online.manifest import lint, yaml_document
from bundler.online.manifest.schema import MODEL_SOURCE_KEYS, Manifest
from bundler.online.packages import requirements_txt

_BUNDLE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_BUNDLE_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedManifest:
    """A manifest, the folder that its paths are relative to, and the SHA-256 of its text."""

    manifest: Manifest
    folder: Path
    sha256: Sha256 = field(repr=False)


def load_manifest(path: Path) -> LoadedManifest:
    """Read and check a manifest.

    Raises:
        ManifestError: The file can't be read, or it has problems. The error lists all of them with their lines.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        hint = "check the path; `bundle init FOLDER` writes a manifest from a project's files"
        raise ManifestError(f"the manifest can't be read: {error.strerror}", where=str(path), hint=hint) from error
    return parse_manifest(text, path)


def parse_manifest(text: bytes, path: Path) -> LoadedManifest:
    """Check the text of a manifest that is, or will be, at ``path``; raise ManifestError that lists all problems."""
    document = yaml_document.parse_document(text, str(path))
    manifest, problems = documents.decode_leniently(Manifest, document.value, document.places)
    wrong_fields = {problem.path for problem in problems}
    problems += [
        problem
        for problem in _check_consistency(manifest, path.parent, wrong_fields)
        if problem.path not in wrong_fields
    ]
    if lines := document.format_problems(map(_add_quotes_hint, problems)):
        count = f"{len(lines)} problems" if len(lines) > 1 else "one problem"
        listed = "\n".join(lines)
        raise ManifestError(f"the manifest has {count}:\n{listed}", where=str(path), hint="see docs/manifest.md")
    return LoadedManifest(manifest=manifest, folder=path.parent, sha256=compute_sha256(text))


def _add_quotes_hint(problem: FieldProblem) -> FieldProblem:
    """Add how to write a value that YAML reads as a number, a boolean or a date where text is expected."""
    unquoted = re.search(
        r"must be a string, not (?:a number|an integer|true or false|date|datetime) \((.*)\)", problem.message
    )
    if unquoted is None:
        return problem
    return dataclasses.replace(problem, message=f'{problem.message} (write it in quotes: "{unquoted[1]}")')


def _check_consistency(manifest: Manifest, folder: Path, wrong_fields: Collection[FieldPath]) -> list[FieldProblem]:
    """List what is wrong between fields and with the files that they name, except what follows from wrong fields."""
    problems = _check_bundle_name(manifest)
    aliases = [(model.name, model.name) for model in manifest.models]
    problems += _check_unique_names(("models", "alias"), aliases)
    hub_ids = [(model.hub_id, entries.make_hub_folder(model.repo_type, model.hub_id)) for model in manifest.models]
    problems += _check_unique_names(("models", "repo_id"), hub_ids)
    problems += asset_spec.find_duplicates(manifest.assets)
    platform = PLATFORMS.get(manifest.target.platform or detect_target().platform)
    if (
        manifest.image.base
        and ("target", "platform") not in wrong_fields
        and not (platform and platform.oci_architecture)
    ):
        problems.append(FieldProblem(("image", "base"), "a container image needs a Linux target"))
    return [*problems, *_check_files(manifest, folder), *_check_env(manifest, wrong_fields)]


def _check_files(manifest: Manifest, folder: Path) -> Iterator[FieldProblem]:
    """List what is wrong with the files and folders beside the manifest that it names."""
    for n, model in enumerate(manifest.models):
        if model.path and not (folder / model.path).is_dir():
            message = f"{model.path!r} is not a folder beside the manifest: put the model's files there"
            yield FieldProblem(("models", n, "path"), message)
    if manifest.app and not (folder / manifest.app.path).is_dir():
        yield FieldProblem(("app", "path"), f"{manifest.app.path!r} is not a folder beside the manifest")
    yield from _check_requirements_files(manifest, folder)
    for n, name in enumerate(manifest.lint):
        if not (folder / name).is_file():
            yield FieldProblem(("lint", n), f"{name!r} is not a file beside the manifest")
        else:
            try:
                lint.load_rules([folder / name])
            except ManifestError as error:
                message = f"{error.where.removeprefix(f'{folder}/')}: {error}"
                yield FieldProblem(("lint", n), message.replace("\n", "\n    "))


def _check_requirements_files(manifest: Manifest, folder: Path) -> Iterator[FieldProblem]:
    for key in ("requirements_files", "constraints"):
        for n, name in enumerate(getattr(manifest.python, key)):
            if not (folder / name).is_file():
                yield FieldProblem(("python", key, n), f"{name!r} is not a file beside the manifest")
            else:
                for line, message in requirements_txt.list_file_problems(folder / name):
                    yield FieldProblem(("python", key, n), f"{name}:{line}: {message}")


def _check_bundle_name(manifest: Manifest) -> list[FieldProblem]:
    """Apply the lock's own rules for name, version and sequence, before anything is fetched."""
    problems: list[FieldProblem] = []
    if manifest.sequence is not None and not 0 <= manifest.sequence < 1 << 53:
        problems.append(FieldProblem(("sequence",), "must be an integer from 0 to 2**53 - 1"))
    for key, pattern, allowed in (
        ("name", _BUNDLE_NAME, "lower-case letters, digits, '.', '_', '-'"),
        ("version", _BUNDLE_VERSION, "letters, digits, '.', '_', '+', '-'"),
    ):
        value = getattr(manifest, key)
        if not pattern.fullmatch(value):
            problems.append(FieldProblem((key,), f"{value!r} must be {allowed}"))
        elif problem := paths.find_path_problem(value):
            problems.append(FieldProblem((key,), problem))
    return problems


def _check_unique_names(field_keys: tuple[str, str], names: list[tuple[str, str]]) -> list[FieldProblem]:
    """List the names whose path on the host is the path of an earlier one, on a file system that ignores case.

    Args:
        field_keys: The list and its field that the names are from.
        names: Each name with its path; "" for an entry without a name.
    """
    first_owners: dict[str, int] = {}
    problems = []
    list_key, key = field_keys
    for n, (name, path) in enumerate(names):
        owner = first_owners.setdefault(paths.fold_name(path), n) if name else n
        if owner != n:
            problems.append(FieldProblem((list_key, n, key), f"{name!r} is taken by {list_key}[{owner}]"))
    return problems


def _check_env(manifest: Manifest, wrong_fields: Collection[FieldPath]) -> list[FieldProblem]:
    """List what is wrong with the variables of ``env`` and of assets."""
    names_by_kind = {
        "model": {model.name for model in manifest.models},
        "asset": {file.path for asset in manifest.assets for file in asset.pinned_files},
        "release": {""},
    }
    uncertain_kinds = _find_uncertain_kinds(manifest, wrong_fields)
    problems: list[FieldProblem] = []
    for variable, value in manifest.env.items():
        path = ("env", variable)
        if not _VARIABLE_NAME.fullmatch(variable):
            problems.append(FieldProblem(path, "is not the name of a variable"))
        if problem := env_values.find_env_problem(variable, value):
            problems.append(FieldProblem(path, problem))
        for kind, name in env_values.find_placeholders(value):
            if name not in names_by_kind[kind] and kind not in uncertain_kinds:
                known_names = ", ".join(sorted(names_by_kind[kind] - {""})) or "none"
                problems.append(FieldProblem(path, f"there is no {{{kind}:{name}}}; known: {known_names}"))
    used_variables = set(manifest.env)
    for n, asset in enumerate(manifest.assets):
        if asset.env is None:
            continue
        if asset.env in used_variables or not _VARIABLE_NAME.fullmatch(asset.env):
            message = f"{asset.env!r} is not the name of a variable, or is already used"
            problems.append(FieldProblem(("assets", n, "env"), message))
        if problem := env_values.find_env_problem(asset.env, f"{{asset:{asset.path}}}"):
            problems.append(FieldProblem(("assets", n, "env"), f"{asset.env!r} {problem}"))
        used_variables.add(asset.env)
    return problems


def _find_uncertain_kinds(manifest: Manifest, wrong_fields: Collection[FieldPath]) -> set[str]:
    """Return the kinds of placeholders that can't be checked, because a field that gives their names is wrong."""
    naming_keys = ("alias", "repo_id", *MODEL_SOURCE_KEYS)
    is_blank = any(getattr(model, key) == "" for model in manifest.models for key in naming_keys)
    kinds = {"model"} if is_blank or ("models",) in wrong_fields else set()
    return kinds | ({"asset"} if any(path[0] == "assets" for path in wrong_fields if path) else set())
