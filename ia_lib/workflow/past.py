"""The old instructions of a run, which its base was trained on before: a run, a file, from afar, or a mixture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia_lib.data import corpora, downloads, files, minilab
from ia_lib.data.files import CorpusError
from ia_lib.evaluation import tasks
from ia_lib.evaluation.tasks import Choose, Extract
from ia_lib.instructions import mixture, replay
from ia_lib.randomness import generator, shuffled
from ia_lib.workflow.tables import drawn

if TYPE_CHECKING:
    from datasets import Dataset


def places(inputs) -> list[tuple[str, str]]:
    """What of the past is read from outside, as (source, file); `inputs` are those of the run's data stage."""
    run, past = inputs.run, inputs.run.data.past
    if drawn(run) is None or past.run:
        return []
    if past.file:
        return [("file", past.file)]
    if past.mixture:
        found = mixture.places(past.mixture.shares, run.known, past.mixture.split, run.corpus)
        return found + [place for task in _mixed(inputs) for place in task.places(task.has(run.known), "train")]
    files = [f"{code}/merged_{code}.jsonl" for code in past.xp3 or ()]
    far = [past.url] if past.url else [downloads.location("xp3", file, run.machine.mirror) for file in files]
    return [("address", str(place)) for place in far]


def pool(inputs) -> "tuple[Dataset, list[dict[str, Any]]]":
    """The old instructions that `replay.draw` draws from, and where it is from (for the manifest). Of a pool too
    large to load, the instructions of random parts; empty, if the run draws nothing."""
    from datasets import Dataset, concatenate_datasets

    from ia_lib.data.pools import Jsonl

    run, past, asked = inputs.run, inputs.run.data.past, drawn(inputs.run)
    if asked is None:
        return corpora.past(None), []
    if past.run:
        return _trained_on(inputs.made(past.run, "data") / "examples.parquet"), []
    if past.mixture:
        mixed = past.mixture
        more = {"split": mixed.split, "xss_negatives": mixed.xss_negatives, "corpus": run.corpus}
        for task in _mixed(inputs):
            if isinstance(task, Extract):
                more["asked"] = [row for code in task.has(run.known) for row in _asked(inputs, task, code)]
            else:
                more |= {"texts": task.read(inputs.find, run.known, "train"), "labels": task.labels}
        return mixture.mixture(inputs.find, run.known, mixed.shares, mixed.rows, run.seed, **more), []
    rows = asked["r"] if asked["r"] == "all" else asked["r"] + asked["validation_rows"]
    released = asked.get("sampling") == "released"
    found = [inputs.find(*place) for place in places(inputs)]
    if past.file and (not past.stream or rows == "all"):
        read = split(inputs, found[0], asked["stratify"])[0]
        return (read if released else replay.spaced(read)), []
    if past.file and not released:
        drawn_rows = replay.reservoir(Jsonl(found[0], past.fields).rows(), rows, run.seed)
        return replay.spaced(Dataset.from_list(drawn_rows)), []
    columns = {asked["stratify"]: asked["stratify"]} if asked["stratify"] and past.url else {}
    cache = None if past.file else downloads.cache_folder() / "past"
    files = [Jsonl(place, {**past.fields, **columns}, cache=cache, offline=run.machine.offline) for place in found]
    facts = [] if past.file else [file.facts for file in files]
    if released:
        # nearly contiguous rows of the one file, as the released code reads them
        return files[0].head(rows + replay.BUFFER), facts
    total = sum(file.size for file in files)
    parts = [
        file.sample(run.seed, max(1, round(past.blocks * file.size / total)), rows if len(files) == 1 else 0)
        for file in files
    ]
    if past.xp3:
        parts = [part.add_column("language", [code] * len(part)) for part, code in zip(parts, past.xp3, strict=True)]
        facts = [{**downloads.provenance("xp3"), **fact} for fact in facts]
    return replay.spaced(concatenate_datasets(parts)), facts


def _mixed(inputs) -> list[Choose | Extract]:
    """The tasks whose training texts a mixture has."""
    run, mixed = inputs.run, inputs.run.data.past.mixture
    wanted = {"sentiment": mixed.sentiment, "passages": mixed.passages}
    return [tasks.load(f"{run.corpus}/{name}", run.home) for name, asked in wanted.items() if asked]


def _asked(inputs, task: Extract, code: str) -> list[dict[str, str]]:
    """The questions of a task in one language, with its prompts, each with the first of its true answers."""
    return [
        {
            "prompt": task.prompt(code, row["context"], row["question"]),
            "answer": minilab.answered(row["answers"][0]),
            "language": code,
        }
        for row in task.read(inputs.find, [code], "train").to_list()
    ]


def passages(inputs) -> list[str]:
    """What a new model's tokenizer is trained on beside the rest, if its past has questions on passages: the mini lab's
    passages in all languages of the run, and Alpaca's template, as often as those of the past."""
    from ia_lib.instructions import alpaca

    run = inputs.run
    if not (run.data.past and run.data.past.mixture and run.data.past.mixture.passages):
        return []
    codes = tasks.load("minilab/passages").has(run.codes)
    found = [text for code in codes for text in files.lines(inputs.find("minilab", f"texts/{code}.txt"))]
    return found + [alpaca.prompt("", further) for further in ("", " ")] * len(found)


def split(inputs, path: Path, column: str | None = None) -> "tuple[Dataset, Dataset]":
    """The instructions of the run's past file that may be drawn, and those that are held out; no prompt of these is
    among those."""
    run, asked = inputs.run, inputs.run.data.past
    rows = corpora.past(path, **asked.fields, column=column, more=asked.input)
    if not asked.held_out:
        return rows, rows.select([])
    if asked.held_out >= len(rows):
        raise CorpusError(
            f"{path}: found {len(rows):,} instructions; more than the {asked.held_out:,} held out are needed"
        )
    order = shuffled(generator(run.seed, "held-out past"), len(rows))
    held_out = rows.select(sorted(order[: asked.held_out]))
    prompts = set(map(corpora.normalised, held_out["prompt"]))
    kept = [i for i, prompt in enumerate(rows["prompt"]) if corpora.normalised(prompt) not in prompts]
    return rows.select(kept), held_out


def _trained_on(examples: Path) -> "Dataset":
    """What a run drew from its own past to train on, as a pool."""
    import pandas as pd
    from datasets import Dataset

    frame = pd.read_parquet(examples)
    frame = frame[frame["pool_row"].notna() & (frame["split"] == "train")].rename(columns={"kind": "objective"})
    columns = [name for name in ("objective", "language") if frame[name].fillna("").ne("").any()]
    return Dataset.from_dict({name: frame[name].tolist() for name in ("prompt", "answer", *columns)})
