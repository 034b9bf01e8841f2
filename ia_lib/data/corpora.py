"""Parallel text and old instructions, from the published corpora or a user's own files.

Every reader returns a `datasets.Dataset` of texts and refuses what is wrong in a file with `CorpusError`: file, line,
remedy. A published file comes from `find(source, file)`, which `downloads.finder` makes, and `places` says beforehand
what it will be asked for. Labelled texts are a task's (`evaluation.tasks`)."""

import atexit
import difflib
import io
import os
import platform
import tarfile
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4
from weakref import WeakKeyDictionary

import psutil
import regex

from ia_lib.data import files, languages
from ia_lib.data.downloads import cache_folder
from ia_lib.data.files import CorpusError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

Find = Callable[[str, str], Path]
# Corpus of parallel text -> its source, and its file of a language and split.
PARALLEL = {
    "minilab": ("minilab", "mt/{split}.csv"),
    "nusax": ("nusax", "mt/{split}.csv"),
    "nusatranslation": ("nusawrites", "nusa_kalimat-mt-{code}-{split}.csv"),
    "flores": ("flores", "flores200_dataset.tar.gz"),
}
# The languages of xP3, by the names of its folders; `code` is programming.
XP3 = (
    *("ak", "ar", "as", "bm", "bn", "ca", "code", "en", "es", "eu", "fon", "fr", "gu", "hi", "id", "ig", "ki", "kn"),
    *("lg", "ln", "ml", "mr", "ne", "nso", "ny", "or", "pa", "pt", "rn", "rw", "sn", "st", "sw", "ta", "te", "tn"),
    *("ts", "tum", "tw", "ur", "vi", "wo", "xh", "yo", "zh", "zu"),
)
# An id that is only the place of a row in its file: two files that both number their rows have none in common.
_PLACE = regex.compile(r"(?:(?:line|row|unit) )?\d+(?:\.0)?(?: in line \d+)?")
# Signs that are letters to Unicode and stand for an apostrophe, which is none.
_APOSTROPHES = str.maketrans("", "", "\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\ua78b\ua78c")
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
# Rows of a corpus that are in memory at a time while it is read; a smaller one stays there.
_PART = 20_000
BATCH = 10_000  # rows of a data set that are looked at together
_BETWEEN = bytes(code for code in range(128) if not chr(code).isalnum())
# What `fingerprints` has found, for as long as somebody holds the texts.
_PRINTS: "WeakKeyDictionary[Dataset, np.ndarray]" = WeakKeyDictionary()


def places(corpus: str, codes: Sequence[str], split: str = "train") -> list[tuple[str, str]]:
    """(source, file) of what `parallel` reads. Raises CorpusError for a corpus, language or split that there is not."""
    if corpus not in PARALLEL:
        raise CorpusError(f"found the corpus {corpus!r}; allowed: {', '.join(PARALLEL)}")
    known = languages.CORPORA.get(corpus, codes)
    if unknown := [code for code in codes if code not in known]:
        raise CorpusError(f"the corpus {corpus} has no language {unknown[0]!r}; it has: {', '.join(known)}")
    splits = ["train", "dev", "devtest"] if corpus == "flores" else ["train", "valid", "test"]
    if corpus != "minilab" and split not in splits:
        raise CorpusError(f"the corpus {corpus} has no split {split!r}; it has: {', '.join(splits)}")
    source, file = PARALLEL[corpus]
    # the Indonesian sentences of NusaTranslation stand in the other languages' files
    own = [code for code in codes if corpus != "nusatranslation" or code != "ind"]
    if not own and corpus == "nusatranslation":
        raise CorpusError("the corpus nusatranslation pairs Indonesian with a language; name one beside ind")
    return list(dict.fromkeys((source, file.format(code=code, split=split)) for code in own))


def parallel(find: Find, codes: Sequence[str], split: str = "train", corpus: str = "minilab") -> "Dataset":
    """Parallel sentences: columns `sentence_id` and one per language code, no empty text. FLORES has the splits dev and
    devtest, and `train` is both: 997 + 1,012 sentences, as in the papers. NusaTranslation pairs Indonesian with one
    language per file; they are joined by the sentences' ids, which have to be the same ones."""
    from datasets import Dataset

    paths = [find(*place) for place in places(corpus, codes, split)]
    if corpus == "flores":
        return Dataset.from_dict(_flores(paths[0], codes, split))
    if corpus != "nusatranslation":
        read = files.rows(paths[0], [languages.column(code) for code in codes])
        return stored(["sentence_id", *codes], ((f"{split}-{i}", *cells) for i, (_, cells) in enumerate(read)))
    data: dict[str, list[str]] = {}
    for code, path in zip((code for code in codes if code != "ind"), paths, strict=True):
        read = files.table(path, ["id", "ind_text", "tgt_text"])
        ids = read.distinct("id")
        if ids != data.setdefault("sentence_id", ids):
            raise CorpusError(f"{path}: its ids are not those of {paths[0]}; name languages whose files have the same")
        # Indonesian is the same sentence in every file, but for blanks and the odd correction: the first file's counts
        data.setdefault("ind", read.cells["ind_text"])
        data[code] = read.cells["tgt_text"]
    return Dataset.from_dict({name: data[name] for name in ("sentence_id", *codes)})


def lexicon(find: Find, code: str) -> "Dataset":
    """The NusaX lexicon of a language: columns `ind, <code>`, one pair of words or phrases a row. A word with several
    translations has several rows, and one without has none. Indonesian has no lexicon."""
    from datasets import Dataset

    known = [c for c in languages.NUSAX if c != "ind"]
    if code not in known:
        raise CorpusError(f"NusaX has no lexicon of {code!r}; it has: {', '.join(known)}")
    name = languages.column(code)
    cells = files.table(find("nusax", f"lexicon/{name}.csv"), ["indonesian", name], gaps=True).cells
    pairs = [pair for pair in zip(cells["indonesian"], cells[name], strict=True) if all(pair)]
    return Dataset.from_dict({"ind": [word for word, _ in pairs], code: [word for _, word in pairs]})


def parallel_file(
    path: Path, columns: Mapping[str, str], id_column: str | None = None, sheet: str | None = None
) -> "Dataset":
    """A user's own parallel text in one file (see `files.TABLES`): columns as `parallel` has them. `columns`: language
    code -> the file's column (in TMX and XLIFF: language). Without `id_column`, a sentence's id is its place
    (`line 12`). `sheet`: of a workbook, the one that is read."""
    names = [*columns.values(), *([id_column] if id_column else [])]
    read = files.rows(path, names, whole=[id_column], sheet=sheet)
    if not id_column:
        return stored(["sentence_id", *columns], ((place, *cells) for place, cells in read))
    found = stored(["place", *columns, "sentence_id"], ((place, *cells) for place, cells in read))
    _check_ids(path, found, id_column)
    return found.select_columns(["sentence_id", *columns])


def parallel_lines(paths: Mapping[str, Path]) -> "Dataset":
    """A user's own parallel text in aligned text files, one per language code, whose lines n translate one another:
    columns as `parallel` has them."""
    lines = zip_longest(*map(files.lines, paths.values()))
    found = stored(["sentence_id", *paths], ((f"line {i}", *cells) for i, cells in enumerate(lines, 1)))
    first, *others = ((path, len(found) - found.data[code].null_count) for code, path in paths.items())
    for path, count in others:
        if count != first[1]:
            said = f"found {count:,} lines, but {first[0]} has {first[1]:,}"
            remedy = "line n of one must translate line n of the other, so look for the first that does not"
            raise CorpusError(f"{path}: {said}; {remedy}")
    return found


def stored(columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> "Dataset":
    """Rows as a data set; that of a large corpus lies in a file, for as long as this process lives, and is mapped to
    memory, which then does not grow with it."""
    import pyarrow as pa
    from datasets import Dataset

    schema = pa.schema([(name, pa.string()) for name in columns])
    rows = iter(rows)
    part = list(islice(rows, _PART))
    if len(part) < _PART:
        return Dataset(pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in part], schema))
    path = _temporary()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        while part:
            columns_of = [pa.array(column, pa.string()) for column in zip(*part, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns_of, schema=schema))
            part = list(islice(rows, _PART))
    return Dataset.from_file(str(path))


def _temporary() -> Path:
    """A file in the cache that is removed when this process ends; what killed ones have left there goes now."""
    folder, here = cache_folder() / "tables", f"{platform.node()}-"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{here}*.arrow"):
        if not psutil.pid_exists(int(old.name.removeprefix(here).split("-")[0])):
            old.unlink(missing_ok=True)
    path = folder / f"{here}{os.getpid()}-{uuid4().hex}.arrow"
    atexit.register(path.unlink, missing_ok=True)
    return path


def _check_ids(path: Path, found: "Dataset", column: str) -> None:
    """Raises CorpusError if an id occurs twice."""
    import numpy as np

    prints = np.frombuffer(b"".join(hashed(cells(found, "sentence_id"))), "<u8")
    order = np.argsort(prints, kind="stable")
    for i in np.flatnonzero(prints[order][1:] == prints[order][:-1]):
        first, second = (found[int(row)] for row in order[i : i + 2])
        said = f"the {column} {first['sentence_id'][:80]!r} was used before, in {first['place']}"
        if first["sentence_id"] == second["sentence_id"]:
            raise CorpusError(f"{path}, {second['place']}: {said}; every row needs one of its own")


def drop_overlap(parallel: "Dataset", tests: "Dataset") -> "tuple[Dataset, int]":
    """`parallel` without the pairs that occur in test data, and how many those were. A pair goes if its id is the id of
    a test row, or if its text in any language is a test row's text in any, as `normalised`. An id that is a place in a
    file says nothing of another file and is not compared. `tests` is as `parallel` or a task gives it."""
    import numpy as np

    ids, names = set(), []
    for name in tests.column_names:
        if name in ("sentence_id", "example"):
            ids.update(found for found in tests[name] if not _PLACE.fullmatch(found))
        elif name not in ("task", "language", "label"):
            names.append(name)
    prints = fingerprints(parallel)
    found = np.isin(prints, fingerprints(tests.select_columns(names))).any(axis=1)
    if ids:
        found |= np.fromiter((name in ids for name in cells(parallel, "sentence_id")), bool, len(parallel))
    kept = parallel if not found.any() else parallel.select(np.flatnonzero(~found))
    _PRINTS[kept] = prints[~found]
    return kept, int(found.sum())


def holding(prompts: Iterable[str], tests: Iterable[str], least: int = 20) -> int:
    """How many of the prompts hold a test text, as `normalised`; texts of fewer than `least` letters are not looked
    for, since they stand everywhere."""
    begins: dict[str, set[str]] = {}
    for text in map(normalised, tests):
        if len(text) >= least:
            begins.setdefault(text[:least], set()).add(text)
    found = 0
    for prompt in map(normalised, prompts) if begins else ():
        places = range(len(prompt) - least + 1)
        found += any(
            prompt.startswith(text, place) for place in places for text in begins.get(prompt[place : place + least], ())
        )
    return found


def fingerprints(texts: "Dataset") -> "np.ndarray":
    """[rows, columns but `sentence_id`]: a 64-bit number for each text, the same for texts that are equal as
    `normalised`. Of ten million texts two share one by chance in 1 of 400,000 cases, and are then taken for equal."""
    import numpy as np

    if texts not in _PRINTS:
        names = [name for name in texts.column_names if name != "sentence_id"]
        columns = [b"".join(hashed(map(normalised, cells(texts, name)))) for name in names]
        _PRINTS[texts] = (
            np.stack([np.frombuffer(column, "<u8") for column in columns], axis=1)
            if columns
            else (np.zeros((len(texts), 0), "<u8"))
        )
    return _PRINTS[texts]


def hashed(texts: Iterable[str]) -> "Iterator[bytes]":
    """Eight bytes for each text."""
    return (blake2b(text.encode(), digest_size=8).digest() for text in texts)


def groups(prints: "np.ndarray") -> "np.ndarray":
    """The number of each row's group: rows that share a fingerprint, in whatever column, are in one group, and so are
    those that each of them shares another one with."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(prints)
    _, text, times = np.unique(prints, return_inverse=True, return_counts=True)
    row, column = np.nonzero((times > 1)[text := text.reshape(prints.shape)])
    # rows and the texts that several of them may share are the knots of one graph
    edges = np.ones(len(row), bool), (row, count + text[row, column])
    size = count + len(times)
    return connected_components(coo_array(edges, shape=(size, size)), directed=False)[1][:count]


def hold_out(group: "np.ndarray", order: Iterable[int], count: int) -> "np.ndarray":
    """Which rows are held out, as truth values: whole groups (see `groups`) of `count` rows in all, in the `order` of
    rows that was drawn. A group that is larger than what is left is passed over; there may be less in the end."""
    import numpy as np

    sizes = np.bincount(group)
    taken = np.zeros(len(sizes), bool)
    for row in order:
        if not count:
            break
        if not taken[group[row]] and sizes[group[row]] <= count:
            taken[group[row]] = True
            count -= sizes[group[row]]
    return taken[group]


def cells(texts: "Dataset", name: str) -> Iterator[str]:
    """The cells of a column, a few of which are in memory at a time."""
    for batch in texts.select_columns([name]).with_format("arrow").iter(BATCH):
        yield from batch[name].to_pylist()


def normalised(text: str) -> str:
    """A text for comparison: its letters and digits, in lower case and without anything between them (all that can be
    seen of it, if it has no letters)."""
    if text.isascii():
        folded = text.lower()
        words = folded.encode().translate(None, _BETWEEN).decode()
    else:
        # folding can take letters apart that the form puts together
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        words = "".join(_WORD.findall(folded)).translate(_APOSTROPHES)
    # of numbers alone the signs count: -5 is not 5
    return files.INVISIBLE.sub("", folded) if not words or words.isdecimal() else words


def check_xp3(codes: Iterable[str]) -> None:
    """Raises CorpusError for a language that xP3 does not have."""
    if unknown := [code for code in codes if code not in XP3]:
        raise CorpusError(f"xP3 has no language {unknown[0]!r}; it has: {', '.join(XP3)}")


def past(
    path: Path | None,
    prompt: str = "prompt",
    answer: str = "answer",
    column: str | None = None,
    more: str | None = None,
) -> "Dataset":
    """Old instructions from a JSONL or parquet file: columns `prompt, answer` and, where the file has them,
    `objective` (what kind of instruction it is) and `language`, and another `column` if it is named. What stands in the
    field `more`, if anything does, belongs to the prompt, behind a blank line. No path means no past: an empty data
    set. Of a file that the kit itself wrote for a run, only what the run was trained on counts.
    """
    from datasets import Dataset

    if path is None:
        return Dataset.from_dict({"prompt": [], "answer": []})
    files.must_exist(path := Path(path), "file of old instructions")
    if path.suffix == ".parquet":
        import pandas as pd
        import pyarrow as pa

        try:
            rows = pd.read_parquet(path).to_dict("records")
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorpusError(f"{path}: this is no parquet file ({' '.join(str(error).split())[:80]})") from None
        # only a file of the kit's own has examples that were not trained on
        own = bool(rows) and {"split", "pool_row"} <= set(rows[0])
        records = [(f"row {i}", row) for i, row in enumerate(rows, 1) if not own or row["split"] == "train"]
    else:
        records = [(f"line {i}", row) for i, row in files.records(path)]
    for place, record in records:
        for field in (prompt, answer):
            record[field] = files.text(record.get(field), f"{path}, {place}", field)
            if files.INVISIBLE.fullmatch(record[field]):
                raise CorpusError(f"{path}, {place}: the field {field!r} is missing or empty; it must be text")
        if more and record.get(more):
            record[prompt] += "\n\n" + files.text(record[more], f"{path}, {place}", more)
    if more and records and not any(more in record for _, record in records):
        found = ", ".join(map(str, records[0][1]))[:200]
        raise CorpusError(f"{path}: no row of the file has the field {more!r}; found: {found}")
    rows = [row for _, row in records]
    further = {name: name for name in ("objective", "language", column) if rows and all(name in row for row in rows)}
    if column and rows and column not in further:
        raise CorpusError(
            f"{path}: there is no column {column!r} to stratify by; found: {', '.join(map(str, rows[0]))[:200]}"
        )
    for place, record in records:
        for name in further:
            record[name] = files.text(record[name], f"{path}, {place}", name, whole=True)
    fields = {"prompt": prompt, "answer": answer, **further}
    return Dataset.from_dict({name: [row[field] for row in rows] for name, field in fields.items()})


def _flores(archive: Path, codes: list[str], split: str) -> dict[str, list[str]]:
    """Sentences of the FLORES-200 archive, whose members are `flores200_dataset/<split>/<language>.<split>`."""
    splits = ["dev", "devtest"] if split == "train" else [split]
    asked = {languages.FLORES.get(code, code) for code in codes}
    have: dict[str, dict[str, bytes]] = {part: {} for part in splits}
    try:
        # one pass: to go back in a compressed archive is to begin again
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
            lines = list(files.text_lines(io.BytesIO(have[part][name]), f"{archive}, {part}/{name}.{part}"))
            data[code] += lines
        data["sentence_id"] += [f"{part}-{i}" for i in range(len(lines))]
        counts = {code: len(data[code]) for code in codes}
        if len(set(counts.values())) > 1:
            said = f"the languages have unequal numbers of lines ({counts})"
            raise CorpusError(f"{archive}, {part}: {said}; get it again")
    return data


def _script(have: Mapping[str, bytes], code: str, archive: Path) -> str:
    """What FLORES-200 calls a language: by the table, by its full name, in Latin script, or in its only script."""
    name = languages.FLORES.get(code, code)
    scripts = sorted(n for n in have if name in (n, n.partition("_")[0]))
    latin = [n for n in scripts if n == name or n.endswith("_Latn")] or scripts
    if len(latin) > 1:
        raise CorpusError(f"{archive}: {code!r} is written in several scripts; allowed: {', '.join(latin)}")
    if not latin:
        near = ", ".join(sorted(difflib.get_close_matches(name, have, 5, 0)))
        said = f"there is no language {code!r} among its {len(have)}"
        raise CorpusError(f"{archive}: {said}; the nearest: {near or 'none'}")
    return latin[0]
