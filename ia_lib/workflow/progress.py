"""How far a table's jobs are, in one line."""

import contextlib
import json
import os
import shutil
import sys
import time

from ia_lib.workflow.stages import Stage


class Watch:
    """One line that says how far a table's jobs are and about how much time is left."""

    def __init__(self, stages: list[Stage]):
        self.todo = stages
        self.begin = time.monotonic()
        self.told: dict[str, str] = {}
        self.next_line = 0.0
        # stage -> its share when it was first seen, and when and at which share it first went on from there
        self.seen: dict[str, tuple[float, float, float] | float] = {}
        self.began: dict[str, float] = {}  # stage -> when it was first at work
        # kind of stage -> seconds and cost of those that were finished
        self.speeds: dict[str, list[tuple[float, float]]] = {}

    def look(self) -> None:
        now, running, finished, shares = {}, [], 0, {}
        elapsed = time.monotonic() - self.begin
        for stage in self.todo:
            share = shares[str(stage)] = self._share(stage)
            finished += share == 1
            if share < 1 and stage.notebook("running").is_file():
                running.append(f"{stage} {share:.0%}{self._waiting(stage)}")
                self.began.setdefault(str(stage), elapsed)
            self._watch(stage, share, elapsed)
            now[str(stage)] = "finished" if share == 1 else "failed" if self._failed(stage) else "not finished"
        for name, state in now.items():
            if state != self.told.get(name, "not finished"):
                self._print(f"{self._clock()}  {name} {state}", ends=True)
                if state == "finished":
                    self._warn(name)
        self.told = now
        left = self._left(shares, elapsed) if finished < len(self.todo) else "the report is being written"
        line = f"{self._clock()}  {finished}/{len(self.todo)} stages  {', '.join(running)}  {left}".rstrip()
        if sys.stdout.isatty():
            self._print(line, ends=False)
        elif elapsed >= self.next_line:
            self.next_line = elapsed + 20
            self._print(line, ends=True)

    def _watch(self, stage: Stage, share: float, elapsed: float) -> None:
        """Learn how fast a stage is."""
        name = str(stage)
        known = self.seen.setdefault(name, share)
        if isinstance(known, float) and share > known and share < 1:
            # what came before was done by an earlier try, or is the time that a process takes to begin
            self.seen[name] = known, elapsed, share
        if share == 1 and name in self.began:
            from_start = known if isinstance(known, float) else known[0]
            took = (elapsed - self.began.pop(name)) / max(0.01, 1 - from_start)
            self.speeds.setdefault(stage.name, []).append((took, stage.cost()))

    def _left(self, shares: dict[str, float], elapsed: float) -> str:
        """About how much time is left, as far as the stages so far tell; at least that much, while the larger part of
        what is to be done is of a kind that none of them was."""
        known, unknown, running = {}, {}, {}
        for stage in self.todo:
            match self.seen.get(str(stage)):
                case (_, when, then) if then < shares[str(stage)] < 1 and elapsed > when:
                    running[str(stage)] = (1 - shares[str(stage)]) * (elapsed - when) / (shares[str(stage)] - then)
                    took = running[str(stage)] / (1 - shares[str(stage)])
                    self.speeds.setdefault(f"{stage.name}, at work", []).append((took, stage.cost()))
        for stage in self.todo:
            name, share = str(stage), shares[str(stage)]
            speeds = self.speeds.get(stage.name) or self.speeds.get(f"{stage.name}, at work", [])[-5:]
            if name in running:
                known[name] = running[name]
            elif speeds and share < 1:
                known[name] = (1 - share) * stage.cost() * _mean(speeds)
            else:
                unknown[name] = (1 - share) * stage.cost()
        every = [speed for speeds in self.speeds.values() for speed in speeds[-5:]]
        if not known and not every:
            return ""
        guessed = {name: cost * _mean(every) if every else 0.0 for name, cost in unknown.items()}
        seconds = self._in_turn(known | guessed)
        said = "at least" if sum(guessed.values()) > sum(known.values()) else "about"
        return f"{said} {_minutes(seconds)} left"

    def _in_turn(self, left: dict[str, float]) -> float:
        """Seconds for all stages, each of which takes what is `left` of it and waits for those that it needs; the cores
        take one after the other as it can begin."""
        ends: dict[str, float] = {}
        free = [0.0] * min(os.cpu_count() or 1, max(1, sum(seconds > 0 for seconds in left.values())))
        waiting = {str(stage): [str(one) for one in stage.needs if str(one) in left] for stage in self.todo}
        while waiting:
            begins = {name: max((ends[one] for one in needs), default=0.0) for name, needs in waiting.items()
                      if ends.keys() >= {*needs}}  # fmt: skip
            # of those that can begin first the one that most hangs on
            name = min(begins, key=lambda name: (begins[name], -left[name]))
            del waiting[name]
            core = min(range(len(free)), key=free.__getitem__)
            ends[name] = begins[name] + left[name]
            if left[name]:
                ends[name] = free[core] = max(begins[name], free[core]) + left[name]
        return max(ends.values(), default=0.0)

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


def _mean(speeds: list[tuple[float, float]]) -> float:
    """Seconds for a cost of one; what costs little says little of what costs much."""
    return sum(seconds for seconds, _ in speeds) / sum(cost for _, cost in speeds)


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min" if seconds > 45 else f"{max(5, round(seconds / 5) * 5)} s"
