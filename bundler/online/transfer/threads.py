"""Parallel work in threads that end soon after a failure or Ctrl-C."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, as_completed
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_GRACE_SECONDS = 1.0
"""Seconds that cancelled threads get to clean up. One that hangs for longer ends with the program."""


def run_parallel(
    function: Callable[[T], R],
    items: Iterable[T],
    max_workers: int,
    stop: threading.Event | None = None,
    cancel: Callable[[], object] = lambda: None,
) -> list[R]:
    """Call ``function`` with each item in up to ``max_workers`` threads; raise what the first call to fail raises.

    The threads are daemons. The interpreter would wait at its exit for those of a ThreadPoolExecutor, even for one
    that waits for a silent server.

    Args:
        function: Called with one item.
        items: The items, all started in this order.
        max_workers: The number of threads.
        stop: Set after a failure and after Ctrl-C; no further item is started then.
        cancel: Called after ``stop`` is set; it may end what the threads wait for.

    Returns:
        The results, in the order of the items.
    """
    stop = stop or threading.Event()
    pending: queue.SimpleQueue[tuple[T, Future[R]]] = queue.SimpleQueue()
    futures: list[Future[R]] = []
    for item in items:
        futures.append(Future())
        pending.put((item, futures[-1]))

    def work() -> None:
        while not stop.is_set():
            try:
                item, future = pending.get_nowait()
            except queue.Empty:
                return
            try:
                future.set_result(function(item))
            except BaseException as error:  # noqa: BLE001 (future.result() raises it again)
                future.set_exception(error)

    threads: list[threading.Thread] = []
    try:
        for number in range(min(max_workers, len(futures))):
            thread = threading.Thread(target=work, name=f"work-{number}", daemon=True)
            thread.start()
            threads.append(thread)
        for future in as_completed(futures):
            future.result()
    except BaseException:  # Ctrl-C too cancels the others; it is raised again
        stop.set()
        cancel()
        deadline = time.monotonic() + _GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        raise
    return [future.result() for future in futures]
