""".env.offline, rendered from templates/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bundler import template_files
from bundler.format import disk
from bundler.format.lock import env_values
from bundler.format.lock.lockfile import Lock
from bundler.offline.prefix.releases import Release
from bundler.progress import Report, counted

ENV_FILE = ".env.offline"
OLDER_CACHES = ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE")
"""Where transformers 4 looks before HF_HUB_CACHE. None of them is set here: it would warn at each import."""


CACHES: Mapping[str, str] = {
    "HF_HOME": "huggingface",  # code that models bring along is below it
    "TORCH_HOME": "torch",
    "TORCHINDUCTOR_CACHE_DIR": "torch/inductor",
    "TRITON_CACHE_DIR": "triton",
}
"""Where libraries write, below one folder. None is in ``.env.offline``: which folder that can be is another for each
user, so the guard sets them when Python starts."""


def library_variables(home: Path) -> dict[str, str]:
    """What makes the libraries stay on this host, and find what the release at ``home`` carries."""
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_VERBOSITY": "error",  # it warns at each load by id that it is offline, as it is meant to be
        "HF_HUB_CACHE": str(home / "hub"),
        "SENTENCE_TRANSFORMERS_HOME": str(home / "hub"),  # it looks here first
        "TIKTOKEN_CACHE_DIR": str(home / "assets" / "tiktoken"),
        "NLTK_DATA": str(home / "assets" / "nltk_data"),
    }


def cache_variables(folder: Path) -> dict[str, str]:
    """What makes the libraries write below ``folder``."""
    return {name: str(folder / part) for name, part in CACHES.items()}


def asked_variables(locked: Lock, home: Path) -> dict[str, str]:
    """The manifest's own variables, with paths into the release that stands at ``home``."""

    def fill(what: str, name: str) -> str:
        return str({"model": home / "models" / name, "asset": home / "assets" / name}.get(what, home))

    return {name: env_values.filled(value, fill) for name, value in locked.env.items()}


def variables(locked: Lock, prefix: Path) -> dict[str, str]:
    """Every variable of ``.env.offline``; paths go through ``current``, so that an upgrade needs no edit."""
    release = Release(prefix=prefix, name=locked.release)
    return library_variables(release.live) | asked_variables(locked, release.live)


def env_text(locked: Lock, prefix: Path) -> str:
    """The text of ``.env.offline``."""
    lines = [env_values.line(name, value) for name, value in variables(locked, prefix).items()]
    return rendered("env.offline.j2", lock=locked, lines=lines)


def write(release: Release, locked: Lock, report: Report) -> None:
    """Write it into the release."""
    if odd := [
        name for name, value in variables(locked, release.prefix).items() if not env_values.same_everywhere(value)
    ]:
        report.warn(
            f"{counted(len(odd), 'value')} of {ENV_FILE} can't do without quotes, for the prefix's name: sh, dotenv and systemd "
            "read them alike, but docker's --env-file keeps the quotes; for docker choose a prefix without spaces or accents"
        )
    disk.write_whole(release.path / ENV_FILE, env_text(locked, release.prefix).encode())


def rendered(template: str, **values: object) -> str:
    """A template of this program's own; nothing that a bundle carries is ever rendered."""
    import jinja2  # noqa: PLC0415 (a fourth of the program's start, and most verbs render nothing)

    room = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (not HTML; the lock's checks keep values to what may stand here)
    )
    return room.from_string(template_files.read(template)).render(**values)
