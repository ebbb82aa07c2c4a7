"""The route of one smoke load: request → network cut → probe → result."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from . import probes
from .checks import guard_check
from .load import measurement
from .load import request as requests
from .network import connection_blocker, netcut
from .results.failures import CheckFailed, explain
from .results.load_result import Record

DONE, USAGE, FAILED = 0, 2, 3


def main(arguments: Sequence[str]) -> int:
    """Runs the load that the first argument, a file, asks for, and writes the result to the second."""
    try:
        asked, answer = (Path(argument) for argument in arguments)
        wanted = requests.read(asked)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"usage: python -I PAYLOAD REQUEST.json RESULT.json\n{error}\n")
        return USAGE
    record = run(wanted)
    record.write(answer)
    return DONE if record.ok else FAILED


def run(wanted: requests.Request, cut: Callable[[], netcut.Network] = netcut.cut) -> Record:
    """The network is cut before anything else: no library has been imported yet and there is one thread."""
    record = Record(alias=wanted.alias, loader=wanted.loader, phases=wanted.phases)
    try:
        with connection_blocker.suspended():
            record.network = cut()
        if wanted.variables:
            guard_check.prove(wanted.variables, record)
        prove(wanted, record)
    except Exception as error:  # noqa: BLE001 - the process boundary: whatever a library throws must become a result
        fault = explain(error)
        record.fault, record.hint = fault.sentence, fault.hint
        if (call := connection_blocker.behind(error)) is not None:
            record.missed = asdict(call)
        if not isinstance(error, CheckFailed):
            record.traceback = "".join(traceback.format_exception(error))
    record.peak_rss_bytes = record.peak_rss_bytes or measurement.peak_rss_bytes()
    return record


def prove(wanted: requests.Request, record: Record) -> None:
    """Finds the probe and lets it work.

    :raises CheckFailed: the model does not keep a promise; errors of libraries pass
    """
    record.enter("import")
    record.versions = measurement.versions()
    probe, record.import_seconds = measurement.timed(lambda: probes.named(wanted.loader))
    record.enter("files")
    probe.prove(wanted, record)
    if record.network and record.network["attempts"]:
        record.warn(f"The load tried to reach {', '.join(record.network['attempts'])}; the cut network kept it in.")
    record.ok = True
