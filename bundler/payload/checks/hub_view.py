"""Check that unmodified code finds the model offline by its repository id."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub

from ..network import connection_blocker
from ..results.failures import CheckFailedError, format_list

_HINT = "Install the bundle again: each install makes the folder that HF_HUB_CACHE names from the installed models."


def check_hub_view(repo_id: str, folder: Path) -> None:
    """Check that the hub's client, offline, returns exactly the files of `folder` for `repo_id`.

    Raises:
        CheckFailedError: The client finds nothing, or other files.
    """
    try:
        with connection_blocker.suspend_blocking():  # the error below reports it
            view = Path(huggingface_hub.snapshot_download(repo_id, local_files_only=True))
    except (OSError, ValueError) as error:
        raise CheckFailedError(
            f"Code that asks for {repo_id} will not find it offline: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}",
            _HINT,
        ) from error
    model_files, view_files = _list_files(folder), _list_files(view)
    missing = sorted(model_files.keys() - view_files.keys())
    extra = sorted(view_files.keys() - model_files.keys())
    if missing or extra:
        difference = f"lacks {format_list(missing)}" if missing else f"also has {format_list(extra)}"
        raise CheckFailedError(f"The hub view of {repo_id} is not this model: it {difference}.", _HINT)
    different = sorted(name for name, path in model_files.items() if not _is_same_file(path, view_files[name]))
    if different:
        raise CheckFailedError(
            f"The hub view of {repo_id} has other files than the model's folder: {format_list(different)}.", _HINT
        )


def _list_files(folder: Path) -> dict[str, Path]:
    """List every file in `folder` by its relative name, broken links too."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}


def _is_same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False
