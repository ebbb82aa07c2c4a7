""".env.offline, rendered from templates/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bundler import template_files
from bundler.format import disk
from bundler.format.lock import env_values
from bundler.format.lock.lockfile import Lock
from bundler.offline.prefix.releases import Release
from bundler.payload.network.asset_libraries import LIBRARIES
from bundler.progress import Reporter, pluralize

ENV_FILE = ".env.offline"
LEGACY_CACHE_VARIABLES = ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE")
"""Where transformers 4 looks before HF_HUB_CACHE. None of them is set here: it would warn at each import."""


CACHES: Mapping[str, str] = {
    "HF_HOME": "huggingface",  # code that models bring along is below it
    "TORCH_HOME": "torch",
    "TORCHINDUCTOR_CACHE_DIR": "torch/inductor",
    "TRITON_CACHE_DIR": "triton",
}
"""Where libraries write, below one folder. None is in ``.env.offline``: which folder that can be is another for each
user, so the guard sets them when Python starts."""


def make_library_variables(release_folder: Path) -> dict[str, str]:
    """What makes the libraries stay on this host, and find what the release at ``home`` carries."""
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_VERBOSITY": "error",  # it warns at each load by id that it is offline, as it is meant to be
        "HF_HUB_CACHE": str(release_folder / "hub"),
        "SENTENCE_TRANSFORMERS_HOME": str(release_folder / "hub"),  # it looks here first
        **{library.variable: str(release_folder / "assets" / library.folder) for library in LIBRARIES.values()},
    }


def cache_variables(folder: Path) -> dict[str, str]:
    """What makes the libraries write below ``folder``."""
    return {name: str(folder / part) for name, part in CACHES.items()}


def make_manifest_variables(lock: Lock, release_folder: Path) -> dict[str, str]:
    """The manifest's own variables, with paths into the release that stands at ``home``."""

    def fill(what: str, name: str) -> str:
        return str(
            {"model": release_folder / "models" / name, "asset": release_folder / "assets" / name}.get(
                what, release_folder
            )
        )

    return {name: env_values.fill_placeholders(value, fill) for name, value in lock.env.items()}


def make_variables(lock: Lock, prefix: Path) -> dict[str, str]:
    """Every variable of ``.env.offline``; paths go through ``current``, so that an upgrade needs no edit."""
    release = Release(prefix=prefix, name=lock.release_name)
    return make_library_variables(release.live_path) | make_manifest_variables(lock, release.live_path)


def render_env_file(lock: Lock, prefix: Path) -> str:
    """The text of ``.env.offline``."""
    lines = [env_values.format_line(name, value) for name, value in make_variables(lock, prefix).items()]
    return render_template("env.offline.j2", lock=lock, lines=lines)


def write_env_file(release: Release, lock: Lock, reporter: Reporter) -> None:
    """Write it into the release."""
    if odd := [
        name for name, value in make_variables(lock, release.prefix).items() if not env_values.is_plain_value(value)
    ]:
        reporter.warn(
            f"{pluralize(len(odd), 'value')} of {ENV_FILE} can't do without quotes, for the prefix's name: sh, dotenv and systemd "
            "read them alike, but docker's --env-file keeps the quotes; for docker choose a prefix without spaces or accents"
        )
    disk.write_atomically(release.path / ENV_FILE, render_env_file(lock, release.prefix).encode())


def render_template(template: str, **values: object) -> str:
    """A template of this program's own; nothing that a bundle carries is ever rendered."""
    import jinja2  # noqa: PLC0415 (a fourth of the program's start, and most verbs render nothing)

    room = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (not HTML; the lock's checks keep values to what may stand here)
    )
    return room.from_string(template_files.read(template)).render(**values)
