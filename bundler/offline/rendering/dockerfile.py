"""``Dockerfile.offline``, and the compose and Kubernetes files that run its image."""

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
from bundler.offline.rendering.templates import render_template
from bundler.offline.trust import trusted_keys
from bundler.offline.trust.trusted_keys import TrustPolicy

DOCKERFILE_NAME = "Dockerfile.offline"
IGNORE_FILE = ".dockerignore"
COMPOSE_FILE = "compose.offline.yaml"
KEYS_FOLDER = "trust"
"""Folder of trusted keys beside the bundle in the build context."""
KUBERNETES_FILE = "kubernetes.offline.yaml"
IMAGE_ROOT = Path("/opt")
"""Folder that holds the prefix inside an image."""

_MIB = 1 << 20
_ROUNDING_MIB = 64
_UNSAFE_LABEL_CHARACTER = re.compile(r"[^A-Za-z0-9 ._+:;,()/@-]")


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Memory in MiB for a service that holds every model, estimated from the smoke loads."""

    request: int
    limit: int


def get_image_prefix(lock: Lock) -> Path:
    """Return the prefix inside an image."""
    return IMAGE_ROOT / lock.name


def get_image_name(lock: Lock) -> str:
    """Return the image's default name."""
    return f"localhost/{lock.name}:{lock.version.replace('+', '-')}"


def get_base_name(lock: Lock) -> str:
    """Return the name under which the engine must have the base image."""
    if not lock.image.base:
        return f"docker.io/library/python:{lock.target.python}-slim"
    return lock.image.loaded_name if lock.list_artifacts("image") else lock.image.pinned_name


def get_image_python(lock: Lock) -> str:
    """Return the release's interpreter inside an image."""
    return f"{get_image_prefix(lock)}/current/venv/{platforms.LINUX.venv_python}"


def get_image_installer(lock: Lock) -> tuple[str, ...]:
    """Return the command inside an image that runs the release's installer."""
    return (get_image_python(lock), "-I", "-S", f"{get_image_prefix(lock)}/current/bundle.pyz")


def estimate_memory(results: Sequence[SmokeResult]) -> MemoryEstimate | None:
    """Return the memory that the smoke loads took together, and a limit half as high again; None if none ran."""
    peak = sum(result.peak_rss_bytes for result in results if result.loader != "files")
    if not peak:
        return None
    return MemoryEstimate(request=_round_up(peak), limit=_round_up(peak * 3 // 2))


def _round_up(size: int) -> int:
    return -(-size // (_ROUNDING_MIB * _MIB)) * _ROUNDING_MIB


def render_dockerfile(lock: Lock, trust: TrustPolicy | None) -> str:
    """Return the text of ``Dockerfile.offline``, which requires the same signatures as ``trust``."""
    variables = env_file.make_variables(lock, get_image_prefix(lock))
    return _render(
        "Dockerfile.offline.j2",
        lock,
        base=get_base_name(lock),
        image=get_image_name(lock),
        root=IMAGE_ROOT,
        parts=lock.parts,
        env_lines=[env_values.format_line(name, value) for name, value in variables.items()],
        labels=_make_labels(lock),
        app=lock.list_artifacts("app"),
        trust_options=f" --trust /carried/{KEYS_FOLDER} --trust-threshold {trust.threshold}" if trust else "",
        keys_folder=KEYS_FOLDER if trust else "",
        entrypoint=list(lock.app.entrypoint) or [get_image_python(lock)],
    )


def write_keys(context: Path, trust: TrustPolicy) -> None:
    """Write the trusted keys into the build context, where the steps of ``Dockerfile.offline`` look for them."""
    folder = context / KEYS_FOLDER
    folder.mkdir()
    for key in trust.keys:
        (folder / f"{key.fingerprint[:16]}.pub").write_text(key.pem, encoding="ascii")
    revoked = "".join(f"{fingerprint}\n" for fingerprint in sorted(trust.revoked))
    (folder / trusted_keys.REVOKED_FILE).write_text(revoked, encoding="ascii")


def render_ignore_file(lock: Lock) -> str:
    """Return the text of ``.dockerignore``."""
    return _render("dockerignore.j2", lock)


def render_run_files(lock: Lock, results: Sequence[SmokeResult], image: str) -> dict[str, str]:
    """Return the texts of the compose and Kubernetes files that run ``image``, by file name."""
    memory = estimate_memory(results)
    service = re.sub(r"[^a-z0-9-]", "-", lock.name)[:63].strip("-")
    memory_note = "Sum of the smoke loads' peaks when this file was written; the limit is half as high again."
    return {
        name: _render(f"{name}.j2", lock, image=image, service=service, memory=memory, memory_note=memory_note)
        for name in (COMPOSE_FILE, KUBERNETES_FILE)
    }


def write_files(release: Release, lock: Lock, results: Sequence[SmokeResult]) -> None:
    """Write the Dockerfile, its ignore file and the files that run the image into the release."""
    policy = trusted_keys.read_stored_policy(release.prefix)
    texts = {DOCKERFILE_NAME: render_dockerfile(lock, policy), IGNORE_FILE: render_ignore_file(lock)}
    texts |= render_run_files(lock, results, get_image_name(lock))
    for name, text in texts.items():
        disk.write_atomically(release.path / name, text.encode())


def _render(template: str, lock: Lock, **values: object) -> str:
    check = [*get_image_installer(lock), "doctor", "--quick", "--prefix", str(get_image_prefix(lock))]
    return render_template(
        template,
        lock=lock,
        prefix=get_image_prefix(lock),
        installer=entries.TRUSTED_INSTALLER,
        health_check=check,
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
    # A model's files may state any text as their licence.
    return {name: f'"{_UNSAFE_LABEL_CHARACTER.sub("?", value)}"' for name, value in labels.items() if value}
