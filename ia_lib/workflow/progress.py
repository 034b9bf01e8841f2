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
        self.busy = self.last = 0.0  # seconds that jobs were at work, taken together; when that was last counted
        self.before = sum(stage.cost() * self._share(stage) for stage in stages)  # what earlier tries had done

    def look(self) -> None:
        total = done = 0.0
        now, running, finished = {}, [], 0
        for stage in self.todo:
            share = self._share(stage)
            total, done = total + stage.cost(), done + stage.cost() * share
            finished += share == 1
            if share < 1 and stage.notebook("running").is_file():
                running.append(f"{stage} {share:.0%}{self._waiting(stage)}")
            now[str(stage)] = "finished" if share == 1 else "failed" if self._failed(stage) else "not finished"
        for name, state in now.items():
            if state != self.told.get(name, "not finished"):
                self._print(f"{self._clock()}  {name} {state}", ends=True)
                if state == "finished":
                    self._warn(name)
        self.told = now
        elapsed = time.monotonic() - self.begin
        self.busy, self.last = self.busy + len(running) * (elapsed - self.last), elapsed
        left = ""
        if done - self.before > 0.02 * total:
            # at the speed so far of one job, with as many side by side as there are cores
            seconds = (
                (total - done)
                * self.busy
                / (done - self.before)
                / min(os.cpu_count() or 1, len(self.todo) - finished or 1)
            )
            left = f"about {_minutes(seconds)} left" if finished < len(self.todo) else "the report is being written"
        line = f"{self._clock()}  {finished}/{len(self.todo)} stages  {', '.join(running)}  {left}".rstrip()
        if sys.stdout.isatty():
            self._print(line, ends=False)
        elif elapsed >= self.next_line:
            self.next_line = elapsed + 20
            self._print(line, ends=True)

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


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min" if seconds > 45 else f"{max(5, round(seconds / 5) * 5)} s"
