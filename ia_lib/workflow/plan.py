"""What the command line prints: the plan, the results, one run."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

from ia_lib.workflow import duration
from ia_lib.workflow.cost import (
    GPUS,
    OTHER_GPUS,
    WITHOUT_BFLOAT16,
    assumptions,
    estimate,
    fitting,
    memory,
    scoring,
    steps_of_epochs,
)
from ia_lib.workflow.settings import BLOCKS, OURS, flat
from ia_lib.workflow.stages import Stage

if TYPE_CHECKING:
    from ia_lib.workflow.graph import Table
    from ia_lib.workflow.settings import Settings

_MANY = 20  # runs, more of which are told by the table's rows
_LOOKED_AT = 200  # texts of a language, to tell how a tokenizer cuts it


def print_plan(
    table: "Table", runs: list[str] | None, price: Mapping[str, float] | None = None, every: bool = False
) -> None:
    """How long the runs take here, what is finished, and what each would take on some GPUs, those of `price` (of an
    hour, by GPU) among them. Of a large table the runs that stand in it as one row (a grid, seeds) are one line, unless
    `every`."""
    gpus = GPUS | {name: values for name, values in OTHER_GPUS.items() if name in (price or {})}
    stages = table.stages(runs)
    names = list(dict.fromkeys(stage.run.name for stage in stages))
    begun = len(names) - len({table.run(name).name for name in runs or names})
    more = f", and {_number(begun, 'run')} that they build on" if begun else ""
    print(f"{table.path}: {_number(len(names) - begun, 'run')}{more}, outputs in {table.folder}")
    lines = {name: _estimated(table, table.by_name[name], gpus) for name in names}
    report = [] if runs else [table.report()]
    states = {str(stage): stage.status for stage in [*stages, *report]}
    print(_here([*stages, *report], states, {name: line.labelled for name, line in lines.items()}))
    groups: dict[str, list[str]] = {}
    for name in names:
        alone = every or len(names) <= _MANY
        groups.setdefault(name if alone else table.by_name[name].place, []).append(name)
    called = {_called([table.by_name[name] for name in some]): some for some in groups.values()}
    width = max(30, *(len(name) + 1 for name in called))
    for name, some in called.items():
        of = [stage for stage in stages if stage.run.name in some]
        for kind in dict.fromkeys(stage.name for stage in of):
            _print_stages(f"{name}: {kind}", [stage for stage in of if stage.name == kind], states, width)
    for stage in report:
        _print_stages(stage.name, [stage], states, width)
    if any(stage.code_changed for stage in [*stages, *report]):
        print("  (code changed: the kit's code has changed since that was made; `run --changed` makes it again)")
    for what, run in table.absent(runs).items():
        print(f"  to be brought here: {what} (for {run.name})")
    for what in table.to_download(runs):
        print(f"  to be downloaded: {what}")
    header = f"{'run':<{width}}{'examples':>10}{'steps':>10}{'tokens':>9}{'scored':>9}{'memory':>11}"
    print(f"\nestimated:\n  {header}" + "".join(f"{name:>12}" for name in gpus))
    for name, some in called.items():
        print(f"  {name:<{width}}{_together([lines[one] for one in some], gpus)}")
    told = [line.hours for line in lines.values() if line.hours is not None]
    sums = {name: sum(hours[name] for hours in told) for name in gpus}
    if told and (len(names) > 1 or price):
        of = f"all {len(names):,} runs" if len(told) == len(names) else f"{len(told):,} of {len(names):,} runs"
        of = _number(1, "run") if len(names) == 1 else of
        of += ", finished stages too" if any(states[str(stage)] == "finished" for stage in stages) else ""
        said = f"{f'{of}, in GPU hours':<{width + 49}}"
        marks = _marks(list(lines.values()), gpus)
        print(f"  {said}" + "".join(f"{_hours(hours) + marks[name]:>12}" for name, hours in sums.items()))
        if price:
            cells = (f"{sums[name] * price[name]:,.2f}{marks[name]}" if name in price else "" for name in gpus)
            print(f"  {'their price':<{width + 49}}" + "".join(f"{cell:>12}" for cell in cells))
    if len(called) < len(names):
        print("  (of several runs in one line: sums, and the most memory; --all tells each)")
    print("! more memory than this GPU has, or bfloat16, which it lacks; ? not known yet: hours are then without it")
    print("examples: those read in training; scored: prompts (a text that is asked in three ways counts three times)")
    print(f"{assumptions(gpus)}\n{duration.assumptions()}")
    for line in _spelling(stages):
        print(f"  {line}")
    alike: dict[str, list[str]] = {}
    for stage in (one for one in stages if one.name == "tune"):
        alike.setdefault(_smaller(table, stage), []).append(stage.run.name)
    for said, names in alike.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"  {', '.join(names[:3])}{more} {said}" if said else "", end="\n" if said else "")


def _here(stages: list[Stage], states: Mapping[str, str], texts: Mapping[str, int | None]) -> str:
    """How long stages take on this machine, and how much of that is left."""
    here = duration.machine()
    whole = {str(one): duration.seconds(one, here, texts[one.run.name] if one.run else None) for one in stages}
    left = {name: 0.0 if states[name] == "finished" else seconds for name, seconds in whole.items()}
    takes, rest = (duration.words(duration.together(stages, some, here)) for some in (whole, left))
    done = sum(states[name] == "finished" for name in whole)
    unknown = {one.run.name for one in stages if not duration.known(one)}
    said = f"; of {_number(len(unknown), 'run')} the model's size is unknown, and taken for 1 B parameters"
    where = f"on this machine ({here}){said if unknown else ''}"
    if done == len(stages):
        return f"all is finished; from the beginning it takes about {takes} {where}"
    if done:
        finished = f"{done} of {len(stages)} stages are finished; all of them take about {takes}"
        return f"about {rest} are left {where}: {finished}"
    return f"takes about {takes} {where}"


def _called(runs: list["Settings"]) -> str:
    """What runs that stand in a table as one row are called together."""
    first, last = runs[0], runs[-1]
    if len(runs) == 1:
        return first.name
    return (
        f"{first.row}, {len(runs)} seeds" if first.row == last.row else f"{first.row} ... {last.row}, {len(runs)} runs"
    )


def _print_stages(name: str, stages: list[Stage], states: Mapping[str, str], width: int) -> None:
    """One line of stages of one kind: how far they are and what they do."""
    counted = Counter(states[str(stage)] + stage.changes for stage in stages)
    status = ", ".join(f"{count} {state}" if len(stages) > 1 else state for state, count in counted.items())
    changed = any(stage.code_changed for stage in stages)
    note = " (code changed)" if changed else ""
    what, *others = dict.fromkeys(map(_what, stages))
    print(f"  {name:<{width + 10}} {status}{note}   {what}{' ...' if others else ''}")


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def _spelling(stages: list[Stage]) -> list[str]:
    """What languages cost the models that are here: tokens a word, beside those of the first known language."""
    lines, seen = [], set()
    # a data stage reads the parallel text, too
    for stage in sorted((one for one in stages if one.name in ("data", "evaluate")), key=lambda one: one.name):
        inputs, run = stage.inputs, stage.run
        codes = tuple(run.codes)
        if not inputs.begins.model.name or inputs.outside.missing() or (inputs.called, codes) in seen:
            continue
        # both bring much along, and nothing else in a plan needs them
        from ia_lib.models.load import load_tokenizer
        from ia_lib.workflow import checks

        seen.add((inputs.called, codes))
        if not (texts := inputs.sample(_LOOKED_AT)):
            continue
        found = checks.spelling(load_tokenizer(*inputs.tokenizer), texts)
        first, *others = found
        said = [f"{run.language(first)} {found[first][0]:.2f}"]
        said += [f"{run.language(c)} {found[c][0]:.2f} ({found[c][0] / found[first][0]:.1f} times)" for c in others]
        lines.append(f"{inputs.called}, tokens a word: {', '.join(said)}")
        if spelt := [f"{run.language(code)} {share:.1%}" for code, (_, share) in found.items() if share >= 0.001]:
            lines.append(f"{inputs.called}, letters spelt in bytes: {', '.join(spelt)}")
    return lines


def _smaller(table: "Table", stage: Stage) -> str:
    """With what a run that takes more memory than the smallest GPU has would fit there."""
    name, (_, _, gib) = next(iter(GPUS.items()))
    run, report = stage.run, _report(table, stage.run)
    needs, free = memory(run, stage.inputs.origin, report), 0.9 * gib  # what the GPU's own libraries leave
    if needs is None:
        return ""
    said = []
    if sum(needs.values()) > free * 2**30:
        found = fitting(run, stage.inputs.origin, free, report)
        said.append(f"with {found[0]} about {found[1]:.1f} GiB" if found else "nothing that the kit has is enough")
    if scoring(run, stage.inputs.origin) > free * 2**30:
        said.append("to score it quantisation (int8, nf4) or score_precision: float16")
    if run.train.precision == "bfloat16" and name in WITHOUT_BFLOAT16:
        said.insert(0, "with precision: float16, since it has no bfloat16")
    return f"on a {name} ({gib} GiB): {'; '.join(said)}" if said else ""


def _report(table: "Table", run) -> dict | None:
    """What a run's data stage has counted, or can be counted before it."""
    data = table.folder / run.name / "data" / "report.json"
    if run.trains and data.is_file():
        return json.loads(data.read_text(encoding="utf-8"))
    if not run.trains or run.data.steps is not None or not hasattr(run.method, "counts"):
        return None
    return {"steps": steps_of_epochs(run, run.method.counts(run, table.stage(run.name, "data").inputs))}


def verify(table: "Table", runs: list[str] | None = None) -> list[Stage]:
    """Read all artefacts of the runs' stages again, and the report's if all runs are meant; returns the damaged stages,
    whose files are told. What executed notebooks show is not looked at."""
    damaged, read = [], 0
    for stage in [*table.stages(runs), *([] if runs else [table.report(finished_only=True)])]:
        for line in (said := stage.damage()):
            print(line)
        damaged += [stage] if said else []
        read += stage.manifest is not None
    said = f"{read} stages were read again; {len(damaged)} of them are not what was made"
    print(f"{table.path}: {said if read else 'nothing has been made yet'}")
    if damaged:
        print("`run --verify` makes those again")
    return damaged


@dataclass
class _Line:
    """What a run would take; None or nan where that is not known."""

    name: str
    examples: float
    steps: float
    tokens: float
    texts: float
    labelled: int | None  # texts with labels, where they can be counted
    memory: float
    bfloat16: bool  # it is tuned in it
    hours: dict[str, float] | None
    why: str  # there are no hours


def _estimated(table: "Table", run, gpus: Mapping[str, tuple[float, float, int]]) -> _Line:
    inputs = table.stage(run.name, "evaluate").inputs
    here = all(inputs.here(inputs.places(task)) for task in inputs.choices)
    labelled = inputs.labelled if here else None
    found = estimate(run, inputs.origin, _report(table, run), labelled, inputs.asked_like_passages, gpus)
    asked = [task for task in (*inputs.extracted, *inputs.opened) if task.data.source != "minilab"]
    unread = found.texts is None or not all(inputs.here(inputs.places(task)) for task in asked)
    texts = nan if unread else found.texts + inputs.asked_on_passages + inputs.requested
    # how many steps some epochs are is known when the instructions are
    known = found.steps or not run.trains
    counts = (found.examples, found.steps, found.tokens) if known else (nan, nan, nan)
    why = "" if known else "  hours: when the data stage has counted its examples"
    why = why if found.hours else "  the model's size is unknown"
    memory = nan if found.memory_gib is None else found.memory_gib
    bfloat16 = bool(run.trains) and run.train.precision == "bfloat16"
    return _Line(run.name, *counts, texts, labelled, memory, bfloat16, None if why else found.hours, why)


def _together(lines: list[_Line], gpus: Mapping[str, tuple[float, float, int]]) -> str:
    """The cells of one run, or of several: sums, and the most memory."""
    examples, steps, tokens, texts = (
        sum(getattr(line, name) for line in lines) for name in ("examples", "steps", "tokens", "texts")
    )
    memory = max(line.memory for line in lines) if all(line.memory == line.memory for line in lines) else nan
    cells = f"{_short(examples):>10}{_short(steps, 10**6):>10}{_short(tokens):>9}{_short(texts):>9}"
    cells += f"{'?' if memory != memory else f'{memory:g} GiB':>11}"
    if why := next((line.why for line in lines if line.why), ""):
        return cells + why
    marks = _marks(lines, gpus)
    return cells + "".join(f"{_hours(sum(line.hours[name] for line in lines)) + marks[name]:>12}" for name in gpus)


def _marks(lines: list[_Line], gpus: Mapping[str, tuple[float, float, int]]) -> dict[str, str]:
    """By GPU whether it can't do some of the runs: they take more memory than it has, or numbers that it lacks."""
    most = max((line.memory for line in lines if line.memory == line.memory), default=0)
    lacking = WITHOUT_BFLOAT16 if any(line.bfloat16 for line in lines) else ()
    return {name: "!" if most > gib or name in lacking else " " for name, (_, _, gib) in gpus.items()}


def _short(number: float, whole: int = 1000) -> str:
    """A number in short, one below `whole` with all its digits."""
    if number != number:
        return "?"
    if number < whole:
        return f"{number:,}"
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _hours(hours: float) -> str:
    if hours < 0.95:
        return f"{round(60 * hours)} min" if hours > 1 / 60 else "< 1 min"
    return f"{hours:,.0f} h" if hours >= 1000 else f"{hours:.1f} h"


def _what(stage: Stage) -> str:
    run = stage.run
    if stage.name == "data":
        found = [f"{stream.name} ({stream.role}, {stream.per_step} a step)" for stream in run.streams]
        if (asked := getattr(run.data, "retention", None)) and asked.method != "agem":
            found.append(f"{run.data.replay} old instructions for {asked.method}")
        return ", ".join(found)
    if stage.name == "tune":
        epochs = getattr(run.data, "new_epochs", None) or getattr(run.data, "epochs", None)
        length = f"{run.data.steps:,} steps" if run.data.steps else f"{epochs:g} epoch{'s' if epochs != 1 else ''}"
        ways = [asked.method] if (asked := getattr(run.data, "retention", None)) else []
        ways += ["adapter"] if run.train.adapter else []
        ways += [f"{run.train.processes} processes"] if run.train.processes > 1 else []
        return ", ".join([f"{length} of {run.per_step} examples", *ways])
    if stage.name == "evaluate":
        tests = stage.inputs.choices
        number = len({code for task in tests for code in stage.inputs.tested(task)})
        others = [*stage.inputs.translations, *stage.inputs.extracted, *stage.inputs.opened, *stage.inputs.answered]
        names = [f"{task.name}" for task in tests], [task.name.replace("_", " ") for task in others]
        where = f" in {number} language{'s' if number != 1 else ''}" if tests else ""
        return ", ".join(filter(None, [", ".join(dict.fromkeys(names[0])) + where, *names[1]]))
    if stage.name == "judge":
        return f"{stage.inputs.requested:,} answers, by {', '.join(run.judge.judges)}"
    return ""


def print_results(table: "Table") -> None:
    """The group averages of every run and task, and what was measured on parallel text."""
    from ia_lib.report import results

    report = table.report(finished_only=True)
    if said := report.damage():
        print("\n".join([*said, "`run --verify` makes it again"]))
        return
    found = results.read(table.folder / "report")
    if found.empty:
        print(f"no results yet: `run {table.path}` makes them")
        return
    groups, held_out, asked = results.groups(found), results.held_out(found), results.extracted(found)
    if len(groups):
        print("weighted F1 in percent, averaged over prompts and languages, with 95% interval")
        print("° = within chance: not shown to be above chance")
    names = groups["dataset"].fillna("").astype(str).str.cat(groups["task"], sep="/").str.lstrip("/")
    for name, part in groups.groupby(names, sort=False):
        print(f"\n{name}")
        _print_task(part)
    if len(held_out):
        print("\nparallel text and true answers\n" + held_out.to_string(index=False, na_rep=""))
    if len(asked):
        asked = asked[asked["metric"].isin(["exact match, corrected", "F1, corrected"])].dropna(axis=1, how="all")
        asked = asked.drop(columns=["group_name", "baseline_is"], errors="ignore")
        print("\nanswers from passages\n" + asked.to_string(index=False, na_rep=""))
    if len(free := results.opened(found)):
        free["language"] = free["language"].where(free["language"] != "all", "all of " + free["group"])
        columns = ["run", "task", "judge", "language", "value", "low", "high", "sum", "any_language", "lost", "inside"]
        shown = (
            free.reindex(columns=[*columns, "baseline"]).rename(columns={"value": "score"}).dropna(axis=1, how="all")
        )
        print(
            "\nfree answers: mean marks, 0 to 3, and percent inside the language\n"
            + shown.to_string(index=False, na_rep="")
        )
    if not report.done:
        print("\nnot up to date: the table, its inputs or its runs have changed since; `run` makes it again")
    print(f"\nreport: {table.folder / 'report' / 'index.html'}")


def _print_task(frame) -> None:
    """One task's group averages, a line per run, above its baselines."""
    baselines = {"chance": "chance", "majority": "majority label"}
    width = max(map(len, [*frame["run"], *baselines.values()])) + 2
    groups = list(dict.fromkeys(zip(frame["group"], frame["group_name"], strict=True)))
    print(" " * width + "".join(f"{f'{group} {name}':<26}" for group, name in groups))
    for run, part in frame.groupby("run", sort=False):
        by_group = {line.group: line for line in part.itertuples()}
        cells = [_cell(by_group.get(group)) for group, _ in groups]
        print(f"{run:<{width}}" + "".join(f"{cell:<26}" for cell in cells))
    for column, name in baselines.items():
        cells = [f"{frame[frame['group'] == group][column].mean():5.1f}" for group, _ in groups]
        print(f"{name:<{width}}" + "".join(f"{cell:<26}" for cell in cells))


def _cell(line) -> str:
    if line is None:
        return ""
    return f"{line.value:5.1f} [{line.low:.1f}, {line.high:.1f}]{'°' if line.within_chance else ''}"


def print_run(table: "Table", name: str, every: bool = False) -> None:
    """A run's settings: what it is about, and what differs from the kit's own (as JSON all, if `every`), and how far
    its stages are, with what they took."""
    run = table.run(name)
    print(f"{run.name}: row {run.row} of {run.place}")
    if every:
        print(json.dumps(run.model_dump(mode="json"), indent=1, ensure_ascii=False))
    else:
        print("settings (what is left out is as the kit has it):")
        always = {name: getattr(run, name) for name in ("seed", "fidelity", "corpus", "known", "taught", "unseen")}
        for field, value in flat(always | _row(run.model_dump(mode="json", exclude_defaults=True))):
            print(f"  {field}: {value}")
    print("stages:")
    for stage in (one for one in table.stages([run.name]) if one.run.name == run.name):
        made, said = stage.manifest or {}, [stage.status + stage.changes]
        if made:
            said.append(f"{made['seconds']:g} s on {made['device']}")
            said += [f"{made['peak_memory_mb']:,} MB of memory"] if made["peak_memory_mb"] else []
            said.append(f"ended {made['end']}")
        print(f"  {stage.name}: {', '.join([*said, f'in {stage.folder}'])}")
    if not every:
        print(f"all settings: `show {table.path} {name} --all`")


def _row(dumped: dict[str, Any]) -> dict[str, Any]:
    """Settings as a row has them, without blocks."""
    inside = {name: value for block in BLOCKS for name, value in dumped.get(block, {}).items()}
    return {name: value for name, value in dumped.items() if name not in (*BLOCKS, *OURS, "name")} | inside
