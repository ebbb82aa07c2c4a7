"""Both READMEs can be followed: their blocks are taken as they stand, line for line.

A comment above each block of shell says what a test does with it: ``run: builder`` and ``run: host`` run it, on the side
with a network and on the one without; ``shown by: FILE`` or ``FILE::TEST`` names what runs it elsewhere.
"""

from __future__ import annotations

import ast
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.programs import require_tool

PAGES = [ROOT / "README.md", ROOT / "README.ko.md"]
PICTURES = [ROOT / "docs" / "route.svg", ROOT / "docs" / "demo.svg"]
_BLOCK = re.compile(r"^(?:<!-- (run|shown by): (\S+) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(^|\s+)#\s.*$", re.MULTILINE)
_FILE = re.compile(r"[\w.~-]*/[\w./~-]+|[\w.-]+\.(?:tar|key|pub|pyz|yaml|json|py)")
_NOT_COPIED = (".git", ".venv", "build", "*.egg-info", ".*_cache", ".hypothesis", "__pycache__")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block and the comment above it."""

    kind: str
    by: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """What is typed, without comments: they are in the page's own language."""
        return [line for line in map(str.rstrip, _COMMENT.sub("", self.text).splitlines()) if line]


def blocks(page: Path) -> list[Block]:
    return [Block(*(part or "" for part in match.groups())) for match in _BLOCK.finditer(page.read_text("utf-8"))]


pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_both_hold_the_same_commands_and_files_in_the_same_order() -> None:
    """So whoever follows one has followed the other."""
    english, korean = ([(one.kind, one.by, one.language, one.lines) for one in blocks(page)] for page in PAGES)
    assert english == korean
    assert {language for _, _, language, _ in english} == {"sh", "yaml", "text"}


@pages
def test_no_block_is_left_out_in_silence(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks(page))
    assert text.count("<!--") == sum(bool(block.kind) for block in blocks(page))
    for block in blocks(page):
        assert bool(block.kind) == (block.language == "sh"), f"what shows this?\n{block.text}"
        if block.kind == "run":
            assert block.by in {"builder", "host"}
        elif block.kind == "shown by":
            path, _, test = block.by.partition("::")
            shown = (ROOT / path).read_text(encoding="utf-8")
            if test:
                assert test in {node.name for node in ast.parse(shown).body if isinstance(node, ast.FunctionDef)}
            else:
                assert all(line in shown for line in block.lines)


@pages
def test_each_block_parses(page: Path) -> None:
    for block in blocks(page):
        if block.language == "sh":
            done = subprocess.run(
                [require_tool("bash"), "-n"], input=block.text, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stderr) == (0, ""), block.text
        elif block.language == "yaml":
            assert yaml.safe_load(block.text)["name"]


@dataclass(slots=True)
class Files:
    """Which files are there, by the names that a page has for them."""

    names: set[str] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)
    """What a command fills with files of its own."""

    def require(self, word: str) -> None:
        known = word in self.names or word.startswith(tuple(f"{folder}/" for folder in self.folders))
        assert known or (ROOT / word).exists(), f"{word} is not there yet"

    def follow(self, words: list[str]) -> None:
        """Look for what a command reads, then note what it writes."""
        options = dict(itertools.pairwise(words))
        made = [options[name] for name in ("-o", "--prefix") if name in options]
        made += words[1:] if words[0] == "mkdir" else []
        made += words[-1:] if "venv" in words or words[0] == "cp" else []
        for word in words:
            if word not in made and _FILE.fullmatch(word) and not word.startswith("s/"):
                self.require(word)
        if words[0] == "cp":
            self.require(words[-1].rstrip("/"))
            made = [f"{words[-1]}{Path(words[1]).name}"]
        elif words[:2] == ["bundle", "keygen"]:
            made = [f"{options['-o']}.key", f"{options['-o']}.pub"]
        self.names.update(made)
        self.folders += [options[name] for name in ("--prefix", "-C") if name in options]
        self.folders += [words[-1]] if "venv" in words else []


def follow(followed: list[Block]) -> int:
    """Follow blocks by their words alone; how many commands these were."""
    files, count = Files(), 0
    for block in followed:
        if block.language == "yaml":
            files.names.add(block.text.splitlines()[0].removeprefix("# "))
        for line in block.lines if block.language == "sh" else []:
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set(";&|()"):
                    if words:
                        files.follow(words)
                        count += 1
                    words = []
                else:
                    words.append(word)
    return count


@pages
def test_each_file_that_a_command_reads_is_there_by_then(page: Path) -> None:
    assert follow(blocks(page)) > 20


def test_a_block_that_is_missing_is_noticed() -> None:
    whole = blocks(PAGES[0])
    for number, name in (
        (1, "~/carry"),
        (2, "~/builder.key"),
        (3, "search.yaml"),
        (4, "search-2026.11"),
        (5, "~/search/"),
    ):
        runnable = [block for block in whole if block.language != "text"]
        with pytest.raises(AssertionError, match=f"^{re.escape(name)}[^ ]* is not there yet"):
            follow(runnable[:number] + runnable[number + 1 :])


@dataclass(slots=True)
class Shell:
    """A person's shell: what one block sets, the next one has."""

    folder: Path
    state: Path
    environment: dict[str, str]
    before: tuple[str, ...] = ()

    def run(self, block: Block) -> str:
        kept = shlex.quote(str(self.state))
        resumed = f'if [ -e {kept} ]; then . {kept}; cd "$PWD"; fi\n'
        script = f"{resumed}set -eo pipefail\n{block.text}\nset +x\nexport -p > {kept}\n"
        done = subprocess.run(
            [*self.before, require_tool("bash"), "-c", script], cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.mark.long
def test_each_block_runs_in_its_order_on_an_empty_machine(tmp_path: Path) -> None:
    """A copy of the tree, a home that holds nothing but this user's settings and caches, and a host with no network."""
    home, tree = tmp_path / "home", tmp_path / "airgap-bundler"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    home.mkdir()
    for settings in Path.home().glob(".*"):
        (home / settings.name).symlink_to(settings)
    own = str(Path(sys.executable).parent)
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != own)
    bare = {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}
    online = {name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "PYTHON"))}
    cut = (require_tool("unshare"), "-rn" if os.getuid() else "-n")
    shells = {
        "builder": Shell(tree, tmp_path / "builder", online | bare),
        "host": Shell(home, tmp_path / "host", bare, cut),
    }
    printed = {"builder": "", "host": ""}
    for block in blocks(PAGES[0]):
        if block.language == "yaml":
            (home / "carry" / block.text.splitlines()[0].removeprefix("# ")).write_text(block.text, encoding="utf-8")
        elif block.kind == "run":
            printed[block.by] += shells[block.by].run(block)
    assert "(384,)\n" in printed["host"]
    installer, key = re.findall(r"^([0-9a-f]{64})  ", printed["host"], re.MULTILINE)[:2]
    assert f"{installer}  trusted/bundle-installer.pyz" in printed["builder"]
    assert f"fingerprint  {key}" in printed["builder"]
    assert (home / "search" / "current").readlink().name.startswith("2026.11-")


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_the_pictures_can_be_read_in_light_and_dark_and_by_ear(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    drawn = ET.fromstring(text)  # noqa: S314 (our own file)
    assert "prefers-color-scheme: dark" in text
    assert (drawn.get("role"), drawn[0].tag) == ("img", "{http://www.w3.org/2000/svg}title")
    assert not re.search(r"(?:href|src)=|url\((?!#)|<script|/(?:root|home|work)/", text)
    for page in PAGES:
        assert re.search(rf"!\[[^\]]{{30,}}\]\(docs/{picture.name}\)", page.read_text(encoding="utf-8"))


def test_no_text_tells_anybody_to_install_this_tool_by_its_name() -> None:
    """No index has it: whoever takes the name there would be installed."""
    named = re.compile(
        r"(?:pip|pipx|uv|uvx)\b[^\n]*\b(?:install|add|run)\b[^\n]*(?<![/\w.-])airgap[-_]bundler(?![\w-]*\.whl|/)"
    )
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for folder in ("bundler", "docs", "demo", "manifests", ".")
        for path in (ROOT / folder).glob("*" if folder == "." else "**/*")
        if path.is_file() and path.suffix in {".py", ".md", ".j2", ".yaml", ".offline"}
        for match in named.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
