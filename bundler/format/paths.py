"""Names that are safe to write on any host: the one rule for every path in a bundle."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

LONGEST_NAME = 255
"""Bytes of one component: what ext4, XFS, APFS and NTFS all accept."""

LONGEST_PATH = 1024
"""Bytes of a whole path; far above what model repositories use, far below any PATH_MAX."""

DEEPEST = 32
"""Components of a path; model repositories use a handful."""

_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that move the cursor, reorder text, or are no text: controls, formats, surrogates, separators."""

_NOT_ON_WINDOWS = frozenset('\\:<>"|?*')
_RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³")])
"""Device names that Windows reserves, with or without an extension
(learn.microsoft.com, "Naming Files, Paths, and Namespaces")."""


def fault_of(path: str) -> str:
    """Why ``path`` may not stand in a bundle, in words; "" when it may."""
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not path:
        return "is empty"
    if len(encoded) > LONGEST_PATH:
        return f"is longer than {LONGEST_PATH} bytes"
    if path.startswith("/"):
        return "is absolute"
    if path.count("/") >= DEEPEST:
        return f"is more than {DEEPEST} folders deep"
    return next((why for part in path.split("/") if (why := _fault_of_name(part))), "")


def leaves(path: str) -> bool:
    """Whether ``path`` could lead out of the folder that it is put into, on any system."""
    return path[:1] == "/" or path[1:2] == ":" or "\\" in path or ".." in path.split("/")


def _fault_of_name(name: str) -> str:
    if name == "":
        return "has an empty component"
    if name in (".", ".."):
        return f"holds {name!r}"
    if len(name.encode("utf-8")) > LONGEST_NAME:
        return f"has a component longer than {LONGEST_NAME} bytes"
    if bad := sorted(c for c in set(name) if c in _NOT_ON_WINDOWS):
        return f"holds {bad[0]!r}"
    if unprintable_in(name):
        return "holds a control character"
    if name[-1] in " .":
        return "has a component that ends in a space or a dot, which Windows drops"
    if name.split(".", maxsplit=1)[0].rstrip(" ").lower() in _RESERVED:
        return f"holds {name!r}, a device name on Windows"
    return ""


def unprintable_in(text: str) -> str:
    """The first character of ``text`` that could deceive who reads it, or ""."""
    if text.isascii() and text.isprintable():
        return ""
    return next((c for c in text if unicodedata.category(c) in _UNPRINTABLE), "")


def shown(text: str) -> str:
    """``text`` for a terminal: what could deceive its reader is spelled out, line ends and tabs are kept."""
    if not unprintable_in(text.replace("\n", "").replace("\t", "")):
        return text
    return "".join(ascii(c)[1:-1] if c not in "\n\t" and unprintable_in(c) else c for c in text)


def folded(path: str) -> str:
    """``path`` as a file system that ignores case and Unicode normal forms would compare it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def clashes(paths: Iterable[str]) -> list[str]:
    """Every clash among ``paths``, in words.

    Two paths clash when they are equal, when one is a folder of the other, or when a path or one
    of its folders differs from another only by case or by Unicode normal form.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    found: list[str] = []
    for path in paths:
        key = folded(path)
        if key in files:
            again = "stands twice" if files[key] == path else f"differs from {files[key]!r} only by case or accent form"
            found.append(f"{path!r} {again}")
            continue
        files[key] = path
        folder = path.rpartition("/")[0]
        while folder and folders.get(folded(folder)) != folder:  # what stands above a known folder is known
            if (spelled := folders.setdefault(folded(folder), folder)) != folder:
                found.append(f"folder {folder!r} differs from {spelled!r} only by case or accent form")
            folder = folder.rpartition("/")[0]
    found += [f"{files[key]!r} is a file and a folder" for key in sorted(files.keys() & folders.keys())]
    return list(dict.fromkeys(found))
