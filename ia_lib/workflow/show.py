"""What the notebooks show of a stage's work, made for reading. Texts that are not to be shared are never in it."""

import re
from difflib import SequenceMatcher
from pathlib import Path

import pandas as pd

from ia_lib.data.files import own_csv
from ia_lib.evaluation.judged import FREE
from ia_lib.evaluation.measures import dataset_and_task
from ia_lib.evaluation.measures import predictions as predicted
from ia_lib.evaluation.rules import RULES, rule_scores
from ia_lib.instructions.noise import MIXTURE
from ia_lib.instructions.templates import classification_prompts, label_words, options
from ia_lib.recipes.fields import Data
from ia_lib.report.drawings import Table
from ia_lib.workflow.settings import Settings
from ia_lib.workflow.stages import Stage
from ia_lib.workflow.work import Evaluated, Evaluation, Judged, MadeData, Tuned, Tuning

# Two dollar signs in somebody's text are no formula.
pd.set_option("display.html.use_mathjax", False)
pd.set_option("display.max_colwidth", 300)  # answers are to be read


def run(stage: Stage) -> str:
    """What the run is about: what its recipe was told, its batch, and where the artefacts go."""
    settings = stage.run
    own = settings.data.model_dump(exclude=set(Data.model_fields), exclude_defaults=True)
    told = ", ".join(f"{name} {value}" for name, value in own.items()) or settings.recipe
    streams = "; ".join(f"{one.per_step} {one.role} ({one.name})" for one in settings.streams)
    return (
        f"run {settings.name}: {told}, seed {settings.seed}\n"
        f"a batch: {streams or 'none, since the run trains on nothing'}\nartefacts go to {stage.folder}"
    )


def counts(examples: pd.DataFrame) -> pd.DataFrame:
    """How many rows of each kind there are in each stream."""
    return examples.groupby(["stream", "role", "split", "kind"], sort=False, dropna=False).size().to_frame("rows")


def instructions(stage: Stage, frame: pd.DataFrame, role: str = "new", rows: int = 4) -> str:
    """Some rows of a role as texts: the prompt, and in double brackets the answer that the model has to give. Of
    code-mixed rows also what they were before, and in guillemets what has changed."""
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
    """Rows of a batch as texts: `role, prompt, answer`, and how many `tokens` both have."""
    starts = [(row["input_ids"], row["answer_start"]) for row in rows]
    parts = {
        "role": [row["role"] for row in rows],
        "prompt": [tokenizer.decode(ids[:start]) for ids, start in starts],
        "answer": [tokenizer.decode(ids[start:]) for ids, start in starts],
    }
    return run.shown(pd.DataFrame(parts | {"tokens": [len(ids) for ids, _ in starts]}))


def answers(stage: Stage, tuned: Tuned, rows: int = 5) -> Table | None:
    """What the tuned model answers to the first validation rows, decoded greedily, beside the true answers."""
    from ia_lib.evaluation import generation

    if not tuned.validation:
        print("This run holds no instructions out.")
        return None
    found = generation.answers(tuned.model, tuned.tokenizer, tuned.validation[:rows])
    names = {"answer": "true answer", "model": "the model's"}
    told = stage.run.shown(found).replace("\n", "↵", regex=True).replace("", "(nothing)")
    return Table(told.rename(columns=names))


def texts(stage: Stage, begun: Evaluation) -> pd.DataFrame:
    """A text of each task and language, after saying how many there are and what the labels are."""
    named = [f"{task}: {options(names)}" for task, names in begun.labels.items()]
    print("; ".join([f"{len(begun.texts):,} texts with labels", *named]))
    return stage.run.shown(begun.texts.to_pandas().groupby(["task", "language"], sort=False).head(1).head(6))


def prompts(stage: Stage, begun: Evaluation) -> str:
    """One text of each task under each wording as the model sees it; of its first prompt the tokens, special ones
    included, and those of each label."""
    from ia_lib.evaluation import scoring

    lines, more = [], {"chat": stage.run.chat, "encoder_decoder": begun.model.config.is_encoder_decoder}
    for sample, task, wording, asked, words in _asked(stage, begun):
        called = Path(wording).stem if isinstance(wording, str) else "the task's own"
        lines.append(f"=== {task.name}, {sample.language}, wording {called}; true label: {sample.label}")
        split = scoring.tokens(begun.tokenizer, asked[0], words, **more)
        for number, text in enumerate(asked, 1):
            ((before, _),) = scoring.tokens(begun.tokenizer, text, words[:1], **more)
            lines.append(f"\nprompt {number}:\n{begun.tokenizer.convert_tokens_to_string(before)}___")
        lines.append("\ntokens of prompt 1: " + " ".join(split[0][0]))
        lines += [*(f"tokens of {word!r}: {' '.join(own)}" for word, (_, own) in zip(words, split, strict=True)), ""]
    return "\n".join(lines)


def scores(stage: Stage, begun: Evaluation) -> pd.DataFrame:
    """The same texts' scores under each rule, in nats (label_per_char: a character); of a line the highest wins."""
    from ia_lib.evaluation import choice

    frames, more = {}, {"chat": stage.run.chat, "max_length": stage.run.evaluate.score_max_length}
    for number, (_, task, wording, asked, words) in enumerate(_asked(stage, begun)):
        empty = classification_prompts(choice.CONTENT_FREE, task.question, task.labels, wording)
        found = under_rules(begun.model, begun.tokenizer, asked, words, empty, **more)
        called = wording if isinstance(wording, str) else number
        frames[task.name, called] = found.set_axis(task.labels, axis="columns").round(3)
    return pd.concat(frames) if frames else pd.DataFrame()


def under_rules(model, tokenizer, asked: list[str], words: list[str], empty: list[str], **more) -> pd.DataFrame:
    """Scores of `words` behind each prompt under every rule that the model has: a line for each rule and prompt."""
    from ia_lib.evaluation import scoring

    whole = not model.config.is_encoder_decoder
    more |= {"prompt_logprob": whole, "content_free": empty, "progress": False}
    found = scoring.label_logprobs(model, tokenizer, asked, words, **more)
    rules = [rule for rule in RULES if whole or rule not in ("joint", "mean")]
    lines = {(rule, f"prompt {i}"): row for rule in rules for i, row in enumerate(found.scores(rule), 1)}
    return pd.DataFrame(lines, index=words).T


def measures(done: Evaluated) -> pd.DataFrame:
    """The headline scores of labels in every language and group, averaged over prompts, beside their baselines."""
    frame = done.measures
    frame = frame[(frame["kind"] == "choose") & (frame["metric"] == "weighted_f1") & (frame["prompt"] == "all")]
    columns = "task group language examples value low high chance majority one_label within_chance"
    return frame[columns.split()].rename(columns={"value": "weighted F1 (%)"}).round(1)


def translations(done: Evaluated) -> pd.DataFrame:
    """What was measured on parallel text and true answers, a line for each direction, beside what costs nothing."""
    frame = done.measures[(done.measures["kind"] != "choose") & (done.measures["language"] != "all")]
    frame = frame[(frame["kind"] == "translate") | (frame["prompt"] == "all")]
    columns = "task metric source language value low high baseline baseline_is examples"
    return frame[frame["source"] != "all"][columns.split()].round(2)


def predictions(stage: Stage, texts: int = 2) -> pd.DataFrame:
    """The predictions of some texts under each prompt, beside the scores of all labels: `texts` of each true label."""
    path, rule = stage.folder / "scores.parquet", stage.run.evaluate.scoring_rule
    if not path.is_file():
        return pd.DataFrame()
    scores = pd.read_parquet(path)
    key = [name for name in ("dataset", "task", "language", "example", "prompt") if name in scores]
    said = predicted(scores, rule).set_index(key)[["predicted", "gold"]]
    wide = scores.assign(score=rule_scores(scores, rule)).pivot(index=key, columns="label", values="score").round(2)
    known = stage.run.shown(stage.inputs.tests(every=False).to_pandas())
    known[["dataset", "task"]] = [dataset_and_task(task) for task in known["task"]]
    wide = wide.join(said).join(known.set_index(key[:-1])["text"]).reset_index()
    few = wide.drop_duplicates(key[:-1]).groupby(["task", "gold"], sort=False).head(texts)[key[:-1]]
    return few.merge(wide, on=key[:-1]).set_index(key)


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


def free_of_charge(done: Judged) -> pd.DataFrame:
    """The mean marks of what answers a request for nothing, by judge and language."""
    free = done.marks[done.marks["run"].isin(FREE)]
    return free.pivot_table(index=["judge", "run"], columns="language", values="mark", sort=False).round(2)


def checks(done: Judged) -> pd.DataFrame:
    """What judges made of answers whose mark is known beforehand; empty, if they were not asked."""
    path = done.folder / "checks.csv"
    return own_csv(path).round(2) if path.is_file() else pd.DataFrame()


def said_on(predictions: pd.DataFrame, task: str, code: str) -> pd.Series:
    """What was answered to a task in a language, by the ids of its questions; of the lines of predictions.parquet."""
    names = predictions["dataset"].str.cat(predictions["task"], sep="/").str.lstrip("/")
    part = predictions[(names == task) & (predictions["language"] == code)]
    return part.set_index("example")["predicted"]


def _asked(stage: Stage, begun: Evaluation):
    """One text of each task under each wording: (text, its task, the wording, prompts, what the labels are called)."""
    tasks = {task.name: task for task in stage.inputs.choices}
    for sample in stage.run.shown(begun.texts.to_pandas().drop_duplicates("task")).itertuples():
        task = tasks[sample.task]
        for wording in task.asked(stage.run.wordings):
            asked = classification_prompts(sample.text, task.question, task.labels, wording)
            yield sample, task, wording, asked, label_words(task.labels, wording)
