"""What is known before any GPU time is spent: tokens, cuts, exposure, overlap, doubles, dirt, trouble with characters.

`report` is the data stage's report.json; its `warnings` say in plain words what a careful person would look into. The
parallel text is read once, some thousand sentences at a time.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ia_lib.data import corpora, dirt
from ia_lib.models.encoding import encode
from ia_lib.training.streams import Stream, exposure

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from datasets import Dataset

# How many tokens of a text are looked at for the answers' lengths and the like, at most.
_LOOKED_AT = 2000
_APOSTROPHES = "'’ʼ‘`´"


def report(
    examples: "pd.DataFrame",
    streams: list[Stream],
    parallel: "Dataset",
    tests: "Dataset",
    labels: dict[str, list[str]],
    tokenizer,
    encoding: dict[str, Any],
    steps: int,
    rows_of_epoch: int = 0,
    dropped: int = 0,
    held_out: "tuple[Dataset | None, int]" = (None, 0),
    share_text: bool = True,
    identify: bool = True,
) -> dict[str, Any]:
    """Counts and checks of all that training will read.

    `examples` are those of all `streams`; all but those of the split "validation" are counted. `encoding` holds the
    keyword arguments of `encode`, `rows_of_epoch` is the size of one epoch of new instructions, `dropped` the number of
    pairs left out because they occur in test data, `held_out` the sentences that are held out and how many were asked
    for. Without `share_text` no warning shows an example; without `identify` nothing is said about the languages that
    texts are in. Shares are from 0 to 1.
    """
    train = examples[examples["split"] != "validation"]
    new, old = (train[train["role"] == role] for role in ("new", "old"))
    kinds = {f"new {name}": frame for name, frame in new.groupby("kind", sort=False)} | {"old": old}
    encoded = {
        name: encode(tokenizer, list(frame["prompt"]), list(frame["answer"]), **encoding)
        for name, frame in kinds.items()
        if len(frame)
    }
    codes = [column for column in parallel.column_names if column != "sentence_id"]
    text = _Texts(parallel, codes, _special(tokenizer), set(new["source_id"]))
    some = parallel[:_LOOKED_AT]
    new_per_step, old_per_step = (sum(s.per_step for s in streams if s.role == role) for role in ("new", "old"))
    validation = examples[examples["split"] == "validation"]
    kept = [text for code in codes for text in held_out[0][code]] if held_out[0] else []
    found: dict[str, Any] = {
        "new_rows": {name: int(count) for name, count in new["kind"].value_counts(sort=False).items()},
        "new_rows_validation": int((validation["role"] == "new").sum()),
        "old_rows": len(old),
        "old_rows_validation": int((validation["role"] == "old").sum()),
        "steps": steps,
        **exposure(steps, rows_of_epoch, len(old), new_per_step, old_per_step),
        "mean_tokens": {
            name: round(sum(len(row["input_ids"]) for row in rows) / len(rows), 1)
            for name, (rows, _) in encoded.items()
        },
        "answers_cut": {name: cut for name, (_, cut) in encoded.items()},
        "rows_with_prompt_cut": {
            name: sum(len(row["input_ids"]) == encoding["max_length"] for row in rows)
            for name, (rows, _) in encoded.items()
        },
        "tokens_per_word": {code: _tokens_per_word(tokenizer, some[code]) for code in codes},
        "label_tokens": {
            task: {label: len(tokenizer(label, add_special_tokens=False)["input_ids"]) for label in names}
            for task, names in labels.items()
        },
        "pairs_dropped_because_in_tests": dropped,
        "pairs_still_in_tests": len(parallel) - len(corpora.drop_overlap(parallel, tests)[0]) if len(tests) else 0,
        "old_rows_with_test_texts": corpora.holding(old["prompt"], tests["text"]) if len(tests) else 0,
        "validation_rows_trained_on": _trained_on(train, validation),
        "old_rows_with_held_out_texts": corpora.holding(old["prompt"] + " " + old["answer"], kept) if kept else 0,
        "held_out_sentences": len(held_out[0] or ()),
        "doubled_pairs": text.doubled,
        "pairs_in_groups": text.grouped,
        "equal_sides": text.equal,
        "out_of_proportion": text.out_of_proportion(),
        "dirt": {code: dict(found.counts) for code, found in text.dirt.items() if found.counts},
        "other_languages": text.other_languages() if identify else {},
        "noisy_texts_unchanged": _unchanged(new, text.contexts),
        "characters": {code: _characters(text.letters[code], text.not_nfc[code], tokenizer) for code in codes},
    }
    said = _warnings(found, len(parallel), encoded, held_out[1])
    for code, trouble in text.dirt.items():
        said += trouble.warnings(f"in {code}", share_text)
    return {**found, "warnings": said}


class _Texts:
    """What one pass over the parallel text finds. `wanted` are the sentences whose texts are kept (`contexts`)."""

    def __init__(self, parallel: "Dataset", codes: list[str], tokens: re.Pattern | None, wanted: Collection[str]):
        import numpy as np

        self.codes, self.count = codes, len(parallel)
        self.letters: dict[str, np.ndarray] = {code: np.zeros(0, int) for code in codes}  # of each code point
        self.not_nfc = dict.fromkeys(codes, 0)
        self.dirt = {code: dirt.Found() for code in codes}
        self.equal = {f"{a}-{b}": 0 for a, b in combinations(codes, 2)}
        self.contexts: dict[str, dict[str, str]] = {}
        self.sample: dict[str, list[str]] = {code: [] for code in codes}
        self._lengths: dict[str, list] = {code: [np.zeros(0, "<u4")] for code in codes}
        pairs = []
        step = max(1, self.count // dirt.SAMPLE)
        batches = parallel.with_format("arrow").iter(corpora.BATCH) if codes else ()
        for number, batch in enumerate(batches):
            texts = {code: batch[code].to_pylist() for code in codes}
            pairs += corpora.hashed(map("\0".join, zip(*texts.values(), strict=True)))
            for code, column in texts.items():
                self._add(code, column, tokens)
                self.sample[code] += column[-number * corpora.BATCH % step :: step]
            for a, b in combinations(codes, 2):
                self.equal[f"{a}-{b}"] += sum(x == y for x, y in zip(texts[a], texts[b], strict=True))
            for place, name in enumerate(batch["sentence_id"].to_pylist() if wanted else ()):
                if name in wanted:
                    self.contexts[name] = {code: column[place] for code, column in texts.items()}
        self.doubled = self.count - len(np.unique(np.frombuffer(b"".join(pairs), "<u8"))) if codes else 0
        sizes = np.bincount(corpora.groups(corpora.fingerprints(parallel))) if codes else np.zeros(0, int)
        self.grouped = int(sizes[sizes > 1].sum())

    def _add(self, code: str, column: list[str], tokens: re.Pattern | None) -> None:
        import numpy as np

        self.dirt[code].add(column, tokens)
        self._lengths[code].append(np.fromiter(map(len, column), "<u4", len(column)))
        self.not_nfc[code] += sum(not (text.isascii() or unicodedata.is_normalized("NFC", text)) for text in column)
        letters = np.bincount(np.frombuffer("".join(column).encode("utf-32-le"), "<u4"))
        known = self.letters[code]
        small, large = sorted((known, letters), key=len)
        large[: len(small)] += small
        self.letters[code] = large

    def out_of_proportion(self) -> dict[str, int]:
        """Pair of languages -> its sentences whose lengths are far from the others' proportion."""
        import numpy as np

        lengths = {code: np.concatenate(parts) for code, parts in self._lengths.items()}
        found = {
            f"{a}-{b}": int(dirt.out_of_proportion(lengths[a], lengths[b]).sum())
            for a, b in combinations(self.codes, 2)
        }
        return {pair: count for pair, count in found.items() if count}

    def other_languages(self) -> dict[str, str]:
        """Language -> the one that most of its texts are in instead."""
        found = {code: dirt.other_language(code, texts) for code, texts in self.sample.items()}
        return {code: other for code, other in found.items() if other}


def _special(tokenizer) -> re.Pattern | None:
    """What finds a tokenizer's special tokens in a text."""
    contents = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return re.compile("|".join(map(re.escape, filter(str.strip, contents))) or "(?!)")


def _trained_on(train: "pd.DataFrame", validation: "pd.DataFrame") -> int:
    """How many validation instructions are of a sentence, or have a prompt, that is trained on."""
    if validation.empty:
        return 0
    old = validation["role"] == "old"
    sentences = set(train.loc[train["role"] == "new", "source_id"])
    prompts = set(map(corpora.normalised, train.loc[train["role"] == "old", "prompt"])) if old.any() else set()
    known = validation.loc[~old, "source_id"].isin(sentences).sum()
    return int(known) + sum(corpora.normalised(prompt) in prompts for prompt in validation.loc[old, "prompt"])


def _unchanged(new: "pd.DataFrame", contexts: dict[str, dict[str, str]]) -> dict[str, float]:
    """Of the instructions that ask for a text out of its noisy form, the share in which the noise has changed nothing,
    by the text's language. Such a prompt holds its answer, once more than the context does."""
    rows = new[new["kind"].isin(["tlm", "mlm", "word", "span"])]
    seen: dict[str, list[bool]] = {}
    for code, part in rows.groupby("source_language", sort=False) if len(rows) else ():
        for row in part.itertuples():
            context = "" if row.kind == "mlm" else contexts[row.source_id][code]
            seen.setdefault(row.language, []).append(
                row.prompt.count(row.answer) > context.count(row.answer) if row.answer else False
            )
    return {code: round(sum(found) / len(found), 3) for code, found in seen.items()}


def spelling(tokenizer, texts: dict[str, list[str]]) -> dict[str, tuple[float, float]]:
    """Language -> how many tokens its words have, and the share of its letters (as often as they stand in the texts,
    from 0 to 1) that the tokenizer has no token for and spells in bytes."""
    found = {}
    for code, some in texts.items():
        letters = Counter(filter(str.isalpha, "".join(some)))
        spelt = sum(letters[letter] for letter in _bytes_only(list(letters), tokenizer))
        found[code] = _tokens_per_word(tokenizer, some), spelt / max(1, letters.total())
    return found


def _tokens_per_word(tokenizer, texts: list[str]) -> float:
    tokens = sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    return round(tokens / max(1, sum(len(text.split()) for text in texts)), 2)


def _characters(counts: "np.ndarray", not_nfc: int, tokenizer) -> dict[str, Any]:
    """Trouble that looks the same on the screen and is not the same to a tokenizer. `counts`: of each code point."""
    import numpy as np

    letters = {chr(i): int(counts[i]) for i in np.flatnonzero(counts)}
    often = sorted(filter(str.isalpha, letters), key=letters.get, reverse=True)
    return {
        "not_in_NFC": not_nfc,
        "apostrophes": {char: letters[char] for char in _APOSTROPHES if char in letters},
        "control_characters": sum(n for c, n in letters.items() if unicodedata.category(c) == "Cc"),
        "fall_back_to_bytes": _bytes_only(often, tokenizer),
    }


def _bytes_only(letters: list[str], tokenizer) -> list[str]:
    """The letters that the tokenizer has no token for: several tokens for one letter, or the unknown token."""
    found = []
    for letter in letters:
        ids = tokenizer(letter, add_special_tokens=False)["input_ids"]
        # some tokenizers put a mark for a blank before a text; it is no part of the letter
        ids = [i for i in ids if tokenizer.decode([i]).strip()]
        if len(ids) > 1 or tokenizer.unk_token_id in ids:
            found.append(letter)
    return found


def _warnings(found: dict[str, Any], sentences: int, encoded: dict, asked: int) -> list[str]:
    said = []
    for name, cut in found["answers_cut"].items():
        if cut:
            said.append(f"{cut:,} of {len(encoded[name][0]):,} answers ({name}) are cut by max_length; raise it")
    for name, cut in found["rows_with_prompt_cut"].items():
        if cut > 0.05 * len(encoded[name][0]):
            said.append(
                f"{cut:,} of {len(encoded[name][0]):,} instructions ({name}) fill max_length: most lose part of a "
                "prompt"
            )
    if found["repetitions_per_old_row"] > 10:
        said.append(
            f"every old instruction is seen {found['repetitions_per_old_row']:g} times: the model may learn them by "
            "heart; raise replay, or lower steps"
        )
    if found["epochs_of_new_data"] > 20:
        said.append(f"the new instructions are seen {found['epochs_of_new_data']:g} times over; fewer steps may do")
    tokens = found["tokens_per_word"]
    for code, value in tokens.items():
        if value > 4 and value > 2 * min(tokens.values()):
            said.append(
                f"{code} takes {value:g} tokens a word, the easiest language {min(tokens.values()):g}: the tokenizer "
                "hardly knows it, so training is slow and texts are cut sooner"
            )
    if still := found["pairs_still_in_tests"]:
        said.append(f"{still:,} of {sentences:,} training sentences occur in the test data: scores will flatter it")
    if dropped := found["pairs_dropped_because_in_tests"]:
        said.append(f"{dropped:,} pairs were left out because they occur in the test data")
    if found["doubled_pairs"]:
        said.append(f"{found['doubled_pairs']:,} of {sentences:,} pairs occur more than once")
    if (grouped := found["pairs_in_groups"]) > 0.05 * sentences:
        said.append(
            f"{grouped:,} of {sentences:,} pairs share a text with another; such are trained on or held out together"
        )
    if asked > (held := found["held_out_sentences"]):
        said.append(
            f"{held:,} sentences are held out where {asked:,} were asked for: all others share texts with too many"
        )
    if leaked := found["validation_rows_trained_on"]:
        rows = found["new_rows_validation"] + found["old_rows_validation"]
        said.append(
            f"{leaked:,} of {rows:,} validation instructions are of sentences or prompts that are trained on too "
            "(as with hold_out: row, as the released code does): the validation loss will flatter"
        )
    if holding := found["old_rows_with_test_texts"]:
        said.append(f"{holding:,} of {found['old_rows']:,} old instructions hold a test text: scores will flatter")
    if holding := found["old_rows_with_held_out_texts"]:
        said.append(
            f"{holding:,} of {found['old_rows']:,} old instructions hold a sentence that is held out: what is measured "
            "on those will flatter"
        )
    for code, other in found["other_languages"].items():
        said.append(f"most texts in {code} seem to be in the language {other!r}: look whether columns are mixed up")
    for pair, count in found["out_of_proportion"].items():
        said.append(
            f"{count:,} of {sentences:,} pairs of {pair} have lengths out of all proportion: not translations of each "
            "other?"
        )
    for pair, equal in found["equal_sides"].items():
        if equal > 0.05 * sentences:
            said.append(
                f"{equal:,} of {sentences:,} sentences read the same in both languages of {pair}: not translated?"
            )
    for code, share in found["noisy_texts_unchanged"].items():
        if share > 0.25:
            said.append(
                f"noise left {share:.0%} of the noisy texts in {code} as they were: there is nothing to mend in them; "
                "raise noise_probability, or choose permutation among the kinds of noise"
            )
    for code, trouble in found["characters"].items():
        if trouble["not_in_NFC"]:
            said.append(f"{trouble['not_in_NFC']:,} texts in {code} are not in Unicode's form NFC: normalise the file")
        if len(trouble["apostrophes"]) > 1:
            kinds = " ".join(f"{char} ({count:,})" for char, count in trouble["apostrophes"].items())
            said.append(f"{code} is written with several apostrophes: {kinds}; one word may be spelt in two ways")
        if trouble["control_characters"]:
            said.append(f"{trouble['control_characters']:,} control characters in {code}: the file may be damaged")
        if trouble["fall_back_to_bytes"]:
            shown = " ".join(trouble["fall_back_to_bytes"][:20])
            said.append(f"the tokenizer has no token for these letters of {code} and spells them in bytes: {shown}")
    for task, names in found["label_tokens"].items():
        if len(set(names.values())) > 1:
            said.append(
                f"the labels of {task} differ in length ({', '.join(f'{n} {c}' for n, c in names.items())} tokens): "
                "compare the scoring rules before you trust one"
            )
    return said
