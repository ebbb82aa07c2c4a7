"""Requests to the network that the guard blocked, and the manifest lines that fix them.

The guard writes one line of JSON for each. Libraries that call home find no network on the host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from bundler.format import documents, json_files
from bundler.format.documents import describe_field
from bundler.payload.network.asset_libraries import LIBRARIES

_PLAIN_SCALAR = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_YAML_KEYWORDS = ("true", "false", "yes", "no", "on", "off", "y", "n", "null")


@documents.allow_unknown_keys
@dataclass(frozen=True, kw_only=True, slots=True)
class BlockedRequest:
    """One blocked request, and the line of code that made it."""

    host: str = describe_field("host that was requested")
    url: str = describe_field("URL without user, password and query; empty: unknown", default="")
    asked: str = describe_field("line of code that asked for it", default="")
    through: str = describe_field("line of the library that made the request; empty: the same", default="")
    kind: str = describe_field(
        "what is missing: repo, dataset, kernel, tiktoken, nltk, file, revision, elsewhere; empty: unknown", default=""
    )
    name: str = describe_field("name of what is missing", default="")
    revision: str = describe_field("requested revision of a repository", default="")
    file: str = describe_field("requested file of a repository", default="")

    @property
    def missing_text(self) -> str:
        """Describe what is missing from a repository that is in the bundle."""
        if self.kind == "revision":
            return f"revision {self.revision} of {self.name}; the bundle has another revision"
        what = f"{self.file or 'all'} of {self.name} at {self.revision}"
        return (
            f"{what}; the bundle has the repository without it"
            if self.kind == "file"
            else f"nothing: {what} is in the bundle"
        )

    @property
    def _manifest_entry(self) -> str:
        """The entry under ``models``. A repository is added as plain files: what code reads of it need not be a model."""
        revision = f", revision: {_format_scalar(self.revision)}" if self.revision not in ("", "main") else ""
        loader = ", loader: files" if self.kind == "repo" else ""
        return f"{self.kind}: {self.name}{revision}{loader}"

    @property
    def fix(self) -> str:
        """Describe what to write into the manifest."""
        if self.kind in ("repo", "dataset", "kernel"):
            return f"models: [{{{self._manifest_entry}}}]"
        if self.kind == "file":
            return f"in the entry of {self.name}: add include: [{_format_scalar(self.file)}, …], or remove the exclude: that leaves it out"
        if self.kind == "revision":
            return f"in the entry of {self.name}: set revision: {_format_scalar(self.revision)}"
        if self.kind == "elsewhere":
            return "nothing in the manifest: the bundle has it, but the code searched another folder than HF_HUB_CACHE names"
        if library := LIBRARIES.get(self.kind):
            return f"assets: [{{{library.make_manifest_entry(self.name, self.host, self.url)}}}]"
        return f"smoke: {{tolerate_calls: [{self.host}]}} if the model works without it; else add it under models: or assets:"


INCOMPLETE_KINDS = ("file", "revision", "elsewhere")
"""Kinds of requests for a part of a repository that is in the bundle. Libraries often request files that they can do without."""


def read_log(log: Path) -> tuple[BlockedRequest, ...]:
    """Return the requests in a guard's log, in order and without duplicates; none if there is no log."""
    if not log.exists():
        return ()
    requests = [_parse_line(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return tuple(dict.fromkeys(requests))


def _parse_line(line: str) -> BlockedRequest:
    try:
        return json_files.parse(BlockedRequest, line.encode())
    except documents.DocumentError:  # the process was killed while it wrote
        return BlockedRequest(host="unknown host", asked=line[:200])


def split_requests(
    requests: Iterable[BlockedRequest], last_request: BlockedRequest | None, *, ok: bool
) -> tuple[tuple[BlockedRequest, ...], tuple[BlockedRequest, ...]]:
    """Split the blocked requests of a load into those that matter and those for missing parts.

    Args:
        requests: what the guard blocked.
        last_request: the request that the load failed with.
        ok: whether the load succeeded.

    Returns:
        The requests that matter, including the last one, and, if the load failed, all others: parts of repositories
        in the bundle that were not found.
    """
    all_requests = dict.fromkeys([*requests, *([last_request] if last_request else [])])
    blocked = tuple(
        request for request in all_requests if request.kind not in INCOMPLETE_KINDS or request == last_request
    )
    return blocked, () if ok else tuple(request for request in all_requests if request not in blocked)


def select_untolerated(
    requests: Iterable[BlockedRequest], tolerated_hosts: Collection[str]
) -> tuple[BlockedRequest, ...]:
    """Return the requests to hosts that the manifest does not tolerate."""
    return tuple(request for request in requests if request.host not in tolerated_hosts)


def format_requests(requests: Iterable[BlockedRequest]) -> str:
    """Format the requests for a person, one paragraph each."""
    return "\n".join(_format_request(request) for request in requests)


def _format_scalar(text: str) -> str:
    """Quote a text if YAML could read it as something else: a revision 1.0 would be a number."""
    return (
        text
        if _PLAIN_SCALAR.fullmatch(text) and text.lower() not in _YAML_KEYWORDS
        else json.dumps(text, ensure_ascii=False)
    )


def _format_request(request: BlockedRequest) -> str:
    lines = [f"  {request.url or request.host}"]
    lines += (
        [f"    missing   {request.missing_text}"]
        if request.kind in INCOMPLETE_KINDS
        else [f"    host      {request.host}"]
    )
    lines += [f"    asked by  {request.asked}"] if request.asked else []
    lines += [f"    through   {request.through}"] if request.through else []
    return "\n".join([*lines, f"    fix       {request.fix}"])
