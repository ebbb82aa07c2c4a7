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
from .results.failures import CheckFailedError, explain_error
from .results.load_result import LoadResult

EXIT_DONE, EXIT_USAGE, EXIT_FAILED = 0, 2, 3


def main(arguments: Sequence[str]) -> int:
    """Runs the load that the first argument, a file, asks for, and writes the result to the second."""
    try:
        request_path, result_path = (Path(argument) for argument in arguments)
        request = requests.read_request(request_path)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"usage: python -I PAYLOAD REQUEST.json RESULT.json\n{error}\n")
        return EXIT_USAGE
    result = run_load(request)
    result.write(result_path)
    return EXIT_DONE if result.ok else EXIT_FAILED


def run_load(
    request: requests.Request, cut_network: Callable[[], netcut.NetworkState] = netcut.cut_network
) -> LoadResult:
    """The network is cut before anything else: no library has been imported yet and there is one thread."""
    result = LoadResult(alias=request.alias, loader=request.loader, phases=request.phases)
    try:
        with connection_blocker.suspend_blocking():
            result.network = cut_network()
        if request.variables:
            guard_check.check_guard(request.variables, result)
        prove_model(request, result)
    except Exception as error:  # noqa: BLE001 - the process boundary: whatever a library throws must become a result
        fault = explain_error(error)
        result.fault, result.hint = fault.sentence, fault.hint
        if (call := connection_blocker.find_blocked_request(error)) is not None:
            result.missed = asdict(call)
        if not isinstance(error, CheckFailedError):
            result.traceback = "".join(traceback.format_exception(error))
    result.peak_rss_bytes = result.peak_rss_bytes or measurement.read_peak_memory()
    return result


def prove_model(request: requests.Request, result: LoadResult) -> None:
    """Finds the probe and lets it work.

    :raises CheckFailed: the model does not keep a promise; errors of libraries pass
    """
    result.enter("import")
    result.versions = measurement.read_versions()
    probe, result.import_seconds = measurement.measure_time(lambda: probes.load_probe(request.loader))
    result.enter("files")
    probe.prove(request, result)
    if result.network and result.network["attempts"]:
        result.warn(f"The load tried to reach {', '.join(result.network['attempts'])}; the cut network kept it in.")
    result.ok = True
