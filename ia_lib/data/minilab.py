"""The mini lab: an offline miniature of the whole experiment, generated from a grammar and a lexicon.

Sentences in Indonesian and English come from a template grammar written for this kit; the other ten languages are
made from Indonesian word by word through a lexicon of real words (taken from NusaX, see LICENSE-lexicon.txt beside
it). A word without an entry stays Indonesian; none is invented. It says nothing about the real languages.

For COMMIT there are passages with questions whose answers stand in them, in Indonesian and these ten languages; for the
Alpaca study short requests with one right answer each, in all twelve."""

import csv
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from filelock import FileLock
from ruamel.yaml import YAML

from ia_lib.data import languages
from ia_lib.data.downloads import checksum
from ia_lib.randomness import generator, pick, shuffled, weighted

KNOWN = ["eng", "ind"]
_DATA = Path(__file__).parent / "minilab_data"
# What a lab's files were when they were written.
_SUMS = "files.json"
_SLOT = re.compile(r"\{([a-z]+)(\d*)\}")
# Where a sentence does not judge, words of these kinds stand for one another, so that nothing but judgements and
# translations tells their polarity.
_KINDS = (("good", "bad", "plain"), ("glad", "sad"), ("boon", "bane", "stuff"), ("praise", "blame", "do"))


@cache
def grammar() -> dict:
    """Slots (lists of [Indonesian, English]), `sentiment` templates with labels, and `other` templates."""
    return YAML(typ="safe").load((_DATA / "grammar.yaml").read_text(encoding="utf-8"))


@cache
def lexicon() -> dict[str, dict[str, str]]:
    """Language code -> Indonesian word -> its translation."""
    with open(_DATA / "lexicon.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {code: {r["ind"]: r[code] for r in rows if r[code]} for code in rows[0] if code != "ind"}


def translate(indonesian: str, code: str) -> str:
    """Word by word from Indonesian; words without an entry stay as they are."""
    return _capital(" ".join(_translate_words(indonesian, code)[0]))


def untranslated_shares(seed: int, count: int = 2000) -> dict[str, float]:
    """Language code -> share (0 to 1) of running words without an entry in its lexicon, over `count` sentences."""
    texts = [sentence["ind"] for sentence in islice(sentences(seed), count)]
    words = sum(len(text.split(" ")) for text in texts)
    return {code: 1 - sum(_translate_words(text, code)[1] for text in texts) / words for code in lexicon()}


def sentences(seed: int) -> Iterator[dict]:
    """Endless distinct sentences: `ind`, `eng` and `label` (None for every second one, on average, which passes no
    judgement)."""
    rng = generator(seed, "sentences")
    judging, seen = grammar()["sentiment"], set()
    labels = sorted({t["label"] for t in judging})
    by_label = [[t for t in judging if t["label"] == label] for label in labels]
    while True:
        judges = rng.random() < 1 / 2
        template = pick(rng, pick(rng, by_label) if judges else grammar()["other"])
        # which kinds stand for which: any in a sentence that does not judge, good and bad in one that does both
        kinds, label = {}, template.get("label")
        for names in {None: _KINDS, "neutral": (("good", "bad"),)}.get(label, ()):
            kinds |= dict(zip(names, (names[i] for i in shuffled(rng, len(names))), strict=True))
        words = _words(rng, template["ind"], kinds)
        sentence = {code: _said(template[code], words, i) for i, code in enumerate(("ind", "eng"))}
        if sentence["ind"] not in seen:
            seen.add(sentence["ind"])
            yield {**sentence, "label": label}


def requests(seed: int) -> Iterator[dict[str, dict[str, str]]]:
    """Endless distinct requests: `ask` and `answer`, each in Indonesian and English (`ind`, `eng`)."""
    rng, seen = generator(seed, "requests"), set()
    while True:
        template = pick(rng, grammar()["open"])
        words = _words(rng, template["ask"][0])
        found = {
            part: {code: _said(template[part][i], words, i) for i, code in enumerate(("ind", "eng"))}
            for part in ("ask", "answer")
        }
        if found["ask"]["ind"] not in seen:
            seen.add(found["ask"]["ind"])
            yield found


def _words(rng, template: str, kinds: dict[str, str] | None = None) -> dict[str, list[str]]:
    """An entry for each slot of a template, no two the same; `kinds` says which stand for which."""
    words: dict[str, list[str]] = {}
    for slot, digit in _SLOT.findall(template):
        entries = grammar()["slots"][(kinds or {}).get(slot, slot)]
        while slot + digit not in words:
            if (entry := _word(rng, entries)) not in words.values():
                words[slot + digit] = entry
    return words


def _said(template: str, words: dict[str, list[str]], language: int) -> str:
    said = template.format_map({slot: entry[language] for slot, entry in words.items()})
    # every sentence begins with a capital
    return re.sub(r"(^|[.?] )(\w)", lambda found: found[1] + found[2].upper(), said)


def passages(seed: int) -> Iterator[dict]:
    """Endless distinct passages in Indonesian, a fact and a remark: `context`, a list of two sentences, and
    `questions`, each a question and its answer, a word or two of the fact."""
    rng, known = generator(seed, "passages"), grammar()["passages"]
    slots = {name: [entry[0] for entry in entries] for name, entries in grammar()["slots"].items()} | known["slots"]
    seen: set[tuple[str, ...]] = set()
    while True:
        words = {slot: pick(rng, slots[slot]) for slot in known["drawn"]}
        context = [_capital(pick(rng, known[part]).format_map(words)) for part in ("facts", "remarks")]
        if rng.random() < 1 / 2:
            context.reverse()
        # no fact is told twice, in whatever words
        if (fact := tuple(words[slot] for slot in known["told"])) not in seen:
            seen.add(fact)
            asked = [(_capital(one["ask"].format_map(words)), words[one["answer"]]) for one in known["questions"]]
            yield {"context": context, "questions": asked}


def questions(passages: int) -> int:
    """How many questions so many passages have."""
    return passages * len(grammar()["passages"]["questions"])


def identity(seed: int, codes: list[str], sizes: dict[str, int]) -> str:
    """What stands for a lab's content: the hash of all that it is made from, this module among it."""
    made_from = [checksum(path) for path in (Path(__file__), *sorted(_DATA.iterdir()))]
    return hashlib.sha256(json.dumps([seed, codes, sizes, made_from]).encode()).hexdigest()


def write(folder: Path, seed: int, codes: list[str], sizes: dict[str, int]) -> Path:
    """Write the lab's files in the layout that `corpora` reads, once, and again if they are not what was written;
    returns `folder`.

    `mt/base.csv` (eng and ind; what the base model is trained on), `mt/train.csv` (parallel sentences for alignment)
    and `sentiment/<language>/{train,valid,test}.csv`, as in the NusaX release; no sentence of one file is in another,
    except that the sentiment training texts (eng and ind only) are the judging sentences of `mt/base.csv`. `sizes`
    counts the sentences of base, train, valid and test, and of passages likewise: `passages/<code>/
    {train,valid,test}.json` in SQuAD's layout (train, of ind alone, is what a base model is trained on),
    `instructions/ind.jsonl` in Alpaca's form, `texts/<code>.txt` with a passage a line, and `dictionaries/<code>.tsv`,
    the lexicon from Indonesian. No passage is in two of them. Requests stand in `open/<code>/{train,valid,test}.jsonl`
    with `instruction`, `input` (empty) and `output`; line n is the same request in every language, and none is in two
    files.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _whole(folder, *_states(folder)):
            part = folder.with_name(folder.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            _write(part, seed, codes, sizes)
            files = (path for path in sorted(part.rglob("*")) if path.is_file())
            sums = {path.relative_to(part).as_posix(): checksum(path) for path in files}
            (part / _SUMS).write_text(json.dumps(sums, indent=1))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(part, folder)
    return folder


@cache
def _whole(folder: Path, *states: tuple[str, int, int]) -> bool:
    """Whether a lab's files, in these states, are those that were written."""
    try:
        sums = json.loads((folder / _SUMS).read_text())
        return sums == {name: checksum(folder / name) for name, *_ in states if name != _SUMS} and bool(sums)
    except (OSError, ValueError):
        return False


def _states(folder: Path) -> list[tuple[str, int, int]]:
    found = ((path.relative_to(folder).as_posix(), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return [(name, state.st_size, state.st_mtime_ns) for name, state in found]


def _write(folder: Path, seed: int, codes: list[str], sizes: dict[str, int]) -> None:
    source = _unlike(sentences(seed), codes)
    base, train = (list(islice(source, sizes[name])) for name in ("base", "train"))
    for name, rows, spoken in (("base", base, KNOWN), ("train", train, codes)):
        _save(folder / "mt" / f"{name}.csv", {languages.column(c): [_in(s, c) for s in rows] for c in spoken})
    judging = (s for s in source if s["label"])
    labelled = [("train", [s for s in base if s["label"]], KNOWN)]
    labelled += [(split, list(islice(judging, sizes[split])), codes) for split in ("valid", "test")]
    for split, rows, spoken in labelled:
        ids, labels = [f"{split}-{i}" for i in range(len(rows))], [s["label"] for s in rows]
        for code in spoken:
            path = folder / "sentiment" / languages.column(code) / f"{split}.csv"
            _save(path, {"id": ids, "text": [_in(s, code) for s in rows], "label": labels})
    _write_passages(folder, seed, [code for code in codes if code != "eng"], sizes)
    asked = ({"ind": one["ask"]["ind"], "eng": one["ask"]["eng"], "answer": one["answer"]} for one in requests(seed))
    asked = _unlike(asked, codes)
    for split in ("train", "valid", "test"):
        rows = list(islice(asked, sizes[split]))
        for code in codes:
            lines = [{"instruction": _in(row, code), "input": "", "output": _in(row["answer"], code)} for row in rows]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            _text(folder / "open" / code / f"{split}.jsonl", text)


def _write_passages(folder: Path, seed: int, codes: list[str], sizes: dict[str, int]) -> None:
    source = passages(seed)
    parts = [("base", "train"), ("valid", "valid"), ("test", "test"), ("train", "instructions"), ("train", "texts")]
    found = {name: list(islice(source, sizes[size])) for size, name in parts}
    for name in ("train", "valid", "test"):
        for code in codes if name != "train" else ["ind"]:
            articles = [{"paragraphs": [_paragraph(passage, code, i)]} for i, passage in enumerate(found[name])]
            _text(folder / "passages" / code / f"{name}.json", json.dumps({"data": articles}, ensure_ascii=False))
    rows = [
        {"instruction": question, "input": " ".join(passage["context"]), "output": answered(answer)}
        for passage in found["instructions"]
        for question, answer in passage["questions"]
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    _text(folder / "instructions" / "ind.jsonl", "\n".join([*lines, ""]))
    for code in codes:
        _text(folder / "texts" / f"{code}.txt", "\n".join([*(_context(one, code) for one in found["texts"]), ""]))
        if code != "ind":
            pairs = [f"{word}\t{other}" for word, other in lexicon()[code].items()]
            _text(folder / "dictionaries" / f"{code}.tsv", "\n".join([*pairs, ""]))


def answered(answer: str) -> str:
    """An answer as the model is taught it: with a blank before it, and so the same tokens as in the passage."""
    return f" {answer}"


def _paragraph(passage: dict, code: str, number: int) -> dict:
    def said(text: str) -> str:
        return " ".join(_translate_words(text, code)[0]) if code in lexicon() else text

    asked = [
        {"id": f"{number}-{i}", "question": _capital(said(question)), "answers": [{"text": said(answer)}]}
        for i, (question, answer) in enumerate(passage["questions"])
    ]
    return {"context": _context(passage, code), "qas": asked}


def _context(passage: dict, code: str) -> str:
    return " ".join(translate(one, code) if code in lexicon() else one for one in passage["context"])


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _word(rng, entries: list) -> list:
    """One of `entries`, the earlier ones more often than the later ones, as in real text: weights 1/3, 1/4, 1/5, ..."""
    weights = [1 / (rank + 3) for rank in range(len(entries))]
    return weighted(rng.random() * sum(weights), zip(entries, weights, strict=True))


def _unlike(source: Iterator[dict], codes: list[str]) -> Iterator[dict]:
    """The sentences that no earlier one equals in any language: two words can have one translation."""
    seen: set[tuple[str, str]] = set()
    for sentence in source:
        written = {(code, _in(sentence, code)) for code in codes}
        if not written & seen:
            seen |= written
            yield sentence


def _save(path: Path, columns: dict[str, list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _in(sentence: dict, code: str) -> str:
    return sentence[code] if code in KNOWN else translate(sentence["ind"], code)


def _translate_words(indonesian: str, code: str) -> tuple[list[str], int]:
    """The words (with their punctuation) translated, and how many running words had an entry."""
    entries = lexicon()[code]
    words, result, hits, i = indonesian.split(" "), [], 0, 0
    while i < len(words):
        # two-word entries first (luar biasa)
        for length in (2, 1):
            phrase = " ".join(words[i : i + length])
            bare = phrase.rstrip(".,?").lower()
            if known := bare in entries and i + length <= len(words):
                break
        result.append(entries[bare] + phrase[len(bare) :] if known else phrase)
        hits += length * known
        i += length
    return result, hits


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
