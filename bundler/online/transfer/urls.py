"""Checks and joins of the URLs that people write into a manifest."""

from __future__ import annotations

from urllib.parse import urlsplit


def find_url_problem(url: str) -> str:
    """Return why nothing can be fetched from a URL; "" for http, https, file and paths of this machine."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:  # a bracket that is not closed
        return f"{url!r} is not a URL: {error}"
    if len(scheme) > 1 and scheme.lower() not in ("http", "https", "file"):  # a drive of Windows has one letter
        return f"files can't be fetched by {scheme!r}: write a URL that begins with https:// or http://"
    return ""


def join_url(base: str, path: str) -> str:
    """Return the URL of ``path`` below a folder's URL."""
    return f"{base.rstrip('/')}/{path.lstrip('/')}"
