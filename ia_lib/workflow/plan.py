"""What the command line prints: the plan, the results, one run."""

import json
from typing import TYPE_CHECKING

from ia_lib.workflow.cost import GPUS, assumptions, estimate, fitting, memory, scoring, steps_of_epochs
from ia_lib.workflow.stages import Stage

if TYPE_CHECKING:
    from ia_lib.workflow.graph import Table

_LOOKED_AT = 200  # texts of a language, to tell how a tokenizer cuts it


def print_plan(table: "Table", runs: list[str] | None) -> None:
    """What is finished, and what each run would take."""
    print(f"{table.path}: {len(table.runs)} runs, outputs in {table.folder}")
    stages = table.stages(runs)
    for stage in [*stages, *([] if runs else [table.report()])]:
        note = "   (its code has changed since; `run --changed` makes it anew)" if stage.code_changed else ""
        print(f"  {stage!s:<36} {stage.status}{note}   {_what(stage)}")
    for what, run in table.absent(runs).items():
        print(f"  to be brought here: {what} (for {run.name})")
    for what in table.to_download(runs):
        print(f"  to be downloaded: {what}")
    header = f"{'run':<30}{'examples':>10}{'steps':>8}{'tokens':>9}{'scored':>9}{'memory':>11}"
    print(f"\nestimated:\n  {header}" + "".join(f"{name:>10}" for name in GPUS))
    hours: list[dict[str, float] | None] = []
    for run in dict.fromkeys(stage.run.name for stage in stages):
        line, needs = _estimated(table, table.by_name[run])
        hours.append(needs)
        print("  " + line)
    if len(hours) > 1 and None not in hours:
        whole = "".join(f"{_hours(sum(needs[name] for needs in hours)) + ' ':>10}" for name in GPUS)
        print(f"  {f'all {len(hours):,} runs':<77}{whole}")
    print(f"* more memory than this GPU has; where it is not known what is scored (?), without it; {assumptions()}")
    for line in _spelling(stages):
        print(f"  {line}")
    alike: dict[str, list[str]] = {}
    for stage in (one for one in stages if one.name == "tune"):
        alike.setdefault(_smaller(table, stage), []).append(stage.run.name)
    for said, names in alike.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"  {', '.join(names[:3])}{more} {said}" if said else "", end="\n" if said else "")


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
        print("`run --verify` makes those anew")
    return damaged


def _estimated(table: "Table", run) -> tuple[str, dict[str, float] | None]:
    """A run's line, and its hours by GPU where they can be told."""
    inputs = table.stage(run.name, "evaluate").inputs
    here = all(inputs.here(inputs.places(task)) for task in inputs.choices)
    known = len(inputs.tests(every=False)) if here else None
    found = estimate(run, inputs.origin, _report(table, run), known, inputs.asked_like_passages)
    asked = [task for task in (*inputs.extracted, *inputs.opened) if task.data.source != "minilab"]
    unread = not all(inputs.here(inputs.places(task)) for task in asked)
    texts = "?" if found.texts is None or unread else _short(found.texts + inputs.asked_on_passages + inputs.requested)
    memory = "?" if found.memory_gib is None else f"{found.memory_gib:g} GiB"
    # how many steps some epochs are is known when the rows are
    known = found.steps or not run.trains
    counts = (_short(found.examples), f"{found.steps:,}", _short(found.tokens)) if known else ("?", "?", "?")
    line = f"{run.name:<30}{counts[0]:>10}{counts[1]:>8}{counts[2]:>9}{texts:>9}{memory:>11}"
    if found.hours is None:
        return line + "  the model's size is unknown", None
    if not known:
        return line + "  hours: when the data stage has counted its rows", None
    # a star: more memory than that GPU has
    stars = {name: "*" if found.memory_gib > gib else " " for name, (_, _, gib) in GPUS.items()}
    return line + "".join(f"{_hours(hours) + stars[name]:>10}" for name, hours in found.hours.items()), found.hours


def _short(number: int) -> str:
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _hours(hours: float) -> str:
    if hours < 0.95:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:,.0f} h" if hours >= 1000 else f"{hours:.1f} h"


def _what(stage: Stage) -> str:
    run = stage.run
    if stage.name == "data":
        found = [f"{stream.name} ({stream.role}, {stream.per_step} a step)" for stream in run.streams]
        if (asked := getattr(run.data, "retention", None)) and asked.method != "agem":
            found.append(f"{run.data.replay} old rows for {asked.method}")
        return ", ".join(found)
    if stage.name == "tune":
        epochs = getattr(run.data, "new_epochs", None) or getattr(run.data, "epochs", None)
        length = f"{run.data.steps:,} steps" if run.data.steps else f"{epochs:g} epoch{'s' if epochs != 1 else ''}"
        ways = [asked.method] if (asked := getattr(run.data, "retention", None)) else []
        ways += ["adapter"] if run.train.adapter else []
        ways += [f"{run.train.processes} processes"] if run.train.processes > 1 else []
        return ", ".join([f"{length} of {run.per_step} rows", *ways])
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
        print("\n".join([*said, "`run --verify` makes it anew"]))
        return
    found = results.read(table.folder / "report")
    if found.empty:
        print("no results yet")
        return
    groups, held_out, asked = results.groups(found), results.held_out(found), results.extracted(found)
    if len(groups):
        print("weighted F1 in percent, averaged over prompts and languages, with 95% interval; * = within chance")
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
    return f"{line.value:5.1f} [{line.low:.1f}, {line.high:.1f}]{'*' if line.within_chance else ''}"


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
