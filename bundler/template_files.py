"""The templates of the files that the installer renders."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import bundler

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python 3.10 has it elsewhere


def find_folder() -> Traversable:
    """Find the folder of the templates.

    It is inside the package in a wheel and in bundle.pyz, and beside the package in a checkout (also when installed
    editable).
    """
    inside = resources.files(bundler) / "templates"
    return inside if inside.is_dir() else Path(bundler.__file__).parent.with_name("templates")


def read(name: str) -> str:
    """Return the text of a template."""
    return (find_folder() / name).read_text(encoding="utf-8")
