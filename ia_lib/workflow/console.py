"""What the command line prints: how far the jobs are, the plan, the results."""

import contextlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from ia_lib.data.files import own_csv
from ia_lib.workflow import inputs
from ia_lib.workflow.cost import GPUS, assumptions, estimate
from ia_lib.workflow.stages import Stage

if TYPE_CHECKING:
    from ia_lib.workflow.graph import Table


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
                running.append(f"{stage} {share:.0%}")
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
            return 1.0
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            progress = json.loads((stage.part / "progress.json").read_text())
            return min(0.99, progress["done"] / progress["total"])
        return 0.0

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


def print_plan(table: "Table", runs: list[str] | None) -> None:
    """What is finished, and what each run would take."""
    print(f"{table.path}: {len(table.runs)} runs, outputs in {table.folder}")
    stages = table.stages(runs)
    for stage in [*stages, *([] if runs else [table.report()])]:
        note = "   (its code has changed since; `run --changed` makes it anew)" if stage.code_changed else ""
        print(f"  {stage!s:<36} {stage.status}{note}   {_what(stage)}")
    wanted = table.to_download(runs)
    for what in wanted:
        print(f"  to be downloaded: {what}")
    header = f"{'run':<30}{'examples':>10}{'steps':>8}{'tokens':>9}{'scored':>9}{'memory':>9}"
    print(f"\nestimated:\n  {header}" + "".join(f"{name:>10}" for name in GPUS))
    for run in dict.fromkeys(stage.run.name for stage in stages):
        print("  " + _estimated(table, table.by_name[run]))
    print(f"* more memory than this GPU has; {assumptions()}")


def _estimated(table: "Table", run) -> str:
    data = table.stage(run.name, "data").folder / "report.json"
    report = json.loads(data.read_text(encoding="utf-8")) if run.trains and data.is_file() else None
    tested = Counter(inputs.labelled(run, table.lab(run))["task"]) if run.tests else None
    found = estimate(run, table.origin(run), report, tested)
    texts = "?" if found.texts is None else _short(found.texts)
    memory = "?" if found.memory_gib is None else f"{found.memory_gib:g} GiB"
    line = f"{run.name:<30}{_short(found.examples):>10}{found.steps:>8,}{_short(found.tokens):>9}{texts:>9}{memory:>9}"
    if found.hours is None:
        return line + "  the model's size is unknown"
    # a star: more memory than that GPU has
    stars = {name: "*" if found.memory_gib > gib else " " for name, (_, _, gib) in GPUS.items()}
    return line + "".join(f"{_hours(hours) + stars[name]:>10}" for name, hours in found.hours.items())


def _short(number: int) -> str:
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 0.95 else f"{max(1, round(60 * hours))} min"


def _what(stage: Stage) -> str:
    run = stage.run
    if stage.name == "data":
        return f"objective {run.objective}, replay {run.replay}"
    if stage.name == "tune":
        return (f"{run.steps:,} steps" if run.steps else f"{run.new_epochs:g} epochs of new data") + (
            f" of {run.per_step} rows"
        )
    if stage.name == "evaluate":
        tests = [name for name, _, _ in run.evaluates()] + [test.task for test in run.tests]
        known = run.groups.values() if run.evaluates() else [{test.language for test in run.tests}]
        number = sum(map(len, known))
        where = f" in {number} language{'s' if number != 1 else ''}" if tests else ""
        return f"{', '.join(dict.fromkeys(tests)) or 'held-out sentences'}{where}"
    return ""


def print_results(table: "Table") -> None:
    import pandas as pd

    path = table.folder / "report" / "results.csv"
    if not path.is_file():
        print("no results yet")
        return
    frame = own_csv(path)
    frame = frame[(frame["language"] == "all") & (frame["prompt"] == "all")]
    print("weighted F1 in percent, averaged over prompts and languages, with 95% interval; * = within chance")
    names = frame.get("dataset", pd.Series("", frame.index)).fillna("").str.cat(frame["task"], sep="/").str.lstrip("/")
    for name, part in frame.groupby(names, sort=False):
        print(f"\n{name}")
        _print_task(part)
    held_out = table.folder / "report" / "heldout.csv"
    if held_out.is_file():
        print("\nheld-out sentences\n" + own_csv(held_out).round(2).to_string(index=False))
    if not table.report(finished_only=True).done:
        print("\nnot up to date: the table, its inputs or its runs have changed since; `run` makes it anew")
    print(f"\nreport: {table.folder / 'report' / 'index.html'}")


def _print_task(frame) -> None:
    """One task's group averages, a line per run, above its baselines."""
    width = max(len(name) for name in frame["run"]) + 2
    groups = list(dict.fromkeys(zip(frame["group"], frame["group_name"], strict=True)))
    print(" " * width + "".join(f"{f'{group} {name}':<26}" for group, name in groups))
    for run, part in frame.groupby("run", sort=False):
        by_group = {line.group: line for line in part.itertuples()}
        cells = [_cell(by_group.get(group)) for group, _ in groups]
        print(f"{run:<{width}}" + "".join(f"{cell:<26}" for cell in cells))
    for name in ("chance", "majority"):
        cells = [f"{frame[frame['group'] == group][name].mean():5.1f}" for group, _ in groups]
        print(f"{name:<{width}}" + "".join(f"{cell:<26}" for cell in cells))


def _cell(line) -> str:
    if line is None:
        return ""
    return f"{line.weighted_f1:5.1f} [{line.low:.1f}, {line.high:.1f}]{'*' if line.within_chance else ''}"


def print_run(table: "Table", name: str) -> None:
    run = table.run(name)
    print(json.dumps(run.model_dump(mode="json"), indent=1))
    for stage in table.stages([run.name]):
        if stage.run.name == run.name:
            manifest = stage.manifest or {}
            facts = ", ".join(
                f"{k} {manifest[k]}" for k in ("end", "seconds", "peak_memory_mb", "device") if k in manifest
            )
            print(f"{stage.name}: {stage.status} {stage.folder} {facts}")
