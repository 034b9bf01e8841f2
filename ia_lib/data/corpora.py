"""Parallel text, labelled tasks and past instruction data, from the published corpora or a user's own files.

Every reader returns a `datasets.Dataset` of texts with the columns that its docstring names, and refuses what is wrong
in a file with `CorpusError`: file, line, remedy. A named corpus is looked for in the data folder first and fetched
where it is missing there (`sources`); the keywords `mirror`, `offline` and `cache` are those of `downloads.fetch`.
The mini lab writes the layout of the NusaX release, with columns and folders named as there (`toba_batak`).
"""

import difflib
import tarfile
import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import regex
from datasets import Dataset

from ia_lib.data import downloads, languages
from ia_lib.data import files as readers
from ia_lib.data.files import CorpusError

# The labels of a task in the data set's documented order, which is the order of the options in prompts.
LABELS = {
    "sentiment": ["negative", "neutral", "positive"],
    "emotion": ["angry", "disgusted", "fear", "happy", "sad", "shame", "surprise"],
    "topic": [
        "business",
        "culture & heritage",
        "food & beverages",
        "leisures",
        "religion",
        "slice of life",
        "sports",
        "technology",
    ],
}

# What each corpus has: task -> the file of a language and split; None stands for parallel text.
FILES: dict[str, dict[str | None, str]] = {
    "minilab": {None: "mt/{split}.csv", "sentiment": "sentiment/{name}/{split}.csv"},
    "nusax": {None: "mt/{split}.csv", "sentiment": "sentiment/{name}/{split}.csv"},
    "nusatranslation": {
        None: "nusa_kalimat-mt-{code}-{split}.csv",
        "sentiment": "nusa_kalimat-senti-{code}-{split}.csv",
    },
    "nusaparagraph": {
        "emotion": "nusa_alinea-emot-{code}-{split}.csv",
        "topic": "nusa_alinea-topic-{code}-{split}.csv",
    },
    "indolem": {"sentiment": "{fold}.csv"},
    "flores": {None: "flores200_dataset.tar.gz"},
}
_SOURCES = {"nusatranslation": "nusawrites", "nusaparagraph": "nusawrites"}
# IndoLEM's first fold, and what NusaTranslation calls its splits in the ids of the sentences it took from there.
_FOLDS = {"train": ("train0", "train"), "valid": ("dev0", "validation"), "test": ("test0", "test")}
# The languages of xP3, by the names of its folders; `code` is programming.
XP3 = (
    *("ak", "ar", "as", "bm", "bn", "ca", "code", "en", "es", "eu", "fon", "fr", "gu", "hi", "id", "ig", "ki", "kn"),
    *("lg", "ln", "ml", "mr", "ne", "nso", "ny", "or", "pa", "pt", "rn", "rw", "sn", "st", "sw", "ta", "te", "tn"),
    *("ts", "tum", "tw", "ur", "vi", "wo", "xh", "yo", "zh", "zu"),
)
# An id that is only the place of a row in its file.
_PLACE = regex.compile(r"(?:line|row|unit) \d+")
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")


def column(language: str) -> str:
    """What NusaX calls a language in its files."""
    return languages.name(language).lower().replace(" ", "_")


def labels(corpus: str, task: str) -> list[str]:
    """The labels of a task as this corpus has them; NusaTranslation and IndoLEM know no neutral sentiment.

    Raises CorpusError for a corpus or task that there is not.
    """
    _check(corpus, task, [], "train")
    two = corpus in ("nusatranslation", "indolem")
    return [label for label in LABELS[task] if not (two and label == "neutral")]


def places(corpus: str, task: str | None, codes: list[str], split: str) -> list[tuple[str, str]]:
    """(source, file) of what `labelled` (`parallel`, if `task` is None) reads; nothing is fetched."""
    _check(corpus, task, codes, split)
    return list(dict.fromkeys(_place(corpus, task, code, split) for code in _own(corpus, task, codes)))


def files(
    folder: Path | None, corpus: str, task: str | None, codes: list[str], split: str, **where
) -> dict[str, list[Path]]:
    """The files that `labelled` (`parallel`, if `task` is None) reads, by source, each fetched if it has to be."""
    found: dict[str, list[Path]] = {}
    for source, file in places(corpus, task, codes, split):
        found.setdefault(source, []).append(_find(folder, corpus, source, file, **where))
    return found


def parallel(folder: Path | None, codes: list[str], split: str = "train", corpus: str = "minilab", **where) -> Dataset:
    """Parallel sentences: columns `sentence_id` and one per language code, no empty text.

    Of the mini lab, `folder` is its own; of a named corpus it is the data folder (`<folder>/<source>/...`) or None.
    FLORES has the splits dev and devtest, and `train` is both: 997 + 1,012 sentences, as in the papers. NusaTranslation
    pairs Indonesian with one language per file; they are joined by the sentences' ids, which have to be the same ones.

    Raises CorpusError for a missing file, column or language and for an empty cell.
    """
    paths = [path for found in files(folder, corpus, None, codes, split, **where).values() for path in found]
    if corpus == "flores":
        return _flores(paths[0], codes, split)
    if corpus != "nusatranslation":
        read = readers.table(paths[0], [column(code) for code in codes])
        ids = [f"{split}-{i}" for i in range(len(read))]
        return Dataset.from_dict({"sentence_id": ids, **{code: read.cells[column(code)] for code in codes}})
    data: dict[str, list[str]] = {}
    for code, path in zip(_own(corpus, None, codes), paths, strict=True):
        read = readers.table(path, ["id", "ind_text", "tgt_text"])
        ids = read.distinct("id")
        if ids != data.setdefault("sentence_id", ids):
            raise CorpusError(f"{path}: its ids are not those of {paths[0]}; name languages whose files have the same")
        # Indonesian is the same sentence in every file, but for blanks and the odd correction: the first file's counts
        data.setdefault("ind", read.cells["ind_text"])
        data[code] = read.cells["tgt_text"]
    return Dataset.from_dict({name: data[name] for name in ("sentence_id", *codes)})


def labelled(folder: Path | None, task: str, codes: list[str], split: str, corpus: str = "minilab", **where) -> Dataset:
    """Labelled texts: columns `task, language, example, text, label`; `example` is the file's own id.

    `folder` is what it is for `parallel`. Indonesian of NusaTranslation is IndoLEM's first fold, from which the other
    languages were translated (paper, Table 12); its rows get the ids that NusaTranslation gives them.

    Raises CorpusError for a missing file or column, an empty cell, an id used twice and a label that the task does not
    have.
    """
    _check(corpus, task, codes, split)
    rows: dict[str, list] = {name: [] for name in ("task", "language", "example", "text", "label")}
    for code in codes:
        source, file = _place(corpus, task, code, split)
        path = _find(folder, corpus, source, file, **where)
        if source == "indolem":
            read = readers.table(path, ["sentence", "sentiment"])
            ids = [f"indolem-{_FOLDS[split][1]}-{i + 1}" for i in range(len(read))]
            found = _labels(read, "sentiment", {"0": "negative", "1": "positive"})
            _add(rows, task, code, ids, read.cells["sentence"], found)
        else:
            read = readers.table(path, ["id", "text", "label"])
            found = _labels(read, "label", {label: label for label in labels(corpus, task)})
            _add(rows, task, code, read.distinct("id"), read.cells["text"], found)
    return Dataset.from_dict(rows)


def lexicon(folder: Path | None, code: str, **where) -> Dataset:
    """The NusaX lexicon of a language: columns `ind, <code>`, one pair of words or phrases a row.

    A word with several translations has several rows, and one without has none. Raises CorpusError as `parallel` does,
    and for Indonesian, which has no lexicon.
    """
    if code not in languages.NUSAX or code == "ind":
        raise CorpusError(
            f"NusaX has no lexicon of {code!r}; it has: {', '.join(c for c in languages.NUSAX if c != 'ind')}"
        )
    path = _find(folder, "nusax", "nusax", f"lexicon/{column(code)}.csv", **where)
    cells = readers.table(path, ["indonesian", column(code)], gaps=True).cells
    pairs = [pair for pair in zip(cells["indonesian"], cells[column(code)], strict=True) if all(pair)]
    return Dataset.from_dict({"ind": [word for word, _ in pairs], code: [word for _, word in pairs]})


def parallel_file(path: Path, columns: Mapping[str, str], id_column: str | None = None) -> Dataset:
    """A user's own parallel text in one file (see `files.TABLES`): columns as `parallel` has them.

    `columns`: language code -> the file's column (in TMX: language). Without `id_column`, a sentence's id is its place
    (`line 12`). Raises CorpusError for what is wrong in the file.
    """
    read = readers.table(path, [*columns.values(), *([id_column] if id_column else [])])
    ids = read.distinct(id_column) if id_column else read.places
    return Dataset.from_dict({"sentence_id": ids, **{code: read.cells[name] for code, name in columns.items()}})


def parallel_lines(paths: Mapping[str, Path]) -> Dataset:
    """A user's own parallel text in aligned text files, one per language code: columns as `parallel` has them.

    Line n of one file translates line n of the others. Raises CorpusError for files of unequal length and empty lines.
    """
    read = {code: readers.lines(path) for code, path in paths.items()}
    first, *others = read
    for code in others:
        if len(read[code]) != len(read[first]):
            raise CorpusError(
                f"{paths[code]}: found {len(read[code]):,} lines, but {paths[first]} has {len(read[first]):,}; line n "
                "of one must translate line n of the other, so look for the first that does not"
            )
    return Dataset.from_dict({"sentence_id": [f"line {i + 1}" for i in range(len(read[first]))], **read})


def labelled_file(
    path: Path,
    task: str,
    code: str,
    labels: list[str],
    text: str = "text",
    label: str = "label",
    id_column: str | None = None,
) -> Dataset:
    """A user's own labelled texts in one language: columns as `labelled` has them.

    `text`, `label` and `id_column` are the file's columns, `labels` the allowed ones in the order of the options.
    Raises CorpusError for what is wrong in the file, a label beyond the list among it.
    """
    read = readers.table(path, [text, label, *([id_column] if id_column else [])])
    ids = read.distinct(id_column) if id_column else read.places
    rows: dict[str, list] = {name: [] for name in ("task", "language", "example", "text", "label")}
    _add(rows, task, code, ids, read.cells[text], _labels(read, label, {found: found for found in labels}))
    return Dataset.from_dict(rows)


def drop_overlap(parallel: Dataset, tests: Dataset | Iterable[Dataset]) -> tuple[Dataset, int]:
    """`parallel` without the pairs that occur in test data, and how many those were.

    A pair goes if its id is the id of a test row, or if its text in any language is a test row's text in any: compared
    by letters and digits alone, so that case, punctuation, blanks, apostrophes and characters without a width make no
    difference. An id that is a place in a file says nothing of another file and is not compared. `tests` are data sets
    as `labelled` or `parallel` give them.
    """
    ids: set[str] = set()
    texts: set[str] = set()
    for test in [tests] if isinstance(tests, Dataset) else tests:
        for name in test.column_names:
            if name in ("sentence_id", "example"):
                ids.update(found for found in test[name] if not _PLACE.match(found))
            elif name not in ("task", "language", "label"):
                texts.update(map(normalised, test[name]))
    codes = [name for name in parallel.column_names if name != "sentence_id"]
    rows = zip(parallel["sentence_id"][:], *(map(normalised, parallel[code][:]) for code in codes), strict=True)
    kept = [i for i, (name, *found) in enumerate(rows) if name not in ids and texts.isdisjoint(found)]
    return parallel.select(kept), len(parallel) - len(kept)


def normalised(text: str) -> str:
    """A text for comparison: its letters and digits, in lower case and without anything between them (all that can be
    seen of it, if it has none of them)."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(_WORD.findall(folded)) or readers.INVISIBLE.sub("", folded)


def xp3_languages(codes: Iterable[str]) -> list[str]:
    """`codes`, if xP3 has them all. Raises CorpusError for one that it does not have."""
    codes = list(codes)
    for code in codes:
        if code not in XP3:
            raise CorpusError(f"xP3 has no language {code!r}; it has: {', '.join(XP3)}")
    return codes


def past(path: Path | None, prompt: str = "prompt", answer: str = "answer", column: str | None = None) -> Dataset:
    """Past instruction data from a JSONL or parquet file: columns `prompt, answer` and, where the file has them,
    `objective` (what kind of instruction it is) and `language`, and another `column` if it is named. No path means no
    past: an empty data set. Of a file that the kit itself wrote for a run, only what the run was trained on counts.

    Raises CorpusError for a missing file, a line that is no JSON object and a missing or empty field.
    """
    if path is None:
        return Dataset.from_dict({"prompt": [], "answer": []})
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"{path}: there is no such file of past instruction data")
    if path.suffix == ".parquet":
        try:
            rows = pd.read_parquet(path).to_dict("records")
        except (pa.ArrowInvalid, OSError) as error:
            raise CorpusError(f"{path}: this is no parquet file ({error})") from None
        # only a file of the kit's own has rows that were not trained on
        own = bool(rows) and {"split", "pool_row"} <= set(rows[0])
        records = [(i, row) for i, row in enumerate(rows, 1) if not own or row["split"] == "train"]
    else:
        records = readers.records(path)
    for number, record in records:
        for field in (prompt, answer):
            if not isinstance(record.get(field), str) or not record[field]:
                raise CorpusError(f"{path}, line {number}: the field {field!r} is missing or empty; it must be text")
    if column and records and not all(column in r for _, r in records):
        raise CorpusError(f"{path}: there is no column {column!r} to stratify by; found: {', '.join(records[0][1])}")
    optional = [
        name
        for name in dict.fromkeys(("objective", "language", column or "language"))
        if records and all(name in r for _, r in records)
    ]
    return Dataset.from_dict(
        {
            "prompt": [r[prompt] for _, r in records],
            "answer": [r[answer] for _, r in records],
            **{name: [r[name] for _, r in records] for name in optional},
        }
    )


def _check(corpus: str, task: str | None, codes: Iterable[str], split: str) -> None:
    """Refuse what a corpus does not have."""
    if corpus not in FILES:
        raise CorpusError(f"found the corpus {corpus!r}; allowed: {', '.join(FILES)}")
    if task not in FILES[corpus]:
        known = ", ".join(t or "parallel text" for t in FILES[corpus])
        raise CorpusError(f"the corpus {corpus} has no {task or 'parallel text'}; it has: {known}")
    for code in codes:
        if code not in languages.CORPORA.get(corpus, [code]):
            known = ", ".join(languages.CORPORA[corpus])
            raise CorpusError(f"the corpus {corpus} has no language {code!r}; it has: {known}")
    splits = ["train", "dev", "devtest"] if corpus == "flores" else ["train", "valid", "test"]
    if corpus != "minilab" and split not in splits:
        raise CorpusError(f"the corpus {corpus} has no split {split!r}; it has: {', '.join(splits)}")


def _own(corpus: str, task: str | None, codes: list[str]) -> list[str]:
    """The languages with files of their own: NusaTranslation's Indonesian parallel text stands in the others'."""
    if corpus != "nusatranslation" or task is not None:
        return codes
    found = [code for code in codes if code != "ind"]
    if not found:
        raise CorpusError("the corpus nusatranslation pairs Indonesian with a language; name one beside ind")
    return found


def _place(corpus: str, task: str | None, code: str, split: str) -> tuple[str, str]:
    """Source and file of a language's text."""
    if corpus == "nusatranslation" and task and code == "ind":
        corpus = "indolem"
    name = column(code) if corpus in ("minilab", "nusax") else code
    fold = _FOLDS[split][0] if corpus == "indolem" else None
    return _SOURCES.get(corpus, corpus), FILES[corpus][task].format(name=name, code=code, split=split, fold=fold)


def _find(folder: Path | None, corpus: str, source: str, file: str, **where) -> Path:
    return Path(folder) / file if corpus == "minilab" else downloads.find(source, file, folder, **where)


def _flores(archive: Path, codes: list[str], split: str) -> Dataset:
    """Sentences of the FLORES-200 archive, whose members are `flores200_dataset/<split>/<language>.<split>`."""
    splits = ["dev", "devtest"] if split == "train" else [split]
    asked = {languages.FLORES.get(code, code) for code in codes}
    have: dict[str, dict[str, bytes]] = {part: {} for part in splits}
    try:
        # one pass: to go back in a compressed archive is to begin anew
        with tarfile.open(archive) as tar:
            for member in tar:
                folder, _, file = member.name.removeprefix("./").removeprefix("flores200_dataset/").partition("/")
                name, _, ending = file.rpartition(".")
                if folder in splits and ending == folder and member.isfile():
                    wanted = name in asked or name.partition("_")[0] in asked
                    have[folder][name] = tar.extractfile(member).read() if wanted else b""
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise CorpusError(f"{archive}: this is no complete tar archive ({error}); delete it and get it again") from None
    data: dict[str, list[str]] = {"sentence_id": [], **{code: [] for code in codes}}
    for part in splits:
        for code in codes:
            name = _script(have[part], code, archive)
            lines = readers.text_lines(have[part][name], f"{archive}, {part}/{name}.{part}")
            data[code] += lines
        data["sentence_id"] += [f"{part}-{i}" for i in range(len(lines))]
        counts = {code: len(data[code]) for code in codes}
        if len(set(counts.values())) > 1:
            raise CorpusError(
                f"{archive}, {part}: the languages have unequal numbers of lines ({counts}); get it again"
            )
    return Dataset.from_dict(data)


def _script(have: Mapping[str, bytes], code: str, archive: Path) -> str:
    """What FLORES-200 calls a language: by the table, by its full name, in Latin script, or in its only script."""
    name = languages.FLORES.get(code, code)
    scripts = sorted(n for n in have if name in (n, n.partition("_")[0]))
    latin = [n for n in scripts if n == name or n.endswith("_Latn")] or scripts
    if len(latin) > 1:
        raise CorpusError(f"{archive}: {code!r} is written in several scripts; allowed: {', '.join(latin)}")
    if not latin:
        near = ", ".join(sorted(difflib.get_close_matches(name, have, 5, 0)))
        raise CorpusError(
            f"{archive}: there is no language {code!r} among its {len(have)}; the nearest: {near or 'none'}"
        )
    return latin[0]


def _labels(read: readers.Table, name: str, known: Mapping[str, str]) -> list[str]:
    for i, label in enumerate(read.cells[name]):
        if label not in known:
            raise CorpusError(f"{read.at(i)}: found the label {label!r}; allowed: {', '.join(known)}")
    return [known[label] for label in read.cells[name]]


def _add(rows: dict[str, list], task: str, code: str, ids: list[str], texts: list[str], found: list[str]) -> None:
    rows["task"] += [task] * len(ids)
    rows["language"] += [code] * len(ids)
    rows["example"] += ids
    rows["text"] += texts
    rows["label"] += found
