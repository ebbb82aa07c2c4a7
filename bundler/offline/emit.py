""".env.offline, rendered from templates/."""

from __future__ import annotations

from pathlib import Path

from bundler import template_files
from bundler.bundle import disk, envfile
from bundler.bundle.lock import Lock
from bundler.offline.releases import Release
from bundler.progress import Report, counted

ENV_FILE = ".env.offline"
OLDER_CACHES = ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE")
"""Where transformers 4 looks before HF_HUB_CACHE. None of them is set here: it would warn at each import."""


def library_variables(home: Path, writable: Path) -> dict[str, str]:
    """What makes the libraries stay on this host: the release at ``home``, and a folder they may write to."""
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_CACHE": str(home / "hub"),
        "SENTENCE_TRANSFORMERS_HOME": str(home / "hub"),  # it looks here first
        "HF_HOME": str(writable / "huggingface"),
        "HF_MODULES_CACHE": str(writable / "huggingface" / "modules"),
        "HF_DATASETS_CACHE": str(writable / "huggingface" / "datasets"),
        "TORCH_HOME": str(writable / "torch"),
        "TORCHINDUCTOR_CACHE_DIR": str(writable / "torch" / "inductor"),
        "TRITON_CACHE_DIR": str(writable / "triton"),
        "TIKTOKEN_CACHE_DIR": str(home / "assets" / "tiktoken"),
        "NLTK_DATA": str(home / "assets" / "nltk_data"),
    }


def asked_variables(locked: Lock, home: Path) -> dict[str, str]:
    """The manifest's own variables, with paths into the release that stands at ``home``."""

    def fill(what: str, name: str) -> str:
        return str({"model": home / "models" / name, "asset": home / "assets" / name}.get(what, home))

    return {name: envfile.filled(value, fill) for name, value in locked.env.items()}


def variables(locked: Lock, prefix: Path) -> dict[str, str]:
    """Every variable of ``.env.offline``; paths go through ``current``, so that an upgrade needs no edit."""
    release = Release(prefix=prefix, name=locked.release)
    return library_variables(release.live, release.writable) | asked_variables(locked, release.live)


def env_text(locked: Lock, prefix: Path) -> str:
    """The text of ``.env.offline``."""
    lines = [envfile.line(name, value) for name, value in variables(locked, prefix).items()]
    return rendered("env.offline.j2", lock=locked, lines=lines)


def write(release: Release, locked: Lock, report: Report) -> None:
    """Write it into the release."""
    if odd := [name for name, value in variables(locked, release.prefix).items() if not envfile.same_everywhere(value)]:
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
