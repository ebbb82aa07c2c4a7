"""Which code made a network request, and for what: read from the frames of the call stack."""

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

# Packages and modules between the code that makes a request and the socket.
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
_MODEL_CODE_PACKAGE = "transformers_modules"  # transformers' package for a model's own Python files
_URL_VARIABLES = ("request", "req", "prepared_request", "full_url", "fullurl", "url")  # variables that hold a URL
_CACHE_MISS_MESSAGE = re.compile(
    r"repo_id: (?P<name>[^,\s]+), repo_type: (?P<kind>\w+), revision: (?P<revision>[^,\s]+), filename: (?P<file>[^)]+)\)"
)
_OFFLINE_MESSAGE = re.compile(r"Cannot reach (?P<url>https?://\S+): offline")


def trace_request(host: str) -> BlockedRequest:
    """Describe the request that is about to be sent to `host`."""
    frames = list(_iter_frames())
    url = next((url for frame in frames if (url := _find_url(frame, host))), "")
    return missing_resource.identify_resource(
        _add_origin(frames, BlockedRequest(host=host, url=url)), _find_asset_names(frames)
    )


def trace_hub_refusal(message: str) -> BlockedRequest | None:
    """Describe the request that the hub's client refused with this message.

    None if the bundle has the repository: the client then continues with the local files, and `trace_cache_miss`
    sees what is missing.
    """
    if match := _OFFLINE_MESSAGE.search(message):
        url = _redact_url(match["url"])
        request = missing_resource.identify_resource(
            BlockedRequest(host=urlsplit(url).hostname or missing_resource.HUB_HOST, url=url)
        )
    elif match := _CACHE_MISS_MESSAGE.search(message):
        kind = missing_resource.get_manifest_kind(match["kind"])
        request = missing_resource.make_repository_request(kind, match["name"], match["revision"], match["file"])
    else:
        return None
    return None if missing_resource.is_bundled(request) else _add_origin(list(_iter_frames()), request)


def trace_cache_miss(_message: str) -> BlockedRequest | None:
    """Describe what the hub's client just failed to find on this host.

    Its message names neither repository nor file, so they are read from the arguments of its functions.
    """
    frames = list(_iter_frames())
    client_locals = [frame.f_locals for frame in frames if _get_module(frame).partition(".")[0] == "huggingface_hub"]
    arguments = next((names for names in client_locals if isinstance(names.get("repo_id"), str)), None)
    if arguments is None:
        return None
    kind = missing_resource.get_manifest_kind(arguments.get("repo_type"))
    revision, file = str(arguments.get("revision") or "main"), str(arguments.get("filename") or "")
    return _add_origin(
        frames,
        missing_resource.identify_missing_part(
            missing_resource.make_repository_request(kind, arguments["repo_id"], revision, file)
        ),
    )


def _iter_frames() -> Iterator[FrameType]:
    return _walk_back(sys._getframe(1))  # noqa: SLF001 - as inspect does, but cheaper


def _walk_back(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame, its caller, and so on."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _add_origin(frames: list[FrameType], request: BlockedRequest) -> BlockedRequest:
    callers = [frame for frame in frames if not _is_library_frame(frame)]
    if not callers:
        return replace(request, asked=_describe_thread_origin(frames))
    model_code = [frame for frame in callers if _get_module(frame).startswith(_MODEL_CODE_PACKAGE)]
    nearest = callers[0]
    origin = model_code[0] if model_code else nearest
    return replace(
        request, asked=_format_location(origin), through="" if origin is nearest else _format_location(nearest)
    )


def _describe_thread_origin(frames: list[FrameType]) -> str:
    """Describe the origin of a request of an event loop's or pool's thread, which runs only code of libraries."""
    main = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - there is no other way
    waiting = next((frame for frame in _walk_back(main) if not _is_library_frame(frame)), None)
    if waiting is None:
        return _format_location(next((frame for frame in frames if not _is_guard_frame(frame)), frames[0]))
    thread = threading.current_thread().name
    return f"{_format_location(waiting)} (where the main thread was; the request came from {thread}, a thread of libraries)"


def _is_guard_frame(frame: FrameType) -> bool:
    return _get_module(frame).partition(".")[0] in ("_airgap_guard", "bundle_payload")


def _is_library_frame(frame: FrameType) -> bool:
    module = _get_module(frame)
    return module in _NETWORK_LIBRARIES or module.partition(".")[0] in _NETWORK_LIBRARIES


def _get_module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _format_location(frame: FrameType) -> str:
    """Format a line of code: ``transformers/utils/hub.py:412 in cached_files: the line itself``."""
    path = frame.f_code.co_filename
    line = linecache.getline(path, frame.f_lineno, frame.f_globals).strip()[:200]
    for start in sys.path:  # it has the folder of models' own code as well
        if start and path.startswith(start.rstrip(os.sep) + os.sep):
            path = path[len(start.rstrip(os.sep)) + 1 :]
            break
    return f"{path}:{frame.f_lineno} in {frame.f_code.co_name}" + (f": {line}" if line else "")


def _find_url(frame: FrameType, host: str) -> str:
    """Find a URL of this host in a variable of the frame, or in a request object that a variable holds."""
    for name in _URL_VARIABLES:
        value = frame.f_locals.get(name)
        for candidate in (value, getattr(value, "full_url", None), getattr(value, "url", None)):
            url = str(candidate) if candidate is not None else ""
            if url.startswith(("http://", "https://")) and (urlsplit(url).hostname or "") == host.lower():
                return _redact_url(url)
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
    """Remove from a URL what may be secret: user, password, query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
