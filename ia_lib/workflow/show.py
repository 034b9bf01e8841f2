"""What the notebooks show of a stage's work, made for reading. Texts that are not to be shared are never in it."""

import re
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown
from pandas.io.formats.style import Styler

from ia_lib.data.files import own_csv
from ia_lib.evaluation.judged import FREE
from ia_lib.evaluation.rules import RULES
from ia_lib.instructions.noise import MIXTURE
from ia_lib.instructions.templates import options
from ia_lib.recipes.fields import Data
from ia_lib.report import results
from ia_lib.report.drawings import Table
from ia_lib.workflow.settings import Settings, flat
from ia_lib.workflow.stages import Stage
from ia_lib.workflow.work import Evaluated, Evaluation, Judged, MadeData, Tuned, Tuning

# Two dollar signs in somebody's text are no formula.
pd.set_option("display.html.use_mathjax", False)
pd.set_option("display.max_colwidth", 300)  # answers are to be read


def run(stage: Stage) -> str:
    """What the run is about: what its recipe was told, its batch, and where the artefacts go."""
    settings = stage.run
    own = settings.data.model_dump(exclude=set(Data.model_fields), exclude_defaults=True)
    fields = dict(flat(own))
    told = ", ".join(f"{name} {value}" for name, value in fields.items() if name in own) or settings.recipe
    nested = "".join(f"  {name}: {value}\n" for name, value in fields.items() if name not in own)
    streams = "; ".join(f"{one.per_step} {one.role} ({one.name})" for one in settings.streams)
    return (
        f"run {settings.name}: {told}, seed {settings.seed}\n{nested}"
        f"a batch: {streams or 'none, since the run trains on nothing'}\nartefacts go to {stage.folder}"
    )


def counts(examples: pd.DataFrame) -> pd.DataFrame:
    """How many examples of each kind there are in each stream."""
    return examples.groupby(["stream", "role", "split", "kind"], sort=False, dropna=False).size().to_frame("rows")


def instructions(stage: Stage, frame: pd.DataFrame, role: str = "new", rows: int = 4) -> str:
    """Some instructions of a role as texts: the prompt, and in double brackets the answer that the model has to give.
    Of code-mixed ones also what they were before, and in guillemets what has changed."""
    run, texts = stage.run, []
    for row in run.shown(frame[frame["role"] == role].head(rows)).to_dict("records"):
        known = {name: row[name] for name in ("template", "noise", "negative") if name in row}
        if not pd.isna(known.get("template", pd.NA)):
            known["template"] = int(known["template"]) + 1  # counted from 1, as people do
        told = [f"{name} {value}" for name, value in known.items() if not pd.isna(value)]
        ways = [f"{way} {called(run, row[name])}" for way, name in (("from", "source_language"), ("to", "language"))
                if name in row and called(run, row[name])]  # fmt: skip
        head = ", ".join([str(row["kind"]), *told, " ".join(ways)])
        told = f"{row['prompt']}[[{row['answer']}]]"
        if isinstance(row.get("before"), str):
            marked = _changed(row["before"], row["prompt"] + row["answer"])
            told = f"before: {row['before']}\n\nafter:  {marked}" if run.machine.share_text else told
        texts.append(f"--- {head}\n{told}\n")
    return "\n".join(texts) or f"This run has no {role} instructions."


def called(run: Settings, code) -> str:
    """What prompts call a language; its code, if the kit does not know it."""
    if pd.isna(code):
        return ""
    try:
        return run.language(code)
    except ValueError:
        return str(code)


def changes(before: str, after: str) -> list[tuple[str, bool]]:
    """A text in parts, each with whether it is not as it was before."""
    one, other = (re.findall(r"\s+|[^\s]+", text) for text in (before, after))
    matched = SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    found = [("".join(other[begin:end]), kind != "equal") for kind, _, _, begin, end in matched]
    return [(part, changed and bool(part.strip())) for part, changed in found]


def _changed(before: str, after: str) -> str:
    """A text with what is not as it was before in guillemets."""
    return "".join(f"«{part}»" if changed else part for part, changed in changes(before, after))


def checked(made: MadeData) -> Table:
    """What was counted and checked, the first things first, after the warnings. report.json has all of it."""
    report = made.report
    for line in report["warnings"]:
        print(f"warning: {line}")
    print(f"{len(report['warnings'])} warnings" if report["warnings"] else "No warnings.")
    hours = report["estimated"]["hours"] or {}
    lines = {
        "steps": f"{report['steps']:,}",
        "tokens, on average": ", ".join(f"{name} {mean:g}" for name, mean in report["mean_tokens"].items()),
        "answers cut by max_length": f"{sum(report['answers_cut'].values()):,}",
        "instructions that fill max_length": f"{sum(report['rows_with_prompt_cut'].values()):,}",
        "held-out instructions that are trained on too": f"{report['validation_rows_trained_on']:,}",
        "pairs that are in the test data too": f"{report['pairs_still_in_tests']:,}",
        "pairs left out for that": f"{report['pairs_dropped_because_in_tests']:,}",
        "hours to train and test it, on one": ", ".join(f"{name}: {_hours(time)}" for name, time in hours.items())
        or "unknown",
    }
    return Table(pd.DataFrame({"what": lines.keys(), "found": lines.values()}))


def _hours(time: float) -> str:
    return f"{time:,.1f}" if time >= 0.1 else "under 0.1"


def noise(frame: pd.DataFrame) -> pd.DataFrame:
    """How often each kind of noise was drawn, beside the shares of the paper's code."""
    drawn = frame["noise"].value_counts(normalize=True) if "noise" in frame else None
    return pd.DataFrame({"expected": {"+".join(k): share for k, share in MIXTURE}, "observed": drawn}).round(3)


def model(begun: Tuning | Evaluation) -> str:
    """The model and where it is."""
    made = begun.model
    return (
        f"device: {begun.device}; {made.config.model_type} with {made.num_parameters():,} parameters in {made.dtype}, "
        f"{len(begun.tokenizer):,} tokens in the vocabulary"
    )


def decoded(run: Settings, tokenizer, rows: list[dict]) -> pd.DataFrame:
    """Examples of a batch as texts: `role, prompt, answer`, and how many `tokens` both have."""
    starts = [(row["input_ids"], row["answer_start"]) for row in rows]
    parts = {
        "role": [row["role"] for row in rows],
        "prompt": [tokenizer.decode(ids[:start]) for ids, start in starts],
        "answer": [tokenizer.decode(ids[start:]) for ids, start in starts],
    }
    return run.shown(pd.DataFrame(parts | {"tokens": [len(ids) for ids, _ in starts]}))


def answers(stage: Stage, tuned: Tuned, rows: int = 5) -> Table | None:
    """What the tuned model answers to the first validation instructions, decoded greedily, beside the true answers."""
    from ia_lib.evaluation import generation

    if not tuned.validation:
        print("This run holds no instructions out.")
        return None
    found = generation.answers(tuned.model, tuned.tokenizer, tuned.validation[:rows])
    names = {"answer": "true answer", "model": "the model's"}
    told = stage.run.shown(found).replace("\n", "↵", regex=True).replace("", "(nothing)")
    return Table(told.rename(columns=names))


def texts(stage: Stage, begun: Evaluation) -> pd.DataFrame | Markdown:
    """A text of each task and language, after saying how many there are and what the labels are; a sentence where a row
    chooses no labels."""
    if not len(begun.texts):
        return Markdown("This row chooses no labels for texts. What it is asked instead stands at the end.")
    named = [f"{task}: {options(names)}" for task, names in begun.labels.items()]
    print("; ".join([f"{len(begun.texts):,} texts with labels", *named]))
    return stage.run.shown(
        begun.texts.to_pandas().groupby(["task", "language"], sort=False).head(1).head(6)
    ).reset_index(drop=True)


def under_rules(model, tokenizer, asked: list[str], words: list[str], empty: list[str], **more) -> pd.DataFrame:
    """Scores of `words` behind each prompt under every rule that the model has: a line for each rule and prompt."""
    from ia_lib.evaluation import scoring

    whole = not model.config.is_encoder_decoder
    more |= {"prompt_logprob": whole, "content_free": empty, "progress": False}
    found = scoring.label_logprobs(model, tokenizer, asked, words, **more)
    rules = [rule for rule in RULES if whole or rule not in ("joint", "mean")]
    lines = {(rule, f"prompt {i}"): row for rule in rules for i, row in enumerate(found.scores(rule), 1)}
    return pd.DataFrame(lines, index=words).T


def translations(done: Evaluated) -> pd.DataFrame:
    """What was measured on parallel text and true answers, a line for each direction, beside the baseline."""
    frame = done.measures[(done.measures["kind"] != "choose") & (done.measures["language"] != "all")]
    frame = frame[(frame["kind"] == "translate") | (frame["prompt"] == "all")]
    columns = "task metric source language value low high baseline baseline_is examples"
    return frame[frame["source"] != "all"][columns.split()].round(2)


def passages(stage: Stage, rows: int = 3) -> pd.DataFrame:
    """Some questions on passages in each language, what was answered and what is true; right answers come first."""
    from ia_lib.evaluation.extraction import agreement

    frames, predictions = [], pd.read_parquet(stage.folder / "predictions.parquet")
    for task in stage.inputs.extracted:
        for code in stage.inputs.tested(task):
            found = stage.inputs.asked(task, code).to_pandas().set_index("id")
            said = said_on(predictions, task.name, code).reindex(found.index)
            pairs = zip(said, found["answers"], strict=True)
            right = [agreement(one, true, "corrected", code)[0] == 1 for one, true in pairs]
            parts = {"text": found["context"], "prompt": found["question"], "answer": found["answers"].map(" / ".join)}
            frame = pd.DataFrame({**parts, "model": said, "right": right})
            some = [part.head(rows) for _, part in frame.groupby("right", sort=False)]
            frames.append(pd.concat(some).assign(task=task.name, language=code))
    names = {"text": "passage", "prompt": "question", "answer": "true", "model": "answered"}
    frame = stage.run.shown(pd.concat(frames)).rename(columns=names) if frames else pd.DataFrame(columns=["right"])
    return frame.sort_values("right", ascending=False, kind="stable")


def requests(stage: Stage, rows: int = 4) -> pd.DataFrame:
    """Some requests in each language, what was answered, and whether that is in the request's language."""
    if not stage.inputs.opened:
        return pd.DataFrame()
    from ia_lib.workflow import judging

    found = judging.items(stage)
    few = found.groupby(["dataset", "task", "language"], sort=False).head(rows)
    return _answers(stage, few)


def _answers(stage: Stage, items: pd.DataFrame, *more: str) -> pd.DataFrame:
    """Free answers as people read them, with the columns `more`."""
    frame = items.rename(columns={"question": "prompt", "answer": "model", "reference": "text"})
    if not frame["text"].any():
        frame = frame.drop(columns="text")
    there = [name for name in ("language", "prompt", "text", "model", "inside") if name in frame]
    names = {"prompt": "request", "text": "one right answer", "model": "answered", "inside": "in its language"}
    shown = stage.run.shown(frame[[*there, *more]]).rename(columns=names)
    if "in its language" in shown:
        shown["in its language"] = shown["in its language"].astype(bool).map({True: "yes", False: "no"})
    if "mark" in shown:
        shown["mark"] = shown["mark"].astype("Int64")
    return shown.replace("", "(nothing)").reset_index(drop=True)


def judged_as(stage: Stage) -> str:
    """The first answer as each judge gets to see it."""
    from ia_lib.instructions import judging as wordings
    from ia_lib.workflow import judging

    item, lines = judging.items(stage).iloc[0], []
    for name, judge in stage.run.judge.judges.items():
        if judge.rule:
            said = "3 for the reference, 2 for half of its words (F1), 1 for anything else"
        elif judge.people:
            said = f"people, in the sheet {Path(judge.people).name}"
        elif not stage.run.machine.share_text:
            said = "(not shown, since share_text is false)"
        else:
            said = wordings.read(stage.inputs.wording(judge)).ask(item.question, item.answer, item.language_name)
        lines.append(f"=== {name}\n{said}\n")
    return "\n".join(lines)


def scores_of_judges(done: Judged) -> pd.DataFrame:
    """What each judge makes of the answers in every language and group: mean marks with their intervals, and as a sum
    over the requests, as the study has it."""
    frame = done.measures
    frame = frame[(frame["prompt"] == "all") & (frame["dataset"] != "all")]
    # over all requests, as the study has it, or not at all
    mine = done.marks[~done.marks["run"].isin(FREE)]
    whole = mine["mark"].notna().groupby([mine["judge"], mine["language"]]).all()
    summed = [whole.get(key, False) for key in zip(frame["source"], frame["language"], strict=True)]
    frame = frame.assign(sum=(frame["value"] * frame["examples"]).where(summed).round())
    columns = "task source metric group language value low high sum examples baseline baseline_is"
    frame = frame[columns.split()].rename(columns={"source": "judge", "examples": "requests"})
    return frame.round(2).fillna("").reset_index(drop=True)


def marks(stage: Stage, done: Judged, rows: int = 2) -> pd.DataFrame:
    """Some requests with their answers and marks: of each judge, mark and side of the gate as many."""
    mine = done.marks[done.marks["run"] == stage.run.name]
    mixed = mine.sample(frac=1, random_state=1)
    few = mixed.groupby(["judge", "mark", "inside"], dropna=False).head(rows)
    return _answers(stage, few.sort_values(["judge", "mark"], ascending=[True, False]), "judge", "mark")


def checks(done: Judged) -> pd.DataFrame:
    """What judges made of answers whose mark is known beforehand; empty, if they were not asked."""
    path = done.folder / "checks.csv"
    return own_csv(path).round(2) if path.is_file() else pd.DataFrame()


def said_on(predictions: pd.DataFrame, task: str, code: str) -> pd.Series:
    """What was answered to a task in a language, by the ids of its questions; of the lines of predictions.parquet."""
    names = predictions["dataset"].str.cat(predictions["task"], sep="/").str.lstrip("/")
    part = predictions[(names == task) & (predictions["language"] == code)]
    return part.set_index("example")["predicted"]


# Kind of the report's figures -> what they need.
_FIGURES = {
    "groups": "runs that choose labels",
    "difference": "runs that choose labels and have another run as base, each with its own amount of replay",
    "languages": "runs that choose labels",
}


def figures(drawn: dict[str, Any], kind: str) -> Iterator[Any]:
    """The report's figures of a kind, a figure a task, to be displayed: of `drawn` (what `page.draw` gives) those that
    are called so, alone or with a task; if there is none, a sentence that says what they need."""
    found = [figure for called, figure in drawn.items() if called.partition("-")[0] == kind]
    yield from found or [Markdown(f"This table has no such figure: it needs {_FIGURES[kind]}. See the last picture.")]


def further(drawn: dict[str, Any]) -> Iterator[Any]:
    """The report's figures of all other kinds than those of `figures`."""
    found = [figure for called, figure in drawn.items() if called.partition("-")[0] not in _FIGURES]
    yield from found or [Markdown("Nothing else was measured in this table.")]


def numbers(every: pd.DataFrame) -> Iterator[Any]:
    """What is in a table's results, for the eye: labels, translations and losses, answers from passages, free answers;
    of each that there is, a heading and a table. `every` has the lines of results.csv."""
    kinds = {
        "Weighted F1 by group of languages (%)": results.groups,
        "Parallel text and true answers": results.held_out,
        "Answers from passages (%)": results.extracted,
        "Free answers: mean marks (0 to 3) and their sum": results.opened,
    }
    for title, lines in kinds.items():
        found = lines(every)
        if len(found):
            yield Markdown(f"**{title}**")
            found = found.drop(columns="group_name", errors="ignore").dropna(axis="columns", how="all")
            yield found.astype(object).fillna("").reset_index(drop=True)


def pairs(folder: Path) -> pd.DataFrame | Markdown:
    """Every two rows of a table on the same texts, by group: `difference` in weighted F1 (first minus second, points),
    its 95% interval, `p`, `p_holm` and `detectable`. A sentence where there is no pair."""
    path = folder / "pairs.csv"
    frame = own_csv(path) if path.is_file() else pd.DataFrame({"kind": []})
    frame = frame[frame["kind"] == "rows"]
    if frame.empty:
        return Markdown("No two rows of this table chose labels for the same texts.")
    columns = "first second task group difference low high p p_holm detectable verdict"
    return frame[columns.split()].round({name: 4 if name in ("p", "p_holm") else 1 for name in columns.split()[4:-1]})


def one_of_each_objective() -> pd.DataFrame:
    """An instruction of each of InstructAlign's objectives, on sentences of the mini lab: the columns of
    `cross_lingual.instructions`."""
    from datasets import Dataset

    from ia_lib.data import minilab
    from ia_lib.instructions import cross_lingual

    texts = [sentence["ind"] for sentence in islice(minilab.sentences(1), 50)]
    made = [minilab.translate(text, "jav") for text in texts]
    parallel = Dataset.from_dict({"sentence_id": [str(i) for i in range(len(texts))], "ind": texts, "jav": made})
    plans = [cross_lingual.Plan(objective, ["ind"], ["jav"], 1) for objective in ("mlm", "mt", "tlm", "xss")]
    return pd.DataFrame([next(cross_lingual.instructions(parallel, plan)) for plan in plans])


def folded(title: str, shown: pd.DataFrame | Styler) -> HTML:
    """A long table, folded under its title."""
    return HTML(f"<details><summary>{escape(title)} (click to open)</summary>{shown.to_html()}</details>")


def drawn(draw: Callable[[pd.DataFrame], Any], frame: pd.DataFrame, without: str) -> Any:
    """The figure that `draw` makes of a frame; of one without lines the sentence `without`."""
    return draw(frame) if len(frame) else Markdown(without)
