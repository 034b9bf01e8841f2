"""The memory that a piece of work needs at its peak."""

import threading
from collections.abc import Callable


def grown(work: Callable[[], None], every: float = 0.02) -> float:
    """MiB that this process has at its peak, while `work` goes on, beyond what it had before; looked at `every` so many
    seconds."""
    import psutil

    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(every):
            peak = max(peak, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        work()
    finally:
        done.set()
        watching.join()
    return (peak - before) / 2**20
