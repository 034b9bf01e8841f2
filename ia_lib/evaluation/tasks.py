"""Tasks: what a model is tested on, each a file of plain YAML; docs/tasks.md says what every field means.

The kit's lie in params/tasks (`nusax/sentiment`), a user's own anywhere. A task's kind decides which fields it has, and
how its texts become questions, answers and scores: `choose` one of several labels, `translate` parallel text, `answer`
questions, whose true answers are scored, `extract` answers from passages, or answer freely (`open`). Texts come from
`find(source, file)`, as those of `corpora` do; `places` says beforehand what it will be asked for.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StrictBool, field_validator, model_validator

from ia_lib.data import corpora, downloads, files, languages, questions, requests, yaml_files
from ia_lib.data.addresses import Told
from ia_lib.data.files import CorpusError
from ia_lib.data.yaml_files import Refusal, Text, either, listed, meant, told
from ia_lib.instructions import templates
from ia_lib.instructions.templates import PromptError, Prompts
from ia_lib.paths import locate, params

if TYPE_CHECKING:
    from datasets import Dataset

# The columns of labelled texts.
COLUMNS = ("task", "language", "example", "text", "label")
Split = Literal["train", "valid", "test"]
_Pattern = either(Text, dict[Split, Text])  # one for all splits, or one for each


class TaskError(Told, ValueError):
    """A task that there is not, or whose file cannot be used; the message says where and what is allowed."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Part):
    """What a table of labelled texts calls its columns; without `id`, an example's id is its place (`line 12`)."""

    text: Text = "text"
    label: Text = "label"
    id: Text | None = None
    sheet: Text | None = None  # of a workbook: the sheet that is read, by default the first


class Labelled(_Part):
    """Labelled texts: a table for each language and split."""

    source: Text = "file"  # of ia_lib/data/downloads.yaml, `minilab`, or a user's own file
    file: _Pattern  # with {name}, {code} and {split}; without {split} there is a test split alone
    columns: Columns = Columns()
    ids: _Pattern | None = None  # of a table without ids, with {row} from 1
    labels: dict[Text, Text] = {}  # the table's label -> the task's, where they differ
    languages: list[Text] = Field(min_length=1)
    elsewhere: dict[Text, Text] = {}  # language -> the task that has its texts

    @model_validator(mode="after")
    def _consistent(self):
        if self.source not in (allowed := [*downloads.known(), "minilab", "file"]):
            raise Refusal("source", self.source, ", ".join(allowed))
        for field, slots in (("file", "name code split"), ("ids", "code split row")):
            given = getattr(self, field) or {}
            for where, pattern in [(field, given)] if isinstance(given, str) else given.items():
                if other := set(re.findall(r"\{(.*?)\}", pattern)) - {*slots.split()}:
                    where = field if where == field else f"{field}.{where}"
                    raise Refusal(where, f"{{{min(other)}}}", ", ".join(f"{{{slot}}}" for slot in slots.split()))
        if self.ids and self.columns.id:
            raise Refusal("ids", self.ids, "nothing, since there is a column of ids")
        _once("languages", self.languages)
        for i, code in enumerate(self.languages):
            if "{name}" in str(self.file) and code not in languages.NAMES:
                raise Refusal(f"languages.{i}", code, f"one with a name for {{name}} ({', '.join(languages.NAMES)})")
        for code in self.elsewhere:
            if code not in self.languages:
                raise Refusal(f"elsewhere.{code}", code, f"one of languages ({', '.join(self.languages)})")
        return self


class Pairs(_Part):
    """Parallel text: exactly one of held_out, corpus and file."""

    held_out: StrictBool = False  # the sentences that a run keeps back of its own parallel text
    corpus: Literal[tuple(corpora.PARALLEL)] | None = None
    split: Text | None = None  # of the corpus; default: the one that is asked for
    file: Text | None = None
    columns: dict[Text, Text] = {}  # language -> the file's column (in TMX: language)
    id: Text | None = None
    sheet: Text | None = None  # of a workbook: the sheet that is read, by default the first

    @model_validator(mode="after")
    def _consistent(self):
        given = [name for name in ("held_out", "corpus", "file") if getattr(self, name)]
        if len(given) != 1:
            raise Refusal("", given or None, "exactly one of held_out, corpus and file")
        for field, owner in (("split", "corpus"), *((name, "file") for name in ("columns", "id", "sheet"))):
            if getattr(self, field) and owner not in given:
                raise Refusal(field, getattr(self, field), f"nothing, unless there is a {owner}")
        if self.file and len(self.columns) < 2:
            raise Refusal("columns", self.columns, "two languages at least, each with its column")
        return self

    @property
    def languages(self) -> Collection[str] | None:
        """The languages that it has; None for any that it is asked for."""
        return self.columns if self.file else languages.CORPORA.get(self.corpus)


class Task(_Part):
    """What all kinds of tasks have."""

    name: Text = ""  # what results call it, with its data set before a slash; default: from where it lies
    _path: Path | None = PrivateAttr(None)

    @field_validator("name")
    @classmethod
    def _names(cls, name: str) -> str:
        if any(part in ("all", "") for part in name.split("/")) and name:
            raise Refusal("", name, "a name whose parts are not empty and not all, which results call averages")
        return name

    @property
    def file(self) -> Path | None:
        """The YAML file that it is read from."""
        return self._path

    @property
    def dataset(self) -> str:
        """The part of the name before the last slash; may be empty."""
        return self.name.rpartition("/")[0]

    @property
    def task(self) -> str:
        """The rest of the name."""
        return self.name.rpartition("/")[2]

    def has(self, codes: Iterable[str]) -> list[str]:
        """Those of the languages that the task has texts in, in their order."""
        known = self.data.languages
        return [code for code in codes if known is None or code in known]

    def files(self, wordings: Sequence[str] = ()) -> list[Path]:
        """The YAML files that the task and its prompts are read from."""
        return [self._path] if self._path else []

    def _own(self, file: str) -> str:
        """A user's file beside the task file, if it is there; else it is for `find` to know where to look."""
        beside = self._path.parent / file if self._path else None
        return str(beside) if beside and beside.is_file() else file


class Choose(Task):
    """Choose one of several labels for a text."""

    kind: Literal["choose"] = "choose"
    question: Text  # what the labels are, in a word: the [TASK] of the prompts
    labels: list[Text] = Field(min_length=2)  # in the order in which prompts name them
    data: Labelled
    prompts: either(Annotated[list[Text], Field(min_length=1)], Prompts) | None = (
        None  # names of wordings, or one wording; default: the row's
    )
    metric: Literal["weighted_f1"] = "weighted_f1"  # the headline; the others are measured, too
    baselines: tuple[Literal["chance"], Literal["majority"]] = ("chance", "majority")  # what it must beat

    @model_validator(mode="after")
    def _consistent(self):
        _once("labels", self.labels)
        for theirs, ours in self.data.labels.items():
            if ours not in self.labels:
                raise Refusal(f"data.labels.{theirs}", ours, f"one of labels ({', '.join(self.labels)})")
        _has_templates(self.prompts, "classification")
        for field, names in (("labels", self.labels), ("tasks", [self.question])):
            for name in getattr(self.prompts, field, ()) if isinstance(self.prompts, Prompts) else ():
                if name not in names:
                    allowed = f"one of {', '.join(names)}, which the task's prompts name"
                    raise Refusal(f"prompts.{field}.{name}", name, allowed, names)
        return self

    @property
    def splits(self) -> list[str]:
        file = self.data.file
        if isinstance(file, dict):
            return list(file)
        return ["train", "valid", "test"] if "{split}" in file else ["test"]

    def asked(self, wordings: Sequence[str] = ()) -> list[str | Prompts]:
        """The wordings of its prompts, as `templates.classification_prompts` takes them: its own, else `wordings`."""
        if self.prompts is None:
            return list(wordings)
        names = [self.prompts] if isinstance(self.prompts, Prompts) else self.prompts
        here = self._path.parent if self._path else ""
        return [str(locate(n, here)) if isinstance(n, str) and templates.is_file(n) else n for n in names]

    def files(self, wordings: Sequence[str] = ()) -> list[Path]:
        names = [wording for wording in self.asked(wordings) if isinstance(wording, str)]
        others = [self._holder(code)._path for code in self.data.elsewhere]
        return [*super().files(), *others, *templates.files(names)]

    def places(self, codes: Sequence[str], split: str) -> list[tuple[str, str]]:
        """(source, file) of what `read` reads. Raises CorpusError for a language or split that the task has not."""
        return list(dict.fromkeys(self._place(code, split) for code in codes))

    def read(self, find: corpora.Find, codes: Sequence[str], split: str) -> "Dataset":
        """Labelled texts with the columns `COLUMNS`; `task` is the task's name and `example` the file's own id.

        Raises CorpusError for a missing file or column, an empty cell, an id used twice and a label that the task does
        not have.
        """
        from datasets import Dataset

        rows: list[tuple[str, ...]] = []
        for code in codes:
            task = self._holder(code)
            data, names = task.data, task.data.columns
            wanted = [name for name in (names.id, names.text, names.label) if name]
            whole = [names.id, names.label]
            read = files.table(find(*self._place(code, split)), wanted, whole=whole, sheet=names.sheet)
            ids = read.distinct(names.id) if names.id else read.places
            if data.ids:
                ids = [_filled(data.ids, code, split).replace("{row}", str(i + 1)) for i in range(len(read))]
            known = data.labels or dict(zip(task.labels, task.labels, strict=True))
            for i, label in enumerate(read.cells[names.label]):
                if label not in known:
                    raise CorpusError(f"{read.at(i)}: found the label {label!r:.80}; allowed: {', '.join(known)}")
                rows.append((self.name, code, ids[i], read.cells[names.text][i], known[label]))
        return Dataset.from_dict({name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)})

    def _place(self, code: str, split: str) -> tuple[str, str]:
        task = self._holder(code)
        if code not in (known := task.data.languages):
            raise CorpusError(f"the task {task.name} has no language {code!r}; it has: {', '.join(known)}")
        if split not in task.splits:
            raise CorpusError(f"the task {task.name} has no split {split!r}; it has: {', '.join(task.splits)}")
        file = _filled(task.data.file, code, split)
        return task.data.source, task._own(file) if task.data.source == "file" else file

    def _holder(self, code: str) -> "Choose":
        """The task that has the texts of a language: this one or the one that it names."""
        name = self.data.elsewhere.get(code)
        if name is None:
            return self
        other = load(name, self._path.parent if self._path else "")
        if not isinstance(other, Choose) or code in other.data.elsewhere or not {*other.labels} <= {*self.labels}:
            allowed = f"a task of the kind choose with texts of its own in {code} and no labels but {self.labels}"
            raise TaskError(f"{self._path}, field 'data.elsewhere.{code}': found {name!r}; allowed: {allowed}")
        return other


class Translate(Task):
    """Translate sentences, and tell whether two mean the same, between each pivot and each taught language."""

    kind: Literal["translate"] = "translate"
    data: Pairs
    prompts: Prompts | None = None  # templates of the kind mt, each of which is asked; default: the row's first
    metric: Literal["chrF"] = "chrF"  # the headline; all three are measured

    @model_validator(mode="after")
    def _consistent(self):
        _has_templates(self.prompts, "mt")
        return self

    def places(self, codes: Sequence[str], split: str) -> list[tuple[str, str]]:
        """(source, file) of what `read` reads; nothing for held-out sentences. Raises CorpusError as `read` does."""
        if self.data.corpus:
            return corpora.places(self.data.corpus, codes, self.data.split or split)
        return [("file", self._own(self.data.file))] if self.data.file else []

    def read(self, find: corpora.Find, codes: Sequence[str], split: str) -> "Dataset":
        """Parallel text: columns `sentence_id` and one per language, as `corpora.parallel` has them. Held-out sentences
        are not read here: the run has them. Raises CorpusError for what is wrong or missing."""
        data = self.data
        if data.corpus:
            return corpora.parallel(find, codes, data.split or split, data.corpus)
        if data.held_out:
            raise TaskError(f"the task {self.name} is of a run's held-out sentences, which are not in a file")
        for code in codes:
            if code not in data.columns:
                raise CorpusError(f"the task {self.name} has no language {code!r}; it has: {', '.join(data.columns)}")
        path, columns = find(*self.places(codes, split)[0]), {code: data.columns[code] for code in codes}
        return corpora.parallel_file(path, columns, data.id, data.sheet)


class Asked(_Part):
    """Questions with their true answers: exactly one of held_out and file."""

    held_out: StrictBool = False  # the rows that a run keeps back of its own past file
    file: Text | None = None  # JSONL or parquet
    prompt: Text = "prompt"
    answer: Text = "answer"
    input: Text | None = None  # a further field; where it is not empty it follows the prompt, behind a blank line
    language: Text | None = None  # default: the first language that the model knows

    @model_validator(mode="after")
    def _consistent(self):
        if self.held_out == bool(self.file):
            raise Refusal("", "both" if self.file else None, "exactly one of held_out and file")
        if self.prompt == self.answer:
            raise Refusal("answer", self.answer, "another field than the prompt's")
        return self


class Answer(Task):
    """Answer questions: how well the model knows the true answers."""

    kind: Literal["answer"] = "answer"
    data: Asked
    metric: Literal["answer loss"] = "answer loss"

    def has(self, codes: Iterable[str]) -> list[str]:
        found = list(codes)
        return [code for code in found if code == self.data.language] if self.data.language else found[:1]

    def places(self, codes: Sequence[str], split: str) -> list[tuple[str, str]]:
        """(source, file) of what `read` reads; nothing for held-out rows."""
        return [("file", self._own(self.data.file))] if self.data.file else []

    def read(self, find: corpora.Find, codes: Sequence[str], split: str) -> "Dataset":
        """Columns `prompt, answer`. Held-out rows are not read here: the run has them. Raises CorpusError."""
        if self.data.held_out:
            raise TaskError(f"the task {self.name} is of a run's held-out past, which is not in a file of its own")
        data, path = self.data, find(*self.places(codes, split)[0])
        found = corpora.past(path, data.prompt, data.answer, more=data.input)
        if not len(found):
            raise CorpusError(f"{path}: there are no questions in it; it needs at least one")
        return found


class _Tagged(_Part):
    """A file for each language."""

    source: Text = "file"  # of ia_lib/data/downloads.yaml, `minilab`, or a user's own file
    file: Text  # with {tag}, what the files call a language, and {split}, if there are several
    languages: dict[Text, Text] = Field(min_length=1)  # language -> its tag

    @model_validator(mode="after")
    def _consistent(self):
        if self.source not in (allowed := [*downloads.known(), "minilab", "file"]):
            raise Refusal("source", self.source, ", ".join(allowed))
        if "{tag}" not in self.file and len(self.languages) > 1:
            raise Refusal("file", self.file, "a name with {tag}, since there are several languages")
        return self


class _OfFiles(Task):
    """A task with a file for each language."""

    data: _Tagged

    def places(self, codes: Sequence[str], split: str) -> list[tuple[str, str]]:
        """(source, file) of what `read` reads. Raises CorpusError for a language that the task has not."""
        found = []
        for code in codes:
            if code not in self.data.languages:
                known = ", ".join(self.data.languages)
                raise CorpusError(f"the task {self.name} has no language {code!r}; it has: {known}")
            file = self.data.file.replace("{tag}", self.data.languages[code]).replace("{split}", split)
            found.append((self.data.source, self._own(file) if self.data.source == "file" else file))
        return found

    @property
    def splits(self) -> list[str]:
        return ["train", "valid", "test"] if "{split}" in self.data.file else ["test"]


class Passages(_Tagged):
    """Questions on passages, in files of SQuAD's layout."""


class Extract(_OfFiles):
    """Answer questions by words of the passage that they are about."""

    kind: Literal["extract"] = "extract"
    data: Passages
    prompts: dict[Text, str] = Field(min_length=1)  # language, or `all` -> a template with [CONTEXT] and [QUESTION]
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    metric: Literal["exact match, corrected"] = "exact match, corrected"  # the headline; six are measured

    @model_validator(mode="after")
    def _consistent(self):
        for code, prompt in self.prompts.items():
            for slot in ("[CONTEXT]", "[QUESTION]"):
                if prompt.count(slot) != 1:
                    raise Refusal(f"prompts.{code}", prompt, "a template with [CONTEXT] and [QUESTION], each once")
            if code != "all" and code not in self.data.languages:
                raise Refusal(f"prompts.{code}", code, f"all, or one of {', '.join(self.data.languages)}")
        for code in self.data.languages:
            if not {code, "all"} & {*self.prompts}:
                raise Refusal("prompts", list(self.prompts), f"a template for {code}, or one for all")
        return self

    def prompt(self, code: str, context: str, question: str) -> str:
        """What the model is asked."""
        before, _, rest = self.prompts.get(code, self.prompts.get("all", "")).partition("[CONTEXT]")
        between, _, after = rest.partition("[QUESTION]")
        return f"{before}{context}{between}{question}{after}"

    def read(self, find: corpora.Find, codes: Sequence[str], split: str) -> "Dataset":
        """The questions in one language, as `questions.read` has them. Raises CorpusError."""
        return questions.read(find(*self.places(codes, split)[0]))


class Requests(_Tagged):
    """Requests, in JSONL files whose line n is the same request in every language."""

    prompt: Text = "prompt"
    reference: Text | None = None  # the field with an answer that is right
    broken: Literal["refuse", "skip"] = "refuse"  # a line that is no JSON object, or has no prompt


class Open(_OfFiles):
    """Answer a request in one's own words; answers are judged, and their language is looked at."""

    kind: Literal["open"] = "open"
    data: Requests
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    metric: Literal["score"] = "score"  # the headline: a judge's mark, 0 in another language

    def read(self, find: corpora.Find, codes: Sequence[str], split: str) -> "Dataset":
        """The requests in one language, as `requests.read` has them. Raises CorpusError."""
        data = self.data
        return requests.read(find(*self.places(codes, split)[0]), data.prompt, data.reference, data.broken == "skip")


_KINDS: dict[str, type[Task]] = {
    "choose": Choose,
    "translate": Translate,
    "answer": Answer,
    "extract": Extract,
    "open": Open,
}


def load(name: str, home: str | Path = "") -> Choose | Translate | Answer | Extract | Open:
    """A task by its name in params/tasks, or by the path of a user's file, looked for in `home` first.

    Raises TaskError for one that there is not and for what is wrong in its file: file, line, field, found, allowed.
    """
    own = name.endswith((".yaml", ".yml"))
    path = locate(name, home) if own else params() / "tasks" / f"{name}.yaml"
    if not path.is_file():
        own = f"{listed(known(), name)}, or the path of a YAML file"
        raise TaskError(f"found the task {told(name)}; {meant(name, known())}allowed: {own}")
    return _loaded(path.resolve(), path.stat().st_mtime_ns, path.stem if own else name)


def known() -> list[str]:
    """The names of the kit's own tasks."""
    folder = params() / "tasks"
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def own(file: str, language: str, labels: list[str], task: str = "sentiment", **columns: str | None) -> Choose:
    """The task of a user's own labelled texts in one language, from the fields of a row's `tests`; `columns` are those
    of `Columns`."""
    data = Labelled(file=file, languages=[language], columns=Columns(**columns))
    return Choose(name=task, question=task.rpartition("/")[2], labels=labels, data=data)


@cache
def _loaded(path: Path, time: int, name: str) -> Choose | Translate | Answer | Extract | Open:
    fields = yaml_files.read(path, "task", TaskError)
    kind = yaml_files.plain(fields.get("kind"))
    if not isinstance(kind, str) or kind not in _KINDS:
        where = yaml_files.where(path, fields, "kind")
        raise TaskError(
            f"{where}, field 'kind': found {told(kind)}; {meant(kind, list(_KINDS))}allowed: {', '.join(_KINDS)}"
        )
    task = yaml_files.validated(_KINDS[kind], path, fields, TaskError)
    if not task.name:
        try:
            task = task.model_copy(update={"name": Task._names(name)})
        except Refusal as error:
            raise TaskError(f"{path}, field 'name', which is the file's: {error}") from None
    task._path = path
    try:
        for wording in task.asked() if isinstance(task, Choose) else ():
            templates.label_words(task.labels, wording)
    except PromptError as error:
        raise TaskError(f"{yaml_files.where(path, fields, 'prompts')}, field 'prompts': {error}") from None
    return task


def _once(field: str, values: Sequence[str]) -> None:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise Refusal(f"{field}.{i}", value, "each once")


def _has_templates(prompts: list[str] | Prompts | None, kind: str) -> None:
    if isinstance(prompts, Prompts) and not getattr(prompts, kind):
        found = list(prompts.model_dump(by_alias=True, exclude_unset=True))
        raise Refusal("prompts", found, f"a list of templates under {kind}")


def _filled(pattern: str | dict[str, str], code: str, split: str) -> str:
    pattern = pattern if isinstance(pattern, str) else pattern[split]
    name = languages.column(code) if "{name}" in pattern else ""
    return pattern.replace("{name}", name).replace("{code}", code).replace("{split}", split)
