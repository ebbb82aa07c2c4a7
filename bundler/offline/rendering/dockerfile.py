"""Dockerfile.offline, and what runs the image that it makes; rendered from templates/."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.format import disk
from bundler.format.lock import entries, env_values
from bundler.format.lock.lockfile import Lock
from bundler.format.lock.smoke_result import SmokeResult
from bundler.offline.prefix.releases import Release
from bundler.offline.rendering import env_file
from bundler.offline.trust import trusted_keys as trusting
from bundler.offline.trust.trusted_keys import Trust

DOCKERFILE = "Dockerfile.offline"
IGNORE = ".dockerignore"
COMPOSE = "compose.offline.yaml"
KEYS = "trust"
"""The folder of trusted keys beside the bundle."""
KUBERNETES = "kubernetes.offline.yaml"
ABOVE = Path("/opt")
"""Where the prefix is inside an image."""

_MIB = 1 << 20
_STEP = 64
_PLAIN = re.compile(r"[^A-Za-z0-9 ._+:;,()/@-]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What the smoke loads took, as room for a service that holds every model: MiB."""

    request: int
    limit: int


def prefix_in_image(locked: Lock) -> Path:
    """Where a release is installed inside an image."""
    return ABOVE / locked.name


def image_name(locked: Lock) -> str:
    """What the image is called unless told otherwise."""
    return f"localhost/{locked.name}:{locked.version.replace('+', '-')}"


def base_name(locked: Lock) -> str:
    """The base by the name under which an engine must have it."""
    if not locked.image.base:
        return f"docker.io/library/python:{locked.target.python}-slim"
    return locked.image.loaded_name if locked.of_kind("image") else locked.image.pinned_name


def python_in_image(locked: Lock) -> str:
    """The release's interpreter inside an image."""
    return f"{prefix_in_image(locked)}/current/venv/bin/python"


def installer_in_image(locked: Lock) -> tuple[str, ...]:
    """How the program that the release keeps is run inside an image."""
    return (python_in_image(locked), "-I", "-S", f"{prefix_in_image(locked)}/current/bundle.pyz")


def memory(results: Sequence[SmokeResult]) -> Memory | None:
    """Room for the loads that were measured, half as much again as the limit; None where none was."""
    peak = sum(result.peak_rss_bytes for result in results if result.loader != "files")
    if not peak:
        return None
    return Memory(request=_rounded(peak), limit=_rounded(peak * 3 // 2))


def _rounded(size: int) -> int:
    return -(-size // (_STEP * _MIB)) * _STEP


def dockerfile_text(locked: Lock, trust: Trust | None) -> str:
    """The text of ``Dockerfile.offline``, which asks for the same signatures as ``trust`` does."""
    home = prefix_in_image(locked)
    lines = [env_values.line(*one) for one in env_file.variables(locked, home).items()]
    return _rendered(
        "Dockerfile.offline.j2",
        locked,
        base=base_name(locked),
        image=image_name(locked),
        above=ABOVE,
        ahead=locked.parts,
        lines=lines,
        labels=_labels(locked),
        app=locked.of_kind("app"),
        trust=f" --trust /carried/{KEYS} --trust-threshold {trust.threshold}" if trust else "",
        keys=KEYS if trust else "",
        entrypoint=list(locked.app.entrypoint) or [python_in_image(locked)],
    )


def write_keys(context: Path, trust: Trust) -> None:
    """Put the keys where the steps of ``Dockerfile.offline`` look for them."""
    folder = context / KEYS
    folder.mkdir()
    for key in trust.keys:
        (folder / f"{key.fingerprint[:16]}.pub").write_text(key.pem, encoding="ascii")
    (folder / trusting.REVOKED).write_text("".join(f"{one}\n" for one in sorted(trust.revoked)), encoding="ascii")


def ignore_text(locked: Lock) -> str:
    """The text of ``.dockerignore``."""
    return _rendered("dockerignore.j2", locked)


def runner_texts(locked: Lock, results: Sequence[SmokeResult], image: str) -> dict[str, str]:
    """The files for compose and Kubernetes that run ``image``, by name."""
    room = memory(results)
    service = re.sub(r"[^a-z0-9-]", "-", locked.name)[:63].strip("-")
    measured = "What the smoke loads took at most when this was written, together; the limit is half as much again."
    return {
        name: _rendered(f"{name}.j2", locked, image=image, service=service, memory=room, measured=measured)
        for name in (COMPOSE, KUBERNETES)
    }


def write(release: Release, locked: Lock, results: Sequence[SmokeResult]) -> None:
    """Write all of them into the release."""
    told = trusting.remembered(release.prefix)
    texts = {DOCKERFILE: dockerfile_text(locked, told), IGNORE: ignore_text(locked)}
    texts |= runner_texts(locked, results, image_name(locked))
    for name, text in texts.items():
        disk.write_whole(release.path / name, text.encode())


def _rendered(template: str, locked: Lock, **values: object) -> str:
    check = [*installer_in_image(locked), "doctor", "--quick", "--prefix", str(prefix_in_image(locked))]
    return env_file.rendered(
        template,
        lock=locked,
        home=prefix_in_image(locked),
        installer=entries.TRUSTED_INSTALLER,
        check=check,
        **values,
    )


def _labels(locked: Lock) -> dict[str, str]:
    licences = sorted({model.licence for model in locked.models if model.licence})
    labels = {
        "org.opencontainers.image.title": locked.name,
        "org.opencontainers.image.version": locked.version,
        "org.opencontainers.image.licenses": " AND ".join(licences),
        "org.opencontainers.image.base.name": locked.image.base,
        "org.opencontainers.image.base.digest": locked.image.digest,
        "bundle.digest": f"sha256:{locked.digest}",
    }
    # what a model's files state may hold anything
    return {name: f'"{_PLAIN.sub("?", value)}"' for name, value in labels.items() if value}
