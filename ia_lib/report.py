"""The report of a table: results.csv, figures, and one page that a reader can send to somebody."""

import json
import os
import shutil
from html import escape
from pathlib import Path

import nbformat
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from jinja2 import Environment, FileSystemLoader, select_autoescape
from nbconvert import HTMLExporter

from ia_lib import comparison, evaluation, figures, minilab, published
from ia_lib.formats import own_csv
from ia_lib.languages import GROUPS, NAMES
from ia_lib.scoring import RULES

GENERATED_TEXT = (
    "The mini lab is generated text and not native language: sentences from a small grammar, put into ten languages "
    "word by word through a lexicon, with Indonesian words where the lexicon has none. It shows whether the method "
    "does what it says; it says nothing about the real languages."
)

# The look of an executed notebook as a page.
_PAGE = """<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root { color-scheme: light dark } body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto;
padding: 1.5rem } pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: .5rem .8rem }
table { border-collapse: collapse; font-size: .85rem } td, th { padding: .2rem .6rem; border-bottom: 1px solid #8885;
text-align: left } .prompt { color: #767676; font-size: .8rem } .anchor-link { display: none }
.output_wrapper, .jp-OutputArea { overflow-x: auto }</style>"""


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
    """Write `results.csv`, `rules.csv`, `published.csv` (if runs reproduce published cells), the executed notebooks and
    figures as pages (and .png where a Chromium is found) and `index.html`; returns the results.

    `missing` names runs of the table without results; `manifests` maps "run: stage" to its manifest.
    """
    table = results(evaluated, origins)
    table.round(4).to_csv(folder / "results.csv", index=False)
    if len(found := held_out(evaluated)):
        found.round(4).to_csv(folder / "heldout.csv", index=False)
    compared = _published(table, evaluated)
    if len(compared):
        compared.round(4).to_csv(folder / "published.csv", index=False)
    audit, lengths = _rules(evaluated) if len(table) else (pd.DataFrame(), {})
    if len(audit):
        audit.to_csv(folder / "rules.csv", index=False)
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
    audited, wrong = audit.to_dict("records"), _errors(evaluated)
    against, compared_cells = _headline(table), _by_table(compared)
    sections = {
        "groups": ("results", len(table)),
        "headline": ("kept and gained", against),
        "figures": ("figures", drawn),
        "published": ("published against ours", compared_cells),
        "rules": ("scoring rules", audited),
        "errors": ("errors", wrong),
        "held-out": ("held-out sentences", len(found)),
        "languages": ("every language", len(table)),
        "settings": ("settings", True),
        "costs": ("costs", True),
        "notebooks": ("notebooks", evaluated),
        "cite": ("how to cite", True),
    }
    text = page.render(
        name=name,
        sections=[(anchor, title) for anchor, (title, there) in sections.items() if there],
        generated=GENERATED_TEXT if any(run.corpus == "minilab" for run in runs) else None,
        groups=GROUPS,
        languages={
            group: list(dict.fromkeys(run.languages.get(c) or NAMES[c] for run in runs for c in run.groups[group]))
            for group in GROUPS
        },
        tasks=[_task(task, part) for task, part in _by_task(table).items()],
        headline=against,
        rules=audited,
        rule_names=[rule for rule in RULES if rule in audit],
        lengths=lengths,
        published=compared_cells,
        errors=wrong,
        notebooks=_notebooks(evaluated, folder / "notebooks", _plotly_file(folder / "figures") if drawn else None),
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
        costs=_costs(manifests, evaluated),
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


def _headline(table: pd.DataFrame) -> list[dict]:
    """Retention, gain and transfer of every run that began with another one's model."""
    if table.empty or table["difference"].isna().all():
        return []
    lines = comparison.headline(table)
    group = table[(table["language"] == "all") & (table["prompt"] == "all")]
    limit = group.drop_duplicates(["dataset", "task", "group"]).set_index(["dataset", "task", "group"])["chance_high"]
    # of what is no better than guessing nothing can be kept
    above = [line.base > limit[line.dataset, line.task, line.group] for line in lines.itertuples()]
    return lines.assign(kept=lines["kept"].where(above)).to_dict("records")


def _rules(evaluated: list[tuple]) -> tuple[pd.DataFrame, dict[str, list[dict]]]:
    """What each scoring rule leads to, one line per claim, and per run how long the labels are and how often each is
    the answer under each rule."""
    scores = {run.name: pd.read_parquet(folder / "scores.parquet") for run, folder in evaluated}
    scores = {name: table for name, table in scores.items() if len(table)}
    runs = {run.name: run for run, _ in evaluated if run.name in scores}
    shared = set.intersection(*(set(evaluation.rules(table)) for table in scores.values()))
    if len(shared) < 2:
        return pd.DataFrame(), {}
    bases = {name: run.model.run for name, run in runs.items() if run.model.run in scores}
    first = next(iter(runs.values()))
    found = comparison.rules(scores, first.groups, {}, bases, first.seed)
    claims = comparison.conclusions(found[(found["language"] == "all") & (found["task"] != "all")])
    # which of several runs is the best says nothing where none is above chance
    place = ["dataset", "task", "group"]
    told = found[~found["within_chance"]].groupby(place).size()
    settled = pd.MultiIndex.from_frame(claims[place]).isin(told.index)
    claims = claims[(claims["claim"] != "highest score") | settled]
    lengths = {name: comparison.label_lengths(table).round(1).to_dict("records") for name, table in scores.items()}
    return claims, lengths


def _published(table: pd.DataFrame, evaluated: list[tuple]) -> pd.DataFrame:
    """Every cell of the papers beside ours, if a run of the table reproduces some."""
    if table.empty or not any(run.reproduces for run, _ in evaluated):
        return pd.DataFrame()
    return published.compare(table)


def _by_table(compared: pd.DataFrame) -> dict[str, dict]:
    """Of every published table how many cells agree, differ and were not run, and the cells that were."""
    if compared.empty:
        return {}
    names = compared["paper"] + ", " + compared["table"]
    return {
        name: {
            "counts": part["verdict"].value_counts().to_dict(),
            "cells": part[part["verdict"] != published.NOT_RUN].to_dict("records"),
        }
        for name, part in compared.groupby(names, sort=False)
    }


def _errors(evaluated: list[tuple]) -> dict[str, list[dict]]:
    """Per run the wrong predictions that it was most certain of."""
    found = {}
    for run, folder in evaluated:
        if (folder / "errors.csv").is_file():
            lines = own_csv(folder / "errors.csv").fillna({"dataset": ""})
            names = [run.languages.get(code) or NAMES.get(code, code) for code in lines["language"]]
            found[run.name] = lines.assign(name=names).to_dict("records")
    return found


def _notebooks(evaluated: list[tuple], folder: Path, plotly: str | None) -> dict[str, dict[str, str]]:
    """Write the executed notebooks as pages that need no internet; returns run -> stage -> the page's file name."""
    found: dict[str, dict[str, str]] = {}
    folder.mkdir(exist_ok=True)
    exporter = HTMLExporter(template_name="basic")
    for run, made in evaluated:
        for stage in ("data", "tune", "evaluate"):
            path = made.parent / f"{stage}.ipynb"
            if not path.is_file():
                continue
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                for output in cell.get("outputs", []):
                    for kind in ("application/vnd.jupyter.widget-view+json", "application/javascript"):
                        output.get("data", {}).pop(kind, None)
                    if drawn := output.get("data", {}).pop("application/vnd.plotly.v1+json", None):
                        drawn = {"data": drawn["data"], "layout": drawn["layout"]}
                        output["data"]["text/html"] = pio.to_html(drawn, full_html=False, include_plotlyjs=False)
            body, _ = exporter.from_notebook_node(notebook)
            title = escape(f"{run.name}: {stage}")
            script = f'<script src="../figures/{plotly}"></script>' if plotly else ""
            head = f'<head><meta charset="utf-8"><title>{title}</title>{script}{_PAGE}</head>'
            text = f'<!doctype html><html lang="en">{head}<body>{body}</body></html>'
            (folder / f"{run.name}-{stage}.html").write_text(text, encoding="utf-8")
            found.setdefault(run.name, {})[stage] = f"{run.name}-{stage}.html"
    return found


def _costs(manifests: dict[str, dict], evaluated: list[tuple]) -> list[dict]:
    """Time, memory and tokens of every stage; tokens as estimated for training and as counted for scoring."""
    tokens = {}
    for run, folder in evaluated:
        estimate = folder.parent / "data" / "report.json"
        if estimate.is_file():
            known = json.loads(estimate.read_text(encoding="utf-8"))
            tokens[f"{run.name}: tune"] = known.get("estimated", {}).get("tokens")
        scores = pd.read_parquet(folder / "scores.parquet")
        # the prompt is read once for all its labels
        read = scores.groupby([c for c in ("dataset", "task", "language", "example", "prompt") if c in scores])
        tokens[f"{run.name}: evaluate"] = int(read["prompt_tokens"].max().sum() + scores["label_tokens"].sum())
    return [
        {"stage": name, "tokens": tokens.get(name)}
        | {k: manifest[k] for k in ("seconds", "peak_memory_mb", "device", "end")}
        for name, manifest in manifests.items()
    ]


def _plotly_file(folder: Path) -> str:
    return next(path.name for path in folder.glob("plotly*.js"))
