"""Names that are safe to write on any host: the one rule for every path in a bundle."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

MAX_NAME_BYTES = 255
"""Bytes of one component: what ext4, XFS, APFS and NTFS all accept."""

MAX_PATH_BYTES = 1024
"""Bytes of a whole path; far above what model repositories use, far below any PATH_MAX."""

MAX_PATH_DEPTH = 32
"""Components of a path; model repositories use a handful."""

_UNPRINTABLE_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that move the cursor, reorder text, or are no text: controls, formats, surrogates, separators."""

_WINDOWS_FORBIDDEN = frozenset('\\:<>"|?*')
_WINDOWS_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³")]
)
"""Device names that Windows reserves, with or without an extension
(learn.microsoft.com, "Naming Files, Paths, and Namespaces")."""


def find_path_problem(path: str) -> str:
    """Why ``path`` may not stand in a bundle, in words; "" when it may."""
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
    return next((why for part in path.split("/") if (why := _find_name_problem(part))), "")


def has_traversal(path: str) -> bool:
    """Whether ``path`` could lead out of the folder that it is put into, on any system."""
    return path[:1] == "/" or path[1:2] == ":" or "\\" in path or ".." in path.split("/")


def _find_name_problem(name: str) -> str:
    if name == "":
        return "has an empty component"
    if name in (".", ".."):
        return f"holds {name!r}"
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        return f"has a component longer than {MAX_NAME_BYTES} bytes"
    if bad := sorted(c for c in set(name) if c in _WINDOWS_FORBIDDEN):
        return f"holds {bad[0]!r}"
    if find_unprintable(name):
        return "holds a control character"
    if name[-1] in " .":
        return "has a component that ends in a space or a dot, which Windows drops"
    if name.split(".", maxsplit=1)[0].rstrip(" ").lower() in _WINDOWS_DEVICES:
        return f"holds {name!r}, a device name on Windows"
    return ""


def find_unprintable(text: str) -> str:
    """The first character of ``text`` that could deceive who reads it, or ""."""
    if text.isascii() and text.isprintable():
        return ""
    return next((c for c in text if unicodedata.category(c) in _UNPRINTABLE_CATEGORIES), "")


def escape(text: str) -> str:
    """``text`` for a terminal: what could deceive its reader is spelled out, line ends and tabs are kept."""
    if not find_unprintable(text.replace("\n", "").replace("\t", "")):
        return text
    return "".join(ascii(c)[1:-1] if c not in "\n\t" and find_unprintable(c) else c for c in text)


def fold_name(path: str) -> str:
    """``path`` as a file system that ignores case and Unicode normal forms would compare it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def find_collisions(paths: Iterable[str]) -> list[str]:
    """Every clash among ``paths``, in words.

    Two paths clash when they are equal, when one is a folder of the other, or when a path or one
    of its folders differs from another only by case or by Unicode normal form.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    found: list[str] = []
    for path in paths:
        key = fold_name(path)
        if key in files:
            again = "stands twice" if files[key] == path else f"differs from {files[key]!r} only by case or accent form"
            found.append(f"{path!r} {again}")
            continue
        files[key] = path
        folder = path.rpartition("/")[0]
        while folder and folders.get(fold_name(folder)) != folder:  # what stands above a known folder is known
            if (spelled := folders.setdefault(fold_name(folder), folder)) != folder:
                found.append(f"folder {folder!r} differs from {spelled!r} only by case or accent form")
            folder = folder.rpartition("/")[0]
    found += [f"{files[key]!r} is a file and a folder" for key in sorted(files.keys() & folders.keys())]
    return list(dict.fromkeys(found))
