"""Calls home: what a load asked for that is not carried, as the guard wrote it down, and what would cure it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from bundler.format import documents, json_files
from bundler.format.documents import about

_OF_TIKTOKEN = "openaipublic.blob.core.windows.net"
"""The host of the encodings that tiktoken itself brings the names of."""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_NO_TEXTS = ("true", "false", "yes", "no", "on", "off", "y", "n", "null")


@documents.allow_unknown_keys
@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One refused call."""

    host: str = about("where it would have gone")
    url: str = about("the address, without user, password and query; empty: not known", default="")
    asked: str = about("the line of code that wanted it", default="")
    through: str = about("the library's line that went for it; empty: the same", default="")
    kind: str = about(
        "what is missing: repo, dataset, kernel, tiktoken, nltk; empty: not plain; see also MISSES", default=""
    )
    name: str = about("and which one", default="")
    revision: str = about("of a repository: the revision that was asked for", default="")
    file: str = about("of a repository: the file that was asked for", default="")

    @property
    def missing(self) -> str:
        """What of a repository that is carried was not found."""
        if self.kind == "revision":
            return f"the revision {self.revision} of {self.name}, which is carried at another"
        what = f"{self.file or 'all'} of {self.name} at {self.revision}"
        return f"{what}, which is carried without it" if self.kind == "file" else f"nothing: {what} is carried"

    @property
    def _entry(self) -> str:
        """As code asks for it: of a model as files, since what code reads of it need not be a model."""
        revision = f", revision: {_scalar(self.revision)}" if self.revision not in ("", "main") else ""
        loader = ", loader: files" if self.kind == "repo" else ""
        return f"{self.kind}: {self.name}{revision}{loader}"

    @property
    def cure(self) -> str:
        """What to write into the manifest."""
        if self.kind in ("repo", "dataset", "kernel"):
            return f"models: [{{{self._entry}}}]"
        if self.kind == "file":
            return (
                f"in the entry of {self.name}: include: [{_scalar(self.file)}, …], or no exclude: that leaves it behind"
            )
        if self.kind == "revision":
            return f"in the entry of {self.name}: revision: {_scalar(self.revision)}"
        if self.kind == "elsewhere":
            return "none in the manifest: it is carried, and was looked for in another folder than HF_HUB_CACHE names"
        if self.kind == "tiktoken":
            if self.host == _OF_TIKTOKEN:
                return f"assets: [{{tiktoken: [{self.name}]}}]"
            # An encoding of somebody else's: tiktoken looks for a file that is named so.
            name = hashlib.sha1(self.url.encode(), usedforsecurity=False).hexdigest()
            return f"assets: [{{url: {self.url}, sha256: …, path: tiktoken/{name}}}]"
        if self.kind == "nltk":
            return f"assets: [{{nltk: [{self.name}]}}]"
        return f"smoke: {{tolerate_calls: [{self.host}]}}, if the model does without it; else carry it, by models: or assets:"


MISSES = ("file", "revision", "elsewhere")
"""Kinds of what is missing of a repository that is carried: libraries ask for much that they can do without."""


def read(log: Path) -> tuple[Call, ...]:
    """The calls in a guard's log, in order, none twice; none where there is no log."""
    if not log.exists():
        return ()
    found = [_one(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return tuple(dict.fromkeys(found))


def _one(line: str) -> Call:
    try:
        return json_files.parse(Call, line.encode())
    except documents.Faults:  # a process that was ended while it wrote
        return Call(host="a host that could not be noted", asked=line[:200])


def of_load(found: Iterable[Call], ended_by: Call | None, *, ok: bool) -> tuple[tuple[Call, ...], tuple[Call, ...]]:
    """The refused calls of a load, among them the one that it ended with; and of one that failed what else of the
    carried repositories it did not find."""
    every = dict.fromkeys([*found, *([ended_by] if ended_by else [])])
    refused = tuple(call for call in every if call.kind not in MISSES or call == ended_by)
    return refused, () if ok else tuple(call for call in every if call not in refused)


def untolerated(found: Iterable[Call], tolerated: Collection[str]) -> tuple[Call, ...]:
    """The calls that are faults: all but those to hosts that the manifest says a load may ask in vain."""
    return tuple(call for call in found if call.host not in tolerated)


def told(found: Iterable[Call]) -> str:
    """The calls for a person, a paragraph each."""
    return "\n".join(_told(call) for call in found)


def _scalar(text: str) -> str:
    """A text as YAML takes it for one wherever it stands: a revision 1.0 would be a number."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _NO_TEXTS else json.dumps(text, ensure_ascii=False)


def _told(call: Call) -> str:
    lines = [f"  {call.url or call.host}"]
    lines += [f"    missing   {call.missing}"] if call.kind in MISSES else [f"    host      {call.host}"]
    lines += [f"    asked by  {call.asked}"] if call.asked else []
    lines += [f"    through   {call.through}"] if call.through else []
    return "\n".join([*lines, f"    cure      {call.cure}"])
