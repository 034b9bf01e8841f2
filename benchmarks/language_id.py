"""How often the language gate is right: py3langid, the mini lab's words, and a fastText model if one is given.

python benchmarks/language_id.py [MODEL]

Real texts lie in IA_DATA, else ../shared/data: 300 short sentences of Tatoeba in each of 18 languages (alpaca/lid), and
the Alpaca study's 50 prompts in eight (alpaca-multilingual). Only some languages compete: the study's 11 (nine that
were taught, two that were not), or all 18. A text that is in none of them by the gate counts as wrong. Intervals are
Wilson's, at 95%. The mini lab's texts are its own: sentences, for all but English also passages and questions.
"""

import json
import os
import platform
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import pandas as pd
from scipy.stats import binomtest

from ia_lib.data import languages, minilab
from ia_lib.evaluation.gate import Gate, gate
from ia_lib.instructions import code_mixing
from ia_lib.paths import root

STUDY = ["bg", "cs", "zh", "en", "fi", "fr", "de", "ru", "es", "bn", "no"]
ALIKE = [("no", "da"), ("bg", "ru"), ("id", "jv")]
LENGTHS = [1, 3, 5, 10]
MODEL = sys.argv[1] if len(sys.argv) > 1 else None
Texts = dict[str, list[str]]


def main() -> None:
    data = Path(os.environ.get("IA_DATA") or root() / "../shared/data")
    sentences, prompts = read(data)
    identifiers = {"langid": ("langid", None)} | (
        {f"fasttext ({Path(MODEL).name})": ("fasttext", MODEL)} if MODEL else {}
    )
    found = {}
    for name, (by, file) in identifiers.items():
        study, every = gate(by, STUDY, file), gate(by, [*sentences], file)
        show(f"{name}: right, of so many texts", accuracies(study, every, sentences, prompts))
        show(f"{name}: neighbours, all 18 compete", neighbours(every, sentences))
        show(f"{name}: right by length in words, the study's compete", by_length(study, sentences))
        show(f"{name}: a prompt with its English one behind it, what is found", mixed(study, prompts))
        others = {code: texts for code, texts in sentences.items() if code not in STUDY}
        show(f"{name}: what other languages are taken for, the study's compete", taken(study, others))
        found[name] = summary(study, every, sentences, prompts)
    show("lexicon: the mini lab's texts, all 12 compete", lab())
    print(json.dumps({"benchmark": "language_id", "machine": platform.machine(), **found}))


def read(data: Path) -> tuple[Texts, Texts]:
    """Language -> its sentences, its prompts."""
    lid, prompts = data / "alpaca" / "lid", data / "alpaca-multilingual"
    sentences = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in sorted(lid.glob("*.txt"))}
    files = {path.stem.removeprefix("test_"): path for path in sorted(prompts.glob("test_*.jsonl"))}
    lines = {code: path.read_text(encoding="utf-8").splitlines() for code, path in files.items()}
    return sentences, {code: [json.loads(line)["prompt"] for line in some] for code, some in lines.items()}


def right(some: Gate, code: str, texts: list[str]) -> int:
    return sum(some.accepts(texts, [code] * len(texts)))


def share(count: int, total: int) -> str:
    low, high = binomtest(count, total).proportion_ci(method="wilson")
    return f"{100 * count / total:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def accuracies(study: Gate, every: Gate, sentences: Texts, prompts: Texts) -> pd.DataFrame:
    rows = {}
    for code, texts in sentences.items():
        row = {"sentences": len(texts), "all 18": share(right(every, code, texts), len(texts))}
        if code in STUDY:
            row["the study's"] = share(right(study, code, texts), len(texts))
        if code in prompts:
            row["prompts, all 18"] = share(right(every, code, prompts[code]), len(prompts[code]))
            row["prompts, the study's"] = share(right(study, code, prompts[code]), len(prompts[code]))
        rows[code] = row
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def neighbours(every: Gate, sentences: Texts) -> pd.DataFrame:
    """Of the sentences in each language of a pair, how many are taken for it, for its neighbour, for another, for
    none."""
    rows = {}
    for pair in ALIKE:
        for code, other in (pair, pair[::-1]):
            counts = Counter(every.identify(sentences[code]))
            own = {"sentences": counts.total(), "right": counts.pop(code, 0), "neighbour": counts.pop(other, 0)}
            rows[f"{code} ({other})"] = own | {"none": counts.pop("", 0), "another": counts.total()}
    return pd.DataFrame.from_dict(rows, orient="index")


def by_length(study: Gate, sentences: Texts) -> pd.DataFrame:
    """Only sentences that have so many words; the whole ones are all."""
    rows = {}
    for code in STUDY:
        begins = {count: [begun for text in sentences[code] if (begun := first(text, count))] for count in LENGTHS}
        shares = {
            str(n): f"{100 * right(study, code, some) / len(some):.1f} of {len(some)}"
            for n, some in begins.items()
            if some
        }
        whole = right(study, code, sentences[code])
        rows[code] = shares | {"whole": f"{100 * whole / len(sentences[code]):.1f} of {len(sentences[code])}"}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def first(text: str, count: int) -> str:
    """The first words of a text by Unicode's rules, by ICU's in Chinese; nothing if it has fewer."""
    said = ""
    for piece, is_word in code_mixing.pieces(text):
        said += piece
        count -= is_word
        if not count:
            return said
    return ""


def mixed(study: Gate, prompts: Texts) -> pd.DataFrame:
    """Texts of which one half says in English what the other says."""
    rows = {}
    for code in [code for code in prompts if code != "en"]:
        both = [f"{one} {other}" for one, other in zip(prompts[code], prompts["en"], strict=True)]
        counts = Counter(study.identify(both))
        rows[code] = {"prompts": len(both), "itself": counts.pop(code, 0), "English": counts.pop("en", 0)}
        rows[code] |= {"none": counts.pop("", 0), "another": counts.total()}
    return pd.DataFrame.from_dict(rows, orient="index")


def taken(study: Gate, others: Texts) -> pd.DataFrame:
    rows = {code: Counter(found or "none" for found in study.identify(texts)) for code, texts in others.items()}
    return pd.DataFrame.from_dict(rows, orient="index").fillna(0).astype(int)


def summary(study: Gate, every: Gate, sentences: Texts, prompts: Texts) -> dict:
    own = {code: sentences[code] for code in STUDY}
    begun = time.perf_counter()
    counts = {
        name: (sum(right(some, code, texts) for code, texts in which.items()), sum(map(len, which.values())))
        for name, some, which in (
            *(("sentences_study", study, own), ("sentences_all", every, sentences)),
            *(("prompts_study", study, prompts), ("prompts_all", every, prompts)),
        )
    }
    speed = sum(total for _, total in counts.values()) / (time.perf_counter() - begun)
    return {name: share(*count) for name, count in counts.items()} | {"texts_per_second": round(speed)}


def lab(count: int = 1000) -> pd.DataFrame:
    """How often a text is accepted in its own language and in Indonesian, in how many of the others on average, and
    how often one alone is found, which is then right."""
    some, said = gate("lexicon", languages.NUSAX), list(islice(minilab.sentences(1), count))
    texts = {"eng": [one["eng"] for one in said], "ind": [one["ind"] for one in said]}
    for passage in islice(minilab.passages(1), count // 5):
        texts["ind"] += [*passage["context"], *(asked for asked, _ in passage["questions"])]
    texts |= {code: [minilab.translate(text, code) for text in texts["ind"]] for code in languages.NUSAX[2:]}
    rows = {}
    for code, own in texts.items():
        accepted = {other: right(some, other, own) for other in languages.NUSAX}
        others = [100 * accepted[other] / len(own) for other in languages.NUSAX if other not in (code, "ind")]
        nearest = max((other for other in languages.NUSAX if other != code), key=accepted.get)
        alone = Counter(some.identify(own))
        rows[code] = {
            "texts": len(own),
            "own": share(accepted[code], len(own)),
            "Indonesian": share(accepted["ind"], len(own)),
            "another, mean": f"{sum(others) / len(others):.1f}",
            "most like": f"{nearest} {100 * accepted[nearest] / len(own):.1f}",
            "one alone": f"{100 * (alone.total() - alone['']) / len(own):.1f}",
            "wrong": alone.total() - alone[""] - alone[code],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def show(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n{table.to_string()}", flush=True)


if __name__ == "__main__":
    main()
