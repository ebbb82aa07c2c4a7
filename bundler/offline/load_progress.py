"""Shows the progress of a smoke load, measured from outside its process."""

from __future__ import annotations

from pathlib import Path

from bundler.progress import Stage, read_last_line

READING_PHASES = ("weights", "first inference")
"""The payload's names of the phases that read the model: mapped weights are read when they are first used."""

_PROC = Path("/proc")
_MIN_SHOWN_BYTES = 1 << 20


class LoadProgress:
    """Shows in a stage what a load does now.

    ``phases`` is the file to which the load appends a line for each phase.
    """

    def __init__(self, stage: Stage, phases: Path) -> None:
        self._stage, self._phases = stage, phases
        self._base: int | None = None
        self._max_read = 0

    def __call__(self, pid: int) -> None:
        """Update the stage from the state of the process with this id."""
        phase = read_last_line(self._phases)
        if phase not in READING_PHASES:
            self._stage.set_phase(phase)
            return
        read = get_bytes_read(pid)
        if read is not None:
            self._base = read if self._base is None else self._base  # leaves out the libraries, read before
            self._max_read = max(self._max_read, read - self._base)  # the count drops when files are unmapped
        self._stage.set_phase(phase, self._max_read if self._max_read >= _MIN_SHOWN_BYTES else 0)


def get_bytes_read(pid: int) -> int | None:
    """Return the bytes of files that a process has read, or mapped and touched; None if the system does not tell.

    Libraries map weights instead of calling read(2): proc(5) counts calls in ``io`` and mapped pages in ``status``.
    """
    try:
        by_call = _parse_number((_PROC / str(pid) / "io").read_text(encoding="ascii"), "rchar:")
        mapped = _parse_number((_PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace"), "RssFile:")
    except OSError:  # not Linux, or the process has just ended
        return None
    return None if by_call is None or mapped is None else by_call + 1024 * mapped


def _parse_number(text: str, name: str) -> int | None:
    line = next((line for line in text.splitlines() if line.startswith(name)), "")
    return int(line.split()[1]) if line else None
