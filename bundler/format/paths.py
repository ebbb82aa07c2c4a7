"""File names and paths that are safe to write on any host."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

MAX_NAME_BYTES = 255
"""Bytes of one component; ext4, XFS, APFS and NTFS all accept it."""

MAX_PATH_BYTES = 1024
"""Bytes of a path; far above what model repositories use, far below any PATH_MAX."""

MAX_PATH_DEPTH = 32
"""Components of a path; model repositories use a handful."""

_UNPRINTABLE_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that move the cursor or reorder text: controls, formats, surrogates, separators."""

_WINDOWS_FORBIDDEN = frozenset('\\:<>"|?*')
_WINDOWS_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³")]
)
"""Device names that Windows reserves, with or without an extension.

Source: learn.microsoft.com, "Naming Files, Paths, and Namespaces".
"""


def find_path_problem(path: str) -> str:
    """Return why a bundle may not contain ``path``, "" if it may."""
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not path:
        return "is empty"
    if len(encoded) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    if path.startswith("/"):
        return "is absolute"
    if path.count("/") >= MAX_PATH_DEPTH:
        return f"is more than {MAX_PATH_DEPTH} folders deep"
    return next((problem for name in path.split("/") if (problem := _find_name_problem(name))), "")


def has_traversal(path: str) -> bool:
    """Return whether ``path`` could lead out of its folder on any system."""
    return path[:1] == "/" or path[1:2] == ":" or "\\" in path or ".." in path.split("/")


def _find_name_problem(name: str) -> str:
    if name == "":
        return "has an empty component"
    if name in (".", ".."):
        return f"contains {name!r}"
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        return f"has a component longer than {MAX_NAME_BYTES} bytes"
    if forbidden := sorted(c for c in set(name) if c in _WINDOWS_FORBIDDEN):
        return f"contains {forbidden[0]!r}"
    if find_unprintable(name):
        return "contains a control character"
    if name[-1] in " .":
        return "has a component that ends in a space or a dot, which Windows drops"
    if name.split(".", maxsplit=1)[0].rstrip(" ").lower() in _WINDOWS_DEVICES:
        return f"contains {name!r}, a device name on Windows"
    return ""


def find_unprintable(text: str) -> str:
    """Return the first character of ``text`` that could deceive a reader, or ""."""
    if text.isascii() and text.isprintable():
        return ""
    return next((c for c in text if unicodedata.category(c) in _UNPRINTABLE_CATEGORIES), "")


def escape(text: str) -> str:
    """Escape the characters of ``text`` that could deceive a reader on a terminal, except line ends and tabs."""
    if not find_unprintable(text.replace("\n", "").replace("\t", "")):
        return text
    return "".join(ascii(c)[1:-1] if c not in "\n\t" and find_unprintable(c) else c for c in text)


def fold_name(path: str) -> str:
    """Return ``path`` as a file system compares it that ignores case and Unicode normal forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def find_collisions(paths: Iterable[str]) -> list[str]:
    """Describe every collision among ``paths``.

    Two paths collide when they are equal, when one is a folder of the other, or when a path or one of its folders
    differs from another only by case or by Unicode normal form.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    collisions: list[str] = []
    for path in paths:
        key = fold_name(path)
        if key in files:
            reason = (
                "is listed twice" if files[key] == path else f"differs from {files[key]!r} only by case or accent form"
            )
            collisions.append(f"{path!r} {reason}")
            continue
        files[key] = path
        folder = path.rpartition("/")[0]
        while folder and folders.get(fold_name(folder)) != folder:  # the parents of a known folder are known
            if (known_folder := folders.setdefault(fold_name(folder), folder)) != folder:
                collisions.append(f"folder {folder!r} differs from {known_folder!r} only by case or accent form")
            folder = folder.rpartition("/")[0]
    collisions += [f"{files[key]!r} is a file and a folder" for key in sorted(files.keys() & folders.keys())]
    return list(dict.fromkeys(collisions))
