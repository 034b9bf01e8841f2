"""The Alpaca study (Chen et al., Findings of EACL 2024): one set of instructions, translated into several languages,
and four budgets to tune on it: a model for each language, one for all, one on English alone, and one on as many
of the merged instructions as one language has."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ia_lib.data.files import CorpusError
from ia_lib.data.yaml_files import Refusal, Text
from ia_lib.recipes import fields
from ia_lib.recipes.fields import Count, Number
from ia_lib.training.streams import Stream, steps_for

BUDGETS = ("mono", "multilingual", "english", "downsampled")
ENGLISH = ("eng", "en")


def _by_method(adapter: Any, full: Any) -> Callable[[dict], Any]:
    """What the released code does with an adapter, and what when all weights are trained."""
    return lambda row: adapter if row.get("adapter") else full


# docs/fidelity.md explains them.
READINGS = {
    "template": ("newline", _by_method("newline", "plain"), "newline"),
    "loss": ("answer", _by_method("all", "answer"), "answer"),
    "hold_out": ("instruction", "row", "instruction"),
    "sampling": ("row", "row", "instruction"),
    "keep": ("best", _by_method("best", "last"), "last"),
    "asked": ("newline", _by_method("newline", "indented"), "newline"),
    "beams": (4, 4, 4),
    "no_repeat_ngram": (6, 6, 6),
    "repetition_penalty": (1.0, _by_method(1.0, 1.1), 1.0),
    "cut_answer": ("sections", _by_method("headings", "response"), "sections"),
}


class Instructions(fields.Part):
    """Files of instructions, one for each language; the i-th is the same instruction in all of them."""

    file: Text  # JSON or JSONL, with {tag} for what the files call a language
    languages: dict[Text, Text] = Field(min_length=1)  # language -> its tag
    instruction: Text = "instruction"
    input: Text = "input"
    output: Text = "output"


class Data(fields.Data):
    """The study's own fields."""

    instructions: Instructions | None = None
    budget: Literal[BUDGETS] = "multilingual"
    language: Text | None = None  # of the budget mono; default: the only one that is taught
    sampling: Literal["instruction", "row"] = "instruction"
    hold_out: Literal["instruction", "row"] = "instruction"
    template: Literal["newline", "plain"] = "newline"
    validation_rows: Annotated[int, Field(ge=0, le=10**6, strict=True)] = 256
    per_step: Count = 128
    epochs: Annotated[Number, Field(gt=0, le=10**4)] | None = None


def streams(run) -> list[Stream]:
    """One stream, whose instructions are shuffled again in every epoch."""
    return [Stream("instructions", "new", run.data.per_step)]


def check(run) -> None:
    """Refuse what does not go together."""
    data = run.data
    if data.instructions is None:
        raise Refusal("instructions", None, "files of instructions: {file: NAME WITH {tag}, languages: {CODE: TAG}}")
    asked = data.instructions
    if "{tag}" not in asked.file and len(asked.languages) > 1:
        raise Refusal("instructions.file", asked.file, "a name with {tag}, since there are several languages")
    if run.model.new:
        raise Refusal("model.new", "a new model", "a model that was trained before, by name or run")
    if (data.steps is None) == (data.epochs is None):
        raise Refusal("steps", None if data.steps is None else "steps and epochs", "exactly one of steps and epochs")
    if run.train.keep == "best" and not data.validation_rows:
        raise Refusal("validation_rows", 0, "at least 1, where keep is best: nothing would be validated")
    if not run.taught:
        raise Refusal("taught", run.taught, "at least one language")
    for code in run.taught:
        if code not in asked.languages:
            raise Refusal("instructions.languages", list(asked.languages), f"one for {code}, too, which is taught")
    if data.language and data.budget != "mono":
        raise Refusal("language", data.language, f"nothing, where the budget is {data.budget}")
    if data.budget == "mono" and not data.language and len(run.taught) > 1:
        raise Refusal("language", None, f"one of {', '.join(asked.languages)}, where the budget is mono")
    if data.language and data.language not in codes(run):
        raise Refusal("language", data.language, f"one of the row's with instructions ({', '.join(codes(run))})")
    if data.budget == "english" and not {*ENGLISH} & {*codes(run)}:
        raise Refusal("budget", "english", f"another one, since English (eng) is none of {', '.join(codes(run))}")
    if run.corpus == "minilab" and (asked.file != "open/{tag}/train.jsonl" or any(a != b for a, b in _pairs(run))):
        allowed = "{file: open/{tag}/train.jsonl, languages: {CODE: CODE}}, the mini lab's own"
        raise Refusal("instructions", asked.model_dump(include={"file", "languages"}), allowed)


def _pairs(run):
    return run.data.instructions.languages.items()


def codes(run) -> list[str]:
    """The languages of the row that there are instructions in, those that are known first."""
    return [code for code in (*run.known, *run.taught) if code in run.data.instructions.languages]


def trained(run) -> list[str]:
    """The languages that the row's budget trains on."""
    if run.data.budget == "mono":
        return [run.data.language or run.taught[0]]
    return [code for code in codes(run) if run.data.budget != "english" or code in ENGLISH]


def rows_of_epoch(run, counts: Mapping[str, int]) -> int:
    """How many instructions the row's budget trains on in an epoch, where the files of its languages (`codes`) have so
    many."""
    of = [max(counts.values())] if run.data.budget == "downsampled" else [counts[code] for code in trained(run)]
    held_out = run.data.validation_rows * (len(of) if run.data.hold_out == "instruction" else 1)
    return max(1, sum(of) - held_out)


def counts(run, inputs) -> dict[str, int]:
    """How many instructions the files of the row's languages have, of those that are here."""
    here = [code for code in codes(run) if inputs.here([_place(run, code)])]
    return {code: len(_read(run, inputs, code)) for code in here} if run.corpus != "minilab" else {}


def places(run) -> list[tuple[str, str]]:
    """(source, file) of what `examples` reads."""
    return [_place(run, code) for code in codes(run)]


def _place(run, code: str) -> tuple[str, str]:
    file = run.data.instructions.file.replace("{tag}", run.data.instructions.languages[code])
    return ("minilab" if run.corpus == "minilab" else "file"), file


def _read(run, inputs, code: str) -> list[dict[str, str]]:
    from ia_lib.instructions import alpaca

    return alpaca.read(inputs.find(*_place(run, code)), run.data.instructions.model_dump(include={*alpaca.PARTS}))


def look(run, inputs) -> None:
    """Read the instructions, so that what is wrong in them is said before any work."""
    _Budgets(run, inputs)


def examples(run, inputs):
    """The instructions of the stream (see the package), and in the report how many instructions, tokens and updates
    every budget has."""
    import pandas as pd

    from ia_lib.instructions import COLUMNS

    made = _Budgets(run, inputs)
    rows, validation = made.rows(run.data.budget)
    steps = run.data.steps or steps_for(run.data.epochs, len(rows), run.data.per_step)
    parts = {"train": made.order(rows, steps * run.data.per_step), "validation": [(0, *row) for row in validation]}
    frames = []
    for split, chosen in parts.items():
        lines = [
            {**made.row(code, i), "language": code, "source_id": str(i), "epoch": epoch} for epoch, code, i in chosen
        ]
        fixed = {"stream": streams(run)[0].name, "role": "new", "kind": "instructions", "split": split}
        if lines:
            frames.append(pd.DataFrame(lines).assign(**fixed, position=range(len(lines)))[COLUMNS])
    facts = {"steps": steps, "rows_of_epoch": len(rows), "report": {"budgets": made.report()}}
    return pd.concat(frames, ignore_index=True), facts


class _Budgets:
    """The instructions of a row, by language, and which of them each budget trains on: (language, number) pairs."""

    def __init__(self, run, inputs):
        self.run, self.data, self.inputs = run, run.data, inputs
        self.found = {code: _read(run, inputs, code) for code in codes(run)}
        self.count = {code: len(rows) for code, rows in self.found.items()}
        if len({*self.count.values()}) > 1 and "instruction" in (self.data.sampling, self.data.hold_out):
            told = ", ".join(f"{count:,} in {code}" for code, count in self.count.items())
            field = "hold_out" if self.data.hold_out == "instruction" else "sampling"
            raise CorpusError(
                f"instructions: found {told}; {field}: instruction wants the same instructions in every language, "
                "in the same order; make them so, or set it to row"
            )
        held_out = self.data.hold_out == "instruction"
        self.held_out = _drawn(run, "validation", min(self.count.values()), self.data.validation_rows * held_out)

    def rows(self, budget: str, language: str | None = None) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """What a budget trains on in an epoch, and what it is validated on; of mono that of one language (default: the
        row's)."""
        of = {
            "mono": [language or trained(self.run)[0]],
            "english": [code for code in self.found if code in ENGLISH],
        }.get(budget, list(self.found))
        every = [(code, i) for code in of for i in range(self.count[code]) if i not in self.held_out]
        size = max(self.count.values()) - len(self.held_out)
        if budget == "downsampled":
            every = self._downsampled(every, size)
        if self.data.hold_out == "instruction":
            return every, [(of[n % len(of)], i) for n, i in enumerate(sorted(self.held_out))]
        # as released: of the budget's own instructions, so that other languages may train on the same instruction
        out = _drawn(self.run, "rows", len(every), self.data.validation_rows)
        return [row for i, row in enumerate(every) if i not in out], [every[i] for i in sorted(out)]

    def _downsampled(self, every: list[tuple[str, int]], size: int) -> list[tuple[str, int]]:
        from ia_lib.randomness import generator, pick, shuffled

        rng = generator(self.run.seed, "downsampled")
        if self.data.sampling == "instruction":
            return [(pick(rng, list(self.found)), i) for i in dict.fromkeys(i for _, i in every)]
        return [every[i] for i in sorted(shuffled(rng, len(every))[:size])]

    def order(self, rows: list[tuple[str, int]], count: int) -> list[tuple[int, str, int]]:
        """The first `count` instructions of training, each with its epoch, every one of which has an order of its
        own."""
        from ia_lib.randomness import generator, shuffled

        found: list[tuple[int, str, int]] = []
        while len(found) < count:
            epoch = len(found) // len(rows)
            found += [(epoch, *rows[i]) for i in shuffled(generator(self.run.seed, "alpaca", epoch), len(rows))]
        return found[:count]

    def row(self, code: str, i: int) -> dict[str, str]:
        """Prompt and answer of an instruction in one language."""
        from ia_lib.instructions import alpaca

        row = self.found[code][i]
        if self.run.chat:
            prompt = "\n\n".join(filter(None, [row["instruction"], row["input"]]))
        else:
            prompt = alpaca.prompt(row["instruction"], row["input"], self.data.template)
        return {"prompt": prompt, "answer": row["output"]}

    def report(self) -> list[dict[str, Any]]:
        """Of every budget, and of mono for each language: `budget, language, rows` of an epoch, `tokens` of these rows
        as they are tuned on, `updates` and `tokens_trained` of the whole training."""
        per_step, asked, lengths = self.data.per_step, self.data, {}
        for code in self.found:
            texts = [self.row(code, i) for i in range(self.count[code])]
            lengths[code] = self.inputs.tokens(texts)
        english = bool({*ENGLISH} & {*self.found})
        kinds = [("mono", code) for code in self.found]
        kinds += [(name, None) for name in BUDGETS[1:] if english or name != "english"]
        lines = []
        for budget, code in kinds:
            rows, _ = self.rows(budget, code)
            tokens = sum(lengths[language][i] for language, i in rows)
            updates = asked.steps or steps_for(asked.epochs, len(rows), per_step)
            line = {"budget": budget, "language": code or "", "rows": len(rows), "tokens": tokens, "updates": updates}
            lines.append(line | {"tokens_trained": round(tokens * updates * per_step / len(rows))})
        return lines


def _drawn(run, name: str, of: int, count: int) -> set[int]:
    """`count` of so many numbers, drawn by the row's seed. Raises Refusal where none would be left."""
    from ia_lib.randomness import generator, shuffled

    if count >= of:
        raise Refusal("validation_rows", count, f"below {of:,}, the instructions that there are")
    return {*shuffled(generator(run.seed, "alpaca", name), of)[:count]}
