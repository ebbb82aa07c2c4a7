"""What a lock holds: for a program, as text, and compared with another lock."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundler.format import documents
from bundler.format.lock import entries
from bundler.output import digest_text
from bundler.output.console import VerbResult
from bundler.progress import format_size, pluralize

if TYPE_CHECKING:
    from bundler.format.lock.difference import Change, Difference
    from bundler.format.lock.entries import Artifact, Model, ModelDependency
    from bundler.format.lock.lockfile import Lock

_FETCHED_KINDS = ("tool", "wheel", "model", "asset")
"""Kinds of artifacts for which somebody else may have published a digest."""
_MAX_COLUMNS = 96
"""Width of a table, however wide the terminal is."""


def summarize_lock(lock: Lock, signed_by: Sequence[str] = ()) -> dict[str, Any]:
    """Summarize a lock for a program; `signed_by` are the fingerprints that its signatures name."""
    running_models = _find_running_models(lock)
    return {
        "name": lock.name,
        "version": lock.version,
        "sequence": lock.sequence,
        **digest_text.summarize_digests(lock),
        "target": documents.encode(lock.target),
        "signed_by": list(signed_by),
        "rehearsed": lock.rehearsed,
        "unrehearsed": lock.unrehearsed_reason,
        "goldens": [golden.alias for golden in lock.goldens],
        "created_by": lock.created_by,
        "models": [_summarize_model(lock, model, files, running_models) for model, files in lock.list_files_by_model()],
        "closure": [documents.encode(edge) for edge in lock.closure],
        "wheels": [
            {"name": package.name, "version": package.version, "file": package.wheel.partition("/")[2]}
            for package in lock.python.packages
        ],
        "image": _summarize_image(lock),
        "app": _summarize_app(lock),
        "artifacts": {"count": len(lock.artifacts), "bytes": sum(artifact.size for artifact in lock.artifacts)},
        "unpublished": [
            artifact.path for artifact in lock.artifacts if artifact.kind in _FETCHED_KINDS and not artifact.upstream
        ],
    }


def _summarize_model(lock: Lock, model: Model, files: tuple[Artifact, ...], running_models: set[str]) -> dict[str, Any]:
    return {
        "alias": model.alias,
        "source": model.source,
        "repo_id": model.repo_id,
        "commit": model.commit,
        "loader": model.loader,
        "licence": model.licence,
        "digest": model.digest,
        "files": len(files),
        "bytes": sum(artifact.size for artifact in files),
        "unpublished": sum(not artifact.upstream for artifact in files),
        "pickles": [documents.encode(pickle) for pickle in lock.pickles if pickle.path.startswith(model.folder)],
        "conversions": [
            documents.encode(conversion) for conversion in lock.conversions if conversion.path.startswith(model.folder)
        ],
        "trust_remote_code": model.trust_remote_code,
        "code_runs": model.alias in running_models,
        "code": [{"file": file.path, "sha256": file.sha256} for file in files if file.path.endswith(".py")],
    }


def _summarize_image(lock: Lock) -> dict[str, Any]:
    blobs = lock.list_artifacts("image")
    return {
        "base": lock.image.base,
        "digest": lock.image.digest,
        "user": lock.image.user,
        "carried": bool(blobs),
        "bytes": sum(artifact.size for artifact in blobs),
    }


def _summarize_app(lock: Lock) -> dict[str, Any]:
    files = lock.list_artifacts("app")
    return {
        "files": len(files),
        "bytes": sum(artifact.size for artifact in files),
        "entrypoint": list(lock.app.entrypoint),
    }


def format_lock(lock: Lock, signed_by: Sequence[str] = ()) -> str:
    """Format a lock for a person; `signed_by` are the fingerprints that its signatures name."""
    summary = summarize_lock(lock, signed_by)
    lines = [
        f"{lock.name} {lock.version}  (sequence {lock.sequence}, made by {lock.created_by})",
        *digest_text.format_digests(lock),
        f"  target     {lock.target}",
        *format_signers(signed_by, ()),
        f"  rehearsed  {format_rehearsal(lock)}",
        f"  content    {pluralize(len(lock.artifacts), 'file')}, {format_size(summary['artifacts']['bytes'])}",
        f"  models     {len(lock.models)}",
    ]
    for model in summary["models"]:
        lines += _format_model(model)
    lines += _format_closure(lock)
    wheels_size = format_size(sum(artifact.size for artifact in lock.list_artifacts("wheel")))
    wheels = pluralize(len(lock.python.packages), "wheel")
    lines.append(f"  packages   {wheels}, {wheels_size}, resolved by {lock.python.resolver}")
    lines += _format_columns([f"{package.name} {package.version}" for package in lock.python.packages])
    if assets := lock.list_artifacts("asset"):
        lines.append(f"  assets     {', '.join(asset.path for asset in assets)}")
    if lock.image.base:
        image = summary["image"]
        content = f"in the bundle, {format_size(image['bytes'])}" if image["carried"] else "not in the bundle"
        lines.append(f"  image      {image['base']} ({image['digest']}), {content}")
    if files := summary["app"]["files"]:
        command = shlex.join(lock.app.entrypoint) or "Python"
        size = format_size(summary["app"]["bytes"])
        lines.append(f"  app        {pluralize(files, 'file')}, {size}; starts: {command}")
    lines += _format_origins(lock, summary["unpublished"])
    return "\n".join(lines)


def _format_model(model: dict[str, Any]) -> list[str]:
    licence = model["licence"] or "no licence stated"
    name = f" as {model['repo_id']}" if model["repo_id"] else ""
    files = pluralize(model["files"], "file")
    lines = [
        f"    {model['alias']}{name}: {files}, {format_size(model['bytes'])}, {licence}",
        f"      from {model['source']}, loaded by {model['loader']}, commit {model['commit'][:12]}",
    ]
    if model["unpublished"]:
        lines.append(f"      no digest was published for {model['unpublished']} of its files")
    details = (*_format_pickles(model), *_format_conversions(model), *_format_code(model))
    return [*lines, *(f"      {line}" for line in details)]


def _format_origins(lock: Lock, unpublished: Sequence[str]) -> list[str]:
    """Name the wheels that the builder built, and files other than models' without a published digest."""
    lines = []
    built_wheels = [
        Path(artifact.path).name
        for artifact in lock.artifacts
        if artifact.origin.startswith(entries.BUILT_ORIGIN_PREFIX)
    ]
    if built_wheels:
        lines.append("  built from source code by the builder: " + ", ".join(built_wheels))
    if names := [Path(path).name for path in unpublished if not path.startswith("models/")]:
        lines.append("  no digest was published for: " + ", ".join(names))
    return lines


def _format_closure(lock: Lock) -> list[str]:
    """Format which model needs which other, as a tree; each model's own needs are listed once."""
    edges = _group_edges(lock)
    needed = {edge.to for edge in lock.closure}
    lines, listed = ["  closure"] if edges else [], set[str]()
    for root in sorted(edges, key=lambda alias: alias in needed):  # last those that are only in a circle
        stack = [] if root in listed else [(2, root, "")]
        while stack:
            depth, alias, reason = stack.pop()
            reference = " (see above)" if alias in listed and alias in edges else ""
            lines.append(f"{'  ' * depth}{alias}{reference}{reason}")
            if alias not in listed:
                children = [(depth + 1, edge.to, f"  for {edge.file}: {edge.reason}") for edge in edges.get(alias, ())]
                stack += reversed(children)
            listed.add(alias)
    return lines


def _format_pickles(model: dict[str, Any]) -> list[str]:
    pickles = model["pickles"]
    lines = [f"pickles, which can run code when loaded; scanned by {pickles[0]['scanner']}:"] if pickles else []
    for pickle in pickles:
        imports = ", ".join(pickle["globals"])
        verdict = f"suspicious: imports {imports}" if imports else "only rebuilds tensors"
        lines.append(f"  {_strip_model_folder(pickle['path'])}  {verdict}")
    return lines


def _format_conversions(model: dict[str, Any]) -> list[str]:
    return [
        f"{_strip_model_folder(conversion['path'])} was {conversion['source']} (sha256 {conversion['sha256']}), "
        f"by {conversion['by']}"
        for conversion in model["conversions"]
    ]


def _find_running_models(lock: Lock) -> set[str]:
    """Find the models whose code a smoke load may run: the trusted ones, and those that their files name."""
    edges, running = _group_edges(lock), set[str]()
    queue = [model.alias for model in lock.models if model.trust_remote_code]
    while queue:
        alias = queue.pop()
        if alias not in running:
            running.add(alias)
            queue += [edge.to for edge in edges.get(alias, ())]
    return running


def _group_edges(lock: Lock) -> dict[str, list[ModelDependency]]:
    """Group what each model needs, by its alias."""
    edges: dict[str, list[ModelDependency]] = {}
    for edge in lock.closure:
        edges.setdefault(edge.model, []).append(edge)
    return edges


def _format_code(model: dict[str, Any]) -> list[str]:
    if not model["code"]:
        return []
    condition = "a model uses this kernel" if model["source"].startswith("kernel:") else "trust_remote_code is on"
    smoke = "a smoke load runs it" if model["code_runs"] else "no smoke load runs it"
    lines = [f"code that runs if {condition}; {smoke}:"]
    return [*lines, *(f"  {file['sha256']}  {_strip_model_folder(file['file'])}" for file in model["code"])]


def _strip_model_folder(path: str) -> str:
    """Return a model's file without the folder of the model."""
    return path.split("/", 2)[2]


def format_rehearsal(lock: Lock) -> str:
    """Say whether the builder rehearsed the install, and which models it loaded."""
    if not lock.rehearsed:
        return f"no: {lock.unrehearsed_reason}"
    names = ", ".join(golden.alias for golden in lock.goldens)
    return f"yes, by the builder; golden outputs of {names}" if names else "yes, by the builder; no model was loaded"


def _format_columns(items: Sequence[str]) -> list[str]:
    if not items:
        return []
    width = min(shutil.get_terminal_size().columns, _MAX_COLUMNS) - 4
    cell_width = max(map(len, items)) + 2
    cells = max(1, width // cell_width)
    rows = [items[start : start + cells] for start in range(0, len(items), cells)]
    return ["    " + "".join(item.ljust(cell_width) for item in row).rstrip() for row in rows]


def describe_difference(difference: Difference) -> VerbResult:
    """Describe what changed from one lock to another."""
    if difference.is_empty:
        return documents.encode(difference), "no difference"
    lines: list[str] = []
    for title in ("about", "models", "packages", "assets"):
        changes: tuple[Change, ...] = getattr(difference, title)
        lines += [title] if changes else []
        lines += [f"  {_get_change_sign(change)} {change.name}: {_format_change(change)}" for change in changes]
    lines.append(f"to carry: {format_size(difference.carry)} of {format_size(difference.whole)}")
    return documents.encode(difference), "\n".join(lines)


def _get_change_sign(change: Change) -> str:
    return "+" if not change.before else "-" if not change.after else "~"


def _format_change(change: Change) -> str:
    return " → ".join(filter(None, [change.before, change.after]))


def format_signers(signed_by: Sequence[str], trusted: Sequence[str]) -> list[str]:
    """Format who signed a bundle, a line each; only signatures of trusted keys were checked."""
    if not signed_by:
        return ["  signed by  nobody"]
    return [
        f"  signed by  {fingerprint}  "
        + ("(trusted, the signature is valid)" if fingerprint in trusted else "(not checked: the bundle says so)")
        for fingerprint in signed_by
    ]
