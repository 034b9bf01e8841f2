"""The report of a table: results.csv, figures, and one page that a reader can send to somebody."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from jinja2 import Environment, FileSystemLoader, select_autoescape

from ia_lib import evaluation, figures, minilab
from ia_lib.formats import own_csv
from ia_lib.languages import GROUPS, NAMES

GENERATED_TEXT = (
    "The mini lab is generated text and not native language: sentences from a small grammar, put into ten languages "
    "word by word through a lexicon, with Indonesian words where the lexicon has none. It shows whether the method "
    "does what it says; it says nothing about the real languages."
)


def results(evaluated: list[tuple], origins: dict[str, str]) -> pd.DataFrame:
    """One line per run, task, language and prompt (as in `evaluation.metrics`), with the difference to the run's base.

    `evaluated` lists (settings, folder of the evaluate stage) per run, `origins` names the model that each run's chain
    began with. A run's base is the run whose model it began
    with; the difference has a paired 95% interval over the same examples, and is empty for a base.
    """
    scores = {run.name: pd.read_parquet(folder / "scores.parquet") for run, folder in evaluated}
    frames = []
    for run, folder in evaluated:
        if scores[run.name].empty:
            continue
        known = own_csv(folder / "metrics.csv").fillna({"dataset": ""})
        known = known[(known["dataset"] != "all") & (known["task"] != "all")]
        labels = known.groupby(["dataset", "task"])["majority_label"].first().to_dict()
        counted = known.groupby(["dataset", "task"])["majority_of"].first().to_dict()
        labels = "test" if run.majority_of == "test" else labels
        base = scores.get(run.model.run) if run.model.run else None
        if base is not None and run.scoring_rule not in evaluation.rules(base):
            print(f"{run.name}: not compared with {run.model.run}, which was not scored for {run.scoring_rule}")
            base = None
        frame = evaluation.metrics(scores[run.name], run.groups, labels, run.seed, base, rule=run.scoring_rule)
        frame["majority_of"] = [counted.get(key) for key in zip(frame["dataset"], frame["task"], strict=True)]
        frame.insert(3, "group_name", frame["group"].map(GROUPS))
        frame.insert(
            5, "language_name", [run.languages.get(code) or NAMES.get(code, code) for code in frame["language"]]
        )
        facts = {"run": run.name, "row": run.row, "seed": run.seed, "model": origins.get(run.name, "")}
        facts |= {"objective": run.objective, "replay": run.replay}
        for position, (name, value) in enumerate(facts.items()):
            frame.insert(position, name, value)
        frames.append(frame)
    empty = pd.DataFrame(columns=["run", "dataset", "task", "group", "group_name", "language", "prompt"])
    return pd.concat(frames, ignore_index=True) if frames else empty


def held_out(evaluated: list[tuple]) -> pd.DataFrame:
    """The lines of all runs' heldout.csv (see `heldout.measure`), with their run."""
    frames = [
        own_csv(folder / "heldout.csv").assign(run=run.name)
        for run, folder in evaluated
        if (folder / "heldout.csv").is_file()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def draw(table: pd.DataFrame) -> dict[str, go.Figure]:
    """The report's figures by their file names, for every task its own; the one against r needs tuned runs with a
    base."""
    drawn = {}
    tasks = _by_task(table)
    for task, part in tasks.items():
        found = {"groups": figures.group_bars(part), "languages": figures.heat_map(part)}
        if (part["difference"].notna() & (part["replay"].astype(str) != "all")).any():
            found["difference"] = figures.difference_to_base(part)
        if len(tasks) > 1:
            for figure in found.values():
                figure.update_layout(title_text=f"{task}: {figure.layout.title.text}")
            found = {f"{name}-{task.replace('/', '-')}": figure for name, figure in found.items()}
        drawn |= found
    return drawn


def write(
    folder: Path,
    name: str,
    evaluated: list[tuple],
    missing: list[str],
    manifests: dict[str, dict],
    origins: dict[str, str],
) -> pd.DataFrame:
    """Write `results.csv`, `figures/*.html` (and .png where a Chromium is found) and `index.html`; returns the results.

    `missing` names runs of the table without results; `manifests` maps "run: stage" to its manifest.
    """
    table = results(evaluated, origins)
    table.round(4).to_csv(folder / "results.csv", index=False)
    if len(found := held_out(evaluated)):
        found.round(4).to_csv(folder / "heldout.csv", index=False)
    drawn = draw(table)
    (folder / "figures").mkdir(exist_ok=True)
    for title, figure in drawn.items():
        # plotly's code lies once beside the figures, so that they open without internet
        figure.write_html(folder / "figures" / f"{title}.html", include_plotlyjs="directory")
    pictures = write_pictures(drawn, folder / "figures")
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    runs = [run for run, _ in evaluated]
    text = page.render(
        name=name,
        generated=GENERATED_TEXT if any(run.corpus == "minilab" for run in runs) else None,
        groups=GROUPS,
        languages={
            group: list(dict.fromkeys(run.languages.get(c) or NAMES[c] for run in runs for c in run.groups[group]))
            for group in GROUPS
        },
        tasks=[_task(task, part) for task, part in _by_task(table).items()],
        held_out=found.to_dict("records"),
        chance_cells=_chance_cells(table) if len(table) else {"within": 0},
        one_label=_one_label(table) if len(table) else [],
        missing=missing,
        untranslated=_untranslated(runs),
        settings=_different_settings(runs),
        figures={
            title: pio.to_html(figure, full_html=False, include_plotlyjs=False) for title, figure in drawn.items()
        },
        plotly_code=f"figures/{_plotly_file(folder / 'figures')}" if drawn else None,
        pictures=pictures,
        costs=_costs(manifests),
        versions=next(iter(manifests.values()))["versions"] if manifests else {},
        commit=next(iter(manifests.values()))["git_commit"] if manifests else None,
    )
    (folder / "index.html").write_text(text, encoding="utf-8")
    return table


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome, as the variable BROWSER_PATH or the search path gives it."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, names)), None)


def write_pictures(drawn: dict[str, go.Figure], folder: Path) -> list[str]:
    """Write each figure as PNG if a Chromium is found; returns the names written, and prints one line if none is."""
    browser = find_chromium()
    if browser is None:
        print("no Chromium found: the figures are written as HTML only (install chromium for PNG files)")
        return []
    os.environ["BROWSER_PATH"] = browser
    files = [folder / f"{title}.png" for title in drawn]
    try:
        pio.write_images(
            fig=list(drawn.values()), file=files, width=1000, height=[f.layout.height for f in drawn.values()], scale=2
        )
    except Exception as error:  # whatever a browser does wrong must not cost the report
        print(f"the figures are written as HTML only: {browser} made no PNG ({str(error).splitlines()[0]})")
        return []
    return [file.name for file in files]


def _by_task(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The lines of each task of each data set, without averages over data sets."""
    if table.empty:
        return {}
    names = table["dataset"].fillna("").str.cat(table["task"], sep="/").str.lstrip("/")
    alone = (table["dataset"] != "all") & (table["task"] != "all")
    return dict(iter(table[alone].groupby(names[alone], sort=False)))


def _task(task: str, table: pd.DataFrame) -> dict:
    """What the page shows of one task: its group averages, their baselines, and every language."""
    return {
        "name": task,
        "summary": _summary(table),
        "majority_of": " / ".join(table["majority_of"].dropna().unique()),
        "baselines": table[(table["language"] == "all")].groupby("group")[["chance", "majority"]].mean(),
        "languages": _language_table(table),
    }


def _summary(table: pd.DataFrame) -> list[dict]:
    """Per run its cells by group, for the first table of the page."""
    frame = table[(table["language"] == "all") & (table["prompt"] == "all")]
    rows = []
    for run, part in frame.groupby("run", sort=False):
        cells = {line["group"]: line for line in part.to_dict("records")}
        rows.append(
            {"run": run, "objective": part["objective"].iloc[0], "replay": part["replay"].iloc[0], "cells": cells}
        )
    return rows


def _chance_cells(table: pd.DataFrame) -> dict:
    frame = table[(table["language"] == "all") & (table["prompt"] == "all")]
    within = frame[frame["within_chance"]]
    return {"within": len(within), "all": len(frame), "names": [f"{r.run} {r.group}" for r in within.itertuples()]}


def _one_label(table: pd.DataFrame) -> list[str]:
    """Cells in which nearly all predictions are one label."""
    frame = table[(table["language"] != "all") & (table["prompt"] == "all") & (table["one_label"] > 95)]
    return [f"{r.run} {r.language_name} ({r.one_label:.0f}%)" for r in frame.itertuples()]


def _untranslated(runs: list) -> dict[str, float]:
    """Each language's share of running words that have no entry in the mini lab's lexicon, in percent."""
    if not any(run.corpus == "minilab" for run in runs):
        return {}
    return {NAMES[code]: 100 * share for code, share in minilab.untranslated_shares(runs[0].seed).items()}


def _different_settings(runs: list) -> dict:
    """The fields in which the table's rows differ."""
    dumps = [run.model_dump(mode="json") for run in runs]
    fields = [f for f in dumps[0] if f not in ("name", "row") and len({json.dumps(d[f]) for d in dumps}) > 1]
    rows = [(run.name, [_short(dump[field]) for field in fields]) for run, dump in zip(runs, dumps, strict=True)]
    return {"fields": fields, "rows": rows}


def _short(value) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{k} {_short(v)}"
            for k, v in value.items()
            if v is not None and (k, v) not in (("prompt", "prompt"), ("answer", "answer"))
        )
    return f"{value:,}" if type(value) is int else str(value)


def _language_table(table: pd.DataFrame) -> dict:
    frame = table[(table["language"] != "all") & (table["prompt"] == "all")]
    codes = list(dict.fromkeys(zip(frame["language"], frame["language_name"], frame["group"], strict=True)))
    rows = []
    for run, part in frame.groupby("run", sort=False):
        by_code = {line["language"]: line for line in part.to_dict("records")}
        rows.append((run, [by_code.get(code) for code, _, _ in codes]))
    return {"languages": codes, "rows": rows}


def _costs(manifests: dict[str, dict]) -> list[dict]:
    return [
        {"stage": name, **{k: manifest[k] for k in ("seconds", "peak_memory_mb", "device", "end")}}
        for name, manifest in manifests.items()
    ]


def _plotly_file(folder: Path) -> str:
    return next(path.name for path in folder.glob("plotly*.js"))
