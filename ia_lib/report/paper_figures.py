"""The figures of the papers, from their numbers and from ours alike: functions from scores, in the shape of
`published.scores` and `published.ours`, to a plotly figure. Sources in one frame are drawn side by side."""

import math
import textwrap
from html import escape

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ia_lib.data.languages import GROUPS, NAMES
from ia_lib.report import published
from ia_lib.report.figures import (
    BASELINES,
    COLOURS,
    GREY,
    LINE,
    curve,
    error_bars,
    fill,
    grid,
    group_title,
    plain,
    style,
)

# Objectives look the same in every figure: name, colour, symbol, dash.
_OBJECTIVES = {
    "none": ("base", GREY, "circle-open", "solid"),
    "mlm": ("MLM", "#E69F00", "triangle-up", "dot"),
    "mt": ("MT", "#CC79A7", "square", "dashdot"),
    "tlm": ("TLM", "#0072B2", "circle", "solid"),
    "xss": ("XSS", "#009E73", "diamond", "dash"),
    "span+word": ("word and span denoising", "#56B4E9", "circle", "solid"),
    "mt+span+word": ("(IA)¹", "#D55E00", "diamond", "solid"),
    "mlm+mt+span+word": ("(IA)¹ + MLM", "#7F3C8D", "triangle-up", "dash"),
}
_SYMBOLS = ["circle", "diamond", "square", "triangle-up", "x", "cross", "star", "hexagon"]  # of test sets


def family_coverage(families: pd.DataFrame) -> go.Figure:
    """Languages supported by at least one model, in percent of each family's (InstructAlign, Figure 1).

    `families` has `family, supported, languages`; the dashed line is the share of all languages together.
    """
    frame = families.assign(share=100 * families["supported"] / families["languages"]).sort_values("share")
    counts = frame[["family", "supported", "languages"]].itertuples(index=False)
    names = [f"{name} ({supported:,} of {languages:,})" for name, supported, languages in counts]
    text = {"text": frame["share"].map("{:.1f}%".format), "textposition": "outside", "textfont_size": 11}
    look = {"orientation": "h", "marker_color": COLOURS[0], "hovertemplate": "%{y}: %{x:.1f}%<extra></extra>"}
    figure = go.Figure(go.Bar(x=frame["share"], y=names, **text, **look))
    supported, languages = frame["supported"].sum(), frame["languages"].sum()
    share = 100 * supported / languages
    figure.add_vline(x=share, line=LINE | {"dash": "dash"}, layer="below")
    note = f"all families: {supported:,} of {languages:,} languages, {share:.1f}%"
    figure.add_annotation(text=note, x=share, xanchor="left", y=1.0, yref="paper", yanchor="bottom", showarrow=False)
    highest = 1.08 * frame["share"].max()
    figure.update_xaxes(title="languages supported by at least one model (% of the family)", range=[0, highest])
    figure.update_yaxes(title="language family (supported of all its languages)")
    return style(figure, "How many languages of each family are supported", height=520)


def objective_examples(rows: pd.DataFrame) -> go.Figure:
    """What an instruction of each objective looks like (InstructAlign, Figure 2), as a table that can be read aloud.

    `rows` has the columns `kind, prompt, answer` of `cross_lingual.instructions`.
    """
    wrapped = [
        ["<br>".join(part for line in text.splitlines() for part in textwrap.wrap(escape(line, quote=False), width))
         for text in rows[name]]
        for name, width in (("prompt", 64), ("answer", 38))
    ]  # fmt: skip
    names = [_objective(objective)[0] for objective in rows["kind"]]
    shown = go.Table(
        columnwidth=[1.4, 7, 4],
        header={"values": ["objective", "prompt", "answer"], "align": "left", "font_size": 13},
        cells={"values": [names, *wrapped], "align": "left", "font_size": 12, "height": 22},
    )
    lines = sum(2 + max(texts[i].count("<br>") for texts in wrapped) for i in range(len(rows)))
    return style(go.Figure(shown), "One instruction of each objective", height=130 + 20 * lines)


def model_scaling(scores: pd.DataFrame) -> go.Figure:
    """Average weighted F1 on L1 and L2 against model size, per objective at its largest r (InstructAlign, Figure 3).

    `scores` is what `published.beside` gives; each source is a row of panels. Averages are those of Table 2.
    """
    frame = plain(published.averages(scores))
    frame["size"] = frame["model"].map(published.parameters)
    frame["tick"] = [_size_name(size) or model for size, model in zip(frame["size"], frame["model"], strict=True)]
    frame["amount"] = pd.to_numeric(frame["replay"], errors="coerce").fillna(-1)
    series = ["source", "model", "objective", "group"]
    frame = frame[frame["amount"] == frame.groupby(series)["amount"].transform("max")]
    figure, panels = _panels(frame, [group for group in ("L1", "L2") if group in set(frame["group"])])
    for (source, group), place in panels.items():
        part = frame[(frame["source"] == source) & (frame["group"] == group)].sort_values("size")
        part = part.assign(family=part["model"].str.extract(r"^(.*?)-?\d", expand=False).fillna(part["model"]))
        for (family, objective), line in part.groupby(["family", "objective"], sort=False):
            name, colour, symbol, dash = _objective(objective)
            before = objective == "none" and family == "bloom"
            look = (GREY if before else colour, "x" if before else symbol, dash)
            title = f"{family.upper()}, {name}" + ("" if objective == "none" else _amount(line["replay"]))
            hover = f"{family}, {name}, %{{x}}: %{{y:.1f}}<extra></extra>"
            curve(figure, title, line["tick"], line, "value", look, hover, **place)
        _baselines(figure, part, place)
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=part["tick"].unique(), **place)
    figure.update_yaxes(matches="y", rangemode="tozero")
    _axes(figure, panels, "model size (parameters)", "weighted F1 (%)")
    return _finish(figure, "Model size and what tuning adds", panels)


def replay_curves(scores: pd.DataFrame) -> go.Figure:
    """Difference in weighted F1 to the base against r, per objective with several r (InstructAlign, Figure 4).

    `scores` as for `model_scaling`; panels are groups and sources. Averages are over all languages of a group, as in
    Table 3, so give it the tasks that are to be averaged.
    """
    frame = plain(published.differences(published.means(scores[scores["metric"] == "weighted_f1"])))
    frame["amount"] = pd.to_numeric(frame["replay"], errors="coerce")
    several = frame.groupby(["source", "model", "objective"])["amount"].transform("nunique") > 1
    frame = frame[several].dropna(subset="amount").sort_values("amount", kind="stable")
    ticks = [f"{int(r):,}" for r in sorted(frame["amount"].unique())]
    figure, panels = _panels(frame, [group for group in GROUPS if group in set(frame["group"])])
    for (source, group), place in panels.items():
        part = frame[(frame["source"] == source) & (frame["group"] == group)]
        for (model, objective), line in part.groupby(["model", "objective"], sort=False):
            name, *look = _objective(objective)
            amounts = [f"{int(r):,}" for r in line["amount"]]
            hover = f"{name}, r = %{{x}}: %{{y:+.1f}} points<extra></extra>"
            curve(figure, f"{model} {name}", amounts, line, "difference", look, hover, **place)
        figure.add_hline(y=0, line=LINE, **place)
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=ticks)
    figure.update_yaxes(matches="y")
    _axes(figure, panels, "replayed instructions r", "weighted F1 minus base (points)")
    return _finish(figure, "What tuning changes, against the amount of replay", panels)


def carried_over(scores: pd.DataFrame) -> go.Figure:
    """What is carried over to languages never seen (L3) against what is gained in taught ones (L2), with Pearson's r
    and its 95% interval (InstructAlign, Figure 5): a point per tuned row and test set of `scores` (as for
    `model_scaling`)."""
    points = plain(published.gains(scores))
    figure, panels = _panels(points, [""])
    ends = [min(points[["L2", "L3"]].min()) - 2, max(points[["L2", "L3"]].max()) + 2]
    sets = points[["dataset", "task"]].drop_duplicates().itertuples(index=False, name=None)
    looks = dict(zip(sets, zip(COLOURS, _SYMBOLS, strict=True), strict=False))
    for (source, _), place in panels.items():
        part = points[points["source"] == source]
        for key, dots in part.groupby(["dataset", "task"], sort=False):
            colour, symbol = looks[key]
            marker, name = {"color": colour, "symbol": symbol, "size": 10, "opacity": 0.8}, " ".join(key)
            hover = "%{text}<br>L2 %{x:+.1f}, L3 %{y:+.1f} points<extra>" + name + "</extra>"
            shown = {"mode": "markers", "marker": marker, "text": dots["row"], "hovertemplate": hover}
            figure.add_scatter(name=name, x=dots["L2"], y=dots["L3"], **shown, **place)
        same = {"mode": "lines", "line": LINE | {"dash": "dash"}, "hoverinfo": "skip"}
        figure.add_scatter(name="same gain", x=ends, y=ends, **same, **place)
        figure.add_hline(y=0, line=LINE | {"width": 1}, **place)
        figure.add_vline(x=0, line=LINE | {"width": 1}, **place)
        r, low, high = published.correlation(part["L2"], part["L3"])
        text = f"{source}, n = {len(part)}: " + (f"r = {r:.2f}" if r == r else "too few for r")
        text += f" [{low:.2f}, {high:.2f}]" if low == low else ""
        figure.update_annotations(selector={"text": source}, text=text)
    figure.update_xaxes(range=ends)
    figure.update_yaxes(range=ends)
    _axes(
        figure, panels, "gained in taught languages, L2 (points)", "carried over to languages never seen, L3 (points)"
    )
    return _finish(
        figure, "What is gained in taught languages and carried over to those never seen", panels, height=520
    )


def language_scores(scores: pd.DataFrame) -> go.Figure:
    """Heat map of weighted F1, rows by languages (InstructAlign, Figure 6), one panel per source; chance and majority
    label stand above it where they are known. `scores` as for `model_scaling`, of one test set."""
    frame = plain(scores[scores["metric"] == "weighted_f1"])
    order = frame.drop_duplicates("language").sort_values("group", kind="stable")
    heads = zip(order["language"], order["group"], strict=True)
    names = [f"{NAMES.get(code, code)}<br>{group}" for code, group in heads]
    grids = {}
    for source, part in frame.groupby("source", sort=False):
        wide = part.pivot(index="row", columns="language", values="value")
        wide = wide.reindex(index=part["row"].unique(), columns=order["language"])
        bases = part.groupby("language")[list(BASELINES)].mean().T.reindex(columns=order["language"])
        bases = bases.rename({name: title for name, (title, _) in BASELINES.items()}).dropna(how="all")
        grids[source] = pd.concat([bases, wide])
    rows = [len(wide) for wide in grids.values()]
    figure, panels = _panels(frame, [""], heights=rows)
    highest = max(wide.max(axis=None) for wide in grids.values())
    for (source, _), place in panels.items():
        wide = grids[source]
        text = [["" if value != value else f"{value:.0f}" for value in line] for line in wide.to_numpy()]
        figure.add_heatmap(**grid(wide, names), text=text, coloraxis="coloraxis", xgap=1, ygap=1, **place)
    bar = {"title": "weighted<br>F1 (%)"}
    figure.update_layout(coloraxis={"colorscale": "Cividis", "cmin": 0, "cmax": highest, "colorbar": bar})
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(tickangle=-45)
    _axes(figure, panels, "language and group", "model and tuning")
    return _finish(figure, "Weighted F1 by language", panels, height=260 + 30 * sum(rows) + 60 * (len(rows) - 1))


def objective_bars(scores: pd.DataFrame) -> go.Figure:
    """Difference in weighted F1 to the base, per tuned row and data set ((IA)^1, Figure 2): the mean over its
    languages but the known ones. `scores` are those of the first version and ours; one panel per source."""
    frame = scores[(scores["metric"] == "weighted_f1") & (scores["group"] != "L1")].assign(group="all")
    frame = plain(published.differences(published.means(frame, "dataset")))
    figure, panels = _panels(frame, [""])
    places = list(frame["dataset"].unique())
    for (source, _), place in panels.items():
        for name, part in frame[frame["source"] == source].groupby("dataset", sort=False):
            text = None if part["difference_low"].notna().any() else part["difference"].map("{:+.1f}".format)
            shown = {"text": text, "textposition": "outside", "textfont_size": 10, "constraintext": "none"}
            shown |= {"hovertemplate": "%{x}: %{y:+.1f} points<extra>" + name + "</extra>", **fill(places.index(name))}
            ends = error_bars(part, "difference")
            figure.add_bar(name=name, x=part["row"], y=part["difference"], error_y=ends, **shown, **place)
        figure.add_hline(y=0, line=LINE, **place)
    figure.update_xaxes(tickangle=-35)
    figure.update_layout(bargap=0.3)
    _axes(figure, panels, "tuned on", "weighted F1 minus base (points)")
    return _finish(figure, "What each objective changes", panels, height=520)


def losses(logs: pd.DataFrame) -> go.Figure:
    """Training and validation loss (nats) against steps, per objective ((IA)^1, Figure 3): only from our logs.

    `logs` has the lines of log.jsonl of several runs, with `run` and `objective`.
    """
    kinds = {"loss": "training", "validation_loss": "validation"}
    figure = make_subplots(rows=1, cols=2, subplot_titles=list(kinds.values()), shared_yaxes=True)
    for column, kind in enumerate(kinds, 1):
        for run, part in logs.dropna(subset=kind).groupby("run", sort=False):
            _, colour, symbol, dash = _objective(part["objective"].iloc[0])
            look = {"line": {"color": colour, "dash": dash}, "marker": {"symbol": symbol}}
            look |= {"mode": "lines+markers" if kind == "validation_loss" else "lines"}
            place = {"legendgroup": run, "showlegend": column == 1, "row": 1, "col": column}
            figure.add_scatter(name=run, x=part["step"], y=part[kind], **look, **place)
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="loss (nats)", rangemode="tozero", showticklabels=True)
    return style(figure, "Loss per objective", height=420)


def told_apart(differences: pd.DataFrame) -> go.Figure:
    """How far two models' scores (0 to 150) must be apart to be told apart, against the number of requests, for the
    Alpaca study's 50: `differences` is what `alpaca_audit.told` gives. Dashed where the marks are paired by request."""
    figure = go.Figure()
    for i, (spread, part) in enumerate(differences.groupby("spread", sort=False)):
        for pairing, line in part.groupby("pairing", sort=False):
            dash = "solid" if pairing == "unrelated" else "dash"
            name = (
                f"{spread.replace(', and', ',<br>and')}<br>{'unrelated' if dash == 'solid' else 'paired, ' + pairing}"
            )
            hover = "%{x} requests: %{y:.1f} points<extra>" + name + "</extra>"
            look = {"mode": "lines", "line": {"color": COLOURS[i], "dash": dash, "width": 2.5}, "hovertemplate": hover}
            figure.add_scatter(name=name, x=line["prompts"], y=line["detectable"], **look)
    figure.add_vline(x=50, line=LINE | {"dash": "dot"})
    note = {"text": "the study: 50", "showarrow": False, "xanchor": "left", "xshift": 6, "yref": "paper", "y": 1.0}
    figure.add_annotation(x=math.log10(50), **note)
    counts = sorted(differences["prompts"].unique())
    ticks = [count for count in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if counts[0] <= count <= counts[-1]]
    ends = [math.log10(counts[0]) - 0.03, math.log10(counts[-1]) + 0.03]
    figure.update_xaxes(
        title="requests", type="log", range=ends, tickvals=ticks, ticktext=[f"{count:,}" for count in ticks]
    )
    figure.update_yaxes(title="smallest difference found (points of 150)", rangemode="tozero")
    figure.update_layout(legend_title="marks of 0 to 3 are")
    return style(figure, "How far apart two models must be to be told apart (80% power, 5% level)")


def _panels(frame: pd.DataFrame, columns: list[str], heights: list[int] | None = None) -> tuple[go.Figure, dict]:
    """A figure with a panel per source and column, and (source, column) -> where its traces go. Sources stand below
    each other where there are several columns or `heights`, else side by side.

    Raises ValueError for an empty frame.
    """
    if frame.empty:
        raise ValueError("nothing to draw: there are no rows that this figure compares")
    grid = [(source, column) for source in frame["source"].unique() for column in columns]
    across = len(columns) if len(columns) > 1 or heights else len(grid)
    titles = [", ".join(part for part in (group_title(c) if c in GROUPS else c, s) if part) for s, c in grid]
    down = len(grid) // across
    spacing = {"vertical_spacing": 0.3 / down if down > 1 and not heights else 0.08, "horizontal_spacing": 0.05}
    shared = {"shared_yaxes": not heights, "shared_xaxes": bool(heights), "row_heights": heights}
    figure = make_subplots(rows=down, cols=across, subplot_titles=titles, **shared, **spacing)
    return figure, {key: {"row": i // across + 1, "col": i % across + 1} for i, key in enumerate(grid)}


def _axes(figure: go.Figure, panels: dict, x: str, y: str) -> None:
    """Titles at the outer panels only, where they do not run into the next one."""
    figure.update_xaxes(title=x, row=max(place["row"] for place in panels.values()))
    figure.update_yaxes(title=y, col=1)


def _finish(figure: go.Figure, title: str, panels: dict, height: int | None = None) -> go.Figure:
    """Each name once in the legend, whatever the number of panels."""
    seen = set()
    for trace in figure.data:
        if trace.type != "heatmap":
            trace.update(legendgroup=trace.name, showlegend=trace.name not in seen)
            seen.add(trace.name)
    rows = max(place["row"] for place in panels.values())
    style(figure, title, height or 160 + 340 * rows)
    return figure.update_layout(margin_t=90, title_y=0.98, title_yanchor="top")


def _baselines(figure: go.Figure, part: pd.DataFrame, place: dict) -> None:
    """Lines of chance and majority label in a panel, named at its foot; a remark where the test labels are not here."""
    named = []
    for name, level in part[list(BASELINES)].mean().dropna().items():
        title, dash = BASELINES[name]
        figure.add_hline(y=level, line=LINE | {"dash": dash}, layer="below", **place)
        named.append(f"{'dashed' if dash == 'dash' else 'dotted'}: {title} {level:.0f}")
    text = "; ".join(named) or "chance and majority label are not known: not all test labels are here"
    figure.add_annotation(text=text, font_size=11, showarrow=False, x=0.5, xref="x domain", y=3, **place)


def _objective(name: str) -> tuple[str, str, str, str]:
    return _OBJECTIVES.get(name, (name.upper().replace("+", " + "), "#56B4E9", "cross", "solid"))


def _amount(replay: pd.Series) -> str:
    amounts = [f"{int(r):,}" if r.isdigit() else r for r in replay.unique()]
    return f", r = {' / '.join(amounts)}"


def _size_name(size: float) -> str:
    return "" if size == float("inf") else f"{size / 1e9:g}B" if size >= 1e9 else f"{size / 1e6:g}M"
