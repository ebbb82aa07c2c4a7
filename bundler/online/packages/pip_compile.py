"""The choice of versions by pip-tools, which resolves only for the machine that it runs on.

pip chooses the versions. Afterwards uv finds their files and checks that they fit together on the target
(resolution_loop.py), so that both resolvers give the same lock for the same versions.
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bundler import process
from bundler.errors import ProgramError, ResolveError
from bundler.format.lock.target import Target
from bundler.online.packages import platform_difference, simple_index
from bundler.online.packages.requirements_txt import RequirementLine, RequirementsSpec
from bundler.online.packages.simple_index import IndexClient, IndexFile
from bundler.online.packages.uv_compile import ResolverFailureError
from bundler.online.transfer import pip_config

_MAX_OUTPUT_LINES = 20
_INSTALL_HINT = "pip install 'pip-tools>=7.5' 'pip>=26', or remove python.resolver"
"""Names the packages, not an extra of this program: this program is not on PyPI, and anybody could register its name
there."""


def require_pip_tools(target: Target) -> str:
    """Return the version of pip-tools as text, such as ``pip-tools 7.5``.

    Raises:
        ResolveError: The target differs from this machine.
        ProgramError: pip-tools is not installed or can't be run.
    """
    if differences := platform_difference.describe_differences(target):
        hint = "remove python.resolver: uv resolves for any target; or build on such a machine"
        raise ResolveError(
            f"pip-tools resolves only for the machine that it runs on: {differences}",
            where="python.resolver",
            hint=hint,
        )
    with tempfile.TemporaryDirectory(prefix="airgap-bundler-") as empty:  # Python imports from the working directory
        command = [sys.executable, "-m", "piptools", "compile", "--version"]
        result = process.run(command, cwd=Path(empty), accepted_codes=range(256))
    if result.returncode:
        is_missing = "No module named piptools" in result.stderr
        reason = "is not installed" if is_missing else f"can't be run:\n{result.stderr[-500:]}"
        raise ProgramError(f"pip-tools {reason}", where=sys.executable, hint=_INSTALL_HINT)
    return f"pip-tools {result.stdout.split()[-1]}"


@dataclass(frozen=True, slots=True)
class PipCompile:
    """Runs pip-compile for one request, as often as needed."""

    spec: RequirementsSpec
    target: Target
    index: IndexClient
    folder: Path
    final_packages: set[str] = field(default_factory=set)
    """Packages restricted to final releases: pip chose a pre-release that uv would not."""

    def choose_versions(self, package_indexes: Mapping[str, str], source_packages: Iterable[str]) -> tuple[str, ...]:
        """Return every package at the version that pip chooses, as ``name==version``.

        Args:
            package_indexes: The URL of the one index of some packages.
            source_packages: Packages to build from source code.

        Raises:
            ResolverFailureError: pip finds no solution.
        """
        while True:
            versions = self._run_compile(package_indexes, source_packages)
            prereleases = {name for name, version in versions.items() if self._is_unrequested_prerelease(name, version)}
            if not prereleases:
                return tuple(f"{name}=={version}" for name, version in sorted(versions.items()))
            self.final_packages.update(prereleases)

    def _run_compile(self, package_indexes: Mapping[str, str], source_packages: Iterable[str]) -> dict[str, Version]:
        output = self.folder / "pip.txt"
        output.unlink(missing_ok=True)  # pip-compile would prefer the versions in it
        files = {name: self._find_files(name, url, name in source_packages) for name, url in package_indexes.items()}
        exclusions = [line for name in files for line in self._exclude_other_versions(name, files[name])]
        constraints = [_format_line(line, source_packages) for line in self.spec.constraints]
        _write_lines(self.folder / "pip.in", [_format_line(line, source_packages) for line in self.spec.requirements])
        _write_lines(self.folder / "pip.constraints", [*constraints, *exclusions])
        links = tuple(self._write_links_page(name, url, files[name]) for name, url in package_indexes.items())
        config = replace(self.spec.config, find_links=(*links, *self.spec.config.find_links))
        pip_args = ["--only-binary=:all:", *(f"--no-binary={name}" for name in sorted(source_packages))]
        pip_args += [f"--only-final={name}" for name in sorted(self.final_packages)]
        command = [
            *(sys.executable, "-m", "piptools", "compile", "--quiet", "--no-config", "--allow-unsafe"),
            *("--no-header", "--no-annotate", "--strip-extras", "--resolver", "backtracking"),
            *("--no-emit-options", "--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links"),
            *("--pip-args", shlex.join(pip_args), "--constraint", "pip.constraints"),
            *("--output-file", output.name, "pip.in"),
        ]
        env = pip_config.make_pip_env(config)
        result = process.run(command, env=env, cwd=self.folder, accepted_codes=range(256))
        if result.returncode:
            raise ResolverFailureError(_trim_output(process.redact(result.stdout + result.stderr)))
        lines = output.read_text(encoding="utf-8").splitlines()
        pins = [Requirement(line) for line in lines if line.strip() and not line.startswith(("#", "-"))]
        return {canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version) for pin in pins if not pin.url}

    def _is_unrequested_prerelease(self, name: str, version: Version) -> bool:
        """Tell whether pip chose a pre-release that uv would not choose.

        uv takes a pre-release only where a requirement names one or a package has nothing else. pip also takes one
        where only another package asks for it, or where no final release fits.
        """
        if not version.is_prerelease or self.spec.config.pre or name in self.final_packages:
            return False
        if any(_has_prerelease(line) for line in self.spec.requirements + self.spec.constraints if line.name == name):
            return False
        return any(not wheel.version.is_prerelease for wheel in self.index.find_wheels(name))

    def _find_files(self, name: str, index_url: str, allow_sdist: bool) -> list[IndexFile]:
        files = self.index.list_files(index_url, name)
        return [
            file for file in files if self.target.is_compatible(file.filename) or (allow_sdist and not file.is_wheel)
        ]

    def _exclude_other_versions(self, name: str, files: Sequence[IndexFile]) -> list[str]:
        """Return constraints that exclude the versions of other indexes: pip can't tie a package to an index.

        Excluding a version excludes its local versions too. So a version is not excluded where its own index has a
        local version of it: pip prefers that one anyway.
        """
        own_versions = {file.version for file in files}
        own_public = {version.public for version in own_versions}
        all_files = (*self.index.find_wheels(name), *self.index.find_sdists(name))
        others = {file.version for file in all_files} - own_versions
        return [f"{name}!={version}" for version in sorted(others) if version.local or str(version) not in own_public]

    def _write_links_page(self, name: str, index_url: str, files: Sequence[IndexFile]) -> str:
        """Write a find-links page, which pip reads even with ``--no-index``; its links hold the index's password."""
        folder = self.folder / f"pip-{name}-{len(files)}"
        if not folder.exists():
            simple_index.write_index(
                folder, name, [replace(file, url=simple_index.add_login(file.url, index_url)) for file in files]
            )
        return (folder / name / "index.html").as_uri()


def _has_prerelease(line: RequirementLine) -> bool:
    for specifier in line.requirement.specifier:
        try:
            if Version(specifier.version.removesuffix(".*")).is_prerelease:
                return True
        except InvalidVersion:  # === accepts any string
            continue
    return False


def _format_line(line: RequirementLine, source_packages: Iterable[str]) -> str:
    """Format a requirement for pip, with the digests of a source package: pip must not run code with another one."""
    digests = sorted(line.allowed_sha256) if line.name in source_packages else []
    return " ".join([str(line.requirement), *(f"--hash=sha256:{digest}" for digest in digests)])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _trim_output(output: str) -> str:
    """Return the last lines of pip's output; a traceback is cut to its message."""
    before_traceback = re.split(r"^Traceback ", output, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip() for line in before_traceback.splitlines() if line.strip()]
    error_lines = output.strip().splitlines()[-1:] if before_traceback != output else []
    return "\n".join([*lines[-_MAX_OUTPUT_LINES:], *(line.partition(": ")[2] or line for line in error_lines)])
