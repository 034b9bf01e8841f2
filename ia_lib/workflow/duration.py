"""How long stages take on this machine, each for itself and all of them side by side.

A stage takes the seconds of its job, those of its operations (`cost.operations`) at a rate that is measured here, and a
little for every instruction that is made, step and prompt, without which small models would be told as far too fast.
"""

import heapq
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from ia_lib.workflow import cost, devices
from ia_lib.workflow.stages import Stage

# Of a job, whatever it does: Python, imports, papermill and its kernel (benchmarks/overhead.py, on two idle cores).
JOB = 10.0
# Beside its operations, on the same cores in params/mini.yaml: of an instruction that is made, a step, a prompt that is
# scored.
ROW, STEP, PROMPT = 1e-4, 5e-3, 5e-4
# What is left of the rate of a matrix product: from models of 0.3 M (params/mini.yaml) and 135 M parameters
# (params/smollm2_alpaca.yaml), one thread each.
SHARE = 0.45
_REPORT, _ANSWER = 1.0, 1.0  # of a run in the report; of an answer that an endpoint marks
_UNKNOWN = 10**9  # parameters of a model whose size cannot be told
# Processor time does not depend on what else the machine does.
_MEASURED = """
import statistics, time, numpy
a, seconds = numpy.ones((512, 512), numpy.float32), []
for _ in range(20):
    begin = time.process_time()
    a @ a
    seconds.append(time.process_time() - begin)
print(2 * 512**3 / max(statistics.median(seconds), 1e-6))
"""


@dataclass(frozen=True)
class Machine:
    """What this machine has: floating-point operations a second of one core or of a GPU, and how many there are."""

    rate: float
    cores: int
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.gpus:
            return f"{len(self.gpus)} x {self.gpus[0]}" if len(self.gpus) > 1 else self.gpus[0]
        cores = f"{self.cores} cores of" if self.cores > 1 else "one core of"
        return f"{cores} {self.rate / 1e9:.0f} billion operations a second"


@cache
def machine(cores: int | None = None) -> Machine:
    """This machine, of which so many `cores` are used (default: all). Its rate is that of the GPU that is here, by its
    name, or is measured: of a float32 matrix product on one core, in a process of its own."""
    most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(cores or most, most)
    if here := devices.known():
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
        for name, (peak, share, _) in (cost.GPUS | cost.OTHER_GPUS).items() if said else ():
            if name in said[0]:
                return Machine(peak * 1e12 * share / SHARE, cores, (said[0].strip(),) * len(here))
    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
    command, env = [sys.executable, "-c", _MEASURED], {**os.environ, **alone}
    return Machine(float(subprocess.run(command, env=env, capture_output=True, check=True).stdout), cores)


def known(stage: Stage) -> bool:
    """Whether the size of what a stage computes with can be told."""
    return stage.name in ("data", "report", "judge") or bool(cost.parameters(stage.inputs.origin))


def width(stage: Stage) -> int:
    """The cores that a stage keeps busy."""
    if not stage.run:
        return 1
    return stage.run.threads * (stage.run.train.processes if stage.name == "tune" else 1)


def seconds(stage: Stage, here: Machine, texts: int | None = None) -> float:
    """About how long a stage takes on a machine on which nothing else is at work. `texts` are those with labels, of the
    user's own."""
    run, inputs = stage.run, stage.inputs
    if stage.name == "report":
        return JOB + _REPORT * len(stage.needs)
    made = inputs.made(run, "data") / "report.json"
    report = json.loads(made.read_text(encoding="utf-8")) if made.is_file() else None
    if stage.name == "data":
        return JOB + ROW * cost.steps(run, report) * run.per_step
    speed = SHARE * here.rate * (1 if here.gpus else min(width(stage), here.cores))
    size = cost.parameters(inputs.origin) or _UNKNOWN
    if stage.name == "judge":
        judges = [judge for judge in run.judge.judges.values() if not judge.rule]
        # with its checks a judge reads about twice as much as was asked
        each = 2 * cost.forward(size, cost.REQUEST) / speed
        return JOB + inputs.requested * sum(_ANSWER if judge.endpoint else each for judge in judges)
    if stage.name == "tune":
        return JOB + STEP * cost.steps(run, report) + cost.operations(run, size, report)["tune"] / speed
    prompts, like = cost.prompts(run, texts) or 0, inputs.asked_like_passages
    computed = cost.operations(run, size, report, prompts, like)["evaluate"]
    return JOB + PROMPT * (prompts + cost.PASSAGE * like) + computed / speed


def words(seconds: float) -> str:
    """A time in words, rounded as much as an estimate can be."""
    if seconds > 60 * 86400:
        days = seconds / 86400
        return f"{days / 30:,.0f} months" if days < 730 else f"{days / 365:,.0f} years"
    if seconds > 5700:
        return f"{seconds / 3600:,.0f} h" if seconds > 36000 else f"{seconds / 3600:.1f} h"
    return f"{max(1, round(seconds / 60))} min" if seconds > 45 else f"{max(5, round(seconds / 5) * 5)} s"


def assumptions() -> str:
    """What `seconds` assumes, to be printed under it."""
    return (
        f"On this machine: {JOB:g} s a stage, the same operations at {SHARE:.0%} of what a matrix product in float32 "
        f"reaches on a job's cores (on a GPU as above), and {1000 * ROW:g} ms an instruction that is made, "
        f"{1000 * STEP:g} ms a step, {1000 * PROMPT:g} ms a prompt; nothing for downloads. Twice as "
        "long is no surprise."
    )


def together(stages: Sequence[Stage], left: Mapping[str, float], here: Machine) -> float:
    """Seconds for all stages, each of which takes what is `left` of it and waits for those that it needs; the cores, or
    GPUs, take one after the other as it can begin."""
    free = [0.0] * (len(here.gpus) or here.cores)
    by_name = {str(stage): stage for stage in stages}
    needs = {name: {str(one) for one in stage.needs} & by_name.keys() for name, stage in by_name.items()}
    others: dict[str, list[str]] = {}
    for name, needed in needs.items():
        for one in needed:
            others.setdefault(one, []).append(name)
    ends = dict.fromkeys(by_name, 0.0)
    # of those that can begin first the one that most depends on
    ready = [(0.0, -left[name], name) for name in by_name if not needs[name]]
    heapq.heapify(ready)
    while ready:
        begin, _, name = heapq.heappop(ready)
        ends[name] = begin
        if left[name]:
            free.sort()
            wide = min(1 if here.gpus else width(by_name[name]), len(free))
            ends[name] = max(begin, free[wide - 1]) + left[name]
            free[:wide] = [ends[name]] * wide
        for other in others.get(name, ()):
            needs[other].discard(name)
            if not needs[other]:
                begins = max(ends[str(one)] for one in by_name[other].needs if str(one) in ends)
                heapq.heappush(ready, (begins, -left[other], other))
    return max(ends.values(), default=0.0)
