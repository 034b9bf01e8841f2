""""""

from pathlib import Path

from datasets import Dataset

from ia_lib.data import corpora
from ia_lib.instructions import cross_lingual, templates
from ia_lib.randomness import generator, pick


def mixture(folder: Path, codes: list[str], settings, seed: int, corpus: str = "minilab", **where) -> Dataset:
    """Past instruction data for a model trained from scratch: a mixture of classification, translation and so on.

    `settings` (`settings.Mixture`) gives the number of rows and the shares of `sentiment` (labelled texts of the
    corpus' train split in `codes`, under the published classification prompts) and of alignment objectives over
    `mt/<split>.csv` in `codes`. `folder`, `corpus` and `where` are those of `corpora.parallel`. Columns `prompt,
    answer, objective, language`.
    """
    rows, split = settings.rows, settings.split
    shares = {name: getattr(settings, name) for name in ("sentiment", "mt", "xss", "mlm") if getattr(settings, name)}
    rng = generator(seed, "mixture")
    parallel = corpora.parallel(folder, codes, split, corpus, **where)
    labels = corpora.LABELS["sentiment"]
    texts = (
        list(corpora.labelled(folder, "sentiment", codes, "train", corpus, **where)) if "sentiment" in shares else []
    )
    plans = {
        name: cross_lingual.Plan(name, codes, codes, f"{seed}/{name}", xss_negatives=settings.xss_negatives)
        for name in shares
        if name != "sentiment"
    }
    streams = {name: cross_lingual.stream(parallel, rows, plan) for name, plan in plans.items()}
    names, total = list(shares), sum(shares.values())
    result = []
    for _ in range(rows):
        u, chosen = rng.random() * total, names[-1]
        for name in names:
            u -= shares[name]
            if u < 0:
                chosen = name
                break
        if chosen == "sentiment":
            row = pick(rng, texts)
            prompt = pick(rng, templates.classification_prompts(row["text"], "sentiment", labels))
            answer, language = row["label"], row["language"]
        else:
            row = next(streams[chosen])
            prompt, answer, language = row["prompt"], row["answer"], row["target_language"]
        result.append({"prompt": prompt, "answer": answer, "objective": chosen, "language": language})
    return Dataset.from_list(result)
