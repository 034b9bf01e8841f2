"""GPUs for jobs: each has as many of its own as it asks for, and waits until they are free."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

# By this variable a process is told which GPUs it has, by number or by a name of its own.
_VISIBLE = "CUDA_VISIBLE_DEVICES"
# Set where a cluster has given the job its GPUs, and no other job those.
GIVEN = "IA_GPUS_GIVEN"


def known() -> list[str]:
    """The GPUs that this process may use; asks NVIDIA's own tool where it is not told."""
    if _VISIBLE in os.environ:
        # by a negative number all are hidden
        return [one.strip() for one in os.environ[_VISIBLE].split(",") if one.strip() and one.strip()[0] != "-"]
    try:
        said = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in said.stdout.splitlines()))]


@cache
def without_bfloat16() -> str:
    """The name of a GPU here that has no bfloat16 of its own (a T4, a V100 and older ones: compute capability below 8);
    nothing if all have it, or that cannot be told."""
    if not (here := known()):
        return ""
    asked = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader", f"--id={','.join(here)}"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False).stdout
        for line in said.splitlines():
            name, _, number = line.rpartition(", ")
            if number.split(".")[0].isdecimal() and int(number.split(".")[0]) < 8:
                return name
    return ""


@contextlib.contextmanager
def held(count: int) -> Iterator[dict[str, str]]:
    """Have `count` GPUs to oneself, all there are if they are fewer; yields what a process that may use no others needs
    in its environment. Jobs of one user wait for each other; a process that ends, however, leaves its GPUs free. A job
    that a cluster has given GPUs keeps those."""
    devices = [] if GIVEN in os.environ else known()
    locks = {one: FileLock(_folder() / f"{one.replace('/', '_')}.lock") for one in devices}
    taken: list[str] = []
    try:
        while len(taken) < min(count, len(devices)):
            for one in devices:
                if one not in taken and len(taken) < count:
                    with contextlib.suppress(Timeout):
                        locks[one].acquire(timeout=0)
                        taken.append(one)
            if len(taken) < min(count, len(devices)):
                # who waits holds nothing that another one waits for
                for one in taken:
                    locks[one].release()
                taken.clear()
                time.sleep(1)
        yield {_VISIBLE: ",".join(taken)} if taken else {}
    finally:
        for one in taken:
            locks[one].release()


def _folder() -> Path:
    # in an allocation of Slurm's GPUs are counted from 0, and another one on the same machine has others
    job = f"-{os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
    # by number: a container's user may have no name
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"ia-gpus-{user}{job}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
