"""Locks between processes, which say who holds them."""

import datetime
import os
import platform
import shlex
import sys
from pathlib import Path

from filelock import FileLock, Timeout


def acquire(lock: FileLock, what: str, seconds: float = -1) -> None:
    """Hold a lock; while another process holds it, print `what` and who that is, and wait.

    Raises RuntimeError with the same words after so many seconds (-1: never).
    """
    owner = Path(lock.lock_file).with_suffix(".owner")
    try:
        lock.acquire(timeout=2)  # who has just been ended may hold it for a moment yet
    except Timeout:
        try:
            said = f"{what} ({owner.read_text(encoding='utf-8')})"
        except OSError:
            said = what
        print(f"waiting: {said}", flush=True)
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            raise RuntimeError(said) from None
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
    owner.write_text(f"process {os.getpid()} on {platform.node()} since {since}: {command}", encoding="utf-8")
