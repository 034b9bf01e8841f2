"""What is known before any GPU time is spent: tokens, cuts, exposure, overlap, doubles, trouble with characters.

`report` is the data stage's report.json; its `warnings` say in plain words what a careful person would look into.
"""

import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, Any

from ia_lib.data import corpora
from ia_lib.models.encoding import encode
from ia_lib.training.streams import Stream, exposure

if TYPE_CHECKING:
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
) -> dict[str, Any]:
    """Counts and checks of all that training will read.

    `examples` are the rows of all `streams`; only those of the split "train" are counted as training. `encoding` holds
    the keyword arguments of `encode`, `rows_of_epoch` is the size of one epoch of new rows, `dropped` the number of
    pairs left out because they occur in test data. Shares are from 0 to 1.
    """
    train = examples[examples["split"] == "train"]
    new, old = (train[train["role"] == role] for role in ("new", "old"))
    kinds = {f"new {name}": frame for name, frame in new.groupby("kind", sort=False)} | {"old": old}
    encoded = {
        name: encode(tokenizer, list(frame["prompt"]), list(frame["answer"]), **encoding)
        for name, frame in kinds.items()
        if len(frame)
    }
    codes = [column for column in parallel.column_names if column != "sentence_id"]
    texts = {code: parallel[code][:] for code in codes}
    new_per_step, old_per_step = (sum(s.per_step for s in streams if s.role == role) for role in ("new", "old"))
    validation = examples[examples["split"] == "validation"]
    found: dict[str, Any] = {
        "new_rows": {name: int(count) for name, count in new["kind"].value_counts(sort=False).items()},
        "new_rows_validation": int((validation["role"] == "new").sum()),
        "old_rows": len(old),
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
        "tokens_per_word": {code: _tokens_per_word(tokenizer, texts[code]) for code in codes},
        "label_tokens": {
            task: {label: len(tokenizer(label, add_special_tokens=False)["input_ids"]) for label in names}
            for task, names in labels.items()
        },
        "pairs_dropped_because_in_tests": dropped,
        "pairs_still_in_tests": len(parallel) - len(corpora.drop_overlap(parallel, tests)[0]) if len(tests) else 0,
        "doubled_pairs": len(parallel) - len(set(zip(*texts.values(), strict=True))) if codes else 0,
        "equal_sides": {
            f"{a}-{b}": sum(x == y for x, y in zip(texts[a], texts[b], strict=True))
            for i, a in enumerate(codes)
            for b in codes[i + 1 :]
        },
        "noisy_texts_unchanged": _unchanged(new, parallel),
        "characters": {code: _characters(texts[code], tokenizer) for code in codes},
    }
    return {**found, "warnings": _warnings(found, len(parallel), encoded)}


def _unchanged(new: "pd.DataFrame", parallel: "Dataset") -> dict[str, float]:
    """Of the rows that ask for a text out of its noisy form, the share in which the noise has changed nothing, by the
    text's language. Such a prompt holds its answer, once more than the context does."""
    rows = new[new["kind"].isin(["tlm", "mlm", "word", "span"])]
    if rows.empty:
        return {}
    numbers = {name: i for i, name in enumerate(parallel["sentence_id"][:])}
    seen: dict[str, list[bool]] = {}
    for code, part in rows.groupby("source_language", sort=False):
        contexts = parallel[code][:]
        for row in part.itertuples():
            context = "" if row.kind == "mlm" else contexts[numbers[row.source_id]]
            seen.setdefault(row.language, []).append(
                row.prompt.count(row.answer) > context.count(row.answer) if row.answer else False
            )
    return {code: round(sum(found) / len(found), 3) for code, found in seen.items()}


def _tokens_per_word(tokenizer, texts: list[str]) -> float:
    texts = texts[:_LOOKED_AT]
    tokens = sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    return round(tokens / max(1, sum(len(text.split()) for text in texts)), 2)


def _characters(texts: list[str], tokenizer) -> dict[str, Any]:
    """Trouble that looks the same on the screen and is not the same to a tokenizer."""
    forms = Counter()
    for text in texts:
        nfc = unicodedata.is_normalized("NFC", text)
        forms["NFC" if nfc else "NFD" if unicodedata.is_normalized("NFD", text) else "neither"] += 1
    letters = Counter(char for text in texts for char in text)
    apostrophes = {char: letters[char] for char in _APOSTROPHES if letters[char]}
    return {
        "not_in_NFC": forms["NFD"] + forms["neither"],
        "apostrophes": apostrophes,
        "control_characters": sum(n for c, n in letters.items() if unicodedata.category(c) == "Cc"),
        "fall_back_to_bytes": _bytes_only([c for c, _ in letters.most_common() if c.isalpha()], tokenizer),
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


def _warnings(found: dict[str, Any], sentences: int, encoded: dict) -> list[str]:
    said = []
    for name, cut in found["answers_cut"].items():
        if cut:
            said.append(f"{cut:,} of {len(encoded[name][0]):,} answers ({name}) are cut by max_length; raise it")
    for name, cut in found["rows_with_prompt_cut"].items():
        if cut > 0.05 * len(encoded[name][0]):
            said.append(
                f"{cut:,} of {len(encoded[name][0]):,} rows ({name}) fill max_length: most lose part of a prompt"
            )
    if found["repetitions_per_old_row"] > 10:
        said.append(
            f"every replayed row is seen {found['repetitions_per_old_row']:g} times: the model may learn them by "
            "heart; raise replay, or lower steps"
        )
    if found["epochs_of_new_data"] > 20:
        said.append(f"the new data is seen {found['epochs_of_new_data']:g} times over; fewer steps may do")
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
