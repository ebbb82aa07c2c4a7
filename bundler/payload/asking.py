"""Who asked for what over the network: read from the frames of the code that was about to."""

from __future__ import annotations

import linecache
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

HUB = "huggingface.co"

# Parts of the way to the network; whoever called these asked.
_CARRIERS = frozenset(
    [
        "_airgap_guard",
        "aiohttp",
        "anyio",
        "asyncio",
        "backoff",
        "bundle_payload",
        "concurrent",
        "contextlib",
        "filelock",
        "fsspec",
        "functools",
        "http",
        "httpcore",
        "httpcore2",
        "httpx",
        "httpx2",
        "huggingface_hub",
        "importlib",
        "queue",
        "requests",
        "socket",
        "ssl",
        "tenacity",
        "threading",
        "tqdm",
        "urllib",
        "urllib3",
        "runpy",
    ]
)
_MODELS_CODE = "transformers_modules"  # as transformers names the Python files that a model brings
_BEARERS = ("request", "req", "prepared_request", "full_url", "fullurl", "url")  # variables that hold an address
_REPOSITORY = re.compile(
    r"/(?:api/)?(?P<kind>models/|datasets/|spaces/)?(?P<name>[^/]+(?:/[^/]+)?)/"
    r"(?:resolve|raw|revision|tree|paths-info|xet-read-token)/.*"
)
_ABOUT_A_REPOSITORY = re.compile(r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+(?:/[^/]+)?)")
_CACHE_ONLY = re.compile(r"repo_id: (?P<name>[^,\s]+), repo_type: (?P<kind>\w+),.*filename: (?P<file>[^)]+)\)")
_REFUSED = re.compile(r"Cannot reach (?P<url>https?://\S+): offline")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One try to reach another host. ``asked`` is the line of code that wanted it, ``through`` the library's line
    that went for it where that is another one; ``kind`` and ``name`` say what is missing where that is plain."""

    host: str
    url: str = ""
    asked: str = ""
    through: str = ""
    kind: str = ""
    name: str = ""

    def sentence(self) -> str:
        """The whole in words."""
        what = f"{self.kind} {self.name} is not carried: " if self.name else ""
        way = f", through {self.through}" if self.through else ""
        return f"{what}a connection to {self.host} was refused ({self.url or 'address unknown'}), asked by {self.asked}{way}"


def who(host: str) -> Call:
    """The call that is about to be made to `host`."""
    frames = list(_frames())
    url = next((found for frame in frames if (found := _url(frame, host))), "")
    return _missing(_asked(frames, Call(host=host, url=url)))


def of_hub(refusal: str) -> Call | None:
    """The call that the hub's client refused in these words; None where the repository is carried: it then goes on
    with the files that are here."""
    if found := _REFUSED.search(refusal):
        url = _bare(found["url"])
        call = _missing(Call(host=urlsplit(url).hostname or HUB, url=url))
    elif found := _CACHE_ONLY.search(refusal):
        kind = "dataset" if found["kind"] == "dataset" else "repo"
        folder = "datasets/" if kind == "dataset" else ""
        url = f"https://{HUB}/{folder}{found['name']}/resolve/main/{found['file']}"
        call = Call(host=HUB, url=url, kind=kind, name=found["name"])
    else:
        return None
    return None if _carried(call) else _asked(list(_frames()), call)


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - what inspect uses, and costs less
    while frame is not None:
        yield frame
        frame = frame.f_back


def _asked(frames: list[FrameType], call: Call) -> Call:
    askers = [frame for frame in frames if _module(frame).partition(".")[0] not in _CARRIERS] or frames
    own = [frame for frame in askers if _module(frame).startswith(_MODELS_CODE)]
    through = askers[0]
    asked = own[0] if own else through
    return replace(call, asked=_spot(asked), through="" if asked is through else _spot(through))


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _spot(frame: FrameType) -> str:
    """A line of code: ``transformers/utils/hub.py:412 in cached_files: the line itself``."""
    path = frame.f_code.co_filename
    line = linecache.getline(path, frame.f_lineno, frame.f_globals).strip()[:200]
    for start in (os.environ.get("HF_MODULES_CACHE", ""), *sys.path):
        if start and path.startswith(start.rstrip(os.sep) + os.sep):
            path = path[len(start.rstrip(os.sep)) + 1 :]
            break
    return f"{path}:{frame.f_lineno} in {frame.f_code.co_name}" + (f": {line}" if line else "")


def _url(frame: FrameType, host: str) -> str:
    """An address of this host that a variable of the frame holds, by itself or within a request."""
    held = frame.f_locals
    for bearer in _BEARERS:
        value = held.get(bearer)
        for text in (value, getattr(value, "full_url", None), getattr(value, "url", None)):
            shown = str(text) if text is not None else ""
            if shown.startswith(("http://", "https://")) and (urlsplit(shown).hostname or "") == host.lower():
                return _bare(shown)
    return ""


def _bare(url: str) -> str:
    """An address without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def _missing(call: Call) -> Call:
    path = urlsplit(call.url).path
    last = path.rpartition("/")[2]
    if last.endswith(".tiktoken"):
        return replace(call, kind="tiktoken", name=last.removesuffix(".tiktoken"))
    if "/gpt-2/encodings/" in path:
        return replace(call, kind="tiktoken", name="gpt2")
    if "/nltk_data/" in path and last.endswith(".zip"):
        return replace(call, kind="nltk", name=last.removesuffix(".zip"))
    found = _REPOSITORY.fullmatch(path) or _ABOUT_A_REPOSITORY.match(path)
    if found is None:
        return call
    kind = "dataset" if (found["kind"] or "").startswith("datasets") else "repo"
    return replace(call, kind=kind, name=found["name"])


def _carried(call: Call) -> bool:
    """Whether the hub view has the repository: the client then answers from it."""
    cache = os.environ.get("HF_HUB_CACHE", "")
    folder = f"{'datasets' if call.kind == 'dataset' else 'models'}--{call.name.replace('/', '--')}"
    return bool(cache and call.name) and Path(cache, folder).is_dir()
