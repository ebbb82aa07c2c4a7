"""The house as it is drawn: every import is read from the syntax tree, inside functions and behind conditions too."""

from __future__ import annotations

import ast
import sys
import zipfile
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

from bundler.online import installer

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "bundler"
FILES = sorted(path for path in PROGRAM.rglob("*.py"))
MAY_SPEAK = {"bundler.cli", "bundler.output.console", "bundler.verbs.verb", "bundler.__main__"}

COMMAND_LINE = {"bundler.cli", "bundler.output.console", "bundler.output.lock_text", "bundler.verbs"}

ARROWS = {
    "bundler.format": {"bundler.format", "bundler.errors", "bundler.progress"},
    "bundler.online": {
        "bundler.online",
        "bundler.format",
        "bundler.process",
        "bundler.errors",
        "bundler.progress",
        "bundler.template_files",
        "bundler",
    },
    "bundler.offline": {
        "bundler.offline",
        "bundler.format",
        "bundler.process",
        "bundler.errors",
        "bundler.progress",
        "bundler.template_files",
        "bundler",
    },
    "bundler.payload": {"bundler.payload"},
    "bundler.errors": set(),
    "bundler.progress": set(),
    "bundler.process": {"bundler.errors"},
    "bundler.template_files": {"bundler"},
}
"""What each room may import of ours."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so only when a function runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                is_module = (ROOT / (whole.replace(".", "/") + ".py")).exists() or (
                    ROOT / whole.replace(".", "/")
                ).is_dir()
                yield whole if is_module else base, id(node) in inside


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


OURS = {module_of(path): {name for name, _ in imports(path) if name.split(".")[0] == "bundler"} for path in FILES}


@pytest.mark.parametrize("module", OURS)
def test_arrows_point_down(module: str) -> None:
    allowed = ARROWS.get(room_of(module))
    if allowed is not None:
        assert {room_of(name) for name in OURS[module]} <= allowed


def test_the_arrows_have_no_circle() -> None:
    try:
        TopologicalSorter({module: names - {"bundler"} for module, names in OURS.items()}).prepare()
    except CycleError as circle:
        pytest.fail(f"a circle: {circle.args[1]}")


def test_the_command_line_meets_the_online_side_only_inside_verbs() -> None:
    speaking = [path for path in FILES if room_of(module_of(path)) in COMMAND_LINE]
    assert len(speaking) > len(COMMAND_LINE)
    for path in speaking:
        found = dict(imports(path))
        assert all(inside for name, inside in found.items() if name.startswith("bundler.online")), path


def test_only_the_command_line_speaks_or_exits() -> None:
    for path in FILES:
        module = module_of(path)
        if module in MAY_SPEAK or module.startswith("bundler.payload"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said = ast.unparse(node) if isinstance(node, ast.Call) else ""
            assert not said.startswith(("print(", "exit(", "sys.exit(", "os._exit(", "sys.stdout", "sys.stderr")), (
                f"{path}: {said}"
            )


def test_only_one_door_leads_to_other_programs() -> None:
    users = {module_of(path) for path in FILES if "subprocess" in {name for name, _ in imports(path)}}
    assert {user for user in users if not user.startswith("bundler.payload")} == {"bundler.process", "bundler.__main__"}


def test_the_far_side_needs_nothing_that_does_not_travel() -> None:
    travels = {"filelock", "jinja2", "markupsafe", "packaging", "securesystemslib", "tqdm", "typer", "bundler"}
    for path in FILES:
        if module_of(path).startswith(("bundler.online", "bundler.payload")):
            continue
        tops = {name.split(".")[0] for name, _ in imports(path)}
        assert tops - set(sys.stdlib_module_names) <= travels, path


def test_every_dependency_has_a_reason_and_the_far_side_s_are_declared() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = tomllib.loads(text)["project"]["dependencies"]
    for requirement in declared:
        line = next(line for line in text.splitlines() if f'"{requirement}"' in line)
        assert "#" in line, f"{requirement} has no reason beside it"
    names = {Requirement(one).name.lower() for one in declared}
    assert {name.lower() for name in installer.PACKAGES} - {"markupsafe"} <= names


def test_nothing_is_unpickled_in_this_program_s_own_process() -> None:
    unpickle = {"pickle", "marshal", "shelve", "torch", "joblib", "dill", "cloudpickle", "numpy"}
    for path in FILES:
        module = module_of(path)
        if module.startswith("bundler.payload") or module == "bundler.online.models.safetensors_worker":
            continue  # they run in the bundle's own environment
        assert not {name.split(".")[0] for name, _ in imports(path)} & unpickle, path


def test_the_installer_is_pure_and_reproducible(tmp_path: Path) -> None:
    data = installer.build()
    assert data == installer.build()
    path = tmp_path / "bundle.pyz"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as packed:
        names = packed.namelist()
        assert {info.compress_type for info in packed.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert not [name for name in names if name.endswith((".so", ".pyd", ".pyc", ".dylib"))]
    assert not [name for name in names if name.startswith("bundler/online")]
    assert "bundler/payload/__main__.py" in names
    assert "bundler/templates/env.offline.j2" in names
    for package in (name.lower().replace("-", "_") for name in installer.PACKAGES):
        assert any(name.lower().startswith(f"{package}-") and "LICEN" in name.upper() for name in names), package


def test_the_first_lines_of_the_program_parse_on_old_pythons() -> None:
    ast.parse((PROGRAM / "__main__.py").read_text(encoding="utf-8"), feature_version=(3, 6))
