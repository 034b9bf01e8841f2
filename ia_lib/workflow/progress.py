"""How far a table's jobs are, in one line."""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Mapping

from ia_lib.workflow import duration
from ia_lib.workflow.stages import Stage

# Seconds of what is expected that weigh as much as what was measured: little says little of much.
_WEIGHT = 20.0
# The share of a stage after which its own pace alone tells how long it takes.
_ENOUGH = 0.1


class Watch:
    """One line that says how far a table's jobs are and about how much time is left."""

    def __init__(self, stages: list[Stage], machine: duration.Machine, report: Stage | None = None):
        """`report` is written once the stages are finished."""
        self.todo, self.machine, self.report = stages, machine, report
        # seconds by the plan
        self.expected = {str(stage): duration.seconds(stage, machine) for stage in stages}
        self.writing = duration.seconds(report, machine) if report else 0.0
        self.begin = time.monotonic()
        self.told: dict[str, str] = {}
        self.next_line = 0.0
        # stage -> its share when it was first seen, and when and at which share it first went on from there
        self.seen: dict[str, tuple[float, float, float] | float] = {}
        self.started: dict[str, float] = {}  # stage -> when its job was first there
        self.began: dict[str, float] = {}  # stage at work -> when it began, with the start of its job
        self.took: dict[str, float] = {}  # finished stage -> seconds for all of it

    def look(self) -> None:
        now, running, finished, shares = {}, [], 0, {}
        elapsed = time.monotonic() - self.begin
        for stage in self.todo:
            share = shares[str(stage)] = self._share(stage)
            finished += share == 1
            if share < 1 and stage.log.is_file():
                self.started.setdefault(str(stage), elapsed)
            if share < 1 and stage.notebook("running").is_file():
                running.append(f"{stage} {share:.0%}{self._waiting(stage)}")
                # before its notebook a job imports what it needs, which the plan counts; longer it waits for a GPU
                start = max(self.started.get(str(stage), elapsed), elapsed - duration.JOB)
                self.began.setdefault(str(stage), start)
            self._watch(stage, share, elapsed)
            now[str(stage)] = "finished" if share == 1 else "failed" if self._failed(stage) else "not finished"
        for name, state in now.items():
            if state != self.told.get(name, "not finished"):
                self._print(f"{self._clock()}  {name} {state}", ends=True)
                if state == "finished":
                    self._warn(name)
        self.told = now
        left = self._left(shares, elapsed) if finished < len(self.todo) else self._writing()
        line = f"{self._clock()}  {finished}/{len(self.todo)} stages  {', '.join(running)}  {left}".rstrip()
        if sys.stdout.isatty():
            self._print(line, ends=False)
        elif elapsed >= self.next_line:
            self.next_line = elapsed + 20
            self._print(line, ends=True)

    def _writing(self) -> str:
        """How far the report is, and at what."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            told = json.loads((self.report.part / "progress.json").read_text(encoding="utf-8"))
            return f"the report is being written: {told['done'] / told['total']:.0%} ({told['waiting']})"
        return "the report is being written"

    def _watch(self, stage: Stage, share: float, elapsed: float) -> None:
        """Learn how fast a stage is."""
        name = str(stage)
        known = self.seen.setdefault(name, share)
        if isinstance(known, float) and share > known and share < 1:
            # what came before was done by an earlier try, or is the time that a process takes to begin
            self.seen[name] = known, elapsed, share
        if share == 1 and name in self.began:
            from_start = known if isinstance(known, float) else known[0]
            self.took[name] = (elapsed - self.began.pop(name)) / max(0.01, 1 - from_start)

    def _left(self, shares: dict[str, float], elapsed: float) -> str:
        """About how much time is left: what the plan says, by how far what was done so far was from it. While no stage
        with a model was measured it says so, and nothing where a model's size is unknown."""
        took = dict(self.took)
        far, own = self._far(took), {}  # own: stage at work -> seconds for all of it by its pace, without its start
        for name, share in shares.items():
            match self.seen.get(name):
                case (known, when, then) if then < share < 1 and elapsed > when:
                    pace, trust = (elapsed - when) / (share - then), min(1.0, (share - then) / _ENOUGH)
                    own[name] = trust * pace + (1 - trust) * self.expected[name] * far[_kind(name)]
                    start = max(0.0, when - self.began.get(name, when) - (then - known) * pace)
                    took[name] = own[name] + trust * start
        far = self._far(took)
        measured = {_kind(name) for name in took}
        unknown = (stage for stage in self.todo if stage.name not in measured and shares[str(stage)] < 1)
        if not all(map(duration.known, unknown)):
            return ""
        left = {}
        for name, share in shares.items():
            whole = own.get(name) or self.expected[name] * far[_kind(name)]
            # of one that has begun and has not got on yet something is left all the same
            spent = elapsed - self.began[name] if name in self.began and name not in own else 0.0
            left[name] = (1 - share) * max(whole - spent, 0.1 * whole) if share < 1 else 0.0
        told = duration.words(duration.together(self.todo, left, self.machine) + self.writing)
        # making data is another kind of work, which tells little of the rest
        seen = measured - {"data"} or (measured and all(_kind(name) == "data" for name in left if left[name]))
        return f"{'' if seen else 'by the plan '}about {told} left"

    def _far(self, took: Mapping[str, float]) -> dict[str, float]:
        """How many times as long as expected each kind of stage takes, by those that are told; of what little was seen
        it is near to what all together take, and that near to the plan."""
        told = {kind: [(took[name], self.expected[name]) for name in took if _kind(name) == kind]
                for kind in {stage.name for stage in self.todo}}  # fmt: skip
        every = _ratio([pair for pairs in told.values() for pair in pairs], 1.0)
        return {kind: _ratio(pairs, every) for kind, pairs in told.items()}

    def _warn(self, name: str) -> None:
        """What the report of a data stage warns of; the mini lab's text is known to be odd."""
        stage = next(stage for stage in self.todo if str(stage) == name)
        if stage.name == "data" and stage.run.corpus != "minilab":
            for line in json.loads((stage.folder / "report.json").read_text(encoding="utf-8"))["warnings"]:
                self._print(f"         warning: {line}", ends=True)

    def close(self) -> None:
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)

    def _share(self, stage: Stage) -> float:
        if self.told.get(str(stage)) == "finished":
            return 1.0
        if stage.done:
            return 1.0 if stage.notebook().is_file() else 0.99
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            progress = json.loads((stage.part / "progress.json").read_text())
            return min(0.99, progress["done"] / progress["total"])
        return 0.0

    def _waiting(self, stage: Stage) -> str:
        """What a stage says that it waits for, in brackets; nothing, if it does not wait."""
        with contextlib.suppress(OSError, ValueError):
            said = json.loads((stage.part / "progress.json").read_text(encoding="utf-8")).get("waiting")
            return f" ({said})" if said else ""
        return ""

    def _failed(self, stage: Stage) -> bool:
        path = stage.notebook("failed")
        return path.is_file() and path.stat().st_mtime > time.time() - (time.monotonic() - self.begin)

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self.begin)
        return f"[{seconds // 60:02d}:{seconds % 60:02d}]"

    def _print(self, line: str, ends: bool) -> None:
        clear = "\r\033[K" if sys.stdout.isatty() else ""
        width = shutil.get_terminal_size().columns - 1
        print(clear + (line if ends else line[:width]), end="\n" if ends else "", flush=True)


def _kind(name: str) -> str:
    return name.rpartition(": ")[2]


def _ratio(pairs: list[tuple[float, float]], otherwise: float) -> float:
    took, expected = (sum(numbers) for numbers in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    return (took + _WEIGHT * otherwise) / (expected + _WEIGHT)
