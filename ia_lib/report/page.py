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

from ia_lib.data import minilab
from ia_lib.data.languages import GROUPS, NAMES
from ia_lib.evaluation.measures import of_rows
from ia_lib.evaluation.scoring import RULES
from ia_lib.report import audit, figures, results

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
    """Write `results.csv`, `rules.csv` and `conclusions.csv` (the same answers under every scoring rule), `pairs.csv`
    (rows and languages compared), `heldout.csv`, `audit.csv` (if runs reproduce published cells), the executed
    notebooks and figures as pages (and .png where a Chromium is found) and `index.html`; returns the results.

    `missing` names runs of the table without results; `manifests` maps "run: stage" to its manifest.
    """
    table = results.table(evaluated, origins)
    found = results.held_out(evaluated)
    compared = results.beside_published(table, evaluated)
    by_rule, audit, lengths = results.rules(evaluated)
    pairs = results.pairs(evaluated)
    written = {"heldout": found, "published": compared, "rules": by_rule, "conclusions": audit, "pairs": pairs}
    for file, frame in {"results": table, **{name: frame for name, frame in written.items() if len(frame)}}.items():
        frame.round(4).to_csv(folder / f"{file}.csv", index=False)
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
    ).get_template("page.html")
    runs = [run for run, _ in evaluated]
    audited, wrong = audit.to_dict("records"), results.errors(evaluated)
    against, compared_cells = results.headline(table).to_dict("records"), _by_table(compared)
    shown = of_rows(table)
    several = shown[["dataset", "task"]].drop_duplicates().shape[0] > 1
    sections = {
        "asked": ("what was run", True),
        "groups": ("results", len(table)),
        "headline": ("kept and gained", against),
        "pairs": ("row against row", len(pairs)),
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
        tasks=[_task(task, part) for task, part in _by_task(shown).items()],
        asked=_asked(runs, table),
        missing_groups=[group for group in GROUPS if len(table) and not (table["group"] == group).any()],
        several_tasks=several,
        pairs=_pairs(pairs),
        pair_rules=sorted(set(pairs["rule"])) if len(pairs) else [],
        scoring_rules=list(dict.fromkeys(run.scoring_rule for run in runs)),
        headline=against,
        rules=audited,
        rule_names=[rule for rule in RULES if rule in audit],
        rules_missing=[rule for rule in RULES if rule not in audit],
        by_rule=_by_rule(by_rule),
        lengths=lengths,
        published=compared_cells,
        errors=wrong,
        notebooks=_notebooks(evaluated, folder / "notebooks", _plotly_file(folder / "figures") if drawn else None),
        held_out=found.to_dict("records"),
        chance_cells=_chance_cells(shown) if len(table) else {"within": 0},
        one_label=_one_label(shown) if len(table) else [],
        missing=missing,
        untranslated=_untranslated(runs),
        settings=_different_settings(runs),
        figures={
            title: pio.to_html(figure, full_html=False, include_plotlyjs=False) for title, figure in drawn.items()
        },
        plotly_code=f"figures/{_plotly_file(folder / 'figures')}" if drawn else None,
        pictures=pictures,
        figure_titles={title: figure.layout.title.text for title, figure in drawn.items()},
        costs=_costs(manifests, evaluated),
        made_with=_made_with(manifests),
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
        said = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"the figures are written as HTML only: {browser} made no PNG ({said})")
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
        "seeds": int(table["seeds"].max()),
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


def _name(line: dict) -> str:
    """A line's data set and task in one."""
    return "/".join(str(part) for part in (line.get("dataset"), line.get("task")) if part and part == part)


def _chance_cells(table: pd.DataFrame) -> dict:
    frame = table[(table["language"] == "all") & (table["prompt"] == "all") & (table["dataset"] != "all")]
    frame = frame[frame["task"] != "all"]
    within = frame[frame["within_chance"]].to_dict("records")
    alone = frame[["dataset", "task"]].drop_duplicates().shape[0] == 1
    names = [f"{line['run']} {line['group']}{'' if alone else f' on {_name(line)}'}" for line in within]
    return {"within": len(within), "all": len(frame), "names": names}


def _one_label(table: pd.DataFrame) -> list[str]:
    """Per row the languages in which nearly all predictions are one label under some prompt."""
    frame = table[(table["language"] != "all") & (table["prompt"] == "all") & (table["one_label_cells"] > 0)]
    alone = table[["dataset", "task"]].drop_duplicates().shape[0] == 1
    found: dict[str, list[str]] = {}
    for line in frame.to_dict("records"):
        place = f"{line['run']}{'' if alone else f' on {_name(line)}'}"
        under = f" ({line['one_label_cells']} of {line['cells']})" if line["one_label_cells"] < line["cells"] else ""
        found.setdefault(place, []).append(line["language_name"] + under)
    return [f"{place}: {', '.join(names)}" for place, names in found.items()]


def _asked(runs: list, table: pd.DataFrame) -> list[dict]:
    """What was asked: per task its texts, languages and prompts."""
    lines = []
    for task, part in _by_task(table).items():
        own = part[(part["language"] != "all") & (part["prompt"] != "all")]
        sizes = own.groupby("language_name", sort=False)["examples"].max()
        texts = f"{sizes.min():,}" if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
        lines.append(
            {
                "task": task,
                "texts": f"{texts} texts in "
                + (f"each of {len(sizes)} languages" if len(sizes) > 1 else sizes.index[0]),
                "prompts": own["prompt"].nunique(),
            }
        )
    return lines


def _pairs(pairs: pd.DataFrame) -> dict[str, list[dict]]:
    """The comparisons by their kind, with their task's name."""
    if pairs.empty:
        return {}
    pairs = pairs[(pairs["dataset"] != "all") & (pairs["task"] != "all")].dropna(subset="difference")
    return {
        kind: [{**line, "name": _name(line)} for line in part.to_dict("records")]
        for kind, part in pairs.groupby("kind", sort=False)
    }


def _by_rule(found: pd.DataFrame) -> list[dict]:
    """Group averages of every row, one line each, under every rule."""
    if found.empty:
        return []
    lines = []
    for (run, dataset, task, group), part in found.groupby(["run", "dataset", "task", "group"], sort=False):
        name = _name({"dataset": dataset, "task": task})
        lines.append(
            {"run": run, "task": name, "group": group, "cells": {c["rule"]: c for c in part.to_dict("records")}}
        )
    return lines


def _made_with(manifests: dict[str, dict]) -> list[dict]:
    """The distinct versions and commits that the stages were made with, and which stages."""
    found: list[dict] = []
    for stage, manifest in manifests.items():
        facts = {"versions": manifest["versions"], "commit": manifest["git_commit"]}
        same = next((one for one in found if {k: one[k] for k in facts} == facts), None)
        if same is None:
            found.append({**facts, "stages": [stage]})
        else:
            same["stages"].append(stage)
    return found


def _untranslated(runs: list) -> dict[str, float]:
    """Each language's share of running words that have no entry in the mini lab's lexicon, in percent."""
    if not any(run.corpus == "minilab" for run in runs):
        return {}
    return {NAMES[code]: 100 * share for code, share in minilab.untranslated_shares(runs[0].seed).items()}


def _different_settings(runs: list) -> dict:
    """The fields in which the table's rows differ, and those that are the same in all of them."""
    dumps = [run.model_dump(mode="json") for run in runs]
    fields = [f for f in dumps[0] if f not in ("name", "row") and len({json.dumps(d[f]) for d in dumps}) > 1]
    rows = [(run.name, [_short(dump[field]) for field in fields]) for run, dump in zip(runs, dumps, strict=True)]
    same = {
        f: _short(dumps[0][f]) for f in dumps[0] if f not in ("name", "row", *fields) and dumps[0][f] not in (None, [])
    }
    return {"fields": fields, "rows": rows, "same": same}


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


def _by_table(compared: pd.DataFrame) -> dict[str, dict]:
    """Of every published table how many cells agree, differ and were not run, and the cells that were."""
    if compared.empty:
        return {}
    names = compared["paper"] + ", " + compared["table"]
    return {
        name: {
            "counts": part["verdict"].value_counts().to_dict(),
            "cells": part[part["verdict"] != audit.NOT_RUN].to_dict("records"),
        }
        for name, part in compared.groupby(names, sort=False)
    }


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
