"""Who asked for what over the network: read from the frames of the code that was about to."""

from __future__ import annotations

import linecache
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from urllib.parse import urlsplit

from . import missing_resource
from .missing_resource import Call

# Parts of the way to the network, packages or modules of one; whoever called these asked.
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
        "nltk.downloader",
        "nltk.pathsec",
        "queue",
        "requests",
        "selectors",
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
_CACHE_ONLY = re.compile(
    r"repo_id: (?P<name>[^,\s]+), repo_type: (?P<kind>\w+), revision: (?P<revision>[^,\s]+), filename: (?P<file>[^)]+)\)"
)
_REFUSED = re.compile(r"Cannot reach (?P<url>https?://\S+): offline")


def who(host: str) -> Call:
    """The call that is about to be made to `host`."""
    frames = list(_frames())
    url = next((found for frame in frames if (found := _url(frame, host))), "")
    return missing_resource.of_address(_asked(frames, Call(host=host, url=url)), nltk=_wanted_of_nltk(frames))


def of_hub(refusal: str) -> Call | None:
    """The call that the hub's client refused in these words; None where the repository is carried: it then goes on
    with the files that are here, and `of_cache` sees what is not."""
    if found := _REFUSED.search(refusal):
        url = _bare(found["url"])
        call = missing_resource.of_address(Call(host=urlsplit(url).hostname or missing_resource.HUB, url=url))
    elif found := _CACHE_ONLY.search(refusal):
        kind = missing_resource.kind_of(found["kind"])
        call = missing_resource.of_repository(kind, found["name"], found["revision"], found["file"])
    else:
        return None
    return None if missing_resource.carried(call) else _asked(list(_frames()), call)


def of_cache(_words: str) -> Call | None:
    """What the hub's client has just not found on this host; its words name neither repository nor file, and so its
    own arguments must."""
    frames = list(_frames())
    given = [frame.f_locals for frame in frames if _module(frame).partition(".")[0] == "huggingface_hub"]
    asked_for = next((names for names in given if isinstance(names.get("repo_id"), str)), None)
    if asked_for is None:
        return None
    kind = missing_resource.kind_of(asked_for.get("repo_type"))
    revision, file = str(asked_for.get("revision") or "main"), str(asked_for.get("filename") or "")
    return _asked(
        frames, missing_resource.told_apart(missing_resource.of_repository(kind, asked_for["repo_id"], revision, file))
    )


def _frames() -> Iterator[FrameType]:
    return _back(sys._getframe(1))  # noqa: SLF001 - what inspect uses, and costs less


def _back(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, what called it, and so on."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _asked(frames: list[FrameType], call: Call) -> Call:
    askers = [frame for frame in frames if not _carries(frame)]
    if not askers:
        return replace(call, asked=_asked_elsewhere(frames))
    own = [frame for frame in askers if _module(frame).startswith(_MODELS_CODE)]
    through = askers[0]
    asked = own[0] if own else through
    return replace(call, asked=_spot(asked), through="" if asked is through else _spot(through))


def _asked_elsewhere(frames: list[FrameType]) -> str:
    """For a call of an event loop's thread, or a pool's, in which there is no code but that of libraries."""
    main = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - there is no other way
    waiting = next((frame for frame in _back(main) if not _carries(frame)), None)
    if waiting is None:
        return _spot(next((frame for frame in frames if not _guards(frame)), frames[0]))
    thread = threading.current_thread().name
    return f"{_spot(waiting)} (where the main thread was; {thread}, which called, is a thread of libraries alone)"


def _guards(frame: FrameType) -> bool:
    return _module(frame).partition(".")[0] in ("_airgap_guard", "bundle_payload")


def _carries(frame: FrameType) -> bool:
    module = _module(frame)
    return module in _CARRIERS or module.partition(".")[0] in _CARRIERS


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _spot(frame: FrameType) -> str:
    """A line of code: ``transformers/utils/hub.py:412 in cached_files: the line itself``."""
    path = frame.f_code.co_filename
    line = linecache.getline(path, frame.f_lineno, frame.f_globals).strip()[:200]
    for start in sys.path:  # the hub's client puts the folder of models' own code there
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


def _wanted_of_nltk(frames: list[FrameType]) -> str:
    """What NLTK's downloader was asked for: it fetches its index first, whose address does not tell."""
    given = [frame.f_locals.get("info_or_id") for frame in frames if _module(frame) == "nltk.downloader"]
    names = [[one] if isinstance(one, str) else one for one in given if isinstance(one, str | list | tuple)]
    return ", ".join(map(str, names[-1])) if names else ""


def _bare(url: str) -> str:
    """An address without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
