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
from bundler.online.packages.requirements_txt import Line, Read
from bundler.online.packages.simple_index import Offer, Pages
from bundler.online.packages.uv_compile import RefusalError
from bundler.online.transfer import pip_config

_LAST_LINES = 20
_INSTALL = "pip install 'pip-tools>=7.5' 'pip>=26', or leave python.resolver out"
"""The packages by name: they are on the index. This tool is not, and a stranger could take its name there."""


def require(target: Target) -> str:
    """The version of pip-tools in words; raises ResolveError for another machine, ProgramError where it is missing."""
    if differing := platform_difference.differences(target):
        hint = "leave python.resolver out: uv resolves for any target; or build on such a machine"
        raise ResolveError(
            f"pip-tools resolves for the machine that it runs on alone: {differing}", where="python.resolver", hint=hint
        )
    with tempfile.TemporaryDirectory(prefix="airgap-bundler-") as empty:  # Python would import from the working folder
        command = [sys.executable, "-m", "piptools", "compile", "--version"]
        done = process.run(command, folder=Path(empty), accept=range(256))
    if done.code:
        why = (
            "is not installed" if "No module named piptools" in done.stderr else f"can't be run:\n{done.stderr[-500:]}"
        )
        raise ProgramError(f"pip-tools {why}", where=sys.executable, hint=_INSTALL)
    return f"pip-tools {done.stdout.split()[-1]}"


@dataclass(frozen=True, slots=True)
class PipCompile:
    """Asks pip-compile again and again, for one request."""

    asked: Read
    target: Target
    pages: Pages
    folder: Path
    final: set[str] = field(default_factory=set)
    """Packages of which pip would take a pre-release that uv would not."""

    def pins(self, routes: Mapping[str, str], sources: Iterable[str]) -> tuple[str, ...]:
        """Every package at the version that pip chooses, as ``name==version``; raises RefusalError.

        ``routes`` says of some packages from which index alone they come, ``sources`` which are taken as source code.
        """
        while True:
            found = self._compiled(routes, sources)
            more = {name for name, version in found.items() if self._hasty(name, version)}
            if not more:
                return tuple(f"{name}=={version}" for name, version in sorted(found.items()))
            self.final.update(more)

    def _compiled(self, routes: Mapping[str, str], sources: Iterable[str]) -> dict[str, Version]:
        out = self.folder / "pip.txt"
        out.unlink(missing_ok=True)  # pip-compile would prefer the versions that it finds there
        offered = {name: self._offered(name, url, name in sources) for name, url in routes.items()}
        excluded = [line for name, offers in offered.items() for line in self._excluded(name, offers)]
        constraints = [_as_line(line, sources) for line in self.asked.constraints]
        _write(self.folder / "pip.in", [_as_line(line, sources) for line in self.asked.requirements])
        _write(self.folder / "pip.constraints", [*constraints, *excluded])
        links = tuple(self._page(name, url, offered[name]) for name, url in routes.items())
        config = replace(self.asked.config, find_links=(*links, *self.asked.config.find_links))
        formats = ["--only-binary=:all:", *(f"--no-binary={name}" for name in sorted(sources))]
        formats += [f"--only-final={name}" for name in sorted(self.final)]
        command = [
            *(sys.executable, "-m", "piptools", "compile", "--quiet", "--no-config", "--allow-unsafe"),
            *("--no-header", "--no-annotate", "--strip-extras", "--resolver", "backtracking"),
            *("--no-emit-options", "--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links"),
            *("--pip-args", shlex.join(formats), "--constraint", "pip.constraints"),
            *("--output-file", out.name, "pip.in"),
        ]
        environment = pip_config.pip_environment(config)
        done = process.run(command, environment=environment, folder=self.folder, accept=range(256))
        if done.code:
            raise RefusalError(_trimmed(process.without_secrets(done.stdout + done.stderr)))
        lines = out.read_text(encoding="utf-8").splitlines()
        wanted = [Requirement(line) for line in lines if line.strip() and not line.startswith(("#", "-"))]
        return {
            canonicalize_name(one.name): Version(next(iter(one.specifier)).version) for one in wanted if not one.url
        }

    def _hasty(self, name: str, version: Version) -> bool:
        """Whether it is a pre-release that nobody has asked for: uv takes one only where there is nothing else.

        pip takes one as well where only another package asks for it, or where no release that is final will do.
        """
        if not version.is_prerelease or self.asked.config.pre or name in self.final:
            return False
        if any(
            _names_prerelease(line) for line in self.asked.requirements + self.asked.constraints if line.name == name
        ):
            return False
        return any(not offer.version.is_prerelease for offer in self.pages.offers(name))

    def _offered(self, name: str, route: str, as_source: bool) -> list[Offer]:
        offers = self.pages.on(route, name)
        return [one for one in offers if self.target.fits(one.filename) or (as_source and not one.is_wheel)]

    def _excluded(self, name: str, offers: Sequence[Offer]) -> list[str]:
        """Constraints against what other indexes than its own have of a package: pip ties none to an index.

        A version excludes its builds as well, but pip prefers a build to the version without one anyway.
        """
        right = {offer.version for offer in offers}
        public = {version.public for version in right}
        others = {offer.version for offer in (*self.pages.offers(name), *self.pages.sources(name))} - right
        return [f"{name}!={version}" for version in sorted(others) if version.local or str(version) not in public]

    def _page(self, name: str, route: str, offers: Sequence[Offer]) -> str:
        """A page of links that pip reads whether or not it has indexes; with the password, where the index wants one."""
        home = self.folder / f"pip-{name}-{len(offers)}"
        if not home.exists():
            simple_index.as_index(
                home, name, [replace(offer, url=simple_index.with_login(offer.url, route)) for offer in offers]
            )
        return (home / name / "index.html").as_uri()


def _names_prerelease(line: Line) -> bool:
    for one in line.requirement.specifier:
        try:
            if Version(one.version.removesuffix(".*")).is_prerelease:
                return True
        except InvalidVersion:  # after ===, anything may stand
            continue
    return False


def _as_line(line: Line, sources: Iterable[str]) -> str:
    """As pip reads it; digests stand there for source code alone, whose code pip must not run unless they are right."""
    digests = sorted(line.sha256) if line.name in sources else []
    return " ".join([str(line.requirement), *(f"--hash=sha256:{digest}" for digest in digests)])


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _trimmed(words: str) -> str:
    """pip's words without where in its program they arose."""
    before = re.split(r"^Traceback ", words, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip() for line in before.splitlines() if line.strip()]
    last = words.strip().splitlines()[-1:] if before != words else []
    return "\n".join([*lines[-_LAST_LINES:], *(line.partition(": ")[2] or line for line in last)])
