"""How a process of the kit ends: by a signal in one sentence, and with the process that started it.

Nothing heavy is imported here: the command reads this module before all others.
"""

import os
import signal
import sys
import threading
import time

# The process with which those that it starts end; each names itself to its own.
PARENT = "IA_PARENT"
GOES_ON = "the same command goes on from here"
_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end; its number is the error's first argument."""

    @property
    def code(self) -> int:
        """The exit code that tells of the signal."""
        return 128 + (self.args[0] if self.args else signal.SIGINT)


def at_once() -> None:
    """From now on a signal ends the process at once with one sentence: nothing is at work yet that could be kept."""
    for number in _NUMBERS:
        signal.signal(number, _leave)


def in_order() -> None:
    """From now on the first signal raises Stopped where the process is, and a second one ends it at once."""
    for number in _NUMBERS:
        signal.signal(number, _raise)


def with_parent() -> None:
    """End this process within a second of the one that is named in `IA_PARENT`, however that ended; if none is named,
    do nothing."""
    import psutil

    if PARENT not in os.environ:
        return
    try:
        parent = psutil.Process(int(os.environ[PARENT]))
    except psutil.NoSuchProcess:
        os._exit(1)
    if sys.platform == "linux" and os.getppid() == parent.pid:
        import ctypes

        # PR_SET_PDEATHSIG: the system does it, also while this process is stopped or busy outside Python
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent) -> None:
    import psutil

    try:
        # it knows the process by its number and the time at which it was started
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
    except psutil.NoSuchProcess:
        pass
    os._exit(1)


def _leave(number: int, _) -> None:
    os.write(2, f"stopped; {GOES_ON}\n".encode())
    os._exit(128 + number)


def _raise(number: int, _) -> None:
    begun = time.monotonic()

    def again(number: int, frame) -> None:
        # one signal may come twice: to all processes, and from the one above
        if time.monotonic() > begun + 2:
            _leave(number, frame)

    for each in _NUMBERS:
        signal.signal(each, again)
    raise Stopped(number)
