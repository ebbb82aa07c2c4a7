"""How a load can fail: one sentence that explains it, and a hint what to do next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..network.asset_libraries import LIBRARIES

MAX_LINE_LENGTH = 400

REBUILD_HINT = (
    "Check on the builder that no include or exclude pattern of the model removes the file, build the bundle again and "
    "install it."
)
DAMAGED_HINT = (
    "The file is damaged or cut short. Fetch the model again on the builder, build the bundle and install it."
)
MISMATCH_HINT = (
    "The model's configuration and its weights do not belong together. Take both from the same revision of the model."
)
LIBRARIES_HINT = (
    "The installed libraries do not fit this model or each other. Pin versions in the manifest that are known to load "
    "the model, and build the bundle again."
)
_OWN_CODE_HINT = (
    "Choose a loader that runs a model's own code, a revision of the model that needs none, or the loader files, which "
    "installs the model without a smoke load."
)
_MISSING_PACKAGE_HINT = (
    "A Python package is not in the bundle. Add it under python: requirements in the manifest, and build it again."
)
_MEMORY_HINT = "Stop other programs that use the device, choose the device cpu, or use a host with more memory."
_UNKNOWN_MODEL_HINT = (
    "config.json does not name the kind of model, or the installed transformers is too old to know it. Pin a newer "
    "transformers, or restore config.json."
)
_NETWORK_HINT = (
    "A library requested a file from the network: the bundle lacks something that this model needs, such as code or a "
    "base model in another repository. Add it to the manifest, and build the bundle again."
)
_INTERFACES_HINT = (
    "The kernel adds other interfaces to each new network namespace. Set BUNDLE_NETCUT=guard in the environment: it "
    "cuts the network inside Python instead."
)
_VOCABULARY_HINT = (
    "The tokenizer gives token numbers that the model has no row for: tokenizer and weights are of different models."
)
_DEFAULT_HINT = (
    "Run again with --debug to see the whole traceback, and compare the library versions with those of the build."
)

_COLOR_CODE = re.compile(r"\x1b\[[0-9;]*m")

# Part of a library's message → a sentence that replaces it.
_SENTENCES_BY_MARK = (
    ("trust_remote_code", "The model has Python code of its own, and this loader does not run such code."),
    ("ignore_mismatched_sizes", "Weights in the files have another shape than config.json asks for."),
    ("size mismatch", "Weights in the files have another shape than config.json asks for."),
)
# Part of a library's message → what to do about it. The first match counts.
_HINTS_BY_MARK = (
    ("trust_remote_code", _OWN_CODE_HINT),
    ("out of memory", _MEMORY_HINT),
    ("allocate memory", _MEMORY_HINT),
    ("MemoryError", _MEMORY_HINT),
    ("meta tensor", LIBRARIES_HINT),
    ("size mismatch", MISMATCH_HINT),
    ("ignore_mismatched_sizes", MISMATCH_HINT),
    ("loading state_dict", MISMATCH_HINT),
    ("SafetensorError", DAMAGED_HINT),
    ("PytorchStreamReader", DAMAGED_HINT),
    ("is not currently imported", LIBRARIES_HINT),  # a tokenizer class that only other versions have
    ("Unrecognized model", _UNKNOWN_MODEL_HINT),
    ("does not recognize this architecture", _UNKNOWN_MODEL_HINT),
    ("the network is not cut", _INTERFACES_HINT),
    ("Network is unreachable", _NETWORK_HINT),
    ("the network is cut", _NETWORK_HINT),
    ("index out of range", _VOCABULARY_HINT),
    ("ModuleNotFoundError", _MISSING_PACKAGE_HINT),
    ("ImportError", LIBRARIES_HINT),
    ("unexpected keyword argument", LIBRARIES_HINT),
    ("AttributeError", LIBRARIES_HINT),
)


class CheckFailedError(Exception):
    """A model failed a check. ``str(error)`` says which one; ``hint`` says what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """One sentence for a person, and a hint what to do next."""

    sentence: str
    hint: str


def explain_error(error: BaseException) -> Explanation:
    """Explain an error in one sentence: only its first line, since messages of libraries can be pages long."""
    if isinstance(error, CheckFailedError):
        return Explanation(sentence=str(error), hint=error.hint)
    message = str(error)
    lines = [line for line in map(_strip_line, message.splitlines()) if line] or ["no message"]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    full_text = f"{type(error).__name__}: {message}"
    hint = next((hint for mark, hint in _HINTS_BY_MARK if mark in full_text), _DEFAULT_HINT)
    if isinstance(error, ModuleNotFoundError) and "." in (error.name or ""):
        hint = LIBRARIES_HINT  # a module of a package that is installed in another version
    if isinstance(error, LookupError):
        hint = _find_asset_hint(message) or hint
    sentence = next((sentence for mark, sentence in _SENTENCES_BY_MARK if mark in full_text), "")
    return Explanation(
        sentence=sentence or f"The load stopped with {type(error).__name__}: {shorten(first)}",
        hint=hint,
    )


def _find_asset_hint(message: str) -> str:
    """Return what to do where a library's error says which of its data is missing; else ""."""
    for library in LIBRARIES.values():
        if library.missing_data and (match := re.search(library.missing_data, message)):
            return (
                f"Data of {library.title} is missing or incomplete. Add it to the manifest, build the bundle again and "
                f"install it: assets: [{{{library.name}: [{match[1]}]}}]."
            )
    return ""


def _strip_line(line: str) -> str:
    """Remove colors from a line; return "" for decoration, such as the rows of asterisks around errors of NLTK."""
    text = _COLOR_CODE.sub("", line).strip()
    return text if any(sign.isalnum() for sign in text) else ""


def shorten(text: str, max_length: int = MAX_LINE_LENGTH) -> str:
    """Shorten a text to at most `max_length` characters."""
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def pluralize(names: Sequence[object], noun: str = "weight") -> str:
    """Format how many there are: ``1 weight``, ``2 weights``."""
    return f"{len(names)} {noun}" if len(names) == 1 else f"{len(names)} {noun}s"


def format_list(names: Sequence[str], max_items: int = 3) -> str:
    """Format the first few names: ``a, b, c and 4 more``."""
    more = f" and {len(names) - max_items} more" if len(names) > max_items else ""
    return ", ".join(names[:max_items]) + more
