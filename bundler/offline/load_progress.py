"""How far a smoke load is, as seen from outside of its process."""

from __future__ import annotations

from pathlib import Path

from bundler.progress import Stage, read_last_line

READING = ("weights", "first inference")
"""The phases of a load in which a model is read, as the payload calls them: what is mapped is read when it is used."""

_PROC = Path("/proc")
_FEWEST = 1 << 20


class LoadProgress:
    """Shows in a stage what a load does now; to be called with the id of its process.

    ``phases`` is the file that the load adds a line to as it goes on.
    """

    def __init__(self, stage: Stage, phases: Path) -> None:
        self._stage, self._phases = stage, phases
        self._base: int | None = None
        self._most = 0

    def __call__(self, pid: int) -> None:
        phase = read_last_line(self._phases)
        if phase not in READING:
            self._stage.set_phase(phase)
            return
        read = bytes_read(pid)
        if read is not None:
            self._base = read if self._base is None else self._base  # libraries were read before
            self._most = max(self._most, read - self._base)  # files that are no longer mapped leave the count
        self._stage.set_phase(phase, self._most if self._most >= _FEWEST else 0)


def bytes_read(pid: int) -> int | None:
    """Bytes of files that a process has read, or mapped into its memory and touched; None where Linux does not say.

    Libraries map weights, which read(2) never sees: proc(5) has the one in ``io`` and the other in ``status``.
    """
    try:
        by_call = _number((_PROC / str(pid) / "io").read_text(encoding="ascii"), "rchar:")
        mapped = _number((_PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace"), "RssFile:")
    except OSError:  # another system, or the process has just ended
        return None
    return None if by_call is None or mapped is None else by_call + 1024 * mapped


def _number(text: str, name: str) -> int | None:
    line = next((line for line in text.splitlines() if line.startswith(name)), "")
    return int(line.split()[1]) if line else None
