"""Work of several threads, for which nobody has to wait once it is called off."""

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
"""Seconds to put away what a thread holds. One that hangs for longer ends with the program."""


def run_parallel(
    function: Callable[[T], R],
    items: Iterable[T],
    max_workers: int,
    stop: threading.Event | None = None,
    cancel: Callable[[], object] = lambda: None,
) -> list[R]:
    """``act(item)`` for every item, ``at_once`` of them at a time, in order; raises what the first to fail raises.

    A failure, and Ctrl-C, sets ``stop`` and calls ``call_off``, which may end what threads wait for. They are daemons:
    for those of a ThreadPoolExecutor the interpreter would wait at its end, as long as a server that says nothing.
    """
    stop = stop or threading.Event()
    waiting: queue.SimpleQueue[tuple[T, Future[R]]] = queue.SimpleQueue()
    futures: list[Future[R]] = []
    for item in items:
        futures.append(Future())
        waiting.put((item, futures[-1]))

    def work() -> None:
        while not stop.is_set():
            try:
                item, future = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                future.set_result(function(item))
            except BaseException as error:  # noqa: BLE001 (whoever waits for it raises it)
                future.set_exception(error)

    threads: list[threading.Thread] = []
    try:
        for number in range(min(max_workers, len(futures))):
            thread = threading.Thread(target=work, name=f"work-{number}", daemon=True)
            thread.start()
            threads.append(thread)
        for future in as_completed(futures):
            future.result()
    except BaseException:  # Ctrl-C too calls the others off; it is raised again
        stop.set()
        cancel()
        until = time.monotonic() + _GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        raise
    return [future.result() for future in futures]
