"""One choice of versions by pip-tools, which knows only the machine that it runs on.

pip chooses the versions; which files those are, and whether they fit together on any host of the target, is asked of
uv afterwards (rounds.py), so that a lock is the same whoever chose.
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
_INSTALL_HINT = "pip install 'pip-tools>=7.5' 'pip>=26', or leave python.resolver out"
"""The packages by name: they are on the index. This tool is not, and a stranger could take its name there."""


def require_pip_tools(target: Target) -> str:
    """The version of pip-tools in words; raises ResolveError for another machine, ProgramError where it is missing."""
    if differing := platform_difference.describe_differences(target):
        hint = "leave python.resolver out: uv resolves for any target; or build on such a machine"
        raise ResolveError(
            f"pip-tools resolves for the machine that it runs on alone: {differing}", where="python.resolver", hint=hint
        )
    with tempfile.TemporaryDirectory(prefix="airgap-bundler-") as empty:  # Python would import from the working folder
        command = [sys.executable, "-m", "piptools", "compile", "--version"]
        done = process.run(command, cwd=Path(empty), accepted_codes=range(256))
    if done.returncode:
        why = (
            "is not installed" if "No module named piptools" in done.stderr else f"can't be run:\n{done.stderr[-500:]}"
        )
        raise ProgramError(f"pip-tools {why}", where=sys.executable, hint=_INSTALL_HINT)
    return f"pip-tools {done.stdout.split()[-1]}"


@dataclass(frozen=True, slots=True)
class PipCompile:
    """Asks pip-compile again and again, for one request."""

    spec: RequirementsSpec
    target: Target
    index: IndexClient
    folder: Path
    final_packages: set[str] = field(default_factory=set)
    """Packages of which pip would take a pre-release that uv would not."""

    def choose_versions(self, package_indexes: Mapping[str, str], source_packages: Iterable[str]) -> tuple[str, ...]:
        """Every package at the version that pip chooses, as ``name==version``; raises RefusalError.

        ``routes`` says of some packages from which index alone they come, ``sources`` which are taken as source code.
        """
        while True:
            found = self._run_compile(package_indexes, source_packages)
            more = {name for name, version in found.items() if self._is_unrequested_prerelease(name, version)}
            if not more:
                return tuple(f"{name}=={version}" for name, version in sorted(found.items()))
            self.final_packages.update(more)

    def _run_compile(self, package_indexes: Mapping[str, str], source_packages: Iterable[str]) -> dict[str, Version]:
        out = self.folder / "pip.txt"
        out.unlink(missing_ok=True)  # pip-compile would prefer the versions that it finds there
        offered = {name: self._find_files(name, url, name in source_packages) for name, url in package_indexes.items()}
        excluded = [line for name, offers in offered.items() for line in self._exclude_other_versions(name, offers)]
        constraints = [_format_line(line, source_packages) for line in self.spec.constraints]
        _write_lines(self.folder / "pip.in", [_format_line(line, source_packages) for line in self.spec.requirements])
        _write_lines(self.folder / "pip.constraints", [*constraints, *excluded])
        links = tuple(self._write_links_page(name, url, offered[name]) for name, url in package_indexes.items())
        config = replace(self.spec.config, find_links=(*links, *self.spec.config.find_links))
        formats = ["--only-binary=:all:", *(f"--no-binary={name}" for name in sorted(source_packages))]
        formats += [f"--only-final={name}" for name in sorted(self.final_packages)]
        command = [
            *(sys.executable, "-m", "piptools", "compile", "--quiet", "--no-config", "--allow-unsafe"),
            *("--no-header", "--no-annotate", "--strip-extras", "--resolver", "backtracking"),
            *("--no-emit-options", "--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links"),
            *("--pip-args", shlex.join(formats), "--constraint", "pip.constraints"),
            *("--output-file", out.name, "pip.in"),
        ]
        environment = pip_config.make_pip_env(config)
        done = process.run(command, env=environment, cwd=self.folder, accepted_codes=range(256))
        if done.returncode:
            raise ResolverFailureError(_trim_output(process.redact(done.stdout + done.stderr)))
        lines = out.read_text(encoding="utf-8").splitlines()
        wanted = [Requirement(line) for line in lines if line.strip() and not line.startswith(("#", "-"))]
        return {
            canonicalize_name(one.name): Version(next(iter(one.specifier)).version) for one in wanted if not one.url
        }

    def _is_unrequested_prerelease(self, name: str, version: Version) -> bool:
        """Whether it is a pre-release that nobody has asked for: uv takes one only where there is nothing else.

        pip takes one as well where only another package asks for it, or where no release that is final will do.
        """
        if not version.is_prerelease or self.spec.config.pre or name in self.final_packages:
            return False
        if any(_has_prerelease(line) for line in self.spec.requirements + self.spec.constraints if line.name == name):
            return False
        return any(not offer.version.is_prerelease for offer in self.index.find_wheels(name))

    def _find_files(self, name: str, index_url: str, allow_sdist: bool) -> list[IndexFile]:
        offers = self.index.list_files(index_url, name)
        return [one for one in offers if self.target.is_compatible(one.filename) or (allow_sdist and not one.is_wheel)]

    def _exclude_other_versions(self, name: str, files: Sequence[IndexFile]) -> list[str]:
        """Constraints against what other indexes than its own have of a package: pip ties none to an index.

        A version excludes its builds as well, but pip prefers a build to the version without one anyway.
        """
        right = {offer.version for offer in files}
        public = {version.public for version in right}
        others = {offer.version for offer in (*self.index.find_wheels(name), *self.index.find_sdists(name))} - right
        return [f"{name}!={version}" for version in sorted(others) if version.local or str(version) not in public]

    def _write_links_page(self, name: str, index_url: str, files: Sequence[IndexFile]) -> str:
        """A page of links that pip reads whether or not it has indexes; with the password, where the index wants one."""
        home = self.folder / f"pip-{name}-{len(files)}"
        if not home.exists():
            simple_index.write_index(
                home, name, [replace(offer, url=simple_index.add_login(offer.url, index_url)) for offer in files]
            )
        return (home / name / "index.html").as_uri()


def _has_prerelease(line: RequirementLine) -> bool:
    for one in line.requirement.specifier:
        try:
            if Version(one.version.removesuffix(".*")).is_prerelease:
                return True
        except InvalidVersion:  # after ===, anything may stand
            continue
    return False


def _format_line(line: RequirementLine, source_packages: Iterable[str]) -> str:
    """As pip reads it; digests stand there for source code alone, whose code pip must not run unless they are right."""
    digests = sorted(line.allowed_sha256) if line.name in source_packages else []
    return " ".join([str(line.requirement), *(f"--hash=sha256:{digest}" for digest in digests)])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _trim_output(output: str) -> str:
    """pip's words without where in its program they arose."""
    before = re.split(r"^Traceback ", output, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip() for line in before.splitlines() if line.strip()]
    last = output.strip().splitlines()[-1:] if before != output else []
    return "\n".join([*lines[-_MAX_OUTPUT_LINES:], *(line.partition(": ")[2] or line for line in last)])
