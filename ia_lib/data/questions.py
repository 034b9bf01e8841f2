"""Questions on passages, in files of SQuAD's layout: XQuAD, MLQA, IndicQA, SQuAD 1.1 and 2.0, and a user's own."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, StrictStr, ValidationError

from ia_lib.data import files
from ia_lib.data.files import CorpusError

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("id", "context", "question", "answers")


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Answer(_Part):
    text: StrictStr


class _Question(_Part):
    id: StrictStr
    question: StrictStr
    answers: list[_Answer]
    is_impossible: bool = False


class _Paragraph(_Part):
    context: StrictStr
    qas: list[_Question]


class _Article(_Part):
    paragraphs: list[_Paragraph]


class _File(_Part):
    data: list[_Article]


def read(path: Path) -> "Dataset":
    """Columns `id, context, question, answers`: the true answers, each once; none for a question that its context does
    not answer (`is_impossible`, or no answer with a text). Raises CorpusError for a missing file, one of another
    layout, a blank context or question, and an id used twice."""
    from datasets import Dataset

    path = Path(path)
    files.must_exist(path)
    text = "".join(files.decoded(line, str(path), number) for number, line in enumerate(path.open("rb"), 1))
    try:
        found = _File.model_validate(files.parsed(text, str(path)))
    except ValidationError as error:
        said = error.errors()[0]
        place = ".".join(map(str, said["loc"])) or "the whole"
        raise CorpusError(f"{path}, {place}: {said['msg']}; the layout is SQuAD's: data, paragraphs, qas") from None
    rows: dict[str, list] = {name: [] for name in COLUMNS}
    seen: set[str] = set()
    for passage in (one for article in found.data for one in article.paragraphs):
        for asked in passage.qas:
            for name, value in (("context", passage.context), ("question", asked.question)):
                if files.INVISIBLE.fullmatch(value):
                    raise CorpusError(f"{path}, question {asked.id!r:.80}: the {name} is empty")
            if asked.id in seen:
                raise CorpusError(f"{path}: the id {asked.id!r:.80} is used twice; every question needs one of its own")
            seen.add(asked.id)
            true = [] if asked.is_impossible else [one.text for one in asked.answers if one.text.strip()]
            for name, value in zip(
                COLUMNS, (asked.id, passage.context, asked.question, list(dict.fromkeys(true))), strict=True
            ):
                rows[name].append(value)
    if not seen:
        raise CorpusError(f"{path}: there is no question in it; it needs at least one")
    return Dataset.from_dict(rows)
