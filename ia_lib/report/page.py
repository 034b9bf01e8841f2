"""The report of a table: results.csv, figures, and one page that a reader can send to somebody."""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from html import escape, unescape
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from jinja2 import Environment, FileSystemLoader, select_autoescape
from nbconvert import HTMLExporter

from ia_lib.data.languages import GROUPS, NAMES
from ia_lib.evaluation.measures import of_rows
from ia_lib.evaluation.rules import RULES
from ia_lib.report import answer_figures, figures, results, summary, trust
from ia_lib.report.pool import processes
from ia_lib.report.runs import STAGES, Run

# The parts of a run's settings that belong to one stage.
_BLOCKS = ("data", "train", "evaluate", "judge", "machine")
_STAGE_OF = {"data": "data", "train": "tune"}
_PAIRS = 60  # pairs of a kind that the page shows
# The look of an executed notebook as a page.
_LOOK = """<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root { color-scheme: light dark } body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto;
padding: 1.5rem } pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: .5rem .8rem }
table { border-collapse: collapse; font-size: .85rem } td, th { padding: .2rem .6rem; border-bottom: 1px solid #8885;
text-align: left } .prompt { color: #767676; font-size: .8rem } .anchor-link { display: none }
.output_wrapper, .jp-OutputArea { overflow-x: auto }</style>"""


def write(
    folder: Path,
    name: str,
    runs: list[Path],
    missing: list[str],
    said: list[dict] | None = None,
    judged: Collection[Path] = (),
    on_progress: Callable[[float, float, str], None] | None = None,
) -> pd.DataFrame:
    """Write the report of the table `name` from the evaluate folders of its runs, and the folders of those judge stages
    that belong to them; returns the results.

    Written are `results.csv` (every measure), `pairs.csv` (rows and languages compared), `rules.csv` and
    `conclusions.csv` (the same answers under every scoring rule), `published.csv` (if runs reproduce published cells),
    the executed notebooks and the figures as pages (figures also as .png where a Chromium is found) and `index.html`.
    `missing` names the runs of the table without results. `on_progress` is told how far it is: a share, 1, and at what.
    """
    marked = {judge.parent: judge for judge in judged}
    runs = [Run(run, now, marked.get(run.parent)) for run, now in zip(runs, said or [{}] * len(runs), strict=True)]

    def tell(share: float, what: str) -> None:
        if on_progress:
            on_progress(share, 1, what)

    made = results.pieces(runs, lambda share: tell(0.6 * share, "intervals"))
    every = results.every(made)
    (folder / "figures").mkdir(exist_ok=True)
    reached = {run.row: known for run in runs if (known := run.words_in_dictionary) and run.tested}
    drawn, plotly = draw(every, _tuning_costs(runs), reached), None
    # a browser draws them beside the rest of the work
    pictures = ThreadPoolExecutor(1).submit(write_pictures, drawn, folder / "figures")
    tell(0.6, "rows against rows")
    pairs = _named(results.pairs(runs, made))
    compared = results.beside_published(every, runs)
    *found, lengths = results.rules(runs, made)
    by_rule, claims = map(_named, found)
    written = {"results": every, "published": compared, "rules": by_rule, "conclusions": claims, "pairs": pairs}
    for file, frame in written.items():
        if len(frame) or file == "results":
            frame.drop(columns="name", errors="ignore").round(4).to_csv(folder / f"{file}.csv", index=False)
    tell(0.75, "figures")
    for title, figure in drawn.items():
        # plotly's code lies once beside the figures, so that they open without internet
        figure.write_html(folder / "figures" / f"{title}.html", include_plotlyjs="directory", div_id=title)
        plotly = next(path.name for path in (folder / "figures").glob("plotly*.js"))
    shown = _named(of_rows(every))
    single = _single(shown)
    groups, languages = single[single["language"] == "all"], single[single["language"] != "all"]
    languages = languages[languages["prompt"] == "all"]
    told = _single(pairs[pairs["difference"].notna()]) if len(pairs) else pairs
    headline, judges, made_with = _named(results.headline(every)), trust.judges(runs), _made_with(runs)
    claims, one_label = claims.to_dict("records"), _one_label(languages)
    depending = _depending(claims, single["name"].nunique() > 1)
    tell(0.8, "executed notebooks")
    notebooks = _notebooks(runs, folder / "notebooks", plotly, lambda share: tell(0.8 + 0.15 * share, "notebooks"))
    costs = _costs(runs, {piece.row: piece.tokens for piece in made.rows})
    untranslated = next((run.data["untranslated_share"] for run in runs if "untranslated_share" in run.data), {})
    page = {
        "groups": ("results", {task: (part, _cells(part, "group")) for task, part in _by("name", groups).items()}),
        "headline": ("kept, gained, lost", headline.to_dict("records")),
        "figures": (
            "figures",
            {title: _inline(_untitled(figure), f"figure-{title}") for title, figure in drawn.items()},
        ),
        "languages": ("every language", {t: (x, _cells(x, "language")) for t, x in _by("name", languages).items()}),
        "pairs": ("row against row", _pairs(told)),
        "rules": ("scoring rules", claims),
        "published": ("published against ours", _by(["paper", "table"], compared)),
        "errors": ("errors", results.errors(runs)),
        "questions": ("answers from passages", results.extracted(every).to_dict("records")),
        "requests": ("free answers", results.opened(every).to_dict("records")),
        "judges": ("judges", judges),
        "held-out": ("translation and true answers", results.held_out(every).to_dict("records")),
        "asked": ("what was run", _asked(single)),
        "settings": ("settings", _settings(runs)),
        "costs": ("costs", costs),
        "notebooks": ("notebooks", notebooks),
        "cite": ("how to cite", made_with),
    }
    near = groups[groups["within_chance"].astype(bool)].to_dict("records") if len(groups) else []
    seeds = int(every["seeds"].max()) if len(every) else 1
    of = {"near": len(near), "averages": len(groups), "one_label": one_label, "judges": judges}
    of |= {"depending": sum(len(places) for _, places in depending), "claims": len(claims), "lexicon": untranslated}
    of |= {"missing_groups": [g for g in GROUPS if len(shown) and g not in set(shown["group"])]}
    of |= {"made_with": len(made_with), "headline": len(headline)} | summary.no_better(every)
    layout = {"autoescape": select_autoescape(), "trim_blocks": True, "lstrip_blocks": True}
    template = Environment(loader=FileSystemLoader(Path(__file__).parent), **layout).get_template("page.html")
    text = template.render(
        name=name,
        sections=[(anchor, title) for anchor, (title, found) in page.items() if len(found) or anchor == "asked"],
        **{anchor.replace("-", "_"): found for anchor, (_, found) in page.items()},
        summary=summary.summary(every, runs, headline),
        cautions=summary.cautions(runs, missing, seeds, of),
        seeds=seeds,
        recipes={run.settings["recipe"] for run in runs},
        group_names=GROUPS,
        titles=[f"{title} ({group})" for group, title in GROUPS.items()],
        tested={g: list(dict.fromkeys(run.language(c) for run in runs for c in run.groups[g])) for g in GROUPS},
        missing=missing,
        near=near,
        several_tasks=headline["name"].nunique() > 1 if len(headline) else single["name"].nunique() > 1,
        headline_metrics=list(dict.fromkeys(headline["metric"])) if len(headline) else [],
        several_names=groups["name"].nunique() > 1,
        group_averages=groups.to_dict("records"),
        one_label=one_label,
        models=list(dict.fromkeys(filter(None, (run.manifest["origin"] for run in runs)))),
        scoring_rules=list(dict.fromkeys(run.rule for run in runs)),
        pair_rules=sorted(set(pairs["rule"])) if len(pairs) else [],
        rule_names=[rule for rule in RULES if claims and rule in claims[0]],
        rules_missing=[rule for rule in RULES if claims and rule not in claims[0]],
        depending=depending,
        by_rule=_by(["run", "name", "group"], of_rows(by_rule) if len(by_rule) else by_rule),
        lengths=lengths,
        language_names=NAMES | {code: run.language(code) for run in runs for code in run.settings["languages"]},
        untranslated=untranslated,
        whole_time=_duration(sum(cost["seconds"] for cost in costs)),
        devices=list(dict.fromkeys(cost["device"] for cost in costs)),
        most_memory=max((cost["peak_memory_mb"] or 0 for cost in costs), default=0),
        plotly=plotly,
        pictures=pictures.result(),
        figure_titles={title: unescape(figure.layout.title.text) for title, figure in drawn.items()},
        figure_words={title: figures.words(figure) for title, figure in drawn.items()},
    )
    (folder / "index.html").write_text(text, encoding="utf-8")
    return every


def draw(
    every: pd.DataFrame, costs: dict[str, str] | None = None, reached: dict[str, dict[str, float]] | None = None
) -> dict[str, go.Figure]:
    """The report's figures by their file names, for every task its own; the one against r needs tuned runs with a
    base, that of what was kept several. One is of all tasks with true answers, of their losses, two are of answers
    from passages, and of free answers two for each family of models, and one of all families. `every` has the lines of
    results.csv; `costs` says what each row took, `reached` how many words a dictionary has, by row and language."""
    tasks = _by("name", _named(_single(of_rows(every))))
    drawn = {}
    for task, part in tasks.items():
        found = {"groups": figures.group_bars(part), "languages": figures.heat_map(part)}
        tuned = part[part["difference"].notna() & (part["language"] == "all")]
        if (tuned["replay"].astype(str).str.isdigit() & (tuned["retention"] == "none")).any():
            found["difference"] = figures.difference_to_base(part)
        if tuned[tuned["group"].isin(["L1", "L2"])].groupby("row")["group"].nunique().eq(2).sum() > 1:
            found["kept"] = figures.kept_against_gained(part, costs)
        for title, figure in found.items():
            if len(tasks) > 1:
                figure.update_layout(title_text=f"{figures.plain_text(task)}: {figure.layout.title.text}")
            drawn[f"{title}-{_in_file_name(task)}" if len(tasks) > 1 else title] = figure
    if (every["metric"] == "answer loss").any():
        drawn["losses"] = figures.answer_losses(every)
    answers = _named(every[(every["kind"] == "open") & (every["metric"] != "in the language")])
    # of sizes a curve is drawn, and never from one family of models to another
    families = _by("family", answer_figures.sizes(answers)) if len(answers) else {}
    for family, part in families.items():
        for title, metric in (("answers", "score"), ("gate", "lost at the gate")):
            if (part["metric"] == metric).any():
                figure = answer_figures.answers_by_budget(part, metric)
                if len(families) > 1:
                    figure.update_layout(title_text=f"{figures.plain_text(family)}: {figure.layout.title.text}")
                drawn[f"{title}-{_in_file_name(family)}" if len(families) > 1 else title] = figure
    if len(families) > 1:
        drawn["families"] = answer_figures.families(answers)
    asked = _named(every[every["kind"] == "extract"])
    if len(asked):
        drawn["passages"] = figures.passages(asked)
        if set(asked.loc[asked["difference"].notna(), "row"]) & (reached or {}).keys():
            drawn["words"] = figures.gained_by_words(asked, reached)
    return drawn


def _in_file_name(task: str) -> str:
    """A task's name as a part of a file's, and of a link to it."""
    name = re.sub(r"[^\w.+-]", "-", task)[:80]
    if name == task.replace("/", "-") and name.isascii():
        return name
    return f"{name.encode('ascii', 'replace').decode().replace('?', '-')}-{sha256(task.encode()).hexdigest()[:6]}"


def _inline(figure: go.Figure | dict, name: str | None = None) -> str:
    """A figure as a part of a page that has plotly's code."""
    quiet = {"displayModeBar": False, "responsive": True}
    return pio.to_html(figure, full_html=False, include_plotlyjs=False, config=quiet, div_id=name)


def _untitled(figure: go.Figure) -> go.Figure:
    """Without its title, which the page has as a heading that fits every width."""
    return go.Figure(figure).update_layout(title_text=None, margin_t=24)


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
        heights = [figure.layout.height for figure in drawn.values()]
        pio.write_images(fig=list(drawn.values()), file=files, width=1000, height=heights, scale=2)
    except Exception as error:  # whatever a browser does wrong must not cost the report
        said = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"the figures are written as HTML only: {browser} made no PNG ({said})")
        return []
    return [file.name for file in files]


def _named(lines: pd.DataFrame) -> pd.DataFrame:
    """With `name`, the data set and task of a line in one."""
    pairs = zip(lines["dataset"], lines["task"], strict=True) if len(lines) else ()
    return lines.assign(name=[f"{d}/{task}" if isinstance(d, str) and d else task for d, task in pairs])


def _by(column: str | list[str], lines: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    return dict(iter(lines.groupby(column, sort=False))) if len(lines) else {}


def _single(lines: pd.DataFrame) -> pd.DataFrame:
    """Without the averages over data sets and tasks."""
    return lines[(lines["dataset"] != "all") & (lines["task"] != "all")] if len(lines) else lines


def _cells(lines: pd.DataFrame, column: str) -> list[tuple[str, dict[str, dict]]]:
    """Per run its lines by their group or language."""
    parts = lines.groupby("run", sort=False)
    return [(run, {line[column]: line for line in part.to_dict("records")}) for run, part in parts]


def _asked(lines: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Per task its texts, in words, and its number of prompts."""
    found = []
    for name, part in _by("name", lines[lines["prompt"] != "all"]).items():
        sizes = part.groupby("language_name", sort=False)["examples"].max()
        texts = f"{sizes.min():,}" if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
        where = f"each of {len(sizes)} languages" if len(sizes) > 1 else sizes.index[0]
        found.append((name, f"{texts} texts in {where}", part["prompt"].nunique()))
    return found


def _pairs(told: pd.DataFrame) -> dict[str, dict[str, tuple[int, list[dict], int]]]:
    """Under "" rows against rows, and under a title what each row has of its own: how many pairs, those to be shown,
    how many differ."""
    found: dict[str, dict] = {}
    kinds = _by("kind", told)
    for kind, part in kinds.items():
        differ = int(part["verdict"].isin(["higher", "lower"]).sum())
        order = part["difference"].abs().sort_values(ascending=False, kind="stable").index
        shown = part if len(part) <= _PAIRS else part.loc[order[:_PAIRS]]
        own = f"languages against the first one, in each of {len(kinds) - 1} rows"
        title = "" if kind == "rows" or len(kinds) <= 7 else own
        found.setdefault(title, {})[kind] = len(part), shown.to_dict("records"), differ
    return found


def _depending(claims: list[dict], several: bool) -> list[tuple[tuple[str, str], list[str]]]:
    """Conclusions that depend on the rule: a claim and what is said of it -> the rows and groups of which it is."""
    found: dict[tuple[str, str], list[str]] = {}
    for claim in (one for one in claims if one["depends"]):
        place = " ".join([claim["run"], *([claim["name"]] if several else []), claim["group"]])
        found.setdefault((claim["claim"], claim["says"]), []).append(place)
    return list(found.items())


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} hours" if seconds >= 5400 else f"{max(1, round(seconds / 60))} min"


def _one_label(languages: pd.DataFrame) -> list[str]:
    """Per row the languages in which nearly all predictions are one label under some prompt."""
    several, found = languages["name"].nunique() > 1, {}
    for line in languages[languages["one_label_cells"] > 0].to_dict("records"):
        alike, cells = int(line["one_label_cells"]), int(line["cells"])
        under = f" ({alike} of {cells})" if alike < cells else ""
        place = f"{line['run']}{' on ' + line['name'] if several else ''}"
        found.setdefault(place, []).append(line["language_name"] + under)
    return [f"{place}: {', '.join(names)}" for place, names in found.items()]


def _settings(runs: list[Run]) -> dict:
    """The fields in which the rows differ, with every row's values, and those that are the same where they are."""
    flat: dict[str, dict] = {}
    for run in runs:
        fields = {k: v for k, v in run.settings.items() if k not in ("name", "row", "seed", *_BLOCKS)}
        # seeds of a row differ in their bases' names, too
        fields["model"] = fields["model"] | {"run": run.began_with if run.base else None}
        # of what a stage would do that the row has none of, nothing is said
        blocks = [block for block in _BLOCKS if block not in ("data", "train") or _STAGE_OF[block] in run.stages]
        for block in blocks:
            # two stages may have a field of one name
            fields |= {f"{block}.{k}" if k in fields else k: v for k, v in run.settings.get(block, {}).items()}
        flat.setdefault(run.row, fields | {"seeds": []})["seeds"].append(run.seed)
    names = list(dict.fromkeys(field for fields in flat.values() for field in fields))
    values = {f: [fields[f] for fields in flat.values() if f in fields] for f in names}
    differ = [f for f, found in values.items() if len({json.dumps(value, sort_keys=True) for value in found}) > 1]
    rows = [(row, [_short(fields.get(f, "")) for f in differ]) for row, fields in flat.items()]
    same = {f: _short(found[0]) for f, found in values.items() if f not in differ and found[0] not in (None, [])}
    return {"fields": differ, "rows": rows, "same": same}


def _short(value) -> str:
    if isinstance(value, dict):
        plain = [("prompt", "prompt"), ("answer", "answer")]
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items() if v is not None and (k, v) not in plain)
    return f"{value:,}" if type(value) is int else str(value)


def _costs(runs: list[Run], tokens: dict[str, dict[str, int]]) -> list[dict]:
    """Time, memory and tokens of every stage of a row, over its seeds; tokens as estimated for training and as counted
    for scoring."""
    lines: dict[str, dict] = {}
    for run, stage, facts in ((one, *told) for one in runs for told in one.stages.items()):
        name = f"{run.row}: {stage}"
        line = lines.setdefault(name, {"stage": name, "seconds": 0, "peak_memory_mb": 0, "end": ""})
        line["seconds"] += facts["seconds"]
        line["peak_memory_mb"] = max(line["peak_memory_mb"], facts["peak_memory_mb"] or 0)
        line |= {"tokens": tokens[run.row].get(stage), "device": facts["device"], "end": max(line["end"], facts["end"])}
    return list(lines.values())


def _tuning_costs(runs: list[Run]) -> dict[str, str]:
    """Row -> what its tuning took, as a mean over seeds and the most memory of one."""
    found: dict[str, list[dict]] = {}
    for run in runs:
        if "tune" in run.stages:
            found.setdefault(run.row, []).append(run.stages["tune"])
    return {
        row: f"{sum(one['seconds'] for one in made) / len(made):,.0f} s, "
        f"{max(one['peak_memory_mb'] or 0 for one in made) / 1000:.2f} GB"
        for row, made in found.items()
    }


def _made_with(runs: list[Run]) -> list[dict]:
    """The distinct versions and commits that the stages were made with, and which stages."""
    found: dict[str, dict] = {}
    for run in runs:
        for stage, manifest in run.stages.items():
            facts = {"versions": manifest["versions"], "commit": manifest["git_commit"]}
            same = found.setdefault(json.dumps(facts, sort_keys=True), {**facts, "stages": []})
            same["stages"].append(f"{run.name}: {stage}")
    return list(found.values())


def _notebooks(
    runs: list[Run], folder: Path, plotly: str | None, tell: Callable[[float], None]
) -> dict[str, dict[str, str]]:
    """Write the executed notebooks as pages that need no internet, of a row with several seeds those of the first;
    returns run -> stage -> the page's file name ("" where none was written)."""
    folder.mkdir(exist_ok=True)
    first = {run.row: run.name for run in reversed(runs)}
    there = [(run, stage, run.folder.parent / f"{stage}.ipynb") for run, stage in product(runs, [*STAGES, "judge"])]
    there = [(run, stage, path) for run, stage, path in there if stage in run.stages and path.is_file()]
    written = [(run.name, stage, path) for run, stage, path in there if first[run.row] == run.name]
    arguments = [(path, f"{name}: {stage}", folder / f"{name}-{stage}.html", plotly) for name, stage, path in written]
    with processes(len(runs)) as pool:
        for number, _ in enumerate(pool.map(_write_notebook, *zip(*arguments, strict=True)) if written else ()):
            tell((number + 1) / len(written))
    found: dict[str, dict[str, str]] = {}
    for run, stage, _ in there:
        found.setdefault(run.name, {})[stage] = f"{run.name}-{stage}.html" if first[run.row] == run.name else ""
    return found


def _write_notebook(path: Path, title: str, to: Path, plotly: str | None) -> None:
    notebook = nbformat.read(path, as_version=4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        for kind in ("application/vnd.jupyter.widget-view+json", "application/javascript"):
            output.get("data", {}).pop(kind, None)
        if drawn := output.get("data", {}).pop("application/vnd.plotly.v1+json", None):
            output["data"]["text/html"] = _inline({"data": drawn["data"], "layout": drawn["layout"]})
    body, _ = _exporter().from_notebook_node(notebook)
    script = f'<script src="../figures/{plotly}"></script>' if plotly else ""
    head = f'<head><meta charset="utf-8"><title>{escape(title)}</title>{script}{_LOOK}</head>'
    to.write_text(f'<!doctype html><html lang="en">{head}<body>{body}</body></html>', encoding="utf-8")


@cache
def _exporter() -> HTMLExporter:
    return HTMLExporter(template_name="basic")
