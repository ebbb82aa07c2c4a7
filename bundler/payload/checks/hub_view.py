"""Whether unmodified code that asks for the model by its repository id finds it offline."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub

from ..network import connection_blocker
from ..results.failures import CheckFailedError, format_list

_HINT = "Install the bundle again; the folder that HF_HUB_CACHE names is made from the placed models at each install."


def check_hub_view(repo_id: str, folder: Path) -> None:
    """The hub's client, offline, answers `repo_id` with exactly the files of `folder`.

    :raises CheckFailed: it does not answer, or with other files
    """
    try:
        with connection_blocker.suspend_blocking():  # what it says of this call is told below
            answer = Path(huggingface_hub.snapshot_download(repo_id, local_files_only=True))
    except (OSError, ValueError) as error:
        raise CheckFailedError(
            f"Code that asks for {repo_id} will not find it offline: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}",
            _HINT,
        ) from error
    here, there = _list_files(folder), _list_files(answer)
    absent = sorted(here.keys() - there.keys())
    extra = sorted(there.keys() - here.keys())
    if absent or extra:
        what = (
            f"lacks {format_list(absent)}" if absent else f"has {format_list(extra)}, which the model's folder has not"
        )
        raise CheckFailedError(f"The hub view of {repo_id} is not this model: it {what}.", _HINT)
    others = sorted(name for name, path in here.items() if not _is_same_file(path, there[name]))
    if others:
        raise CheckFailedError(
            f"The hub view of {repo_id} leads to other files than the model's folder: {format_list(others)}.", _HINT
        )


def _list_files(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by its name within it; links that lead nowhere count too."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
