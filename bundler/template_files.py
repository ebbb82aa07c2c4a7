"""The templates of what the installer renders, wherever this program runs from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import bundler

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python 3.10 has it elsewhere


def find_folder() -> Traversable:
    """The folder of the templates.

    A wheel and bundle.pyz have it inside the package. A checkout, which an editable installation runs from, has it
    beside the package.
    """
    inside = resources.files(bundler) / "templates"
    return inside if inside.is_dir() else Path(bundler.__file__).parent.with_name("templates")


def read(name: str) -> str:
    """The text of a template."""
    return (find_folder() / name).read_text(encoding="utf-8")
