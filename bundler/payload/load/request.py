"""The request for one smoke load, which the installer writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..checks import goldens
from ..checks.goldens import Golden

DEVICES = ("cpu", "cuda", "auto")
TRIPLE_LENGTH = 3


class RequestError(ValueError):
    """The request is not valid; the message names the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One model to load and check.

    Attributes:
        alias: The model's name in the bundle.
        loader: The name of the probe.
        path: The model's folder, absolute.
        repo_id: The id by which unmodified code asks for the model; empty for none.
        device: One of `DEVICES`.
        texts: The texts to try the model with.
        closer: Triples of (query, nearer, farther).
        ram_limit: In bytes, 0 for none.
        any_language: The texts were not chosen for this model, so an unknown language in one of them is no error.
        variables: What the guard of the environment must have set; empty where there is no guard.
        trust_remote_code: Whether code of the model's own may run.
        golden: The model's outputs at the rehearsal; None where there was none.
        tolerance: The largest distance from the golden outputs.
        phases: A file that gets a line when a new phase of the load begins; None for none.
    """

    alias: str
    loader: str
    path: Path
    repo_id: str = ""
    device: str = "auto"
    texts: tuple[str, ...] = ()
    closer: tuple[tuple[str, str, str], ...] = ()
    ram_limit: int = 0
    any_language: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    trust_remote_code: bool = False
    golden: Golden | None = None
    tolerance: float = 0.0
    phases: Path | None = None

    def __post_init__(self) -> None:
        # Libraries take a relative folder for a repository id, and call home.
        if not self.path.is_absolute():
            raise RequestError(f"path: {self.path} is not an absolute folder")
        if self.device not in DEVICES:
            raise RequestError(f"device: {self.device!r} is none of {', '.join(DEVICES)}")


def read_request(path: Path) -> Request:
    """Read the request from a JSON file.

    Raises:
        RequestError: A field is missing or has the wrong type.
        OSError: The file can not be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"{path.name} is not a JSON file: {error}") from error
    if not isinstance(document, dict):
        raise RequestError(f"{path.name} is not a JSON object")
    return Request(
        alias=_get_text(document, "alias"),
        loader=_get_text(document, "loader"),
        path=Path(_get_text(document, "path")),
        repo_id=_get_text(document, "repo_id", ""),
        device=_get_text(document, "device", "auto"),
        texts=_require_texts(document.get("texts", []), "texts"),
        closer=tuple(_parse_triple(triple) for triple in _require_list(document.get("closer", []), "closer")),
        ram_limit=_require_count(document.get("ram_limit", 0), "ram_limit"),
        any_language=document.get("any_language") is True,
        variables=_require_strings(document.get("variables", {}), "variables"),
        trust_remote_code=document.get("trust_remote_code") is True,
        golden=_parse_golden(document.get("golden")),
        tolerance=float(_get_text(document, "tolerance", "0")),
        phases=Path(phases) if (phases := _get_text(document, "phases", "")) else None,
    )


def _get_text(document: dict[str, object], name: str, default: str | None = None) -> str:
    value = document.get(name, default)
    if not isinstance(value, str):
        raise RequestError(f"{name}: must be a string")
    return value


def _require_strings(value: object, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise RequestError(f"{name}: must be an object of strings")
    return value


def _require_list(value: object, name: str) -> list[object]:
    if not isinstance(value, list):
        raise RequestError(f"{name}: must be a list")
    return value


def _require_texts(value: object, name: str) -> tuple[str, ...]:
    items = _require_list(value, name)
    texts = tuple(item for item in items if isinstance(item, str))
    if len(texts) != len(items):
        raise RequestError(f"{name}: must be a list of strings")
    return texts


def _parse_triple(value: object) -> tuple[str, str, str]:
    texts = _require_texts(value, "closer")
    if len(texts) != TRIPLE_LENGTH:
        raise RequestError("closer: each entry must be [query, nearer, farther]")
    return texts[0], texts[1], texts[2]


def _parse_golden(value: object) -> Golden | None:
    if value is None:
        return None
    try:
        return goldens.parse_golden(value)  # type: ignore[arg-type]
    except (KeyError, TypeError) as error:
        raise RequestError(f"golden: not in the form that a rehearsal writes: {error!r}") from error


def _require_count(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RequestError(f"{name}: must be a number of bytes, 0 for none")
    return value
