"""How a load can fail: a sentence that a person can act on, and what to do next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_LINE = 400

REBUILD = (
    "On the online side, check that no include or exclude pattern of the model removes the file, build the bundle "
    "again and install it."
)
DAMAGED = (
    "The file is damaged or was cut short. Fetch the model again on the online side, build the bundle and install it."
)
NOT_THIS_MODEL = (
    "The model's configuration and its weights do not belong together. Take both from the same revision of the model."
)
LIBRARIES = (
    "The installed libraries do not fit this model or each other. Pin versions that are known to load it in the "
    "manifest, and build the bundle again."
)
_OWN_CODE = (
    "Choose a loader that runs a model's own code, a revision of the model that needs none, or the loader files, which "
    "carries it unproved."
)
_ABSENT = (
    "A Python package is not in the bundle. Add it under python: requirements in the manifest, and build it again."
)
_MEMORY = "Stop other programs that use the device, choose the device cpu, or use a host with more memory."
_KIND = (
    "config.json does not say which kind of model this is, or the installed transformers is too old to know it. Pin a "
    "newer transformers, or restore config.json."
)
_REACHED_OUT = (
    "A library asked the network for a file: the bundle lacks something that this model needs, such as code or a base "
    "model in another repository. Build it again with that."
)
_OTHER_INTERFACES = (
    "The kernel puts other interfaces into each new network namespace. Set BUNDLE_NETCUT=guard in the environment, "
    "which cuts the network inside Python instead."
)
_BEYOND = "The tokenizer gives numbers that the model has no row for: tokenizer and weights are of different models."
_NO_ADVICE = (
    "Run again with --debug to see the whole traceback, and compare the library versions with those of the build."
)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OF_NLTK = re.compile(r"nltk\.download\(['\"]([^'\"]+)['\"]\)")  # what its error says to do

# Part of an error of a library → what a person can read instead of it.
_PLAINLY = (
    ("trust_remote_code", "The model brings Python code of its own, and this loader runs no such code."),
    ("ignore_mismatched_sizes", "Weights in the files have another shape than config.json asks for."),
    ("size mismatch", "Weights in the files have another shape than config.json asks for."),
)
# Part of an error of a library → what a person does about it. The first that occurs is taken.
_ADVICE = (
    ("trust_remote_code", _OWN_CODE),
    ("out of memory", _MEMORY),
    ("allocate memory", _MEMORY),
    ("MemoryError", _MEMORY),
    ("meta tensor", LIBRARIES),
    ("size mismatch", NOT_THIS_MODEL),
    ("ignore_mismatched_sizes", NOT_THIS_MODEL),
    ("loading state_dict", NOT_THIS_MODEL),
    ("SafetensorError", DAMAGED),
    ("PytorchStreamReader", DAMAGED),
    ("is not currently imported", LIBRARIES),  # a class of tokenizer that only newer or older versions have
    ("Unrecognized model", _KIND),
    ("does not recognize this architecture", _KIND),
    ("the network is not cut", _OTHER_INTERFACES),
    ("Network is unreachable", _REACHED_OUT),
    ("the network is cut", _REACHED_OUT),
    ("index out of range", _BEYOND),
    ("ModuleNotFoundError", _ABSENT),
    ("ImportError", LIBRARIES),
    ("unexpected keyword argument", LIBRARIES),
    ("AttributeError", LIBRARIES),
)


class CheckFailed(Exception):
    """A model did not keep a promise. ``str(error)`` says which; ``hint`` says what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One sentence for a person, and what to do next."""

    sentence: str
    hint: str


def explain(error: BaseException) -> Fault:
    """What to tell a person about `error`; only where it begins, since libraries answer with pages."""
    if isinstance(error, CheckFailed):
        return Fault(sentence=str(error), hint=error.hint)
    message = str(error)
    lines = [line for line in map(_plain, message.splitlines()) if line] or ["no message"]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    named = f"{type(error).__name__}: {message}"
    hint = next((advice for mark, advice in _ADVICE if mark in named), _NO_ADVICE)
    if isinstance(error, ModuleNotFoundError) and "." in (error.name or ""):
        hint = LIBRARIES  # a part of a package that is there, in another version
    if isinstance(error, LookupError) and (data := _OF_NLTK.search(message)):
        hint = f"Data of NLTK is not in the bundle, or not whole. The manifest's line for it is assets: [{{nltk: [{data[1]}]}}]."
    plainly = next((sentence for mark, sentence in _PLAINLY if mark in named), "")
    return Fault(
        sentence=plainly or f"The load stopped with {type(error).__name__}: {shortened(first)}",
        hint=hint,
    )


def _plain(line: str) -> str:
    """A line without colours; "" for one that only draws, as NLTK puts rows of asterisks around its errors."""
    text = _COLOUR.sub("", line).strip()
    return text if any(sign.isalnum() for sign in text) else ""


def shortened(text: str, longest: int = LONGEST_LINE) -> str:
    """`text` in at most `longest` characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def counted(names: Sequence[object], noun: str = "weight") -> str:
    """How many there are, in words: ``1 weight``, ``2 weights``."""
    return f"{len(names)} {noun}" if len(names) == 1 else f"{len(names)} {noun}s"


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names in words: ``a, b, c and 4 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
