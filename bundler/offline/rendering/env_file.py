"""The environment file ``.env.offline``: the variables that keep libraries on this host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bundler.format import disk
from bundler.format.lock import env_values
from bundler.format.lock.lockfile import Lock
from bundler.offline.prefix.releases import Release
from bundler.offline.rendering.templates import render_template
from bundler.payload.network.asset_libraries import LIBRARIES
from bundler.progress import Reporter, pluralize

ENV_FILE = ".env.offline"
LEGACY_CACHE_VARIABLES = ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE")
"""Variables that transformers 4 reads before HF_HUB_CACHE. We set none of them: it would warn at each import."""

CACHES: Mapping[str, str] = {
    "HF_HOME": "huggingface",  # remote code of models is below it
    "TORCH_HOME": "torch",
    "TORCHINDUCTOR_CACHE_DIR": "torch/inductor",
    "TRITON_CACHE_DIR": "triton",
}
"""Caches that libraries write to, as subfolders of one folder.

None is in ``.env.offline``: the folder differs for each user, so the guard sets them when Python starts.
"""


def make_library_variables(release_folder: Path) -> dict[str, str]:
    """Return the variables that keep libraries on this host and lead them to the release's files."""
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_VERBOSITY": "error",  # else each load by repo id warns that it is offline
        "HF_HUB_CACHE": str(release_folder / "hub"),
        "SENTENCE_TRANSFORMERS_HOME": str(release_folder / "hub"),  # it looks here first
        **{library.variable: str(release_folder / "assets" / library.folder) for library in LIBRARIES.values()},
    }


def make_cache_variables(folder: Path) -> dict[str, str]:
    """Return the variables that make libraries write below ``folder``."""
    return {name: str(folder / subfolder) for name, subfolder in CACHES.items()}


def make_manifest_variables(lock: Lock, release_folder: Path) -> dict[str, str]:
    """Return the manifest's own variables, with paths into ``release_folder``."""

    def find_path(kind: str, name: str) -> str:
        paths = {"model": release_folder / "models" / name, "asset": release_folder / "assets" / name}
        return str(paths.get(kind, release_folder))

    return {name: env_values.fill_placeholders(value, find_path) for name, value in lock.env.items()}


def make_variables(lock: Lock, prefix: Path) -> dict[str, str]:
    """Return every variable of ``.env.offline``; paths go through ``current``, so an upgrade needs no edit."""
    release = Release(prefix=prefix, name=lock.release_name)
    return make_library_variables(release.live_path) | make_manifest_variables(lock, release.live_path)


def render_env_file(lock: Lock, prefix: Path) -> str:
    """Return the text of ``.env.offline``."""
    lines = [env_values.format_line(name, value) for name, value in make_variables(lock, prefix).items()]
    return render_template("env.offline.j2", lock=lock, lines=lines)


def write_env_file(release: Release, lock: Lock, reporter: Reporter) -> None:
    """Write ``.env.offline`` into the release."""
    variables = make_variables(lock, release.prefix)
    if quoted := [name for name, value in variables.items() if not env_values.is_plain_value(value)]:
        reporter.warn(
            f"{pluralize(len(quoted), 'value')} of {ENV_FILE} must be quoted because of the prefix's name: sh, dotenv and "
            "systemd read quotes alike, but docker's --env-file keeps them; for docker choose a prefix without spaces or accents"
        )
    disk.write_atomically(release.path / ENV_FILE, render_env_file(lock, release.prefix).encode())
