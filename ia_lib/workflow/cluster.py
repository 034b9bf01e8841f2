"""What a stage's job asks a cluster for: GPUs, memory, time and a partition, from its row and the estimate.

A stage that trains, scores or judges with a model of its own asks for GPUs; one that prepares data or writes the report
does not. A time limit need not be long enough for the whole stage: what is cut off goes on from its checkpoint.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil
from typing import Any, Self

from ia_lib.data.yaml_files import meant, told
from ia_lib.workflow.cost import GPUS as PLANNED
from ia_lib.workflow.cost import OTHER_GPUS, memory, operations, scoring
from ia_lib.workflow.settings import SettingsError
from ia_lib.workflow.stages import NOTEBOOKS, Stage

GPUS = PLANNED | OTHER_GPUS
CPU = "cpu"  # hardware without a GPU
_SAFETY = 2  # the share of its peak that a GPU reaches is assumed
_LEAST_MINUTES = 60  # to start, to load, to write; and what is not estimated
_LEAST_MB = 8000  # Python with its libraries, texts and tables
_UNKNOWN_MB = 64000  # of a model whose size cannot be told
_ANSWER = 2.0  # seconds for a judge's mark
_FLOAT32 = 4  # times as long as in 16 bits
_CORE = 2e10  # operations a second that one core does, of a larger model


@dataclass(frozen=True)
class Cluster:
    """What a user says of a cluster, in the profile's `config`."""

    # the GPU that times are reckoned for, a name of `GPUS`, or `cpu`; default: the slowest
    hardware: str = min(GPUS, key=lambda name: GPUS[name][0] * GPUS[name][1])
    longest: int = 1440  # minutes that no job may ask more than
    gpu_partition: str = ""
    cpu_partition: str = ""
    gpu_model: str = ""  # as the cluster calls it
    here: str = ""  # stages, with commas between, that no job is submitted for: they run where Snakemake does

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """What stands in Snakemake's config, which has more. Raises SettingsError for a value that is not allowed."""
        found = {field.name: config[field.name] for field in fields(cls) if config.get(field.name) not in (None, "")}
        known = [*GPUS, CPU]
        if (name := str(found.get("hardware", CPU))) not in known:
            raise SettingsError(
                f"config, hardware: found {told(name)}; {meant(name, known)}allowed: {', '.join(known)}"
            )
        longest = str(found.get("longest", 1))
        if not longest.isdecimal() or int(longest) < 1:
            raise SettingsError(f"config, longest: found {told(longest)}; allowed: minutes, a whole number from 1")
        for name in map(str.strip, str(found["here"]).split(",") if "here" in found else ()):
            if name not in NOTEBOOKS:
                allowed = f"stages with commas between ({', '.join(NOTEBOOKS)})"
                raise SettingsError(f"config, here: found {told(name)}; allowed: {allowed}")
        # YAML and the command line read a name of digits as a number
        return cls(**{name: int(value) if name == "longest" else str(value) for name, value in found.items()})

    def gpus(self, stage: Stage) -> int:
        """How many GPUs a stage computes on: one, or one for each process that trains."""
        if self.hardware == CPU:
            return 0
        if stage.name == "judge":
            return int(any(judge.model for judge in stage.run.judge.judges.values()))
        return {"tune": stage.run.train.processes, "evaluate": 1}.get(stage.name, 0) if stage.run else 0

    def memory_mb(self, stage: Stage) -> int:
        """Megabytes of a node's own memory. What a GPU holds in training, but for what a batch leaves behind, passes
        through it on the way from and to the disk."""
        if stage.name in ("data", "report"):
            return _LEAST_MB
        run, origin = stage.run, stage.inputs.origin
        if stage.name == "tune":
            parts = memory(run, origin, _counted(stage)) or {}
            kept = ("weights", "gradients", "optimiser") if self.gpus(stage) else parts
            held = run.train.processes * sum(parts[part] for part in kept if parts)
        elif stage.name == "evaluate":
            held = scoring(run, origin)
        else:
            models = [judge.model.name for judge in run.judge.judges.values() if judge.model]
            if not models:
                return _LEAST_MB
            held = max(scoring(run, name) for name in models)
        return _LEAST_MB + ceil(1.2 * held / 1e6) if held else _UNKNOWN_MB

    def minutes(self, stage: Stage, attempt: int = 1) -> int:
        """The time limit of a job, longer at every `attempt` (from 1)."""
        seconds = self._seconds(stage)
        if seconds is None:
            return self.longest
        return min(self.longest, attempt * max(_LEAST_MINUTES, ceil(_SAFETY * seconds / 60)))

    def partition(self, stage: Stage) -> str:
        """The partition of a stage's job; empty where the profile's own counts."""
        return self.gpu_partition if self.gpus(stage) else self.cpu_partition

    def _seconds(self, stage: Stage) -> float | None:
        """Estimated seconds; None where nothing can be told."""
        if stage.name in ("data", "report"):
            return 0
        if stage.name == "judge":
            asked = [judge for judge in stage.run.judge.judges.values() if judge.model or judge.endpoint]
            return _ANSWER * stage.inputs.requested * len(asked)
        run, inputs = stage.run, stage.inputs
        passages = inputs.asked_like_passages if stage.name == "evaluate" else 0
        work = operations(run, inputs.origin, _counted(stage), passages=passages)[stage.name]
        if not work:
            return None
        together = run.train.processes if stage.name == "tune" else 1
        if self.hardware == CPU:
            return work / (_CORE * run.threads * together)
        peak, share, _ = GPUS[self.hardware]
        precision = run.train.precision if stage.name == "tune" else run.evaluate.score_precision
        return work / (peak * 1e12 * share) / together * (_FLOAT32 if precision == "float32" else 1)


def _counted(stage: Stage) -> dict | None:
    """What the data stage beside a stage has counted, if it is finished."""
    path = stage.folder.with_name("data") / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
