"""What a lock, a receipt or a smoke load says, for a program and in words."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundler.format import documents
from bundler.format.lock import entries, platforms
from bundler.format.lock.entries import TRUSTED_INSTALLER
from bundler.offline.findings import LEVELS
from bundler.output import digest_text, smoke_text
from bundler.output.console import format_size
from bundler.progress import pluralize

if TYPE_CHECKING:  # a verb that shows a lock does not import the installer
    from bundler.format.lock.difference import Change, Difference
    from bundler.format.lock.entries import Artifact, Model, ModelDependency
    from bundler.format.lock.lockfile import Lock
    from bundler.offline.container.image_build import BuiltImage
    from bundler.offline.findings import Examination, Finding
    from bundler.offline.prefix.receipts import Receipt
    from bundler.offline.prefix.releases import Release
    from bundler.offline.prefix.removal import Removal
    from bundler.offline.trust.trusted_keys import TrustPolicy
    from bundler.offline.trust.verification import SignatureCheck

VerbResult = tuple[dict[str, Any], str]

_FETCHED_KINDS = ("tool", "wheel", "model", "asset")
"""Kinds of artifacts that somebody else may have published a digest for."""
_WIDEST = 96
"""Columns of a table, however wide the terminal is."""


def summarize_lock(lock: Lock, signed_by: Sequence[str] = ()) -> dict[str, Any]:
    """What inspect tells a program; ``signed_by`` as the signatures say."""
    running = _find_running_models(lock)
    return {
        "name": lock.name,
        "version": lock.version,
        "sequence": lock.sequence,
        **digest_text.document(lock),
        "target": documents.encode(lock.target),
        "signed_by": list(signed_by),
        "rehearsed": lock.rehearsed,
        "unrehearsed": lock.unrehearsed_reason,
        "goldens": [golden.alias for golden in lock.goldens],
        "created_by": lock.created_by,
        "models": [_summarize_model(lock, model, files, running) for model, files in lock.list_files_by_model()],
        "closure": [documents.encode(edge) for edge in lock.closure],
        "wheels": [
            {"name": package.name, "version": package.version, "file": package.wheel.partition("/")[2]}
            for package in lock.python.packages
        ],
        "image": _summarize_image(lock),
        "app": _summarize_app(lock),
        "artifacts": {"count": len(lock.artifacts), "bytes": sum(artifact.size for artifact in lock.artifacts)},
        "unpublished": [a.path for a in lock.artifacts if a.kind in _FETCHED_KINDS and not a.upstream],
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
        "pickles": [documents.encode(one) for one in lock.pickles if one.path.startswith(model.folder)],
        "conversions": [documents.encode(one) for one in lock.conversions if one.path.startswith(model.folder)],
        "trust_remote_code": model.trust_remote_code,
        "code_runs": model.alias in running_models,
        "code": [{"file": a.path, "sha256": a.sha256} for a in files if a.path.endswith(".py")],
    }


def _summarize_image(lock: Lock) -> dict[str, Any]:
    carried = lock.list_artifacts("image")
    told = {"base": lock.image.base, "digest": lock.image.digest, "user": lock.image.user, "carried": bool(carried)}
    return told | {"bytes": sum(artifact.size for artifact in carried)}


def _summarize_app(lock: Lock) -> dict[str, Any]:
    files = lock.list_artifacts("app")
    told = {"files": len(files), "bytes": sum(artifact.size for artifact in files)}
    return told | {"entrypoint": list(lock.app.entrypoint)}


def format_lock(lock: Lock, signed_by: Sequence[str] = ()) -> str:
    """What inspect tells a person."""
    said = summarize_lock(lock, signed_by)
    lines = [
        f"{lock.name} {lock.version}  (sequence {lock.sequence}, made by {lock.created_by})",
        *digest_text.lines(lock),
        f"  target     {lock.target}",
        *format_signers(signed_by, ()),
        f"  rehearsed  {format_rehearsal(lock)}",
        f"  content    {pluralize(len(lock.artifacts), 'file')}, {format_size(said['artifacts']['bytes'])}",
    ]
    lines += [f"  models     {len(lock.models)}"]
    for model in said["models"]:
        licence = model["licence"] or "no licence stated"
        name = f" as {model['repo_id']}" if model["repo_id"] else ""
        lines.append(
            f"    {model['alias']}{name}: {pluralize(model['files'], 'file')}, {format_size(model['bytes'])}, {licence}"
        )
        lines.append(f"      from {model['source']}, loaded by {model['loader']}, commit {model['commit'][:12]}")
        if model["unpublished"]:
            lines.append(f"      no digest was published for {model['unpublished']} of its files")
        lines += [
            f"      {line}" for line in (*_format_pickles(model), *_format_conversions(model), *_format_code(model))
        ]
    lines += _format_closure(lock)
    wheels = sum(artifact.size for artifact in lock.list_artifacts("wheel"))
    lines.append(
        f"  packages   {pluralize(len(lock.python.packages), 'wheel')}, {format_size(wheels)}, resolved by {lock.python.resolver}"
    )
    lines += _format_columns([f"{package.name} {package.version}" for package in lock.python.packages])
    if assets := lock.list_artifacts("asset"):
        lines.append(f"  assets     {', '.join(asset.path for asset in assets)}")
    if lock.image.base:
        base = said["image"]
        travels = f"carried, {format_size(base['bytes'])}" if base["carried"] else "not carried"
        lines.append(f"  image      {base['base']} ({base['digest']}), {travels}")
    if files := said["app"]["files"]:
        starts = shlex.join(lock.app.entrypoint) or "Python"
        lines.append(f"  app        {pluralize(files, 'file')}, {format_size(said['app']['bytes'])}; starts: {starts}")
    if built := [Path(a.path).name for a in lock.artifacts if a.origin.startswith(entries.BUILT_ORIGIN_PREFIX)]:
        lines.append("  built from source code by the builder: " + ", ".join(built))
    if loose := [Path(name).name for name in said["unpublished"] if not name.startswith("models/")]:
        lines.append("  no digest was published for: " + ", ".join(loose))
    return "\n".join(lines)


def _format_closure(lock: Lock) -> list[str]:
    """Which model needs which other, as a tree; one that stands further up is not unfolded again."""
    edges = _group_edges(lock)
    reached = {edge.to for edge in lock.closure}
    lines, shown = ["  closure"] if edges else [], set[str]()
    for root in sorted(edges, key=lambda alias: alias in reached):  # those of a circle last
        waiting = [] if root in shown else [(2, root, "")]
        while waiting:
            depth, alias, why = waiting.pop()
            again = " (see above)" if alias in shown and alias in edges else ""
            lines.append(f"{'  ' * depth}{alias}{again}{why}")
            if alias not in shown:
                below = [(depth + 1, edge.to, f"  for {edge.file}: {edge.reason}") for edge in edges.get(alias, ())]
                waiting += reversed(below)
            shown.add(alias)
    return lines


def _format_pickles(model: dict[str, Any]) -> list[str]:
    lines = (
        [f"pickles, which can run code when loaded, by {model['pickles'][0]['scanner']}:"] if model["pickles"] else []
    )
    for one in model["pickles"]:
        said = f"suspicious: imports {', '.join(one['globals'])}" if one["globals"] else "rebuilds tensors and no more"
        lines.append(f"  {_strip_model_folder(one['path'])}  {said}")
    return lines


def _format_conversions(model: dict[str, Any]) -> list[str]:
    return [
        f"{_strip_model_folder(one['path'])} was {one['source']} (sha256 {one['sha256']}), by {one['by']}"
        for one in model["conversions"]
    ]


def _find_running_models(lock: Lock) -> set[str]:
    """The models whose code a smoke load may run: those that are trusted, and what their files name."""
    edges, found = _group_edges(lock), set[str]()
    waiting = [model.alias for model in lock.models if model.trust_remote_code]
    while waiting:
        alias = waiting.pop()
        if alias not in found:
            found.add(alias)
            waiting += [edge.to for edge in edges.get(alias, ())]
    return found


def _group_edges(lock: Lock) -> dict[str, list[ModelDependency]]:
    """What each model needs, by its alias."""
    edges: dict[str, list[ModelDependency]] = {}
    for edge in lock.closure:
        edges.setdefault(edge.model, []).append(edge)
    return edges


def _format_code(model: dict[str, Any]) -> list[str]:
    if not model["code"]:
        return []
    when = "a model uses this kernel" if model["source"].startswith("kernel:") else "trust_remote_code is on"
    how = "a smoke load runs it" if model["code_runs"] else "no smoke load runs it"
    lines = [f"code that runs where {when}; {how}:"]
    return [*lines, *(f"  {one['sha256']}  {_strip_model_folder(one['file'])}" for one in model["code"])]


def _strip_model_folder(path: str) -> str:
    """A model's file, without the folder of the model."""
    return path.split("/", 2)[2]


def format_rehearsal(lock: Lock) -> str:
    if not lock.rehearsed:
        return f"no: {lock.unrehearsed_reason}"
    names = ", ".join(golden.alias for golden in lock.goldens)
    return f"yes, by the builder; golden outputs of {names}" if names else "yes, by the builder; nothing was loaded"


def _format_columns(items: Sequence[str]) -> list[str]:
    if not items:
        return []
    width = min(shutil.get_terminal_size().columns, _WIDEST) - 4
    cell = max(map(len, items)) + 2
    across = max(1, width // cell)
    rows = [items[n : n + across] for n in range(0, len(items), across)]
    return ["    " + "".join(item.ljust(cell) for item in row).rstrip() for row in rows]


def describe_difference(difference: Difference) -> VerbResult:
    """What diff tells."""
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
    """Who signed a bundle, a line each: the trusted ones were checked, the others are what it says."""
    if not signed_by:
        return ["  signed by  nobody"]
    checked = {True: "trusted, and the signature holds", False: "as it says; not checked"}
    return [f"  signed by  {one}  ({checked[one in trusted]})" for one in signed_by]


def describe_trust(trust: TrustPolicy | None, prefix: Path) -> VerbResult:
    """Whose bundles a prefix takes."""
    if trust is None:
        words = f"{prefix} remembers no key: it takes any bundle; the first install with --trust changes that"
        return {"keys": [], "revoked": [], "threshold": 0}, words
    keys, revoked = [key.fingerprint for key in trust.keys], sorted(trust.revoked)
    lines = [f"{prefix} takes bundles that are signed by {trust.threshold} of these keys:"]
    lines += [f"  {one}{'  (revoked: counts for nothing)' if one in revoked else ''}" for one in keys]
    lines += [f"  revoked: {one}" for one in revoked if one not in keys]
    return {"keys": keys, "revoked": revoked, "threshold": trust.threshold}, "\n".join(lines)


def describe_lock(path: Path, lock: Lock, missing: Sequence[Artifact]) -> VerbResult:
    """What lock tells; ``to_fetch`` is what building from it has to bring here."""
    size = sum(artifact.size for artifact in missing)
    said = {"lock": str(path), "to_fetch": {"files": len(missing), "bytes": size}, **summarize_lock(lock)}
    told = f"{path}\n{format_lock(lock)}"
    if missing:
        told += f"\n  to fetch   {pluralize(len(missing), 'file')}, {format_size(size)}: by bundle build"
    return said, told


def format_build(path: Path, size: int, sha256: str, lock: Lock, signed_by: Sequence[str]) -> str:
    """What build tells a person."""
    named = "\n".join([*digest_text.of_file(sha256), *digest_text.lines(lock)])
    return (
        f"{path}  ({format_size(size)})\n{named}\n"
        f"  target     {lock.target}\n"
        f"  {pluralize(len(lock.models), 'model')}, {pluralize(len(lock.python.packages), 'wheel')}, "
        f"{pluralize(len(lock.artifacts), 'file')}\n"
        f"  rehearsed  {format_rehearsal(lock)}\n"
        + "".join(f"  signed by  {one}\n" for one in signed_by)
        + _format_install_command(path, is_signed=bool(signed_by))
    )


def _format_install_command(path: Path, *, is_signed: bool) -> str:
    if is_signed:
        return (
            f"On the isolated host, with the {TRUSTED_INSTALLER} and KEY.pub that came another way:\n"
            f"  python3 trusted/{TRUSTED_INSTALLER} install {path.name} --prefix DIR --trust trusted/KEY.pub"
        )
    return (
        f"On the isolated host:\n  tar xf {path.name} bundle.pyz && python3 bundle.pyz install {path.name} --prefix DIR"
    )


def format_verification(lock: Lock, size: int, vouched: SignatureCheck) -> str:
    """What verify tells a person."""
    lines = [
        f"whole: {lock.name} {lock.version}, {pluralize(len(lock.artifacts), 'file')}, {format_size(size)}; every byte is what the lock says",
        *digest_text.lines(lock),
        *format_signers(vouched.signed_by, vouched.trusted),
    ]
    return "\n".join(lines)


def describe_install(receipt: Receipt) -> VerbResult:
    """What install tells."""
    home = f"{receipt.prefix}/current"
    lines = [f"installed: {receipt.name} {receipt.version}, live as {home}"]
    lines += digest_text.of_bundle(receipt.digest, receipt.reviewed_digest)
    lines += format_signers(receipt.signed_by, receipt.trusted)
    lines += smoke_text.of_receipt(receipt)
    lines += [
        f"  environment  {home}/venv/{platforms.detect_system().venv_python}",
        f"  variables    {home}/.env.offline",
        f"  image        {home}/Dockerfile.offline",
    ]
    return documents.encode(receipt), "\n".join(lines)


def describe_part(part: str, release: Release, path: Path) -> VerbResult:
    """What install --only tells."""
    result = {"part": part, "release": release.name, "path": str(path)}
    return result, f"placed: {part}, as {path}; install without --only finishes"


def describe_image(image: BuiltImage) -> VerbResult:
    """What image tells."""
    lines = [f"baked: {image.image}, with {image.engine} on {image.base}"]
    lines += [f"  saved as {image.archive}"] if image.archive else []
    lines += [f"  what runs it: {path}" for path in image.runners]
    lines += [f"  {format_size(layer.size).rjust(10)}  {_describe_layer(layer.made_by)}" for layer in image.layers]
    lines += [f"  {format_size(sum(layer.size for layer in image.layers)).rjust(10)}  all layers, as they lie unpacked"]
    lines += ["inside it, with no network and a read-only root:", smoke_text.format_smoke_results(image.smoke)]
    return documents.encode(image), "\n".join(lines)


def _describe_layer(made_by: str) -> str:
    """What made a layer, in a word where it is a step of ours."""
    if f"{TRUSTED_INSTALLER} install" in made_by:
        only = re.search(r" --only (\S+)", made_by)
        return only[1] if only else "what the smoke loads compiled, and the rest"
    if "network not cut" in made_by:
        return "the look at the network"
    return "base: " + " ".join(made_by.split())[:60]


def describe_releases(receipts: Sequence[Receipt], live: Release | None) -> VerbResult:
    """What list tells."""
    name = live.name if live else ""
    rows = [{**documents.encode(receipt), "live": receipt.release == name} for receipt in receipts]
    lines: list[str] = []
    for receipt in receipts:
        lines.append(
            f"{'*' if receipt.release == name else ' '} {receipt.release}  {receipt.name} {receipt.version}  "
            f"sequence {receipt.sequence}  models: {', '.join(receipt.models) or 'none'}"
            + (f" ({smoke_text.age(receipt.smoke)})" if receipt.models else "")
        )
        lines.append(f"    digest     {receipt.digest}")
        if receipt.reviewed_digest:  # a version before it had one may have installed this
            lines.append(f"    reviewed   {receipt.reviewed_digest}")
    return {"releases": rows}, "\n".join(lines) or "nothing is installed here"


def describe_removal(removal: Removal) -> VerbResult:
    """What remove and prune tell."""
    lines = [f"removed: {name}" for name in removal.releases]
    lines += [f"  and its model {name}, which no other release holds" for name in removal.models]
    lines += [f"  {format_size(removal.bytes)}"] if lines else ["nothing to remove"]
    return documents.encode(removal), "\n".join(lines)


def describe_examination(examination: Examination) -> VerbResult:
    """What doctor tells: the bad first."""
    lines: list[str] = []
    for finding in sorted(examination.findings, key=lambda one: -LEVELS.index(one.level)):
        lines.append(f"{finding.level:8}  {finding.check}: {finding.message}")
        lines += [f"          where: {finding.where}"] if finding.where else []
        lines += [f"          what to do: {finding.hint}"] if finding.hint else []
    told = documents.encode(examination)
    return {"state": examination.worst_level, **told}, "\n".join(lines)


def format_critical(findings: Sequence[Finding]) -> str:
    """What an unhealthy end says in one line."""
    things = "one thing is" if len(findings) == 1 else f"{len(findings)} things are"
    return f"{things} critical, such as {findings[0].check}: {findings[0].message}"
