"""What the documents say of the tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::(test_\w+)(?:\[[^`]*\])?)?`")


def find_named_tests(text: str) -> set[tuple[str, str]]:
    """The files and tests that a page names; ``::test_x`` alone is of the file named before it."""
    found, path = set(), ""
    for match in _NAMED.finditer(text):
        path = match[1] or path
        if match[1] or match[2]:
            found.add((path, match[2] or ""))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path, test in find_named_tests(text):
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not test or test in defined, f"{path}::{test}"


def test_the_pages_name_many() -> None:
    assert sum(len(find_named_tests(page.read_text(encoding="utf-8"))) for page in PAGES) > 100
