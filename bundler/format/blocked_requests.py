"""Calls home: what a load asked for that is not carried, as the guard wrote it down, and what would cure it."""

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
    """One refused call."""

    host: str = describe_field("where it would have gone")
    url: str = describe_field("the address, without user, password and query; empty: not known", default="")
    asked: str = describe_field("the line of code that wanted it", default="")
    through: str = describe_field("the library's line that went for it; empty: the same", default="")
    kind: str = describe_field(
        "what is missing: repo, dataset, kernel, tiktoken, nltk; empty: not plain; see also MISSES", default=""
    )
    name: str = describe_field("and which one", default="")
    revision: str = describe_field("of a repository: the revision that was asked for", default="")
    file: str = describe_field("of a repository: the file that was asked for", default="")

    @property
    def missing_text(self) -> str:
        """What of a repository that is carried was not found."""
        if self.kind == "revision":
            return f"the revision {self.revision} of {self.name}, which is carried at another"
        what = f"{self.file or 'all'} of {self.name} at {self.revision}"
        return f"{what}, which is carried without it" if self.kind == "file" else f"nothing: {what} is carried"

    @property
    def _manifest_entry(self) -> str:
        """As code asks for it: of a model as files, since what code reads of it need not be a model."""
        revision = f", revision: {_format_scalar(self.revision)}" if self.revision not in ("", "main") else ""
        loader = ", loader: files" if self.kind == "repo" else ""
        return f"{self.kind}: {self.name}{revision}{loader}"

    @property
    def fix(self) -> str:
        """What to write into the manifest."""
        if self.kind in ("repo", "dataset", "kernel"):
            return f"models: [{{{self._manifest_entry}}}]"
        if self.kind == "file":
            return f"in the entry of {self.name}: include: [{_format_scalar(self.file)}, …], or no exclude: that leaves it behind"
        if self.kind == "revision":
            return f"in the entry of {self.name}: revision: {_format_scalar(self.revision)}"
        if self.kind == "elsewhere":
            return "none in the manifest: it is carried, and was looked for in another folder than HF_HUB_CACHE names"
        if library := LIBRARIES.get(self.kind):
            return f"assets: [{{{library.make_manifest_entry(self.name, self.host, self.url)}}}]"
        return f"smoke: {{tolerate_calls: [{self.host}]}}, if the model does without it; else carry it, by models: or assets:"


INCOMPLETE_KINDS = ("file", "revision", "elsewhere")
"""Kinds of what is missing of a repository that is carried: libraries ask for much that they can do without."""


def read_log(log: Path) -> tuple[BlockedRequest, ...]:
    """The calls in a guard's log, in order, none twice; none where there is no log."""
    if not log.exists():
        return ()
    found = [_parse_line(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return tuple(dict.fromkeys(found))


def _parse_line(line: str) -> BlockedRequest:
    try:
        return json_files.parse(BlockedRequest, line.encode())
    except documents.DocumentError:  # a process that was ended while it wrote
        return BlockedRequest(host="a host that could not be noted", asked=line[:200])


def split_requests(
    requests: Iterable[BlockedRequest], last_request: BlockedRequest | None, *, ok: bool
) -> tuple[tuple[BlockedRequest, ...], tuple[BlockedRequest, ...]]:
    """The refused calls of a load, among them the one that it ended with; and of one that failed what else of the
    carried repositories it did not find."""
    every = dict.fromkeys([*requests, *([last_request] if last_request else [])])
    refused = tuple(call for call in every if call.kind not in INCOMPLETE_KINDS or call == last_request)
    return refused, () if ok else tuple(call for call in every if call not in refused)


def select_untolerated(
    requests: Iterable[BlockedRequest], tolerated_hosts: Collection[str]
) -> tuple[BlockedRequest, ...]:
    """The calls that are faults: all but those to hosts that the manifest says a load may ask in vain."""
    return tuple(call for call in requests if call.host not in tolerated_hosts)


def format_requests(requests: Iterable[BlockedRequest]) -> str:
    """The calls for a person, a paragraph each."""
    return "\n".join(_format_request(call) for call in requests)


def _format_scalar(text: str) -> str:
    """A text as YAML takes it for one wherever it stands: a revision 1.0 would be a number."""
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
    return "\n".join([*lines, f"    cure      {request.fix}"])
