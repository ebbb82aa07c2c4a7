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
from .asset_libraries import LIBRARIES
from .missing_resource import BlockedRequest

# Parts of the way to the network, packages or modules of one; whoever called these asked.
_NETWORK_LIBRARIES = frozenset(
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
        "selectors",
        "socket",
        "ssl",
        "tenacity",
        "threading",
        "tqdm",
        "urllib",
        "urllib3",
        "runpy",
        *(module for library in LIBRARIES.values() for module in library.network_modules),
    ]
)
_MODEL_CODE_PACKAGE = "transformers_modules"  # as transformers names the Python files that a model brings
_URL_VARIABLES = ("request", "req", "prepared_request", "full_url", "fullurl", "url")  # variables that hold an address
_CACHE_MISS_MESSAGE = re.compile(
    r"repo_id: (?P<name>[^,\s]+), repo_type: (?P<kind>\w+), revision: (?P<revision>[^,\s]+), filename: (?P<file>[^)]+)\)"
)
_OFFLINE_MESSAGE = re.compile(r"Cannot reach (?P<url>https?://\S+): offline")


def trace_request(host: str) -> BlockedRequest:
    """The call that is about to be made to `host`."""
    frames = list(_iter_frames())
    url = next((found for frame in frames if (found := _find_url(frame, host))), "")
    return missing_resource.identify_resource(
        _add_origin(frames, BlockedRequest(host=host, url=url)), _find_asset_names(frames)
    )


def trace_hub_refusal(message: str) -> BlockedRequest | None:
    """The call that the hub's client refused in these words; None where the repository is carried: it then goes on
    with the files that are here, and `of_cache` sees what is not."""
    if found := _OFFLINE_MESSAGE.search(message):
        url = _redact_url(found["url"])
        call = missing_resource.identify_resource(
            BlockedRequest(host=urlsplit(url).hostname or missing_resource.HUB_HOST, url=url)
        )
    elif found := _CACHE_MISS_MESSAGE.search(message):
        kind = missing_resource.get_manifest_kind(found["kind"])
        call = missing_resource.make_repository_request(kind, found["name"], found["revision"], found["file"])
    else:
        return None
    return None if missing_resource.is_bundled(call) else _add_origin(list(_iter_frames()), call)


def trace_cache_miss(_message: str) -> BlockedRequest | None:
    """What the hub's client has just not found on this host; its words name neither repository nor file, and so its
    own arguments must."""
    frames = list(_iter_frames())
    given = [frame.f_locals for frame in frames if _get_module(frame).partition(".")[0] == "huggingface_hub"]
    asked_for = next((names for names in given if isinstance(names.get("repo_id"), str)), None)
    if asked_for is None:
        return None
    kind = missing_resource.get_manifest_kind(asked_for.get("repo_type"))
    revision, file = str(asked_for.get("revision") or "main"), str(asked_for.get("filename") or "")
    return _add_origin(
        frames,
        missing_resource.identify_missing_part(
            missing_resource.make_repository_request(kind, asked_for["repo_id"], revision, file)
        ),
    )


def _iter_frames() -> Iterator[FrameType]:
    return _walk_back(sys._getframe(1))  # noqa: SLF001 - what inspect uses, and costs less


def _walk_back(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, what called it, and so on."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _add_origin(frames: list[FrameType], request: BlockedRequest) -> BlockedRequest:
    askers = [frame for frame in frames if not _is_library_frame(frame)]
    if not askers:
        return replace(request, asked=_find_thread_origin(frames))
    own = [frame for frame in askers if _get_module(frame).startswith(_MODEL_CODE_PACKAGE)]
    through = askers[0]
    asked = own[0] if own else through
    return replace(
        request, asked=_format_location(asked), through="" if asked is through else _format_location(through)
    )


def _find_thread_origin(frames: list[FrameType]) -> str:
    """For a call of an event loop's thread, or a pool's, in which there is no code but that of libraries."""
    main = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - there is no other way
    waiting = next((frame for frame in _walk_back(main) if not _is_library_frame(frame)), None)
    if waiting is None:
        return _format_location(next((frame for frame in frames if not _is_guard_frame(frame)), frames[0]))
    thread = threading.current_thread().name
    return f"{_format_location(waiting)} (where the main thread was; {thread}, which called, is a thread of libraries alone)"


def _is_guard_frame(frame: FrameType) -> bool:
    return _get_module(frame).partition(".")[0] in ("_airgap_guard", "bundle_payload")


def _is_library_frame(frame: FrameType) -> bool:
    module = _get_module(frame)
    return module in _NETWORK_LIBRARIES or module.partition(".")[0] in _NETWORK_LIBRARIES


def _get_module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _format_location(frame: FrameType) -> str:
    """A line of code: ``transformers/utils/hub.py:412 in cached_files: the line itself``."""
    path = frame.f_code.co_filename
    line = linecache.getline(path, frame.f_lineno, frame.f_globals).strip()[:200]
    for start in sys.path:  # the hub's client puts the folder of models' own code there
        if start and path.startswith(start.rstrip(os.sep) + os.sep):
            path = path[len(start.rstrip(os.sep)) + 1 :]
            break
    return f"{path}:{frame.f_lineno} in {frame.f_code.co_name}" + (f": {line}" if line else "")


def _find_url(frame: FrameType, host: str) -> str:
    """An address of this host that a variable of the frame holds, by itself or within a request."""
    held = frame.f_locals
    for bearer in _URL_VARIABLES:
        value = held.get(bearer)
        for text in (value, getattr(value, "full_url", None), getattr(value, "url", None)):
            shown = str(text) if text is not None else ""
            if shown.startswith(("http://", "https://")) and (urlsplit(shown).hostname or "") == host.lower():
                return _redact_url(shown)
    return ""


def _find_asset_names(frames: list[FrameType]) -> dict[str, str]:
    """Return the names of the data that libraries were asked for, by library.

    A library that downloads its index first has them only in the variables of its downloader.
    """
    names_by_library = {}
    for library in LIBRARIES.values():
        values = [frame.f_locals.get(library.argument) for frame in frames if _get_module(frame) == library.downloader]
        names = [
            [value] if isinstance(value, str) else value for value in values if isinstance(value, str | list | tuple)
        ]
        if names:
            names_by_library[library.name] = ", ".join(map(str, names[-1]))
    return names_by_library


def _redact_url(url: str) -> str:
    """An address without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
