"""The memory that a piece of work needs at its peak."""

import threading
from collections.abc import Callable


def grown(work: Callable[[], None]) -> float:
    """MiB that this process has at its peak, while `work` goes on, beyond what it had before."""
    import psutil

    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        work()
    finally:
        done.set()
        watching.join()
    return (peak - before) / 2**20
