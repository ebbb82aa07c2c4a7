"""Calls home: what a load asked for that is not carried, as the guard wrote it down, and what would cure it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from bundler.bundle import fields
from bundler.bundle.fields import about

_OF_TIKTOKEN = "openaipublic.blob.core.windows.net"
"""The host of the encodings that tiktoken itself brings the names of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One refused call."""

    host: str = about("where it would have gone")
    url: str = about("the address, without user, password and query; empty: not known", default="")
    asked: str = about("the line of code that wanted it", default="")
    through: str = about("the library's line that went for it; empty: the same", default="")
    kind: str = about("what is missing: repo, dataset, tiktoken, nltk; empty: not plain", default="")
    name: str = about("and which one", default="")

    @property
    def cure(self) -> str:
        """What to write into the manifest."""
        if self.kind in ("repo", "dataset"):
            return f"models: [{{{self.kind}: {self.name}}}]"
        if self.kind == "tiktoken":
            if self.host == _OF_TIKTOKEN:
                return f"assets: [{{tiktoken: [{self.name}]}}]"
            # An encoding of somebody else's: tiktoken looks for a file that is named so.
            name = hashlib.sha1(self.url.encode(), usedforsecurity=False).hexdigest()
            return f"assets: [{{url: {self.url}, sha256: …, path: tiktoken/{name}}}]"
        if self.kind == "nltk":
            return f"assets: [{{nltk: [{self.name}]}}]"
        return f"smoke: {{tolerate_calls: [{self.host}]}}, if the model does without it; else carry it, by models: or assets:"


def read(log: Path) -> tuple[Call, ...]:
    """The calls in a guard's log, in order, none twice; none where there is no log."""
    if not log.exists():
        return ()
    found = [_one(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return tuple(dict.fromkeys(found))


def _one(line: str) -> Call:
    try:
        return fields.decode(Call, json.loads(line))
    except (ValueError, fields.Faults):  # a process that was ended while it wrote
        return Call(host="a host that could not be noted", asked=line[:200])


def untolerated(found: Iterable[Call], tolerated: Collection[str]) -> tuple[Call, ...]:
    """The calls that are faults: all but those to hosts that the manifest says a load may ask in vain."""
    return tuple(call for call in found if call.host not in tolerated)


def told(found: Iterable[Call]) -> str:
    """The calls for a person, a paragraph each."""
    return "\n".join(_told(call) for call in found)


def _told(call: Call) -> str:
    lines = [f"  {call.url or call.host}"]
    lines += [f"    host      {call.host}"]
    lines += [f"    asked by  {call.asked}"] if call.asked else []
    lines += [f"    through   {call.through}"] if call.through else []
    return "\n".join([*lines, f"    cure      {call.cure}"])
