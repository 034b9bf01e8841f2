"""Cross-lingual instructions from parallel text: TLM, MT, XSS, and MLM as the baseline (InstructAlign, section 3.1).

Every row is derived from (seed, epoch, sample): noise, template, objective and negative sentence are the same on
every machine, in any number of processes and after a resume, and fresh in every epoch.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from sklearn.feature_extraction.text import CountVectorizer

from ia_lib import languages, prompts
from ia_lib.noise import add_noise, generator, pick, shuffled

# The columns of instructions.parquet.
COLUMNS = [
    "prompt",
    "answer",
    "objective",
    "template",
    "noise",
    "source_language",
    "target_language",
    "sentence_id",
    "split",
    "epoch",
    "position",
    "sample",
]


def directions(pivots: list[str], taught: list[str]) -> list[tuple[str, str]]:
    """All directed pairs (source, target) that have a pivot on one side at least, each once."""
    codes = [*pivots, *(code for code in taught if code not in pivots)]
    pairs = [(a, b) for i, a in enumerate(codes) for b in codes[i + 1 :] if a in pivots or b in pivots]
    return [pair for a, b in pairs for pair in ((a, b), (b, a))]


def instructions(
    parallel: Dataset,
    objective: str,
    pivots: list[str],
    taught: list[str],
    seed: int,
    epoch: int,
    noise_probability: float = 0.2,
    mask: str = "___",
    xss_negatives: str = "random",
) -> Iterator[dict]:
    """One epoch of instructions in training order: every sentence in every direction once.

    `objective` is one of tlm, mt, xss, mlm, or several joined by `+`: each sample then draws one of them uniformly.
    With `mlm` alone a sample is a sentence in one language. `parallel` has `sentence_id` and a column per language.

    Yields `prompt, answer, objective, template` (0 to 5), `noise` (its kinds joined by +, None where there is none),
    `source_language, target_language, sentence_id, epoch, position, sample`. The answer is in the target language
    (XSS: `yes` or `no`).
    """
    names = objective.split("+")
    codes = [*pivots, *(code for code in taught if code not in pivots)]
    pairs = [(code, code) for code in codes] if names == ["mlm"] else directions(pivots, taught)
    texts = {code: parallel[code][:] for code in codes}
    ids = parallel["sentence_id"][:]
    near = cache(lambda code: _nearest(texts[code], seed))
    order = shuffled(generator(seed, epoch, "order"), len(ids) * len(pairs))
    for position, sample in enumerate(order):
        sentence, (source, target) = sample // len(pairs), pairs[sample % len(pairs)]
        rng = generator(seed, epoch, sample)
        chosen = pick(rng, names) if len(names) > 1 else names[0]
        number = int(rng.random() * len(prompts.templates(chosen)))
        noise = None
        source_text, target_text = texts[source][sentence], texts[target][sentence]
        source_name, target_name = languages.name(source), languages.name(target)
        slots = {
            "SOURCE_LANG": source_name,
            "SOURCE_TEXT": source_text,
            "TARGET_LANG": target_name,
            "TARGET_TEXT": target_text,
        }
        if chosen == "tlm":
            noisy, noise = add_noise(target_text, rng, noise_probability, mask)
            slots = {
                "INPUT_TEXT": noisy,
                "INPUT_LANG": target_name,
                "CONTEXT": source_text,
                "CONTEXT_LANG": source_name,
                "LABEL_TEXT": target_text,
            }
        elif chosen == "mlm":
            source = target
            noisy, noise = add_noise(target_text, rng, noise_probability, mask)
            slots |= {"SOURCE_LANG": target_name, "SOURCE_TEXT": noisy}
        elif chosen == "xss":
            same = rng.random() < 0.5
            if not same:
                others = near(target)[sentence] if xss_negatives == "hard" else range(len(ids))
                slots["TARGET_TEXT"] = _other(texts[target], sentence, others, rng)
            slots["LABEL"] = "yes" if same else "no"
        prompt, answer = prompts.fill(chosen, number, **slots)
        yield {
            "prompt": prompt,
            "answer": answer,
            "objective": chosen,
            "template": number,
            "noise": noise,
            "source_language": source,
            "target_language": target,
            "sentence_id": ids[sentence],
            "epoch": epoch,
            "position": position,
            "sample": sample,
        }


def stream(parallel: Dataset, rows: int, **settings) -> Iterator[dict]:
    """The first `rows` rows of epoch 0, 1, 2, ... of `instructions(parallel, **settings)`."""
    epoch = 0
    while rows > 0:
        before = rows
        for row in instructions(parallel, epoch=epoch, **settings):
            yield row
            rows -= 1
            if rows == 0:
                return
        if rows == before:
            raise ValueError("there is nothing to make instructions from: no sentence, or no pair of languages")
        epoch += 1


def hold_out(parallel: Dataset, sentences: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split by sentence into (training, validation), so that no sentence is in both in any language.

    Raises ValueError if nothing would be left to train on.
    """
    if sentences >= len(parallel):
        raise ValueError(
            f"validation_sentences: found {sentences:,}, but the parallel text has {len(parallel):,} sentences; "
            "allowed: fewer than that"
        )
    order = shuffled(generator(seed, "validation"), len(parallel))
    return parallel.select(sorted(order[sentences:])), parallel.select(sorted(order[:sentences]))


def report(instructions: pd.DataFrame, replayed: pd.DataFrame, parallel: Dataset, tokenizer, settings) -> dict:
    """Counts, tokens per word and language, answers that the length limit cuts, and repetitions of replayed rows.

    `instructions` and `replayed` have a column `split`; only their training rows are counted as training.
    """
    new, old = (frame[frame["split"] == "train"] for frame in (instructions, replayed))
    encoded = {
        name: prompts.encode(tokenizer, list(frame["prompt"]), list(frame["answer"]), settings.max_length)
        for name, frame in (("new", new), ("old", old))
    }
    codes = [column for column in parallel.column_names if column != "sentence_id"]
    drawn = settings.steps * settings.old_per_step if len(old) else 0
    return {
        "new_rows": {name: int(count) for name, count in new["objective"].value_counts(sort=False).items()},
        "new_rows_validation": int((instructions["split"] == "validation").sum()),
        "epochs_of_new_data": int(new["epoch"].max()) + 1 if len(new) else 0,
        "old_rows": len(old),
        "repetitions_per_old_row": round(drawn / len(old), 2) if len(old) else 0,
        "mean_tokens": {
            name: round(sum(len(row["input_ids"]) for row in rows) / len(rows), 1)
            for name, (rows, _) in encoded.items()
            if rows
        },
        "answers_cut": {name: cut for name, (_, cut) in encoded.items()},
        "tokens_per_word": {code: _tokens_per_word(tokenizer, parallel[code][:]) for code in codes},
    }


def save(folder: Path, instructions: pd.DataFrame, replayed: pd.DataFrame, report: dict) -> None:
    """Write instructions.parquet, replay.parquet and report.json."""
    instructions.to_parquet(folder / "instructions.parquet", index=False)
    replayed.to_parquet(folder / "replay.parquet", index=False)
    (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")


def _tokens_per_word(tokenizer, texts: list[str]) -> float:
    tokens = sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    return round(tokens / sum(len(text.split()) for text in texts), 2)


def _other(texts: list[str], sentence: int, others: Sequence[int], rng) -> str:
    """The text of one of `others`, drawn uniformly from those that read differently from this sentence."""
    for _ in range(1000):
        other = texts[others[int(rng.random() * len(others))]]
        if other != texts[sentence]:
            return other
    raise ValueError(f"xss needs sentences that differ, but nearly all read {texts[sentence]!r}")


def _nearest(texts: list[str], seed, count: int = 8, pool: int = 5000) -> np.ndarray:
    """For every text the indices of the `count` most similar ones that read differently: [texts, count].

    Similarity is the share of words in common (Jaccard) times the ratio of lengths in characters. In a large corpus
    the neighbours are looked for among `pool` texts drawn at random, so time and memory grow with its length alone.
    """
    candidates = np.array(shuffled(generator(seed, "negatives"), len(texts))[:pool])
    vectors = CountVectorizer(binary=True, token_pattern=r"\w+", dtype=np.float32).fit_transform(texts)
    words = np.asarray(vectors.sum(1)).ravel()
    lengths = np.array([len(text) for text in texts], dtype=np.float32)
    numbers = pd.factorize(np.array(texts, dtype=object))[0]  # equal texts have equal numbers
    columns = vectors[candidates].T.tocsr()
    nearest = np.empty((len(texts), min(count, len(candidates))), dtype=np.int64)
    for begin in range(0, len(texts), 512):
        part = slice(begin, begin + 512)
        common = (vectors[part] @ columns).toarray()
        union = words[part, None] + words[candidates] - common
        shorter = np.minimum(lengths[part, None], lengths[candidates])
        longer = np.maximum(lengths[part, None], lengths[candidates])
        similarity = common / np.maximum(union, 1) * shorter / np.maximum(longer, 1)
        similarity[numbers[part, None] == numbers[candidates]] = -1
        nearest[part] = candidates[np.argsort(-similarity, axis=1, kind="stable")[:, : nearest.shape[1]]]
    return nearest
