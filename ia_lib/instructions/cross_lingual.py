"""Cross-lingual instructions from parallel text: TLM, MT, XSS, and MLM as the baseline (InstructAlign, section 3.1).

Every instruction is derived from (seed, epoch, sample): noise, template, objective and negative sentence are the same
on every machine, in any number of processes and after a resume, and fresh in every epoch."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, count, islice
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np

from ia_lib.data import corpora, languages
from ia_lib.instructions import COLUMNS, templates
from ia_lib.instructions.noise import add_noise, mask_span, mask_words, split
from ia_lib.randomness import generator, permuted, pick, uniforms

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

# Positions that are worked on together, and how many sentences a corpus may have to be held in memory; of a larger
# one each block reads its own.
_BLOCK = 1024
_SMALL = 20_000


@dataclass(frozen=True)
class Plan:
    """How instructions are made; `docs/fidelity.md` says which values are the paper's and which its code's."""

    objective: str  # tlm, mt, xss, mlm, word, span, or several joined by +: each instruction draws one uniformly
    pivots: Sequence[str]
    taught: Sequence[str]
    seed: int | str
    noise: str = "mixture"  # see noise.add_noise
    noise_tokens: str = "words"
    noise_probability: float = 0.2
    mask: str = "___"
    # what the second sentence is where the answer is no: "random" another one, "hard" one of the nearest ones, "mixed"
    # half and half, or "corrupted": both sentences of the pair get noise (the released code)
    xss_negatives: str = "mixed"
    tlm_names: str = "own"  # "swapped": the noisy text carries its partner's language name (the released code)
    templates: str = "instructalign"  # see templates.templates
    names: dict[str, str] = field(default_factory=dict)  # of languages that the kit does not know

    @property
    def objectives(self) -> list[str]:
        return self.objective.split("+")

    @property
    def codes(self) -> list[str]:
        return list(dict.fromkeys([*self.pivots, *self.taught]))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What a sentence is turned into: directed pairs of languages; for mlm alone each language by itself."""
        if self.objectives == ["mlm"]:
            return [(code, code) for code in self.codes]
        return directions(self.pivots, self.taught)

    def name(self, code: str) -> str:
        return self.names.get(code) or languages.name(code)


def directions(pivots: Sequence[str], taught: Sequence[str]) -> list[tuple[str, str]]:
    """All directed pairs (source, target) that have a pivot on one side at least, each once."""
    codes = dict.fromkeys([*pivots, *taught])
    pairs = [(a, b) for a, b in combinations(codes, 2) if a in pivots or b in pivots]
    return [pair for a, b in pairs for pair in ((a, b), (b, a))]


def instructions(parallel: Dataset, plan: Plan, epoch: int = 0, workers: int = 1) -> Iterator[dict]:
    """One epoch of instructions in training order: every sentence in every direction once.

    `parallel` has `sentence_id` and a column per language. What is made does not depend on the number of `workers`
    (processes), and memory does not grow with the corpus if that is a file.

    Yields `prompt, answer, kind` (the objective), `language` (of the answer; of XSS' second text), `source_language,
    source_id` (the sentence's), `template` (from 0), `noise` (the kinds drawn, joined by +, or None), `negative` (of an
    XSS instruction with another sentence's text its kind and id, `hard 123`; else None), `epoch, position, sample`.
    """
    yield from _rows(parallel, plan, _blocks(parallel, plan, epoch), workers)


def stream(parallel: Dataset, rows: int | None, plan: Plan, workers: int = 1) -> Iterator[dict]:
    """The first `rows` of epoch 0, 1, 2, ... of `instructions`; with None they never end. Raises ValueError if
    there is nothing to make them from."""
    if rows == 0:
        return
    if not len(parallel) * len(plan.pairs):
        raise ValueError("there is nothing to make instructions from: no sentence, or no pair of languages")
    endless = (block for epoch in count() for block in _blocks(parallel, plan, epoch))
    yield from islice(_rows(parallel, plan, endless, workers), rows)


def _blocks(parallel: Dataset, plan: Plan, epoch: int) -> Iterator[tuple[int, int, int]]:
    """An epoch's positions in blocks: (epoch, begin, end)."""
    size = len(parallel) * len(plan.pairs)
    return ((epoch, begin, min(begin + _BLOCK, size)) for begin in range(0, size, _BLOCK))


def _rows(parallel: Dataset, plan: Plan, blocks: Iterator[tuple[int, int, int]], workers: int) -> Iterator[dict]:
    if workers == 1:
        make = _Maker(parallel, plan)
        for block in blocks:
            yield from make(block)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (parallel, plan)) as pool:
        # so many blocks at a time that no worker waits and that few are held
        while some := list(islice(blocks, 4 * workers)):
            for rows in pool.map(_work, some):
                yield from rows


class _Maker:
    """Makes the instructions of a block of positions."""

    def __init__(self, parallel: Dataset, plan: Plan):
        self.parallel, self.plan = parallel.with_format("arrow"), plan
        self.size = len(parallel)
        names = (*plan.codes, "sentence_id")
        self.columns = {name: parallel[name][:] for name in names} if self.size <= _SMALL else None
        self.alone = {name: self.parallel.select_columns([name]) for name in names}
        self.neighbours: dict[str, _Neighbours] = {}
        self.known: dict[tuple[str, str], set[tuple[str, str]]] = {}
        self.names = {code: plan.name(code) for code in plan.codes}
        self.templates = {kind: len(templates.templates(kind, plan.templates)) for kind in plan.objectives}

    def __call__(self, block: tuple[int, int, int]) -> list[dict]:
        plan, (epoch, begin, end) = self.plan, block
        pairs, objectives = plan.pairs, plan.objectives
        positions = np.arange(begin, end)
        samples = permuted((plan.seed, epoch, "order"), positions, self.size * len(pairs))
        sentences = (samples // len(pairs)).tolist()
        columns = self.columns
        if columns is None:
            table = self.parallel[sentences]
            columns = {name: table[name].to_pylist() for name in (*plan.codes, "sentence_id")}
            sentences = range(len(sentences))
        numbers = uniforms((plan.seed, epoch), samples, 48).tolist()  # most instructions need fewer
        rows = []
        for position, sample, i, drawn in zip(positions.tolist(), samples.tolist(), sentences, numbers, strict=True):
            rng = _Row(drawn, plan.seed, epoch, sample)
            chosen = objectives[int(rng.random() * len(objectives))]
            number = int(rng.random() * self.templates[chosen])
            source, target = pairs[sample % len(pairs)]
            texts = columns[source][i], columns[target][i]
            if chosen == "mlm":
                source = target
            slots, noise, negative = self._slots(chosen, source, target, texts, rng)
            prompt, answer = templates.fill(chosen, number, plan.templates, **slots)
            row = {"prompt": prompt, "answer": answer, "kind": chosen, "language": target, "source_language": source}
            row |= {"source_id": columns["sentence_id"][i], "template": number, "noise": noise, "negative": negative}
            rows.append(row | {"epoch": epoch, "position": position, "sample": sample})
        return rows

    def _slots(self, chosen: str, source: str, target: str, texts: tuple[str, str], rng) -> tuple:
        """What the template's slots are filled with, the kind of noise, and what negative there is."""
        plan, (source_text, target_text), noise = self.plan, texts, None
        source_name, target_name = self.names[source], self.names[target]
        if chosen in ("tlm", "mlm"):
            noisy, noise = self._noisy(target_text, rng)
        elif chosen in ("word", "span"):
            mask, noise = (mask_words if chosen == "word" else mask_span), f"masked {chosen}"
            noisy = mask(target_text, rng, plan.noise_probability, plan.mask)
        if chosen == "mlm":
            return {"SOURCE_LANG": target_name, "SOURCE_TEXT": noisy, "TARGET_TEXT": target_text}, noise, None
        if noise:
            names = (source_name, target_name) if plan.tlm_names == "swapped" else (target_name, source_name)
            slots = {"INPUT_TEXT": noisy, "INPUT_LANG": names[0], "CONTEXT_LANG": names[1]}
            return {**slots, "CONTEXT": source_text, "LABEL_TEXT": target_text}, noise, None
        answer, negative = {}, None
        if chosen == "xss":
            same = rng.random() < 0.5
            answer = {"LABEL": "yes" if same else "no"}
            if not same and plan.xss_negatives == "corrupted":
                source_text, noise = self._noisy(source_text, rng)
                target_text, other = self._noisy(target_text, rng)
                noise = f"{noise} / {other}"
            elif not same:
                hard = plan.xss_negatives == "hard" or (plan.xss_negatives == "mixed" and rng.random() < 0.5)
                kind, sentence = (self._near if hard else self._other)(source, target, texts, rng)
                target_text = self._read(target, sentence)
                negative = f"{kind} {self._read('sentence_id', sentence)}"
        names = {"SOURCE_LANG": source_name, "TARGET_LANG": target_name}
        return {**names, "SOURCE_TEXT": source_text, "TARGET_TEXT": target_text, **answer}, noise, negative

    def _noisy(self, text: str, rng) -> tuple[str, str]:
        how = self.plan
        return add_noise(text, rng, how.noise_probability, how.mask, how.noise, how.noise_tokens)

    def _other(self, source: str, target: str, texts: tuple[str, str], rng) -> tuple[str, int]:
        """Another sentence, drawn uniformly from those whose text is no translation of this one."""
        for _ in range(1000):
            other = int(rng.random() * self.size)
            if not self._translates(source, target, texts, [other]):
                return "random", other
        raise ValueError(f"xss needs sentences that differ, but nearly all read {texts[0]!r:.80} or {texts[1]!r:.80}")

    def _near(self, source: str, target: str, texts: tuple[str, str], rng) -> tuple[str, int]:
        """One of the sentences whose text is most similar and no translation of this one."""
        if target not in self.neighbours:
            self.neighbours[target] = _Neighbours(self.alone[target], target, self.plan.seed)
        nearest = self.neighbours[target].nearest(texts[1])
        while nearest:
            holders = pick(rng, nearest)
            if not self._translates(source, target, texts, holders):
                return "hard", holders[0]
            nearest = [others for others in nearest if others is not holders]
        return self._other(source, target, texts, rng)

    def _translates(self, source: str, target: str, texts: tuple[str, str], holders: list[int]) -> bool:
        """Whether the text in `target` that these sentences share is known to translate this one: it or what it stands
        beside reads the same as this one's; or, of a corpus in memory, any pair says so."""
        other = _folded(self._read(target, holders[0]))
        if self.columns is None:
            mine = _folded(texts[0]), _folded(texts[1])
            return other == mine[1] or any(_folded(self._read(source, sentence)) == mine[0] for sentence in holders)
        if (source, target) not in self.known:
            sides = (map(_folded, self.columns[code]) for code in (source, target))
            self.known[source, target] = set(zip(*sides, strict=True))
        return (_folded(texts[0]), other) in self.known[source, target]

    def _read(self, column: str, sentence: int) -> str:
        if self.columns is not None:
            return self.columns[column][sentence]
        return self.alone[column][sentence][0][0].as_py()


@lru_cache(2**15)
def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


class _Row:
    """The random numbers of one instruction: from its block, and behind those from a generator of its own."""

    def __init__(self, drawn: list[float], *key: object):
        self._key, self._drawn, self._at, self._more = key, drawn, 0, None

    def random(self) -> float:
        if self._at < len(self._drawn):
            self._at += 1
            return self._drawn[self._at - 1]
        return self.take(1)[0]

    def take(self, n: int) -> list[float]:
        """The next `n` numbers."""
        begin, self._at = self._at, self._at + n
        if self._at > len(self._drawn):
            self._more = self._more or generator(*self._key, "more")
            self._drawn = self._drawn + [self._more.random() for _ in range(self._at - len(self._drawn))]
        return self._drawn[begin : self._at]


class _Neighbours:
    """The texts in one language among which negatives are looked for: in a large corpus 5,000 drawn at random.
    Similarity is the share of distinct words in common (Jaccard) times the ratio of lengths in characters."""

    def __init__(self, column: Dataset, code: str, seed: int | str):
        count = len(column)
        chosen = permuted((seed, "negatives"), np.arange(min(5000, count)), count).tolist()
        holders = _places(zip(column[chosen][code].to_pylist(), chosen, strict=True))
        texts, self.holders = list(holders), list(holders.values())
        self.same = _places((_folded(text), i) for i, text in enumerate(texts))
        words = [set(split(text.lower())[0]) for text in texts]
        holding = _places((word, i) for i, found in enumerate(words) for word in found)
        self.holding = {word: np.array(found) for word, found in holding.items()}
        self.words, self.lengths = (np.array(list(map(len, parts))) for parts in (words, texts))
        self.known: dict[str, list[list[int]]] = {}

    def nearest(self, text: str, count: int = 8) -> list[list[int]]:
        """The `count` most similar texts that read differently and have a word in common, the most similar first: of
        each the sentences that read so."""
        if text not in self.known:
            if len(self.known) > 20000:
                self.known.clear()
            words = set(split(text.lower())[0])
            sharing = [self.holding[word] for word in words if word in self.holding]
            common = np.bincount(np.concatenate([*sharing, []]).astype(int), minlength=len(self.words))
            ratio = np.minimum(self.lengths, len(text)) / np.maximum(self.lengths, len(text))
            similarity = common / np.maximum(self.words + len(words) - common, 1) * ratio
            similarity[self.same.get(_folded(text), [])] = 0
            least = np.partition(similarity, -count)[-count] if len(similarity) > count else 0
            best = np.flatnonzero((similarity >= least) & (similarity > 0))
            best = best[np.argsort(-similarity[best], kind="stable")][:count]
            self.known[text] = [self.holders[i] for i in best]
        return self.known[text]


def _places(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found = defaultdict(list)
    for text, place in pairs:
        found[text].append(place)
    return dict(found)


_maker: _Maker | None = None


def _begin(parallel: Dataset, plan: Plan) -> None:
    global _maker
    _maker = _Maker(parallel, plan)


def _work(block: tuple[int, int, int]) -> list[dict]:
    return _maker(block)


def split_off(parallel: Dataset, sentences: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split by sentence into (training, validation), so that no text of either, in any language, is one of the other's
    (as `corpora.normalised` reads it): sentences that share one stay together. Validation has as many as are asked for,
    or fewer where all that is left are groups too large. Raises ValueError if nothing would be left to train on, or
    nothing can be held out."""
    if sentences >= len(parallel):
        said = f"found {sentences:,}, but the parallel text has {len(parallel):,} sentences"
        raise ValueError(f"validation_sentences: {said}; allowed: fewer than that")
    group = corpora.groups(corpora.fingerprints(parallel))
    drawn = np.fromiter(iter(generator(seed, "validation").random, None), float, len(parallel))
    held = corpora.hold_out(group, np.argsort(drawn, kind="stable"), sentences)
    if sentences and not held.any():
        said = f"found {sentences:,}, but every sentence shares a text with {np.bincount(group).min() - 1:,} others"
        raise ValueError(f"validation_sentences: {said}; allowed: parallel text with sentences that share none")
    return parallel.select(np.flatnonzero(~held)), parallel.select(np.flatnonzero(held))


def make(
    parallel: Dataset, plan: Plan, rows: int, validation_sentences: int, validation_rows: int, hold_out: str
) -> pd.DataFrame:
    """All instructions of a run as the stream "instructions", whose role is new: `rows` to train on, `validation_rows`
    held out. Columns: `COLUMNS` and `source_language, template, noise, negative, sample` (see `instructions`).

    `hold_out`: "sentence" keeps a validation sentence out of training in every language (see `split_off`); "row" holds
    out directed pairs at random, as the released code does, so that the same sentence is trained on in another
    direction. Raises ValueError if nothing would be left to train on.
    """
    import pandas as pd

    if hold_out == "sentence":
        training, validation = split_off(parallel, validation_sentences, plan.seed)
        parts = {"train": stream(training, rows, plan), "validation": stream(validation, validation_rows, plan)}
    else:
        size = len(parallel) * len(plan.pairs)
        if validation_rows >= size:
            said = f"found {validation_rows:,}, but there are {size:,} pairs"
            raise ValueError(f"validation_rows: {said}; allowed: fewer")
        held = set(permuted((plan.seed, "validation"), np.arange(validation_rows), size).tolist())
        parts = {
            "train": islice((row for row in stream(parallel, None, plan) if row["sample"] not in held), rows),
            "validation": (row for row in instructions(parallel, plan) if row["sample"] in held),
        }
    own = ("source_language", "template", "noise", "negative", "sample")
    # columns, since a dictionary for every instruction would take several times the memory
    columns: dict[str, list] = {name: [] for name in (*COLUMNS, *own)}
    for part, made in parts.items():
        for row in made:
            row |= {"stream": "instructions", "role": "new", "split": part}
            for name, column in columns.items():
                column.append(row[name])
    # numbers that other streams' examples do not have stay whole numbers beside them
    return pd.DataFrame(columns).astype({"template": "Int64", "sample": "Int64"})


def rows_of_epoch(parallel: Dataset, plan: Plan, validation_sentences: int, validation_rows: int, hold_out: str) -> int:
    """How many instructions to train on one epoch of `make` has."""
    if hold_out == "row":
        return len(parallel) * len(plan.pairs) - validation_rows
    return len(split_off(parallel, validation_sentences, plan.seed)[0]) * len(plan.pairs)
