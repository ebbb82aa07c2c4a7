"""Dockerfile.offline, and what runs the image that it makes; rendered from templates/."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.format import disk
from bundler.format.lock import entries, env_values, platforms
from bundler.format.lock.lockfile import Lock
from bundler.format.lock.smoke_result import SmokeResult
from bundler.offline.prefix.releases import Release
from bundler.offline.rendering import env_file
from bundler.offline.trust import trusted_keys as trusting
from bundler.offline.trust.trusted_keys import TrustPolicy

DOCKERFILE_NAME = "Dockerfile.offline"
IGNORE_FILE = ".dockerignore"
COMPOSE_FILE = "compose.offline.yaml"
KEYS_FOLDER = "trust"
"""The folder of trusted keys beside the bundle."""
KUBERNETES_FILE = "kubernetes.offline.yaml"
IMAGE_ROOT = Path("/opt")
"""Where the prefix is inside an image."""

_MIB = 1 << 20
_ROUNDING_MIB = 64
_UNSAFE_LABEL_CHARACTER = re.compile(r"[^A-Za-z0-9 ._+:;,()/@-]")


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """What the smoke loads took, as room for a service that holds every model: MiB."""

    request: int
    limit: int


def get_image_prefix(lock: Lock) -> Path:
    """Where a release is installed inside an image."""
    return IMAGE_ROOT / lock.name


def get_image_name(lock: Lock) -> str:
    """What the image is called unless told otherwise."""
    return f"localhost/{lock.name}:{lock.version.replace('+', '-')}"


def get_base_name(lock: Lock) -> str:
    """The base by the name under which an engine must have it."""
    if not lock.image.base:
        return f"docker.io/library/python:{lock.target.python}-slim"
    return lock.image.loaded_name if lock.list_artifacts("image") else lock.image.pinned_name


def get_image_python(lock: Lock) -> str:
    """The release's interpreter inside an image."""
    return f"{get_image_prefix(lock)}/current/venv/{platforms.LINUX.venv_python}"


def get_image_installer(lock: Lock) -> tuple[str, ...]:
    """How the program that the release keeps is run inside an image."""
    return (get_image_python(lock), "-I", "-S", f"{get_image_prefix(lock)}/current/bundle.pyz")


def estimate_memory(results: Sequence[SmokeResult]) -> MemoryEstimate | None:
    """Room for the loads that were measured, half as much again as the limit; None where none was."""
    peak = sum(result.peak_rss_bytes for result in results if result.loader != "files")
    if not peak:
        return None
    return MemoryEstimate(request=_round_up(peak), limit=_round_up(peak * 3 // 2))


def _round_up(size: int) -> int:
    return -(-size // (_ROUNDING_MIB * _MIB)) * _ROUNDING_MIB


def render_dockerfile(lock: Lock, trust: TrustPolicy | None) -> str:
    """The text of ``Dockerfile.offline``, which asks for the same signatures as ``trust`` does."""
    home = get_image_prefix(lock)
    lines = [env_values.format_line(*one) for one in env_file.make_variables(lock, home).items()]
    return _render(
        "Dockerfile.offline.j2",
        lock,
        base=get_base_name(lock),
        image=get_image_name(lock),
        above=IMAGE_ROOT,
        ahead=lock.parts,
        lines=lines,
        labels=_make_labels(lock),
        app=lock.list_artifacts("app"),
        trust=f" --trust /carried/{KEYS_FOLDER} --trust-threshold {trust.threshold}" if trust else "",
        keys=KEYS_FOLDER if trust else "",
        entrypoint=list(lock.app.entrypoint) or [get_image_python(lock)],
    )


def write_keys(folder_path: Path, trust: TrustPolicy) -> None:
    """Put the keys where the steps of ``Dockerfile.offline`` look for them."""
    folder = folder_path / KEYS_FOLDER
    folder.mkdir()
    for key in trust.keys:
        (folder / f"{key.fingerprint[:16]}.pub").write_text(key.pem, encoding="ascii")
    (folder / trusting.REVOKED_FILE).write_text("".join(f"{one}\n" for one in sorted(trust.revoked)), encoding="ascii")


def render_ignore_file(lock: Lock) -> str:
    """The text of ``.dockerignore``."""
    return _render("dockerignore.j2", lock)


def render_run_files(lock: Lock, results: Sequence[SmokeResult], image: str) -> dict[str, str]:
    """The files for compose and Kubernetes that run ``image``, by name."""
    room = estimate_memory(results)
    service = re.sub(r"[^a-z0-9-]", "-", lock.name)[:63].strip("-")
    measured = "What the smoke loads took at most when this was written, together; the limit is half as much again."
    return {
        name: _render(f"{name}.j2", lock, image=image, service=service, memory=room, measured=measured)
        for name in (COMPOSE_FILE, KUBERNETES_FILE)
    }


def write_files(release: Release, lock: Lock, results: Sequence[SmokeResult]) -> None:
    """Write all of them into the release."""
    told = trusting.read_stored_policy(release.prefix)
    texts = {DOCKERFILE_NAME: render_dockerfile(lock, told), IGNORE_FILE: render_ignore_file(lock)}
    texts |= render_run_files(lock, results, get_image_name(lock))
    for name, text in texts.items():
        disk.write_atomically(release.path / name, text.encode())


def _render(template: str, lock: Lock, **values: object) -> str:
    check = [*get_image_installer(lock), "doctor", "--quick", "--prefix", str(get_image_prefix(lock))]
    return env_file.render_template(
        template,
        lock=lock,
        home=get_image_prefix(lock),
        installer=entries.TRUSTED_INSTALLER,
        check=check,
        **values,
    )


def _make_labels(lock: Lock) -> dict[str, str]:
    licences = sorted({model.licence for model in lock.models if model.licence})
    labels = {
        "org.opencontainers.image.title": lock.name,
        "org.opencontainers.image.version": lock.version,
        "org.opencontainers.image.licenses": " AND ".join(licences),
        "org.opencontainers.image.base.name": lock.image.base,
        "org.opencontainers.image.base.digest": lock.image.digest,
        "bundle.digest": f"sha256:{lock.digest}",
    }
    # what a model's files state may hold anything
    return {name: f'"{_UNSAFE_LABEL_CHARACTER.sub("?", value)}"' for name, value in labels.items() if value}
