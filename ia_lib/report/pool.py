"""Work on many runs in several processes."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread

from threadpoolctl import threadpool_limits

MANY = 12  # runs, from which on processes are worth their start


@contextmanager
def processes(runs: int) -> Iterator[Executor]:
    """Processes for the work on so many runs; for few, none but this one."""
    count = min(os.cpu_count() or 1, 8)
    if runs < MANY or count < 2:
        yield _Here()
    else:
        with ProcessPoolExecutor(count, get_context("spawn"), _begin) as pool:
            yield pool


def _begin() -> None:
    """Ends a process with its parent, for whose work it would wait for ever if that is killed, and has it keep one
    core busy: several processes, each with threads for all cores, get in each other's way."""
    threadpool_limits(1)

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


class _Here(Executor):
    """Does its work in this process."""

    def map(self, *arguments):
        return map(*arguments)

    def submit(self, *work) -> Future:
        done: Future = Future()
        done.set_result(work[0](*work[1:]))
        return done
