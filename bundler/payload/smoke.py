"""One smoke load: read the request, cut the network, run the probe, write the result."""

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
    """Run the load that the request file (first argument) describes, and write the result to the second.

    Returns:
        The exit code.
    """
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
    """Cut the network, then load and check the model.

    The network is cut first: cutting it needs a process with one thread, and no library is imported yet.
    """
    result = LoadResult(alias=request.alias, loader=request.loader, phases=request.phases)
    try:
        with connection_blocker.suspend_blocking():
            result.network = cut_network()
        if request.variables:
            guard_check.check_guard(request.variables, result)
        prove_model(request, result)
    except Exception as error:  # noqa: BLE001 - the process boundary: each error of a library must become a result
        explanation = explain_error(error)
        result.fault, result.hint = explanation.sentence, explanation.hint
        if (blocked_request := connection_blocker.find_blocked_request(error)) is not None:
            result.missed = asdict(blocked_request)
        if not isinstance(error, CheckFailedError):
            result.traceback = "".join(traceback.format_exception(error))
    result.peak_rss_bytes = result.peak_rss_bytes or measurement.read_peak_memory()
    return result


def prove_model(request: requests.Request, result: LoadResult) -> None:
    """Import the probe of the request's loader and run it.

    Raises:
        CheckFailedError: The model fails a check. Errors of libraries propagate.
    """
    result.enter("import")
    result.versions = measurement.read_versions()
    probe, result.import_seconds = measurement.measure_time(lambda: probes.load_probe(request.loader))
    result.enter("files")
    probe.prove(request, result)
    if result.network and result.network["attempts"]:
        result.warn(f"The load tried to reach {', '.join(result.network['attempts'])}; the cut network stopped it.")
    result.ok = True
