"""COMMIT (Lee et al., Findings of NAACL 2024): an English-centric model is aligned by language modelling on text of the
target language with English words in it, then tuned on English instructions with words of the target language."""

from collections.abc import Iterator
from itertools import chain, count, islice
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from ia_lib.data import files
from ia_lib.data.yaml_files import Refusal, Text
from ia_lib.recipes import fields
from ia_lib.recipes.fields import Count, Number, Share
from ia_lib.training.streams import Stream, steps_for

# docs/fidelity.md explains them.
READINGS = {
    "words": ("unicode", "spaces", "unicode"),
    "case": ("exact", "exact", "fallback"),
    "identical": (True, True, False),
}


class Dictionary(fields.Part):
    """Words and their translations (see `data.dictionaries`)."""

    file: Text
    source: Text | None = None  # columns of a table; without them a line is a pair
    target: Text | None = None
    reverse: StrictBool = False
    sheet: Text | None = None

    @model_validator(mode="after")
    def _both(self):
        if (self.source is None) != (self.target is None):
            field = "target" if self.source else "source"
            raise Refusal(field, None, "a column, since the other one is named")
        return self


class Instructions(fields.Part):
    """A JSON or JSONL file, and what it calls the parts of an instruction."""

    file: Text
    instruction: Text = "instruction"
    input: Text = "input"
    output: Text = "output"


class Data(fields.Data):
    """COMMIT's own fields: with `texts` a row aligns, with `instructions` it tunes."""

    texts: dict[Text, Text] = Field({})  # language -> a text file, one text a line
    instructions: Instructions | None = None
    dictionaries: dict[Text, Dictionary] = Field({})  # by the language that is taught
    alpha: Share = 0.9
    mix: list[Literal["instruction", "input", "output", "prompt"]] = Field(["instruction", "input", "output"])
    words: Literal["unicode", "spaces"] = "unicode"
    case: Literal["fallback", "exact"] = "fallback"
    identical: StrictBool = False
    validation_rows: Annotated[int, Field(ge=0, le=10**6, strict=True)] = 0  # of the file, held out
    per_step: Count = 32
    epochs: Annotated[Number, Field(gt=0, le=10**4)] | None = None


def streams(run) -> list[Stream]:
    """One stream, whose examples are mixed again in every epoch."""
    return [Stream("text" if run.data.texts else "instructions", "new", run.data.per_step)]


def check(run) -> None:
    """Refuse what does not go together."""
    data = run.data
    if bool(data.texts) == bool(data.instructions):
        found = "both" if data.texts else None
        raise Refusal("instructions", found, "exactly one of texts (to align) and instructions (to tune)")
    if run.model.new:
        raise Refusal("model.new", "a new model", "a model that was trained before, by name or run")
    if (data.steps is None) == (data.epochs is None):
        raise Refusal("steps", None if data.steps is None else "steps and epochs", "exactly one of steps and epochs")
    if not run.taught:
        raise Refusal("taught", run.taught, "at least one language")
    if data.texts and run.train.loss != "all":
        raise Refusal("loss", run.train.loss, "all, since text has no prompt")
    if data.texts and run.chat:
        raise Refusal("chat", True, "false, since text is no conversation")
    for code, file in data.texts.items():
        if file.lower().endswith((".json", *files.TABLES)):
            raise Refusal(f"texts.{code}", file, "a text file, with one text a line")
        if code not in run.taught:
            raise Refusal(f"texts.{code}", code, f"one of taught ({', '.join(run.taught)})")
    if run.train.keep == "best" and not data.validation_rows:
        raise Refusal("validation_rows", 0, "at least 1, where keep is best: nothing would be validated")
    if "prompt" in data.mix and {"instruction", "input"} & {*data.mix}:
        raise Refusal("mix", data.mix, "prompt without instruction and input, which stand in it")
    for code in data.texts or run.taught if _mixes(run) else ():
        if code not in data.dictionaries:
            raise Refusal("dictionaries", list(data.dictionaries) or None, f"one for {code}, or alpha: 0 or mix: []")
    if run.corpus == "minilab":
        _check_lab(run)


def _check_lab(run) -> None:
    """Refuse files that the mini lab does not have."""
    data, codes = run.data, [code for code in run.codes if code != "eng"]
    asked = {f"texts.{code}": (file, f"texts/{code}.txt") for code, file in data.texts.items()}
    asked |= {
        f"dictionaries.{code}.file": (data.dictionaries[code].file, f"dictionaries/{code}.tsv")
        for code in _mixed_into(run)
    }
    asked |= {"instructions.file": (data.instructions.file, "instructions/ind.jsonl")} if data.instructions else {}
    for field, (found, allowed) in asked.items():
        if found != allowed or (field != "instructions.file" and field.split(".")[1] not in codes):
            raise Refusal(field, found, f"{allowed}, the mini lab's own")


def places(run) -> list[tuple[str, str]]:
    """(source, file) of what `examples` reads: files of the mini lab's, where that is the corpus."""
    data = run.data
    files = [*data.texts.values(), *([data.instructions.file] if data.instructions else [])]
    return [_place(run, file) for file in [*files, *(data.dictionaries[code].file for code in _mixed_into(run))]]


def _place(run, file: str) -> tuple[str, str]:
    return ("minilab" if run.corpus == "minilab" else "file"), file


def look(run, inputs) -> None:
    """Read the instructions and the dictionaries, so that what is wrong in them is said before any work."""
    if run.data.instructions:
        _instructions(run, inputs)
    dictionaries(run, inputs)


def _instructions(run, inputs) -> list[dict[str, str]]:
    from ia_lib.instructions import alpaca

    asked = run.data.instructions
    return alpaca.read(inputs.find(*_place(run, asked.file)), asked.model_dump(exclude={"file"}))


def examples(run, inputs):
    """The examples of the stream (see the package), with `before`: prompt and answer as they were unmixed. A text of
    more than `max_length` tokens makes several examples."""
    import pandas as pd

    from ia_lib.instructions import COLUMNS

    made = (_Texts if run.data.texts else _Instructions)(run, inputs)
    # no more of a large text is mixed than is trained on
    wanted = None if run.data.steps is None else run.data.steps * run.data.per_step
    rows = list(islice(made.epoch(0), wanted))
    whole = wanted is None or len(rows) < wanted
    texts = len({row["source_id"] for row in rows})
    of_epoch = len(rows) if whole else max(len(rows), len(rows) * made.count // texts)
    steps = run.data.steps or steps_for(run.data.epochs, len(rows), run.data.per_step)
    more = (row for epoch in count(1) for row in made.epoch(epoch))
    parts = {"train": list(islice(chain(rows, more), steps * run.data.per_step))}
    facts = {"steps": steps, "rows_of_epoch": of_epoch, "report": {"code_mixing": made.rates()}}
    parts["validation"] = list(made.epoch(0, held_out=True))
    fixed = {"stream": streams(run)[0].name, "role": "new"}
    frames = [
        pd.DataFrame(rows).assign(**fixed, split=split, position=range(len(rows)))[[*COLUMNS, "before"]]
        for split, rows in parts.items()
        if rows
    ]
    return pd.concat(frames, ignore_index=True), facts


def dictionaries(run, inputs) -> dict[str, Any]:
    """Language -> its dictionary (`data.dictionaries.Dictionary`), of those that the row mixes words into."""
    from ia_lib.data import dictionaries

    found = {}
    for code in _mixed_into(run):
        asked = run.data.dictionaries[code]
        file, more = inputs.find(*_place(run, asked.file)), asked.model_dump(exclude={"file"})
        found[code] = dictionaries.read(file, identical=run.data.identical, **more)
    return found


class _Mixing:
    """The examples of every epoch, mixed, and what was mixed so far."""

    def __init__(self, run, inputs, rows: list, texts: list[str]):
        """`texts` are what of the examples must not be both trained on and held out."""
        from ia_lib.instructions.code_mixing import Reached

        self.run, self.rows, self.how = run, rows, {"words": run.data.words, "case": run.data.case}
        self.books = dictionaries(run, inputs)
        self.reached = {code: Reached() for code in run.taught}
        self.held_out = _held_out(texts, run.data.validation_rows, run.seed)

    def order(self, epoch: int, held_out: bool) -> Iterator[tuple[int, Any]]:
        """The examples that are held out, or all others, with their numbers, in an order of their own in every
        epoch."""
        from ia_lib.randomness import generator, shuffled

        numbers = shuffled(generator(self.run.seed, "code-mixing", epoch), len(self.rows))
        return ((i, self.rows[i]) for i in numbers if (i in self.held_out) == held_out)

    @property
    def count(self) -> int:
        """How many instructions or texts of the file are trained on."""
        return len(self.rows) - len(self.held_out)

    def words(self, code: str) -> dict[str, list[str]]:
        return self.books[code].translations if code in self.books else {}

    def rates(self) -> dict[str, dict]:
        """Of each language's dictionary what it has, and how much it reached."""
        return {code: {**book.counts(), **self.reached[code].rates()} for code, book in self.books.items()}


class _Texts(_Mixing):
    """Rows of plain text, all of which are answers."""

    def __init__(self, run, inputs):
        places = {code: inputs.find(*_place(run, file)) for code, file in run.data.texts.items()}
        rows = [(code, line) for code, place in places.items() for line in files.lines(place)]
        super().__init__(run, inputs, rows, [text for _, text in rows])
        self.cut = inputs.cut

    def epoch(self, epoch: int, held_out: bool = False) -> Iterator[dict]:
        from ia_lib.instructions.code_mixing import mix

        room = max(1, self.run.data.max_length - 2)  # beside what begins and ends a text
        for number, (code, text) in self.order(epoch, held_out):
            mixed = mix(text, self.words(code), self.run.data.alpha, (self.run.seed, epoch, number, "text"), **self.how)
            self.reached[code].add(mixed)
            parts = self.cut(mixed.text, room)
            for part, before in zip(parts, _unmixed(mixed.pieces, parts), strict=True):
                row = {"prompt": "", "answer": part, "kind": "alignment", "language": code}
                yield {**row, "source_id": str(number), "epoch": epoch, "before": before}


class _Instructions(_Mixing):
    """Rows of instructions, of several languages in another one in every epoch."""

    def __init__(self, run, inputs):
        from ia_lib.instructions import alpaca

        rows = _instructions(run, inputs)
        super().__init__(run, inputs, rows, [alpaca.prompt(row["instruction"], row["input"]) for row in rows])

    def epoch(self, epoch: int, held_out: bool = False) -> Iterator[dict]:
        from ia_lib.instructions import alpaca

        data, taught = self.run.data, self.run.taught
        for number, row in self.order(epoch, held_out):
            code = taught[(number + epoch) % len(taught)]
            words, key = self.words(code), (self.run.seed, epoch, number)
            prompt, answer, mixed = alpaca.mixed(row, words, data.alpha, data.mix if words else (), key, **self.how)
            self.reached[code].add(*mixed)
            before = alpaca.prompt(row["instruction"], row["input"]) + row["output"]
            line = {"prompt": prompt, "answer": answer, "kind": "instructions", "language": code}
            yield {**line, "source_id": str(number), "epoch": epoch, "before": before}


def _unmixed(pieces: list[tuple[str, str]], parts: list[str]) -> list[str]:
    """What the parts of a mixed text were before; a piece belongs to the part that it begins in."""
    found, at, end, part = [""] * len(parts), 0, len(parts[0]), 0
    for before, after in pieces:
        while at >= end and part + 1 < len(parts):
            part += 1
            end += len(parts[part])
        found[part] += before
        at += len(after)
    return found


def _held_out(texts: list[str], count: int, seed: int) -> set[int]:
    """The numbers of `count` of the texts, none of which is equal to one of the others."""
    from datasets import Dataset

    from ia_lib.data import corpora
    from ia_lib.randomness import generator, shuffled

    if count >= len(texts):
        raise Refusal("validation_rows", count, f"below {len(texts):,}, the examples that there are")
    if not count:
        return set()
    group = corpora.groups(corpora.fingerprints(Dataset.from_dict({"text": texts})))
    held = corpora.hold_out(group, shuffled(generator(seed, "validation"), len(texts)), count)
    return {number for number, out in enumerate(held) if out}


def _mixes(run) -> bool:
    return bool(run.data.alpha and (run.data.texts or run.data.mix))


def _mixed_into(run) -> list[str]:
    """The languages whose dictionaries are read."""
    return list(run.data.texts or run.taught) if _mixes(run) else []
