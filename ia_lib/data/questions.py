"""Questions on passages, in files of SQuAD's layout: XQuAD, MLQA, IndicQA, SQuAD 1.1 and 2.0, and a user's own."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr, ValidationError

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
    id: StrictStr | StrictInt
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

    files.must_exist(path := Path(path))
    return Dataset.from_dict(_read(path, path.stat().st_mtime_ns))


@lru_cache(maxsize=8)
def _read(path: Path, time: int) -> dict[str, list]:
    try:
        found = _File.model_validate(files.document(path))
    except ValidationError as error:
        said = error.errors()[0]
        place = ".".join(map(str, said["loc"])) or "the whole"
        raise CorpusError(f"{path}, {place}: {said['msg']}; the layout is SQuAD's: data, paragraphs, qas") from None
    rows: dict[str, list] = {name: [] for name in COLUMNS}
    seen: set[str] = set()
    for passage in (one for article in found.data for one in article.paragraphs):
        for asked in passage.qas:
            for name, value in (("context", passage.context), ("question", asked.question)):
                if files.INVISIBLE.fullmatch(files.text(value, f"{path}, question {asked.id!r:.80}", name)):
                    raise CorpusError(f"{path}, question {asked.id!r:.80}: the {name} is empty")
            name = str(asked.id)
            if name in seen:
                raise CorpusError(f"{path}: the id {name!r:.80} is used twice; every question needs one of its own")
            seen.add(name)
            true = [] if asked.is_impossible else [one.text for one in asked.answers if one.text.strip()]
            cells = name, passage.context, asked.question, list(dict.fromkeys(true))
            for column, cell in zip(COLUMNS, cells, strict=True):
                rows[column].append(cell)
    if not seen:
        raise CorpusError(f"{path}: there is no question in it; it needs at least one")
    return rows
