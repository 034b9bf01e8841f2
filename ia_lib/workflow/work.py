"""What each stage does, as functions: a stage's notebook calls them and shows what they return.

Each ends with the stage finished; of a stage that was finished before it only reads what there is. What takes long is
imported where it is used, so that a stage is made by no more of the kit than it needs.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia_lib.workflow import processes
from ia_lib.workflow.pace import Pace
from ia_lib.workflow.settings import SettingsError
from ia_lib.workflow.stages import Stage

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# What is done with a sentence of parallel text -> how many times as long it takes as a prompt of three labels.
_SENTENCE = {"translation": 8.0, "loss": 1.0, "similarity": 2.0}


@dataclass
class MadeData:
    """What a data stage has made."""

    folder: Path
    examples: "pd.DataFrame"  # examples.parquet
    report: dict[str, Any]  # report.json


def make_data(stage: Stage) -> MadeData:
    """Make the examples that the run trains on, count and check them, and, for a new model, train its tokenizer."""
    import pandas as pd

    if not stage.done:
        _make_data(stage)
    folder = stage.folder
    examples = pd.read_parquet(folder / "examples.parquet")
    return MadeData(folder, examples, json.loads((folder / "report.json").read_text(encoding="utf-8")))


def _make_data(stage: Stage) -> None:
    from datasets import Dataset

    from ia_lib.data import minilab
    from ia_lib.models import load, new
    from ia_lib.workflow import checks, past, preflight
    from ia_lib.workflow.cost import estimate

    run, inputs = stage.run, stage.inputs
    preflight.check_earlier(inputs)  # what had to be downloaded is here by now
    examples, facts = run.method.examples(run, inputs)
    parallel = inputs.usable() if inputs.reads_parallel else Dataset.from_dict({"sentence_id": []})
    if run.model.new:
        pool = facts["pool"] if "pool" in facts else inputs.pool()[0]
        texts = new.tokenizer_texts(pool, parallel, past.passages(inputs))
        tokenizer = new.train_tokenizer(texts, run.model.new.vocabulary)
    else:
        tokenizer = load.load_tokenizer(*inputs.tokenizer)
    encoding = run.encoding(isinstance(inputs.origin, str) and load.is_encoder_decoder(*inputs.tokenizer))
    splits = run.parallel_codes and getattr(run.data, "hold_out", "") == "sentence"
    report = checks.report(
        examples,
        run.streams,
        parallel,
        inputs.tests(),
        inputs.labels,
        tokenizer,
        encoding,
        facts.get("steps", run.data.steps),
        facts.get("rows_of_epoch", 0),
        inputs.dropped if inputs.reads_parallel else 0,
        (inputs.held_out(), run.data.validation_sentences) if splits else (None, 0),
        run.machine.share_text,
        # whose languages are made of another one's words
        run.corpus != "minilab",
    )
    if run.corpus == "minilab":
        report["untranslated_share"] = minilab.untranslated_shares(run.seed)
    report |= facts.get("report", {})
    report["warnings"] += inputs.remarks()
    report["estimated"] = asdict(estimate(run, inputs.origin, report, texts=len(inputs.tests(every=False))))
    examples.to_parquet(stage.part / "examples.parquet", index=False)
    (stage.part / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    if run.model.new:
        tokenizer.save_pretrained(stage.part / "tokenizer")
    stage.finish(drawn_from=facts.get("provenance"))


@dataclass
class Tuning:
    """What tuning begins with."""

    device: str
    model: "PreTrainedModel | PeftModel | None"  # None once other processes train
    tokenizer: "PreTrainedTokenizerBase"
    rows: list[dict]  # in the order in which they are trained on (`batches.lay_out`)
    validation: list[dict]
    kept: list[dict]  # old instructions that a method against forgetting looks at
    per_step: int  # examples of a batch


def begin_tuning(stage: Stage) -> Tuning:
    """Load the run's base, and lay out its batches."""
    from ia_lib.models import load, new
    from ia_lib.workflow import cost

    run, inputs = stage.run, stage.inputs
    device = load.computing_device(run.threads)
    report = json.loads((inputs.examples.parent / "report.json").read_text(encoding="utf-8"))
    if said := cost.too_large(run, inputs.origin, load.free_memory(), report):
        print(said)
    tokenizer = load.load_tokenizer(*inputs.tokenizer)
    if run.model.new:
        sizes = run.model.new.model_dump(exclude={"vocabulary"})
        model = new.new_model(len(tokenizer), run.seed, **sizes)
    else:
        model = _to_tune(inputs, run)
    rows = laid_out(stage, tokenizer, model.config.is_encoder_decoder)
    return Tuning(device, model, tokenizer, *rows, run.per_step)


def laid_out(stage: Stage, tokenizer, encoder_decoder: bool) -> tuple[list[dict], list[dict], list[dict]]:
    """What a tune stage trains on as tokens, without its model: examples in their order, those for validation, and
    those that are kept for a method against forgetting (`batches.lay_out`)."""
    import pandas as pd

    from ia_lib.training import batches

    run = stage.run
    return batches.lay_out(
        pd.read_parquet(stage.inputs.examples),
        run.streams,
        tokenizer,
        run.encoding(encoder_decoder),
        run.seed,
        run.train.length_window,
        run.train.alternation,
        run.data.steps,
    )


def _to_tune(inputs, run) -> "PreTrainedModel | PeftModel":
    """A run's base, with a fresh adapter if it trains one."""
    from ia_lib.models import adapters, load

    asked = run.train.adapter
    if not asked:
        return load.load_model(*inputs.model)
    # frozen layers need no more digits than they are computed with
    kept = {"quantisation": asked.quantisation, "precision": run.train.precision}
    device = "cpu" if asked.quantisation == "none" else load.computing_device(run.threads)
    model = load.load_model(*inputs.model, device, **kept)
    chosen = asked.model_dump(exclude={"quantisation"})
    return adapters.attach(model, **chosen, checkpointing=run.train.gradient_checkpointing, seed=run.seed)


@dataclass
class Tuned:
    """What tuning has made."""

    folder: Path
    log: "pd.DataFrame"  # log.jsonl
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    validation: list[dict]


def tune(stage: Stage, begun: Tuning, on_log: Callable[[dict], None] | None = None) -> Tuned:
    """Train the model; `on_log` gets every record of log.jsonl as it is written."""
    import pandas as pd

    from ia_lib.models import load

    if not stage.done:
        if stage.run.train.processes > 1:
            begun.model = None  # each of them has its own
            processes.train(stage, len(begun.rows) // begun.per_step, on_log)
        else:
            fit(stage, begun, on_log)
        stage.finish(begun.device)
    log = pd.read_json(stage.folder / "log.jsonl", lines=True)
    model = load.load_model(*stage.inputs.tuned_model, begun.device)
    return Tuned(stage.folder, log, model, begun.tokenizer, begun.validation)


def fit(stage: Stage, begun: Tuning, on_log: Callable[[dict], None] | None = None) -> None:
    """Train the model into the opened stage's folder, in this process or as one of several."""
    from ia_lib.training import retention, trainer

    run = stage.run
    chosen = run.train.model_dump(exclude={"alternation", "length_window", "adapter", "processes"})
    chosen["accumulation"] = int(os.environ.get(processes.PARTS) or chosen["accumulation"])
    model = trainer.tune(
        begun.model,
        begun.tokenizer,
        begun.rows,
        begun.validation,
        stage.part,
        steps=len(begun.rows) // begun.per_step,
        batch_size=begun.per_step,
        **chosen,
        retention=retention.method(getattr(run.data, "retention", None)),
        kept=begun.kept,
        log_steps=run.machine.log_steps,
        save_steps=run.machine.save_steps,
        seed=run.seed,
        on_log=on_log,
        on_progress=stage.progress,
    )
    if processes.is_first():
        trainer.save(model, begun.tokenizer, stage.part / "model", _card(stage))


def tune_together(stage: Stage) -> bool:
    """Train as one of several processes that a launcher has started; returns whether this is the one that goes on with
    the stage's notebook.

    Raises SettingsError if there are not as many as the row says.
    """
    asked, opened = stage.run.train.processes, processes.OPENED in os.environ
    mine = processes.is_first() and not opened
    if asked != processes.here():
        said = f"found {processes.here()} processes; allowed: {asked}, as many as the row's field 'processes' says"
        raise SettingsError(f"{stage.run.place}, run {stage.run.name!r}: {said}")
    if not stage.done:
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        if mine:
            stage.open()
        state.wait_for_everyone()
        begun = begin_tuning(stage)
        fit(stage, begun)
        state.wait_for_everyone()
        if mine:
            stage.finish(begun.device)
        state.destroy_process_group()
    processes.leave()
    return mine


def _card(stage: Stage) -> str:
    """The model card of a tuned model."""
    run = stage.run
    called = stage.inputs.called
    start = (
        (f"the run {run.model.run}" + (f", which goes back to {called}" if called else "")) if run.model.run else called
    )
    taught = ", ".join(run.taught) if run.parallel_codes else "none"
    said = [f"{name} {value}" for name in ("objective", "replay", "rows")
            if (value := getattr(run.data, name, None)) is not None]  # fmt: skip
    if method := getattr(run.data, "retention", None):
        said.append(f"old instructions for {method.method}")
    if adapter := run.train.adapter:
        on = "" if adapter.quantisation == "none" else f" on the model in {adapter.quantisation}"
        said.append(f"{'DoRA' if adapter.dora else 'LoRA'} of rank {adapter.rank}{on}")
    return (
        f"# {run.name}\n\nBase: {start or 'random weights'}; recipe {run.recipe} ({', '.join(said)}), "
        f"seed {run.seed}.\n\n"
        f"Taught languages: {taught}. Corpus: {run.corpus}.\n\n"
        "Made for research on teaching languages; check its evaluation before you rely on it.\n"
    )


@dataclass
class Evaluation:
    """What evaluation begins with."""

    device: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    texts: "Dataset"  # labelled, of all tasks
    labels: dict[str, list[str]]


def begin_evaluation(stage: Stage) -> Evaluation:
    """Load the model that the run ends with, and the texts that it is tested on."""
    from ia_lib.models import load
    from ia_lib.workflow import fit

    run, inputs, asked = stage.run, stage.inputs, stage.run.evaluate
    device = load.computing_device(run.threads)
    tokenizer = load.load_tokenizer(*inputs.tokenizer)
    model = load.load_model(*inputs.tuned_model, device, asked.quantisation, asked.score_precision)
    # of a model that was made here nothing was known before
    fit.check_labels(inputs, tokenizer, model.config.is_encoder_decoder)
    return Evaluation(device, model, tokenizer, inputs.tests(every=False), inputs.labels)


@dataclass
class Evaluated:
    """What evaluation has made."""

    folder: Path
    measures: "pd.DataFrame"  # measures.csv


def evaluate(stage: Stage, begun: Evaluation) -> Evaluated:
    """Let the model answer all tasks, each by its kind, and measure the answers."""
    from ia_lib.data.files import own_csv

    if not stage.done:
        _evaluate(stage, begun)
    return Evaluated(stage.folder, own_csv(stage.folder / "measures.csv"))


def _evaluate(stage: Stage, begun: Evaluation) -> None:
    import pandas as pd

    from ia_lib.evaluation import answering, choice, extraction, measures, responses, translation
    from ia_lib.workflow import cost

    run, inputs, asked = stage.run, stage.inputs, stage.run.evaluate
    pairs = {task.name: inputs.pairs(task) for task in inputs.translations}
    questions = {task.name: inputs.questions(task) for task in inputs.answered}
    passages, requests = (
        [(task, code, inputs.asked(task, code)) for task in some for code in inputs.tested(task)]
        for some in (inputs.extracted, inputs.opened)
    )
    ways = {task.name: len(translation.directions(inputs.plan(), inputs.tested(task))) for task in inputs.translations}
    sentences = sum(ways[name] * len(text) for name, text in pairs.items())
    pace = Pace(
        {
            "labels": (len(begun.texts) * 3 * len(run.wordings), 1.0),
            "answers": (sum(map(len, questions.values())), 1.0),
            "passages": (sum(len(some) for *_, some in passages), cost.PASSAGE),
            "requests": (sum(len(some) for *_, some in requests), cost.REQUEST),
            **{name: (sentences, cost) for name, cost in _SENTENCE.items()},
        },
        stage.progress,
    )

    def since(part: str) -> Callable[[int, int], None]:
        """Tells `pace` of a part by how much of it is done."""
        before = 0

        def tell(done: int, of: int) -> None:
            nonlocal before
            pace.add(part, done - before, of if part == "labels" else None)
            before = done

        return tell

    scores = choice.score(
        begun.model,
        begun.tokenizer,
        begun.texts,
        inputs.choices,
        run.wordings,
        chat=run.chat,
        prompt_logprob=asked.scores_prompts,
        max_length=asked.score_max_length,
        batch_tokens=run.machine.batch_tokens,
        # finished parts, so that a killed evaluation goes on where it was
        cache=stage.folder.with_name(".scores"),
        progress=since("labels"),
    )
    counts = [
        answering.surprise(
            *(begun.model, begun.tokenizer, task, questions[task.name], inputs.tested(task)[0], run.chat),
            since("answers"),
        )
        for task in inputs.answered
    ]
    encoding = run.encoding(begun.model.config.is_encoder_decoder)
    predictions = []
    for task in inputs.translations:
        given = task, pairs[task.name], inputs.plan(), encoding, pace.add
        said, counted = translation.translate(begun.model, begun.tokenizer, *given)
        predictions.append(said)
        counts.append(counted)
    for task, code, some in passages:
        given = begun.model, begun.tokenizer, task, some, code
        said, counted = extraction.extract(*given, chat=run.chat, progress=partial(pace.add, "passages"))
        predictions.append(said)
        counts.append(counted)
    gate = inputs.gate() if requests else None
    for task, code, some in requests:
        said, counted = responses.respond(
            *(begun.model, begun.tokenizer, task, some, code, gate),
            **asked.model_dump(include={"asked", "beams", "no_repeat_ngram", "repetition_penalty"}),
            cut=asked.cut_answer,
            chat=run.chat,
            progress=partial(pace.add, "requests"),
        )
        predictions.append(said)
        counts.append(counted)
    measures.save(
        stage.part,
        scores,
        pd.concat(predictions) if predictions else None,
        pd.concat(counts) if counts else None,
        inputs.training_labels(),
        run.shown(begun.texts.to_pandas()),
        run.groups,
        run.seed,
        asked.scoring_rule,
        asked.majority_of,
    )
    stage.finish(begun.device)


@dataclass
class Judged:
    """What judging has made."""

    folder: Path
    measures: "pd.DataFrame"  # measures.csv
    marks: "pd.DataFrame"  # marks.parquet


def judge(stage: Stage) -> Judged:
    """Let the row's judges mark the run's free answers."""
    import pandas as pd

    from ia_lib.data.files import own_csv

    if not stage.done:
        from ia_lib.workflow import judging

        judging.judge(stage)
    folder = stage.folder
    return Judged(folder, own_csv(folder / "measures.csv"), pd.read_parquet(folder / "marks.parquet"))


@dataclass
class Reported:
    """What the report stage has made."""

    folder: Path
    results: "pd.DataFrame"  # results.csv


def write_report(stage: Stage) -> Reported:
    """Put all evaluated runs of the table side by side in results.csv, figures and one page."""
    from ia_lib.data.files import own_csv
    from ia_lib.report import page

    if not stage.done:
        evaluated = [needed for needed in stage.needs if needed.name == "evaluate"]
        folders = [needed.folder for needed in evaluated]
        judged = [needed.folder for needed in stage.needs if needed.name == "judge"]
        # what no artefact depends on may have changed since
        said = [needed.run.model_dump(mode="json", include={"reproduces", "fidelity"}) for needed in evaluated]
        page.write(stage.part, stage.table.stem, folders, stage.without, said, judged, stage.progress)
        stage.finish()
    return Reported(stage.folder, own_csv(stage.folder / "results.csv"))
