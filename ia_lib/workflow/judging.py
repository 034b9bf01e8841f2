"""Judges at work on a run's free answers: what they get to see, and what becomes of their marks."""

import warnings
from pathlib import Path

import pandas as pd

from ia_lib.data.files import CorpusError, CorpusWarning
from ia_lib.evaluation import blind, judge_checks, judged, judges, measures
from ia_lib.evaluation.responses import IN_LANGUAGE
from ia_lib.instructions import judging as wordings
from ia_lib.models import load
from ia_lib.recipes.alpaca import ENGLISH
from ia_lib.report.trust import REPLIES
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError
from ia_lib.workflow.stages import Stage
from ia_lib.workflow.weights import weights


def items(stage: Stage) -> pd.DataFrame:
    """The answers of a run (`judged.ITEMS`), from the folder of its evaluate stage; `stage` is its judge or evaluate
    stage."""
    inputs, run = stage.inputs, stage.run
    folder, frames = inputs.made(run, "evaluate"), []
    said = pd.read_parquet(folder / "predictions.parquet")
    counts = pd.read_parquet(folder / "counts.parquet")
    inside = counts[counts["metric"] == IN_LANGUAGE].assign(inside=lambda frame: frame["counts"].str[0] > 0)
    said = said[said["kind"] == "open"].merge(inside[[*blind.PROMPT, "inside"]], on=[*blind.PROMPT], validate="1:1")
    for task in inputs.opened:
        for code in inputs.tested(task):
            asked = inputs.asked(task, code).to_pandas()
            mine = said[(said["dataset"] == task.dataset) & (said["task"] == task.task) & (said["language"] == code)]
            frames.append(mine.merge(asked, on="example", validate="1:1"))
    found = pd.concat(frames, ignore_index=True).rename(columns={"predicted": "answer"})
    found["language_name"] = [run.language(code) for code in found["language"]]
    return found.assign(run=run.name)[judged.ITEMS]


def sheet(table: Table, runs: list[str] | None, file: Path, key: Path) -> str:
    """Write the free answers of the runs (default: all that are finished) into a sheet for people to mark, and whose
    they are into its key (`blind.export`); returns what is to be done with them. Raises SettingsError where there are
    none, and where they must not be passed on."""
    stages = [table.stage(table.run(name).name, "evaluate") for name in runs or [run.name for run in table.runs]]
    found = [items(stage) for stage in stages if stage.done and stage.inputs.opened]
    if not found or (runs and len(found) < len(stages)):
        missing = next((str(stage) for stage in stages if not stage.done), "all runs")
        raise SettingsError(f"{table.path}: there are no free answers of {missing}; run it first")
    if hidden := next((stage.run.name for stage in stages if not stage.run.machine.share_text), None):
        raise SettingsError(
            f"{table.path}, run {hidden!r}: found share_text false; allowed: true, to show texts to people"
        )
    try:
        blind.export(pd.concat(found, ignore_index=True), file, key, stages[0].run.seed)
    except CorpusError as error:
        raise SettingsError(str(error)) from None
    return (
        f"{file} is to be filled in (marks 1 to 3; a copy for everybody, called by their name), and {key} to be kept "
        f"from who does that. Then the table gets a judge: judges: {{NAME: {{people: {file.name}, key: {key.name}}}}}"
    )


def judge(stage: Stage) -> None:
    """Let every judge of the row mark the run's answers, the baselines, and the answers whose mark is known
    beforehand; writes marks.parquet, checks.csv, counts.parquet and measures.csv."""
    run, inputs = stage.run, stage.inputs
    mine, gate = items(stage), inputs.gate()
    nothing = judged.free(mine, _english(stage))
    nothing["inside"] = gate.accepts(nothing["answer"].tolist(), nothing["language"].tolist())
    asked = pd.concat([mine, nothing], ignore_index=True)
    trials = judge_checks.items_for_checks(mine, run.judge.judge_checks, run.seed)
    total, done = len(run.judge.judges) * (len(asked) + len(trials)), 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        stage.progress(done, total)

    marks, checks = [], []
    for name, asking in run.judge.judges.items():
        if asking.people:
            marks.append(_of_people(stage, asking, asked).assign(judge=name))
            continue
        how = {"wording": wordings.read(inputs.wording(asking)), "load": _loader(stage, name, asking), "progress": tell}
        store = inputs.outputs / REPLIES
        given = judges.marks(asking, asked, store, **how)
        marks.append(pd.concat([asked, given], axis=1).assign(judge=name))
        if len(trials) and not asking.rule:
            known = pd.concat([trials, judges.marks(asking, trials, store, **how)], axis=1)
            real = marks[-1][marks[-1]["run"] == run.name].assign(check="")
            both = pd.concat([real, known], ignore_index=True)
            checks.append(judge_checks.checked(trials, both, run.seed).assign(judge=name))
    found = pd.concat(marks, ignore_index=True)
    counts = judged.counted(found, run.name)
    found.to_parquet(stage.part / "marks.parquet", index=False)
    if checks:
        pd.concat(checks, ignore_index=True).to_csv(stage.part / "checks.csv", index=False)
    counts.to_parquet(stage.part / "counts.parquet", index=False)
    measured = measures.measures(measures.counted(counts, run.seed), run.groups)
    measured.round(4).to_csv(stage.part / "measures.csv", index=False)
    stage.finish()


def _english(stage: Stage) -> dict[tuple[str, str, str], str]:
    """(data set, task, example) -> what is right in English, of tasks that are asked in English, too."""
    found = {}
    for task in stage.inputs.opened:
        for code in (code for code in stage.inputs.tested(task) if code in ENGLISH):
            asked = stage.inputs.asked(task, code)
            pairs = zip(asked["example"], asked["reference"], strict=True)
            found |= {(task.dataset, task.task, example): reference for example, reference in pairs}
    return found


def _of_people(stage: Stage, asking, asked: pd.DataFrame) -> pd.DataFrame:
    """The marks that stand in a sheet, of those answers that stand there; an answer may have changed since."""
    read = blind.read(*(Path(stage.inputs.find("file", file)) for file in (asking.people, asking.key)))
    found = asked.merge(read.rename(columns={"answer": "marked"}), on=[*blind.KEYS], how="left", validate="1:1")
    other = found["marked"].notna() & (found["marked"].str.strip() != found["answer"].str.strip())
    if other.any():
        said = f"{int(other.sum()):,} answers of {stage.run.name} are not those that {asking.people} has marks of"
        warnings.warn(f"{said}, and have none: they were made again since", CorpusWarning, stacklevel=2)
    return found.assign(mark=found["mark"].mask(other)).drop(columns="marked")


def _loader(stage: Stage, name: str, asking):
    """What loads a judge's model; nothing, if it is none that runs here."""
    if not asking.model:
        return None

    def loaded():
        place = weights(stage.inputs.found(asking.model, f"judges.{name}.model"))
        device = load.computing_device(stage.run.threads)
        return load.load_model(*place, device=device), load.load_tokenizer(place.source, place.revision)

    return loaded
