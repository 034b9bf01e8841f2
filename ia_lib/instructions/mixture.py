"""Old instructions of a model trained from scratch: a mixture of labelled texts, cross-lingual objectives, and
questions on passages."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ia_lib.data import corpora
from ia_lib.instructions import cross_lingual, templates
from ia_lib.randomness import generator, pick, weighted

if TYPE_CHECKING:
    from datasets import Dataset

# Cross-lingual objectives over parallel text, and what can be mixed: these, labelled texts, questions on passages.
ALIGNED = ("mt", "xss", "mlm")
PARTS = ("sentiment", *ALIGNED, "passages")


def places(shares: Mapping[str, float], codes: Sequence[str], split: str, corpus: str) -> list[tuple[str, str]]:
    """(source, file) of what `mixture` reads itself; the labelled texts are its caller's."""
    return corpora.places(corpus, codes, split) if any(shares.get(name) for name in ALIGNED) else []


def mixture(
    find: corpora.Find,
    codes: Sequence[str],
    shares: Mapping[str, float],
    rows: int,
    seed: int,
    *,
    split: str = "base",
    xss_negatives: str = "random",
    corpus: str = "minilab",
    texts: "Dataset | None" = None,
    labels: Sequence[str] = (),
    asked: Sequence[Mapping[str, str]] = (),
) -> "Dataset":
    """`rows` instructions in the languages `codes`: columns `prompt, answer, objective, language`. `shares` says how
    much there is of each of `PARTS`, in any unit: of `sentiment`, which are the labelled `texts` (as a task reads them)
    with their `labels` under the published classification prompts, of cross-lingual objectives over a split of the
    corpus' parallel text, and of the questions `asked`, each with `prompt, answer, language`."""
    from datasets import Dataset

    names = [name for name in PARTS if shares.get(name)]
    total = sum(shares[name] for name in names)
    rng = generator(seed, "mixture")
    aligned = [name for name in names if name in ALIGNED]
    parallel = corpora.parallel(find, codes, split, corpus) if aligned else None
    streams = {}
    for name in aligned:
        plan = cross_lingual.Plan(name, codes, codes, f"{seed}/{name}", xss_negatives=xss_negatives)
        streams[name] = cross_lingual.stream(parallel, rows, plan)
    labelled = list(texts) if "sentiment" in names else []
    result = []
    for _ in range(rows):
        chosen = weighted(rng.random() * total, [(name, shares[name]) for name in names])
        if chosen == "sentiment":
            row = pick(rng, labelled)
            prompt = pick(rng, templates.classification_prompts(row["text"], "sentiment", labels))
            row = {"prompt": prompt, "answer": row["label"], "language": row["language"]}
        elif chosen == "passages":
            row = pick(rng, asked)
        else:
            row = next(streams[chosen])
        row = {**row, "objective": chosen}
        result.append({name: row[name] for name in ("prompt", "answer", "objective", "language")})
    return Dataset.from_list(result)
