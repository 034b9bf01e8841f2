"""COMMIT's printed exact matches, held against the number of questions behind them and against baselines.

params/published/commit_tables.csv has for most cells how many questions (`n`) were asked and how many answers were
right (`correct`), worked out from the percentages and the sizes of the test sets.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from ia_lib.evaluation.measures import of_rows
from ia_lib.evaluation.resampling import holm
from ia_lib.report import published

# (table, row that is said to be better, row that it is compared with)
_COMPARED = [
    *(("Table 2", better, f"{row}{prompt}") for better in ("commit", "align+commit") for row in ("llama", "alpaca")
      for prompt in ("", "+en_prompt")),
    ("Table 3", "align+commit", "commit"),
    ("Table 3", "align+commit", "clm+commit"),
    ("Table 4", "commit", "naive_codemix"),
    ("Table 5", "align+commit", "machine_translation"),
    *(("Table 6", "align+commit", row) for row in ("llama", "alpaca", "commit", "machine_translation")),
]  # fmt: skip
_TAGS = {"hi": "hin", "th": "tha", "el": "ell", "bn": "ben", "ta": "tam"}
_METRICS = {"em": "exact match", "f1": "F1"}


def comparisons() -> pd.DataFrame:
    """What the paper says is better than what, in exact matches, a line for each data set and language: `table, row,
    than, dataset, language, questions, right, right_than`, the difference in points with its 95% interval (`difference,
    low, high`; of two proportions from different questions, which is what the counts allow, although the questions were
    the same), its z and p value, and that after Holm's correction over the table's lines (`p_holm`)."""
    cells = published.read("commit_tables").query("metric == 'em' and correct.notna()")
    keys = ["table", "row", "dataset", "language"]
    known = {tuple(line[key] for key in keys): line for line in cells.to_dict("records")}
    lines = []
    for table, row, than in _COMPARED:
        for (of, name, dataset, language), better in known.items():
            other = known.get((table, than, dataset, language))
            if (of, name) == (table, row) and other:
                lines.append({"table": table, "row": row, "than": than, "dataset": dataset, "language": language}
                             | _proportions(better["correct"], other["correct"], better["n"]))  # fmt: skip
    frame = pd.DataFrame(lines)
    frame["p_holm"] = frame.groupby("table")["p"].transform(lambda values: holm(values.to_numpy()))
    return frame


def _proportions(right: float, right_than: float, questions: float) -> dict[str, float]:
    first, second, pooled = right / questions, right_than / questions, (right + right_than) / (2 * questions)
    error = np.sqrt(2 * pooled * (1 - pooled) / questions)
    z = (first - second) / error if error else 0.0
    spread = 1.96 * np.sqrt((first * (1 - first) + second * (1 - second)) / questions)
    found = {"questions": int(questions), "right": int(right), "right_than": int(right_than)}
    found |= {"difference": 100 * (first - second), "low": 100 * (first - second - spread)}
    return found | {"high": 100 * (first - second + spread), "z": z, "p": float(2 * stats.norm.sf(abs(z)))}


def judged() -> dict[str, tuple[bool | None, dict[str, float] | str]]:
    """Per claim of COMMIT's whether it holds in print, and what shows it, with what the counts say (`audit.ledger`)."""
    frame = comparisons()
    cells = published.read("commit_tables").set_index(["table", "row", "dataset", "language", "metric"])["value"]

    def shown(table: str, row: str, than: str) -> tuple[bool, str]:
        part = frame.query("table == @table and row == @row and than == @than")
        said = "; ".join(
            f"{line.dataset} {line.language} {line.difference:+.2f} [{line.low:.2f}, {line.high:.2f}]"
            + ("" if line.p_holm < 0.05 else ", not shown by the counts")
            for line in part.itertuples()
        )
        return bool((part["difference"] > 0).all()), said

    ratio = {
        f"{row} against {than}, {dataset} {language}": cells["Table 2", row, dataset, language, "em"]
        / cells["Table 2", than, dataset, language, "em"]
        for row in ("commit", "align+commit")
        for than, dataset, language in (("alpaca+en_prompt", "xquad", "th"), ("alpaca+en_prompt", "mlqa", "hi"))
    }
    f1 = {
        f"{dataset} {language}": cells["Table 2", "commit", dataset, language, "f1"]
        - cells["Table 2", "alpaca+en_prompt", dataset, language, "f1"]
        for dataset, language in (("mlqa", "hi"), ("xquad", "hi"), ("xquad", "th"), ("xquad", "el"))
    }
    better, exact = shown("Table 2", "commit", "alpaca+en_prompt")
    most = cells["Table 2", "align+commit", "xquad", "th", "em"] / cells["Table 2", "alpaca", "xquad", "th", "em"]
    return {
        "commit-32x": (most > 32, f"{most:.1f} times: 97 against 3 right answers to 1,190 questions"),
        "commit-6x": (
            all(5 < value < 7 for name, value in ratio.items() if name.startswith("commit")),
            "; ".join(f"{name} {value:.1f}" for name, value in ratio.items()),
        ),
        "commit-better": (
            better and min(f1.values()) > 0,
            f"exact match {exact}; F1 " + "; ".join(f"{name} {value:+.2f}" for name, value in f1.items()),
        ),
        "commit-template": shown("Table 4", "commit", "naive_codemix"),
        "commit-aligned": shown("Table 3", "align+commit", "commit"),
        "commit-mixed-text": shown("Table 3", "align+commit", "clm+commit"),
        "commit-translation": shown("Table 5", "align+commit", "machine_translation"),
        "commit-indicqa": shown("Table 6", "align+commit", "commit"),
    }


def ours(results: pd.DataFrame, claims: Mapping[str, Sequence[str]]) -> dict[tuple, dict[str, np.ndarray]]:
    """(published row, data set, language, metric) -> our row -> [value, low, high, questions], by the rule that the
    cell was scored with. `results` has the lines of results.csv; `claims` says of our rows what they reproduce, as
    "COMMIT Table 2: alpaca, alpaca+en_prompt": the first was asked in the language of the question, the second in
    English."""
    named = {
        row: [
            name.strip()
            for text in said
            if text.startswith(published.COMMIT)
            for name in text.partition(":")[2].split(",")
        ]
        for row, said in claims.items()
    }
    tags, found = {code: tag for tag, code in _TAGS.items()}, {}
    lines = of_rows(results, None)
    for line in lines[(lines["kind"] == "extract") & (lines["prompt"] == "all")].itertuples():
        rule = "mlqa" if line.dataset == "mlqa" else "squad"
        for name in named.get(line.row, ()) if line.task in ("target", "english") else ():
            for metric, called in _METRICS.items():
                if f"{called}, {rule}" == line.metric and (line.task == "english") == name.endswith("+en_prompt"):
                    cell = name, line.dataset, tags.get(line.language), metric
                    found.setdefault(cell, {})[line.row] = np.array([line.value, line.low, line.high, line.examples])
    return found


def beside_baselines(data_dir: str | Path | None = None) -> pd.DataFrame:
    """The printed cells on XQuAD beside the best baseline there, by the rule that they were scored with: `table, row,
    language, metric, published, baseline, baseline_is, below`. Empty without the files (xquad/xquad.<language>.json, or
    commit/xquad, in the data folder)."""
    from ia_lib.data import questions
    from ia_lib.evaluation import extraction

    folder, found = published.data_folder(data_dir), {}
    for tag, code in _TAGS.items():
        paths = (folder / place / f"xquad.{tag}.json" for place in ("xquad", "commit/xquad"))
        if path := next((path for path in paths if path.is_file()), None):
            best = extraction.baselines(questions.read(path), code)
            found |= {(tag, "em"): best["exact match, squad"], (tag, "f1"): best["F1, squad"]}
    cells = published.read("commit_tables").query("dataset == 'xquad'")
    lines = [
        (cell.table, cell.row, cell.language, cell.metric, cell.value, *found[cell.language, cell.metric])
        for cell in cells.itertuples()
        if (cell.language, cell.metric) in found
    ]
    frame = pd.DataFrame(lines, columns=["table", "row", "language", "metric", "published", "baseline", "baseline_is"])
    return frame.assign(below=frame["published"] < frame["baseline"])
