"""How fast instructions are made: the kit in blocks against one sample at a time with NLTK's tokenizer at each access.

Both make one epoch of TLM instructions in the size of FLORES (2,009 sentences, English with eight languages, 32,144
pairs), from the real NusaX text if it is there (IA_DATA, else ../shared/data), else from the mini lab. NLTK's
`word_tokenize`, which the released code calls, splits sentences and then words; `words_alone` is against the second
half of it. Then the kit's peak memory with a corpus of ten times the size, read from a file.
"""

import json
import multiprocessing
import os
import platform
import random
import re
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

from datasets import Dataset, disable_progress_bars, load_from_disk
from nltk.tokenize import NLTKWordTokenizer, PunktSentenceTokenizer

from ia_lib.data import corpora, downloads, languages, minilab
from ia_lib.instructions import cross_lingual, noise, templates
from ia_lib.paths import root

CODES = ["eng", "ind", "sun", "jav", "ban", "min", "bug", "ace", "bjn"]
SENTENCES, CORES = 2009, multiprocessing.cpu_count()
_SENTENCES, _WORDS = PunktSentenceTokenizer(), NLTKWordTokenizer()
PLAN = cross_lingual.Plan("tlm", ["eng"], CODES[1:], 1)


def corpus(times: int) -> Dataset:
    """`times` x 2,009 sentences in nine languages."""
    data = Path(os.environ.get("IA_DATA") or root() / "../shared/data")
    if (data / "nusax" / "mt" / "train.csv").is_file():
        found = corpora.parallel(downloads.finder(data), CODES, "train", "nusax").to_dict()
    else:
        made = list(islice(minilab.sentences(1), 500))
        found = {c: [s[c] if c in s else minilab.translate(s["ind"], c) for s in made] for c in CODES}
    size = SENTENCES * times
    columns = {c: [found[c][i % len(found[c])] for i in range(size)] for c in CODES}
    return Dataset.from_dict({"sentence_id": [str(i) for i in range(size)], **columns})


def one_at_a_time(texts: dict[str, list[str]], tokenize) -> int:
    """The plain way: every access tokenises, corrupts and fills a template again, with Python's random."""
    rng, made = random.Random(1), 0
    pairs = cross_lingual.directions(PLAN.pivots, PLAN.taught)
    for i in range(SENTENCES):
        for source, target in pairs:
            words = tokenize(texts[target][i])
            (kinds,) = rng.choices([k for k, _ in noise.MIXTURE], [share for _, share in noise.MIXTURE])
            if "infilling" in kinds:
                words = ["___" if rng.random() < 0.2 else word for word in words]
            if "deletion" in kinds:
                words = [word for word in words if rng.random() >= 0.2]
            if "permutation" in kinds:
                rng.shuffle(words)
            text = rng.choice(templates.templates("tlm"))
            slots = {
                "INPUT_TEXT": " ".join(words),
                "INPUT_LANG": languages.name(target),
                "CONTEXT": texts[source][i],
                "CONTEXT_LANG": languages.name(source),
                "LABEL_TEXT": texts[target][i],
            }
            for slot, value in slots.items():
                text = text.replace(f"[{slot}]", value)
            made += 1
    return made


def word_tokenize(text: str) -> list[str]:
    """NLTK's function of that name, with a sentence splitter that needs no download."""
    return [word for sentence in _SENTENCES.tokenize(text) for word in _WORDS.tokenize(sentence)]


def peak_mb(folder: str) -> float:
    """The peak memory of a process that makes one epoch from a corpus on disk, the pages it has mapped included."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, folder).result()


def _peak(folder: str) -> float:
    for _ in cross_lingual.instructions(load_from_disk(folder), PLAN):
        pass
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    # not ru_maxrss, which on Linux begins with what the parent had
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak[1]) / 1024


def timed(work) -> tuple[float, int]:
    begin = time.perf_counter()
    rows = work()
    return rows / (time.perf_counter() - begin), rows


def main() -> None:
    disable_progress_bars()
    parallel = corpus(1)
    texts = {code: parallel[code][:] for code in CODES}
    theirs, words_alone, ours, several = [], [], [], []
    for _ in range(3):  # the best of three, in turn
        theirs.append(timed(lambda: one_at_a_time(texts, word_tokenize)))
        words_alone.append(timed(lambda: one_at_a_time(texts, _WORDS.tokenize)))
        ours.append(timed(lambda: sum(1 for _ in cross_lingual.instructions(parallel, PLAN))))
        several.append(timed(lambda: sum(1 for _ in cross_lingual.instructions(parallel, PLAN, workers=CORES))))
    same = list(cross_lingual.instructions(parallel, PLAN)) == list(
        cross_lingual.instructions(parallel, PLAN, workers=CORES)
    )
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, 10):
            corpus(times).save_to_disk(f"{folder}/{times}")
            peaks[times] = peak_mb(f"{folder}/{times}")
    (their_rate, rows), (words_rate, _), (our_rate, _), (fast_rate, _) = map(max, (theirs, words_alone, ours, several))
    print(f"one at a time: {their_rate:,.0f} rows/s, without splitting sentences {words_rate:,.0f}")
    print(f"the kit: {our_rate:,.0f}, with {CORES} workers, which take time to start, {fast_rate:,.0f}")
    print(f"{rows:,} rows; the same with 1 and {CORES} workers: {same}; peak memory {peaks} MB for sizes 1 and 10")
    result = {
        "name": "instructions",
        "ratios": {
            "one_process": round(our_rate / their_rate, 2),
            "words_alone": round(our_rate / words_rate, 2),
            "all_cores": round(fast_rate / their_rate, 2),
            "memory_10x": round(peaks[10] / peaks[1], 2),
        },
        "ours": {"rows_per_second": round(our_rate), "with_workers": round(fast_rate), "same_rows": same, "mb": peaks},
        "theirs": {"rows_per_second": round(their_rate), "words_alone": round(words_rate)},
        "machine": f"{platform.machine()}, {CORES} cores, Python {platform.python_version()}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
