"""Instructions in Alpaca's form: read from JSON or JSONL, put into Stanford Alpaca's template, and code-mixed (COMMIT,
section 3: every part by itself, the template never)."""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from ia_lib.data import files
from ia_lib.data.files import CorpusError
from ia_lib.instructions.code_mixing import Mixed, mix

# What an instruction has, whatever a file calls it.
PARTS = ("instruction", "input", "output")
_BEGINS = "Below is an instruction that describes a task"
_WITH_INPUT = ", paired with an input that provides further context"
_ASKS = "Write a response that appropriately completes the request."


# What ends an answer.
_CUTS = {
    "sections": re.compile(r"### (?:Instruction|Input|Response):"),
    "headings": re.compile(r"### Response:|\n### "),
    "response": re.compile(r"### Response:"),
}


def read(path: Path, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """The instructions of a JSON list or of JSONL, with `PARTS`; `fields` says what the file calls them. An input may
    be empty or missing. Raises CorpusError for what is not text, an instruction or output that is empty, and a file
    without any."""
    files.must_exist(path := Path(path))
    return _read(path, path.stat().st_mtime_ns, tuple(fields[part] for part in PARTS))


@lru_cache(maxsize=12)  # the study has nine languages, which every row of its table reads
def _read(path: Path, time: int, names: tuple[str, ...]) -> list[dict[str, str]]:
    rows, fields = [], dict(zip(PARTS, names, strict=True))
    if path.suffix.lower() == ".json":
        found = files.document(path)
        if not isinstance(found, list):
            raise CorpusError(f"{path}: found no list; a JSON file is a list of objects, one for each instruction")
        records = ((f"row {number}", record) for number, record in enumerate(found, 1))
    else:
        records = ((f"line {number}", record) for number, record in files.records(path))
    for place, record in records:
        if not isinstance(record, dict):
            raise CorpusError(f"{path}, {place}: this is no JSON object")
        row = {}
        for part in PARTS:
            if fields[part] not in record and part != "input":
                found = ", ".join(record)[:200]
                raise CorpusError(f"{path}, {place}: there is no field {fields[part]!r}; found: {found}")
            row[part] = files.text(record.get(fields[part]), f"{path}, {place}", fields[part])
            if part != "input" and files.INVISIBLE.fullmatch(row[part]):
                raise CorpusError(f"{path}, {place}: the field {fields[part]!r} is empty")
        rows.append(row)
    if not rows:
        raise CorpusError(f"{path}: there are no instructions in it; it needs at least one")
    return rows


def prompt(instruction: str, further: str = "", form: str = "plain") -> str:
    """Stanford Alpaca's prompt, with the section of an input where there is one. The answer follows at once ("plain"),
    or on a line of its own ("newline", as in alpaca-lora). "indented" is how the released code of the Alpaca study asks
    models that were tuned whole: the template's lines but the first behind four blanks, and four before the answer."""
    begins = f"{_BEGINS}{_WITH_INPUT if further else ''}. {_ASKS}"
    # the template is indented, and not what it is filled with
    line = "\n    " if form == "indented" else "\n"
    sections = [begins, f"### Instruction:{line}{instruction}", *([f"### Input:{line}{further}"] if further else [])]
    return f"\n{line}".join([*sections, "### Response:"]) + ("" if form == "plain" else line)


def cut(answer: str, at: str = "sections") -> str:
    """An answer up to where it goes on with a section of the prompt ("sections"). As released, with adapters up to any
    heading ("headings"), without them up to a second response alone ("response")."""
    return _CUTS[at].split(answer, maxsplit=1)[0].strip()


def mixed(
    row: Mapping[str, str],
    dictionary: Mapping[str, Sequence[str]],
    alpha: float,
    parts: Collection[str],
    key: tuple,
    **how: str,
) -> tuple[str, str, list[Mixed]]:
    """An instruction's prompt and answer with the words of these `parts` mixed, and how: each of `PARTS` by itself
    before it goes into the template, or with "prompt" the filled prompt as one text, the template too (naive mixing).
    `key` and `how` are those of `code_mixing.mix`."""
    found: dict[str, Mixed] = {}

    def through(part: str, text: str) -> str:
        if part not in parts or not text:
            return text
        found[part] = mix(text, dictionary, alpha, (*key, part), **how)
        return found[part].text

    asked = prompt(through("instruction", row["instruction"]), through("input", row["input"]))
    return through("prompt", asked), through("output", row["output"]), list(found.values())
