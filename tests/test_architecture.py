"""The layout: every import is read from the syntax tree, inside functions and behind conditions too."""

from __future__ import annotations

import ast
import re
import sys
import zipfile
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

from bundler import errors
from bundler.errors import BundleError
from bundler.online import installer

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "bundler"
FILES = sorted(path for path in PROGRAM.rglob("*.py"))
MAY_SPEAK = {"bundler.cli", "bundler.output.console", "bundler.verbs.verb", "bundler.__main__"}
COMMAND_LINE = ("bundler.cli", "bundler.output", "bundler.verbs")
MAX_FILES, MAX_FILE_LINES, MAX_FUNCTION_LINES = 16, 430, 60

BASE = {"bundler", "bundler.errors", "bundler.progress", "bundler.process", "bundler.template_files"}
LIBRARY_TABLE = "bundler.payload.network"
FORMAT = {f"bundler.format{name}" for name in ("", ".lock", ".tar", ".signing", ".scan")} | {LIBRARY_TABLE}
PREFIX, TRUST, RENDERING, ENVIRONMENT = (
    f"bundler.offline.{name}" for name in ("prefix", "trust", "rendering", "environment")
)
TRANSFER, PACKAGES, ASSETS, MANIFEST, INSPECTION, MODELS = (
    f"bundler.online.{name}" for name in ("transfer", "packages", "assets", "manifest", "inspection", "models")
)
HOST = {PREFIX, TRUST, RENDERING, ENVIRONMENT, "bundler.offline"}
PAYLOAD = ("network", "results", "checks", "files", "load", "probes")

ARROWS: dict[str, set[str]] = {
    "bundler.errors": set(),
    "bundler.progress": set(),
    "bundler.process": {"bundler.errors"},
    "bundler.template_files": {"bundler"},
    "bundler.format": {"bundler.errors", LIBRARY_TABLE},
    "bundler.format.lock": {"bundler.errors", "bundler.progress", "bundler.format", LIBRARY_TABLE},
    "bundler.format.tar": {"bundler.errors", "bundler.progress", "bundler.format", "bundler.format.lock"},
    "bundler.format.signing": {"bundler.errors", "bundler.format", "bundler.format.lock", "bundler.format.tar"},
    "bundler.format.scan": {"bundler.errors", "bundler.progress", "bundler.format", "bundler.format.lock"},
    PREFIX: BASE | FORMAT,
    TRUST: BASE | FORMAT | {PREFIX},
    RENDERING: BASE | FORMAT | {PREFIX, TRUST},
    ENVIRONMENT: BASE | FORMAT | {PREFIX, TRUST, RENDERING},
    "bundler.offline": BASE | FORMAT | HOST,
    "bundler.offline.doctor": BASE | FORMAT | HOST,
    "bundler.offline.container": BASE | FORMAT | HOST | {"bundler.offline.container.engines"},
    "bundler.offline.container.engines": BASE | FORMAT,
    TRANSFER: BASE | FORMAT,
    INSPECTION: BASE | FORMAT,
    PACKAGES: BASE | FORMAT | {TRANSFER},
    ASSETS: BASE | FORMAT | {TRANSFER},
    MANIFEST: BASE | FORMAT | {ASSETS, INSPECTION, PACKAGES, TRANSFER},
    "bundler.online.containers": BASE | FORMAT | {MANIFEST, TRANSFER},
    "bundler.online.scaffold": BASE | FORMAT | {ASSETS, MANIFEST},
    MODELS: BASE | FORMAT | {INSPECTION, MANIFEST, PACKAGES, TRANSFER},
    "bundler.online": BASE
    | FORMAT
    | {TRANSFER, INSPECTION, PACKAGES, MANIFEST, MODELS, ASSETS, "bundler.online.containers"},
    **{
        f"bundler.payload.{name}": {f"bundler.payload.{lower}" for lower in PAYLOAD[:number]}
        for number, name in enumerate(PAYLOAD)
    },
    "bundler.payload": {"bundler.payload"} | {f"bundler.payload.{name}" for name in PAYLOAD},
}
"""What each package may import of ours, besides itself."""


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


def package_of(module: str) -> str:
    """The package that holds a module; a module of the top stands for itself."""
    is_package = (ROOT / module.replace(".", "/")).is_dir()
    return module if is_package or module.count(".") == 1 else module.rpartition(".")[0]


OURS = {module_of(path): {name for name, _ in imports(path) if name.split(".")[0] == "bundler"} for path in FILES}


@pytest.mark.parametrize("module", OURS)
def test_arrows_point_down(module: str) -> None:
    package = package_of(module)
    if not package.startswith(("bundler.cli", "bundler.__main__", "bundler.output", "bundler.verbs")):
        imported = {package_of(name) for name in OURS[module]} - {package}
        assert imported <= ARROWS.get(package, set())


@pytest.mark.parametrize("unit", ["modules", "packages"])
def test_the_arrows_have_no_circle(unit: str) -> None:
    name_of = package_of if unit == "packages" else str
    graph: dict[str, set[str]] = {}
    for module, names in OURS.items():
        graph.setdefault(name_of(module), set()).update(
            {name_of(name) for name in names} - {name_of(module), "bundler"}
        )
    graph.pop("bundler", None)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(f"a circle: {circle.args[1]}")


def test_folders_files_and_functions_stay_small() -> None:
    large = []
    for folder in {path.parent for path in FILES}:
        count = sum(path.parent == folder and path.name != "__init__.py" for path in FILES)
        large += [f"{folder}: {count} files"] * (count > MAX_FILES)
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        large += [f"{path}: {lines} lines"] * (lines > MAX_FILE_LINES)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                large += [f"{path}: {node.name} has {lines} lines"] * (lines > MAX_FUNCTION_LINES)
    assert not large


def test_each_error_has_an_exit_code_of_its_own() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BundleError)]
    codes = [kind.code for kind in kinds]
    assert len(codes) > 10
    assert len(set(codes)) == len(codes)


def test_the_developers_page_names_each_package_that_exists_and_no_other() -> None:
    page = (ROOT / "docs" / "developing.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(bundler/[a-z_/]*)/`", page))
    packages = {str(path.parent.relative_to(ROOT)) for path in FILES if path.name == "__init__.py"} - {"bundler"}
    assert named == packages


BANNED = re.compile(
    r"\b(house|drawers?|shelf|shelves|desk|errands?|workshop|bring home|brought home|far side)\b", re.IGNORECASE
)
ODD = frozenset(["told", "late", "away", "whole", "there", "heard", "asked", "found", "held", "said", "known", "again", "ahead", "of", "at", "in", "by", "brought", "gone", "kept", "given"])  # fmt: skip


def test_words_are_those_of_the_field() -> None:
    texts = [*FILES, *ROOT.glob("docs/*.md"), *ROOT.glob("README*.md"), *ROOT.glob("templates/*")]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := BANNED.search(line))
    ]
    assert not found


def test_functions_are_named_by_a_verb() -> None:
    odd = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.strip("_").split("_")[0] in ODD
    ]
    assert not odd


def test_the_command_line_imports_the_online_side_only_inside_verbs() -> None:
    for path in FILES:
        if module_of(path).startswith(COMMAND_LINE):
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


def test_only_one_module_runs_other_programs() -> None:
    users = {module_of(path) for path in FILES if "subprocess" in {name for name, _ in imports(path)}}
    assert {user for user in users if not user.startswith("bundler.payload")} == {"bundler.process", "bundler.__main__"}


def test_the_host_needs_nothing_that_does_not_travel() -> None:
    travels = {"filelock", "jinja2", "markupsafe", "packaging", "securesystemslib", "tqdm", "typer", "bundler"}
    for path in FILES:
        if module_of(path).startswith(("bundler.online", "bundler.payload")):
            continue
        tops = {name.split(".")[0] for name, _ in imports(path)}
        assert tops - set(sys.stdlib_module_names) <= travels, path


def test_every_dependency_has_a_reason_and_the_installer_s_are_declared() -> None:
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
    data = installer.build_installer()
    assert data == installer.build_installer()
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
