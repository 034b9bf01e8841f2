"""What the papers print, and the one shape that their scores and ours share.

`params/published/` holds the numbers, with their sources. Scores are in percent, and `replay` is r as text, empty where
nothing was tuned. Models are named by the Hub without their owner, combined objectives in alphabetical order.
"""

import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from ia_lib.data import languages
from ia_lib.evaluation.measures import of_rows
from ia_lib.paths import params
from ia_lib.randomness import uniforms

INSTRUCTALIGN, IA1, COMMIT, ALPACA = "InstructAlign", "(IA)^1", "COMMIT", "Alpaca study"
PUBLISHED, OURS = "published", "ours"
ROW = ["model", "objective", "replay"]
CELL_COLUMNS = ["paper", "table", "row", *ROW, "dataset", "task", "language", "metric", "published"]
# Scores: a line per row of a table, language and metric, from a paper (source published) or from us (ours).
SCORE_KEYS = ["source", "row", *ROW, "dataset", "task", "group", "language", "metric"]
SCORE_NUMBERS = ["value", "low", "high", "difference", "difference_low", "difference_high", "chance", "majority"]
# What the rows of the first version are, in this kit's words.
_IA1_ROWS = dict.fromkeys(["Baseline", "Zero-Shot Baseline"], ("bloomz-560m", "none", ""))
_IA1_ROWS |= {f"BLOOMZ-{size}B": (f"bloomz-{size.replace('.', 'b')}", "none", "") for size in ("1.1", "1.7")}
_IA1_ROWS |= {"BLOOMZ-3B": ("bloomz-3b", "none", "")}
_TUNED = {"Monolingual": "mlm", "Monolingual Denoising": "mlm", "Conditional Denoising": "span+word"}
_TUNED |= {"Machine Translation": "mt", "IA1": "mt+span+word", "IA1 + Monolingual": "mlm+mt+span+word"}
_IA1_ROWS |= {name: ("bloomz-560m", objective, "0") for name, objective in _TUNED.items()}
_IA1_ROWS |= {f"IA1 r={r}": ("bloomz-560m", "mt+span+word", str(r)) for r in (0, 1000, 10000)}
# Where test labels lie in the folder of real data, as their releases name the files; and NusaTranslation's Indonesian.
_LABELS = {
    ("nusax", "sentiment"): "nusax/sentiment/{name}/test.csv",
    ("nusatranslation", "sentiment"): "nusawrites/nusa_kalimat-senti-{code}-test.csv",
    ("nusaparagraph", "emotion"): "nusawrites/nusa_alinea-emot-{code}-test.csv",
    ("nusaparagraph", "topic"): "nusawrites/nusa_alinea-topic-{code}-test.csv",
}
_INDOLEM = "indolem/test0.csv"
_DRAWS = 1000


@cache
def read(name: str) -> pd.DataFrame:
    """One file of params/published, without its ending. It is shared: take a copy before you change it."""
    return pd.read_csv(params() / "published" / f"{name}.csv", dtype={"replay": str}).fillna({"replay": ""})


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Where real data lies: `data_dir`, else the folder in the variable IA_DATA, else ../shared/data beside the kit."""
    return Path(data_dir or os.environ.get("IA_DATA") or params().parent / "../shared/data")


@cache
def cells() -> pd.DataFrame:
    """Every number that stands in a table of the papers, and in Figure 6: `CELL_COLUMNS`.

    `language` is a code, a group (L1, L2, L3; in Table 2 also L1/eng and L1/ind), `all`, or `avg` in COMMIT. The counts
    of Tables 1 and 12 to 15 have the metrics train, valid, test and languages, and no model. The Alpaca study prints no
    table: of it these are the correlations in its text.
    """
    table1 = read("instructalign_table1")
    counts = {("all", "languages"): [sum(map(int, text.split("+"))) for text in table1["languages"]]}
    counts |= {(group, "languages"): table1[group.lower()] for group in languages.GROUPS}
    counts |= {("all", "test"): table1["test"]}
    sets = table1[["dataset", "task"]].assign(table="Table 1")
    counts = [sets.assign(language=code, metric=metric, value=value) for (code, metric), value in counts.items()]
    sizes = read("instructalign_dataset_statistics")
    sizes = sizes.melt(["table", "dataset", "task", "language"], ["train", "valid", "test"], "metric").dropna()
    precision = read("instructalign_table11").assign(objective="none")
    precision["row"] = precision["precision"] + ", " + precision["prompt_language"] + " prompts"
    first = read("ia1_tables").assign(task="sentiment", language="all")
    first[ROW] = [_IA1_ROWS[row] for row in first["row"]]
    averaged = [read(f"instructalign_table{n}").rename(columns={"group": "language"}) for n in (2, 3)]
    per_language = read("instructalign_per_language").drop(columns="group")
    theirs = [*counts, *averaged, read("instructalign_figure6"), precision, sizes, per_language]
    parts = [part.assign(paper=INSTRUCTALIGN) for part in theirs]
    agreement = read("alpaca_human_agreement").rename(columns={"source": "table", "pearson": "value"})
    agreement = agreement.assign(paper=ALPACA, row="judge and people", metric="Pearson's r")
    parts += [first.assign(paper=IA1), read("commit_tables").assign(paper=COMMIT), agreement]
    frame = pd.concat(parts, ignore_index=True)
    frame["published"] = frame["value"].astype(float)
    frame["objective"] = frame["objective"].map(_in_order, na_action="ignore")
    text = [name for name in CELL_COLUMNS if name != "published"]
    frame[text] = frame[text].fillna("")
    return frame[CELL_COLUMNS]


@cache
def members(dataset: str, task: str) -> dict[str, str]:
    """The languages of a test set of InstructAlign and their groups, in the order of Tables 16 to 19."""
    frame = read("instructalign_per_language")
    frame = frame[(frame["dataset"] == dataset) & (frame["task"] == task)]
    return dict(zip(frame["language"], frame["group"], strict=True))


def scores(paper: str = INSTRUCTALIGN, data_dir: str | Path | None = None) -> pd.DataFrame:
    """A paper's scores as `SCORE_KEYS` and `SCORE_NUMBERS`: of InstructAlign per language (Tables 16 to 19), of the
    first version, which prints no languages, per data set (Tables 4 to 6).

    `chance` and `majority` are there where `baselines` finds the test labels; papers print no intervals.
    """
    if paper == INSTRUCTALIGN:
        frame = read("instructalign_per_language")
        frame = frame.assign(row=[title(*row) for row in frame[ROW].itertuples(index=False)])
    else:
        frame = cells()[(cells()["paper"] == IA1) & (cells()["dataset"] != "average")]
        frame = frame.rename(columns={"published": "value"}).assign(group="all")
        frame = frame.drop_duplicates([*ROW, "dataset", "metric"])
    frame = frame.merge(baselines(data_dir), "left", on=["dataset", "task", "language"])
    frame = frame.assign(source=PUBLISHED).reindex(columns=SCORE_KEYS + SCORE_NUMBERS)
    return frame.astype(dict.fromkeys(SCORE_NUMBERS, float))


def ours(results: pd.DataFrame) -> pd.DataFrame:
    """The label scores of results.csv in the shape of `scores`, averaged over prompts; of a row with several seeds
    those over all of them. `results` is what `results.every` gives; an empty one means that nothing was run.

    Raises ValueError for a column that is not there.
    """
    if results.empty:
        return pd.DataFrame(columns=SCORE_KEYS + SCORE_NUMBERS).astype(dict.fromkeys(SCORE_NUMBERS, float))
    for name in ("run", *ROW, "dataset", "task", "group", "language", "prompt", "metric", "value", "low", "high"):
        if name not in results:
            raise ValueError(f"results: there is no column {name!r}; found: {', '.join(map(str, results.columns))}")
    frame = of_rows(results, metric=None)
    frame = frame[frame["metric"].isin(["weighted_f1", "accuracy"]) & (frame["prompt"].astype(str) == "all")]
    frame = frame[(frame["language"] != "all")].assign(source=OURS, row=frame.get("row", frame["run"]))
    sizes = frame[frame["metric"] == "weighted_f1"][["source", "row", *SCORE_KEYS[2:-1], "examples"]]
    frame = pd.concat([frame, sizes.rename(columns={"examples": "value"}).assign(metric="test")])
    # a cell that is empty in a file is missing here, also where the whole column is
    for name in ("dataset", "model"):
        frame[name] = [text.rpartition("/")[2] for text in frame[name].astype(object).fillna("")]
    frame["objective"] = frame["objective"].map(_in_order)
    frame["replay"] = frame["replay"].astype(str).mask(frame["objective"] == "none", "")
    frame = frame.reindex(columns=SCORE_KEYS + SCORE_NUMBERS).dropna(subset="value")
    ends = {name: "min" if name.endswith("low") else "max" for name in SCORE_NUMBERS if name.endswith(("low", "high"))}
    return frame.groupby(SCORE_KEYS, sort=False, as_index=False).agg(dict.fromkeys(SCORE_NUMBERS, "mean") | ends)


def beside(results: pd.DataFrame, data_dir: str | Path | None = None, paper: str = INSTRUCTALIGN) -> pd.DataFrame:
    """A paper's `scores` and `ours` in one frame; the paper's alone where nothing was run."""
    parts = [scores(paper, data_dir), ours(results)]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def at_most_replay(found: pd.DataFrame) -> pd.DataFrame:
    """The published lines with r = 100,000 and those without tuning, and all of ours."""
    return found[found["replay"].isin(["", "100000"]) | (found["source"] == OURS)]


def means(frame: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Means per source, row, group, metric and the columns `by`, over everything else; of intervals the mean of their
    ends, which is too wide rather than too narrow. A number that one part lacks is missing in the mean."""
    keys = ["source", "row", *ROW, "metric", *by, "group"]
    grouped = frame.groupby(keys, sort=False)[SCORE_NUMBERS]
    return grouped.sum().div(grouped.size(), axis=0).where(grouped.count().eq(grouped.size(), axis=0)).reset_index()


def averages(frame: pd.DataFrame) -> pd.DataFrame:
    """Weighted F1 of the groups as Table 2 averages it: L1 over its languages, L2 and L3 over the test sets' means."""
    frame = frame[frame["metric"] == "weighted_f1"]
    over_sets = means(means(frame, "dataset", "task"))
    return pd.concat([means(frame).query("group == 'L1'"), over_sets.query("group != 'L1'")], ignore_index=True)


def differences(frame: pd.DataFrame) -> pd.DataFrame:
    """The tuned rows of scores or means, with `difference` to the same source's untuned model in points.

    A (paired) difference that is there stays, with its interval. Rows without an untuned model are left out.
    """
    keys = [name for name in SCORE_KEYS if name in frame and name not in ("row", "objective", "replay")]
    base = frame[frame["objective"] == "none"].groupby(keys, as_index=False)["value"].mean()
    tuned = frame[frame["objective"] != "none"].merge(base.rename(columns={"value": "base"}), on=keys)
    tuned["difference"] = tuned["difference"].fillna(tuned["value"] - tuned["base"])
    return tuned.drop(columns="base")


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Points of Figure 5: per tuned row, data set and task the gain in weighted F1 on `L2` and on `L3`."""
    frame = differences(means(frame[frame["metric"] == "weighted_f1"], "dataset", "task"))
    points = frame.pivot_table("difference", ["source", "row", *ROW, "dataset", "task"], "group", sort=False)
    return points.reindex(columns=["L2", "L3"]).dropna().reset_index()


def correlation(x: pd.Series, y: pd.Series) -> tuple[float, float, float]:
    """Pearson's r and its 95% interval: Fisher's z, which takes the points for independent. NaN for too few points."""
    r = float(np.corrcoef(x, y)[0, 1]) if len(x) > 2 else np.nan
    return r, *fisher(r, len(x))


def fisher(r: float, points: int) -> tuple[float, float]:
    """The 95% interval of Pearson's r by Fisher's z; NaN for fewer than four points, where it is not defined."""
    if points < 4 or not abs(r) < 1:
        return np.nan, np.nan
    half = 1.959964 / np.sqrt(points - 3)
    return float(np.tanh(np.arctanh(r) - half)), float(np.tanh(np.arctanh(r) + half))


def parameters(model: str) -> float:
    """Parameters by a model's name (bloomz-1b1 has 1.1 billion), infinity for a name that does not say."""
    found = re.search(r"(\d+(?:\.\d+)?)([bm])(\d*)(?![a-z])", model.lower())
    if not found:
        return float("inf")
    return float(found[1] + ("." + found[3] if found[3] else "")) * (1e9 if found[2] == "b" else 1e6)


@cache
def baselines(data_dir: str | Path | None = None) -> pd.DataFrame:
    """The baselines, per test set that is there: `dataset, task, language, examples, labels` (how many examples each
    has), `majority_label, majority` (weighted F1 of the test set's most frequent label, which is the best constant
    answer), `chance, chance_high` (mean and 97.5th percentile of 1,000 random guesses).

    Labels are read from `data_folder(data_dir)`.
    """
    folder, lines = data_folder(data_dir), []
    for (dataset, task), pattern in _LABELS.items():
        found = {}
        for code in members(dataset, task):
            name = languages.name(code).lower().replace(" ", "_")
            indolem = (dataset, code) == ("nusatranslation", "ind")
            file = folder / (_INDOLEM if indolem else pattern.format(code=code, name=name))
            if file.is_file():
                labels = pd.read_csv(file, dtype=str)["sentiment" if indolem else "label"]
                found[code] = labels.replace({"0": "negative", "1": "positive"})
        names = sorted(set().union(*found.values()))  # the options: a test set need not have all of them
        for code, labels in found.items():
            counts = labels.value_counts().reindex(names, fill_value=0)
            constant = constant_f1(counts)
            line = {"dataset": dataset, "task": task, "language": code, "examples": len(labels)}
            line |= {"labels": counts.to_dict(), "majority_label": constant.idxmax(), "majority": constant.max()}
            lines.append(line | _chance(tuple(counts)))
    columns = ["dataset", "task", "language", "examples", "labels", "majority_label", "majority"]
    return pd.DataFrame(lines, columns=[*columns, "chance", "chance_high"])


def family(model: str) -> str:
    """What a model's name begins with: `bloom` of bloom-7b1, as far as the studies' families are concerned."""
    name = model.lower().replace("-", "").replace("_", "")
    families = ("openllama", "llama", "bloomz", "bloom", "pythia", "baichuan")
    return next((one for one in families if name.startswith(one)), name.rstrip("0123456789.bm"))


def constant_f1(counts: pd.Series) -> pd.Series:
    """Weighted F1 of answering always the same label, for each label; `counts` says how often each is right."""
    share = counts / counts.sum()
    return 100 * share * 2 * share / (1 + share)


@cache
def _chance(counts: tuple[int, ...]) -> dict[str, float]:
    gold = np.repeat(np.arange(len(counts)), counts)
    guesses = (uniforms(("chance",), np.arange(_DRAWS), len(gold)) * len(counts)).astype(int)
    f1 = np.zeros(_DRAWS)
    for label, count in enumerate(counts):
        right = (guesses[:, gold == label] == label).sum(1)
        f1 += 200 * right / np.maximum(count + (guesses == label).sum(1), 1) * count / len(gold)
    return {"chance": f1.mean(), "chance_high": np.percentile(f1, 97.5)}


def _in_order(objective: str) -> str:
    return "+".join(sorted(objective.split("+")))


def title(model: str, objective: str, replay: str) -> str:
    """A row's name, for example `bloomz-560m tlm r=100,000`."""
    amount = f"r={int(replay):,}" if replay.isdigit() else replay and f"r={replay}"
    return " ".join(part for part in (model, objective, amount) if part and part != "none")
