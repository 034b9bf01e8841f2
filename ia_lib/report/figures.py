"""The report's figures, and the loss curve: functions from a data frame to a plotly figure."""

import sys
import time
from html import escape, unescape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.io.base_renderers import PlotlyRenderer
from plotly.subplots import make_subplots

from ia_lib.data.languages import GROUPS
from ia_lib.evaluation.measures import of_rows

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7A7A7A"]
SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"]  # seven, so that pairs differ
GREY = "#7A7A7A"  # seen on a light page and on a dark one
BASELINES = {"chance": ("chance", "dash"), "majority": ("majority label", "dot")}  # name and dash of each

LINE = {"color": GREY, "width": 1.5}

_SHADE = "rgba(128,128,128,0.25)"
_AXIS = dict.fromkeys(("gridcolor", "zerolinecolor", "linecolor"), _SHADE)
_CLEAR = "rgba(0,0,0,0)"
_LINES = {"line": {"color": _SHADE}}
# Colours that can be read on a light page and on a dark one, whose own ground is seen behind them.
_ON_ANY_PAGE = {
    "layout": {
        **{"paper_bgcolor": _CLEAR, "plot_bgcolor": _CLEAR, "font": {"color": GREY}, "xaxis": _AXIS, "yaxis": _AXIS},
    },
    "data": {
        "table": [{"cells": {"fill": {"color": _CLEAR}, **_LINES}, "header": {"fill": {"color": _SHADE}, **_LINES}}]
    },
}


class _Shown(PlotlyRenderer):
    """A figure's data, as a notebook keeps it, in colours for any page; files of figures keep their white ground."""

    def to_mimebundle(self, fig_dict: dict) -> dict:
        layout = fig_dict["layout"]
        look = go.layout.Template(layout.get("template")).update(_ON_ANY_PAGE).to_plotly_json()
        layout = {**layout, "template": look, "font": {**layout.get("font", {}), "color": GREY}}
        return super().to_mimebundle({**fig_dict, "layout": layout})


# Notebooks keep a figure's data, and JupyterLab draws it with the extension that plotly brings along, offline. Colab
# and plain Python keep what plotly chooses for them.
pio.renderers["ia_lib"] = _Shown()
_OWN = {"", "browser", "plotly_mimetype", "plotly_mimetype+notebook", "vscode"}  # what plotly chooses elsewhere
if "ipykernel" in sys.modules and pio.renderers.default in _OWN:
    pio.renderers.default = "ia_lib"


def group_bars(results: pd.DataFrame) -> go.Figure:
    """Weighted F1 per group (L1, L2, L3) and row, with 95% intervals and lines for chance and majority label.

    `results` has the lines of results.csv, here and below; of a row with several seeds those over all of them are
    drawn. A bar within chance is marked with °.
    """
    frame = plain(_groups(results))
    figure = go.Figure()
    groups = [group for group in GROUPS if group in set(frame["group"])]
    for i, (row, part) in enumerate(frame.groupby("row", sort=False)):
        part = part.set_index("group").reindex(groups)
        text = ["°" if mark is True or mark == 1 else "" for mark in part["within_chance"]]
        hover = "%{x}<br>" + row + ": %{y:.1f}<extra></extra>"
        look = {"text": text, "textposition": "inside", "insidetextanchor": "start", "hovertemplate": hover}
        ends = error_bars(part, "value") | {"color": GREY}
        titles = [group_title(group) for group in groups]
        figure.add_bar(name=row, x=titles, y=part["value"], error_y=ends, **fill(i), **look)
    levels = {name: frame.groupby("group")[name].mean().mean() for name in BASELINES}
    close = abs(levels["chance"] - levels["majority"]) < 5
    for name, (title, dash) in BASELINES.items():
        level = levels[name]
        figure.add_hline(y=level, line=LINE | {"dash": dash})
        # where the lines are close, one text stands above its line and the other below
        anchor = "middle" if not close else "bottom" if level == max(levels.values()) else "top"
        note = {"text": f"{title} {level:.0f}", "font_size": 11, "showarrow": False, "yanchor": anchor}
        figure.add_annotation(**note, xref="paper", x=1.0, xanchor="left", y=level)
    figure.update_layout(barmode="group", yaxis={"title": "weighted F1 (%)", "range": [0, 105]}, legend_title="row")
    counts = sorted(set(frame["seeds"]))
    seeds = f" over {' or '.join(map(str, counts))} seeds" if counts[-1] > 1 else ""
    return style(figure, f"Weighted F1 by group of languages, with 95% intervals{seeds} (° = within chance)")


def difference_to_base(results: pd.DataFrame) -> go.Figure:
    """Difference in weighted F1 (points) to the base against the number of replayed instructions r, per objective
    and base, which is named where there are several.

    One line per group: solid for taught, dashed for known, dotted for never seen languages.
    """
    frame = plain(_groups(results)).dropna(subset=["difference"])
    frame = frame[frame["replay"].astype(str).str.isdigit() & (frame["retention"] == "none")]
    frame["replay"] = frame["replay"].astype(int)
    counts = sorted(set(frame["replay"]))
    ticks = [f"{count:,}" for count in counts]
    figure = go.Figure()
    looks = {"L1": ("dash", "square"), "L2": ("solid", "circle"), "L3": ("dot", "diamond")}
    several = frame["began_with"].nunique() > 1
    for i, ((objective, base), lines) in enumerate(frame.groupby(["objective", "began_with"], sort=False)):
        for group, part in lines.groupby("group"):
            part, (dash, symbol) = part.sort_values("replay"), looks[group]
            name = f"{objective}{f' on {base}' if several else ''}, {group_title(group)}"
            x = [ticks[counts.index(r)] for r in part["replay"]]
            hover = f"{objective}, {group}, r = %{{x}}: %{{y:+.1f}} points<extra></extra>"
            curve(figure, name, x, part, "difference", (COLOURS[i % len(COLOURS)], symbol, dash), hover)
    figure.add_hline(y=0, line=LINE | {"width": 1})
    figure.update_xaxes(
        title="replayed instructions r (points of one r stand side by side)",
        type="category",
        categoryorder="array",
        categoryarray=ticks,
    )
    figure.update_layout(scattermode="group", scattergap=0.4)  # side by side where r is the same
    figure.update_yaxes(title="weighted F1 minus base (points)")
    return style(figure, "What tuning changed, against the amount of replay")


def kept_against_gained(results: pd.DataFrame, costs: dict[str, str] | None = None) -> go.Figure:
    """What tuning changed in known languages (L1) against what it changed in taught ones (L2): differences to the base
    in points of weighted F1, with 95% intervals, a point per row; hollow where one of the two is within chance. `costs`
    says for a row what its training took, beside it."""
    frame = plain(_groups(results)).dropna(subset=["difference"])
    figure = go.Figure()
    known, taught = (frame[frame["group"] == group].set_index("row", drop=False) for group in ("L1", "L2"))
    for i, row in enumerate(dict.fromkeys(known.index.intersection(taught.index))):
        across, up = taught.loc[[row]], known.loc[[row]]
        took = (costs or {}).get(row)
        name = f"{row} ({took})" if took else row
        guessed = [one["group"].iloc[0] for one in (up, across) if one["within_chance"].any()]
        more = f"<br>within chance: {', '.join(guessed)}" if guessed else ""
        said = f"{row}<br>taught %{{x:+.1f}}, known %{{y:+.1f}} points{more}<extra></extra>"
        symbol = SYMBOLS[i % len(SYMBOLS)] + ("-open" if guessed else "")
        look = {"color": COLOURS[i % len(COLOURS)], "symbol": symbol, "size": 11}
        ends = {"error_x": error_bars(across, "difference"), "error_y": error_bars(up, "difference")}
        place = {"x": across["difference"], "y": up["difference"], "mode": "markers", "marker": look}
        figure.add_scatter(name=name, hovertemplate=said, **place, **ends)
    figure.add_hline(y=0, line=LINE | {"width": 1})
    figure.add_vline(x=0, line=LINE | {"width": 1})
    figure.update_layout(legend_title="row (what its training took)" if costs else "row")
    figure.update_xaxes(title=f"{group_title('L2')}: weighted F1 minus base (points)")
    figure.update_yaxes(title=f"{group_title('L1')}: weighted F1 minus base (points)")
    return style(figure, "Kept against gained: up is less forgotten, right is more learnt (hollow = within chance)")


def answer_losses(results: pd.DataFrame) -> go.Figure:
    """How much true answers and true translations surprise each row's model (nats a token, less is better), with 95%
    intervals: a line of points for each task and direction."""
    frame = of_rows(results, "answer loss")
    single = (frame["language"] != "all") & (frame["source"] != "all")
    frame = plain(frame[single & ((frame["source"] != "") | (frame["prompt"].astype(str) == "all"))])
    several = frame["task"].nunique() > 1
    names = dict(zip(frame["language"], frame["language_name"], strict=True))
    sources = frame["source"].map(lambda code: names.get(code, code))
    pairs = (sources + " to " + frame["language_name"]).where(frame["source"] != "", frame["language_name"])
    frame["place"] = frame["task"] + ": " + pairs if several else pairs
    figure = go.Figure()
    for i, (row, part) in enumerate(frame.groupby("row", sort=False)):
        ends = error_bars(part, "value")
        look = {"color": COLOURS[i % len(COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 10}
        hover = f"{row}<br>%{{y}}: %{{x:.2f}} nats a token<extra></extra>"
        place = {"x": part["value"], "y": part["place"], "orientation": "h", "mode": "markers", "marker": look}
        figure.add_scatter(name=row, error_x=ends, hovertemplate=hover, **place)
    figure.update_layout(scattermode="group", legend_title="row")
    figure.update_xaxes(title="nats a token (left is better known)")
    figure.update_yaxes(autorange="reversed", automargin=True)
    height = 180 + 24 * frame["place"].nunique() * max(2, frame["row"].nunique())
    return style(figure, "How much true answers surprise the model", height)


def passages(results: pd.DataFrame) -> go.Figure:
    """Exact match and F1 of answers from passages by language and row, with 95% intervals; a bar stands where the
    baseline is. Both are those of the corrected rule."""
    wanted = {"exact match, corrected": "exact match (%)", "F1, corrected": "F1 (%)"}
    frame = _asked_on_passages(results)
    order = {group: i for i, group in enumerate(GROUPS)}
    frame = frame.sort_values("group", key=lambda column: column.map(order), kind="stable")
    frame["place"] = frame["language_name"] + " " + frame["group"]
    if frame["name"].nunique() > 1:
        frame["place"] = frame["name"] + ": " + frame["place"]
    rows = list(dict.fromkeys(frame["row"]))
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (metric, title) in enumerate(wanted.items(), 1):
        part = frame[frame["metric"] == metric]
        for i, row in enumerate(rows):
            own = part[part["row"] == row]
            look = {"color": COLOURS[i % len(COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 10}
            hover = f"{row}<br>%{{y}}: %{{x:.1f}}<extra></extra>"
            place = {"x": own["value"], "y": own["place"], "orientation": "h", "mode": "markers", "marker": look}
            legend = {"name": row, "legendgroup": row, "showlegend": column == 1}
            figure.add_scatter(
                error_x=error_bars(own, "value"), hovertemplate=hover, **place, **legend, row=1, col=column
            )
        marked = {"legendgroup": "baseline", "showlegend": column == 1, "row": 1, "col": column}
        baseline_marks(figure, part.drop_duplicates("place"), digits=1, **marked)
        figure.update_xaxes(title=title, range=[-3, 103], row=1, col=column)
    figure.update_layout(scattermode="group", legend_title="row")
    figure.update_yaxes(autorange="reversed", automargin=True)
    height = 200 + 22 * frame["place"].nunique() * max(2, len(rows))
    return style(figure, "Answers from passages, beside the baseline (|)", height)


def gained_by_words(results: pd.DataFrame, reached: dict[str, dict[str, float]]) -> go.Figure:
    """What tuning on code-mixed text changed in exact match (points, corrected rule, with 95% intervals) against how
    many words of that text the language's dictionary has; `reached` says that of rows and languages, in percent."""
    frame = _asked_on_passages(results).dropna(subset=["difference"])
    frame = frame[frame["metric"] == "exact match, corrected"]
    frame["words"] = [reached.get(row, {}).get(code) for row, code in zip(frame["row"], frame["language"], strict=True)]
    frame = frame.dropna(subset=["words"])
    figure = go.Figure()
    for i, (row, part) in enumerate(frame.groupby("row", sort=False)):
        look = {"color": COLOURS[i % len(COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 11}
        hover = f"{row}, %{{text}}<br>%{{x:.0f}}% of words in the dictionary: %{{y:+.1f}} points<extra></extra>"
        place = {"x": part["words"], "y": part["difference"], "text": part["language_name"], "marker": look}
        how = {"mode": "markers", "error_y": error_bars(part, "difference"), "hovertemplate": hover}
        figure.add_scatter(name=row, **place, **how)
    figure.add_hline(y=0, line=LINE | {"width": 1})
    figure.update_layout(legend_title="row")
    figure.update_xaxes(title="words of the mixed text that the dictionary has (%)")
    figure.update_yaxes(title="exact match minus base (points)")
    return style(figure, "What code-mixing changed, against the reach of the dictionary")


def _asked_on_passages(results: pd.DataFrame) -> pd.DataFrame:
    """Lines of single languages. `results` also has `name`, data set and task in one."""
    frame = of_rows(results, None)
    return plain(frame[(frame["language"] != "all") & (frame["prompt"].astype(str) == "all")])


def heat_map(results: pd.DataFrame) -> go.Figure:
    """Weighted F1 of every row in every language; columns in the order known, taught, never seen.

    A cell within chance is marked with °.
    """
    results = of_rows(results)
    frame = plain(results[(results["prompt"] == "all") & (results["language"] != "all")])
    order = {group: i for i, group in enumerate(GROUPS)}
    heads = frame[["language", "language_name", "group"]].drop_duplicates()
    heads = heads.sort_values("group", key=lambda column: column.map(order), kind="stable")
    by = frame.groupby(["row", "language"], sort=False)
    values, marks = (
        wide.unstack().loc[frame["row"].unique(), list(heads["language"])]
        for wide in (by["value"].mean(), by["within_chance"].any())
    )
    text = values.map("{:.0f}".format) + marks.map({True: "°", False: ""}.get)
    names = [f"{name}<br>{group}" for _, name, group in heads.itertuples(index=False)]
    scale = {"colorscale": "Viridis", "zmin": 0, "zmax": 100, "colorbar": {"title": "weighted<br>F1 (%)"}}
    figure = go.Figure(go.Heatmap(**grid(values, names), text=text.to_numpy(), **scale))
    figure.update_yaxes(autorange="reversed", title="row")
    figure.update_xaxes(title="language and group (° = within chance)", tickangle=-45)
    return style(figure, "Weighted F1 by language and row", height=320 + 36 * len(values))


def loss_curve(log: pd.DataFrame, title: str = "Loss") -> go.Figure:
    """Training and validation loss (nats) against steps; `log` has the lines of log.jsonl."""
    figure = go.Figure()
    for name, label, colour in (("loss", "training", COLOURS[0]), ("validation_loss", "validation", COLOURS[1])):
        if name in log:
            part = log.dropna(subset=[name])
            figure.add_scatter(x=part["step"], y=part[name], name=label, mode="lines+markers", line_color=colour)
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="loss (nats)", rangemode="tozero")
    return style(figure, plain_text(title), height=360)


class LiveLoss:
    """Draws the loss curve again in a notebook's cell with every record of `trainer.tune(on_log=...)`."""

    def __init__(self):
        self.records: list[dict] = []
        self.begin, self.first = time.monotonic(), None
        self.handle = None

    def __call__(self, record: dict) -> None:
        from IPython.display import display

        self.records.append(record)
        step, of = record["step"], record["of"]
        self.first = step if self.first is None else self.first
        elapsed = time.monotonic() - self.begin
        left = elapsed * (of - step) / step
        left = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        when = "finished" if step >= of else f"about {left} left"
        figure = loss_curve(pd.DataFrame(self.records), f"Loss: step {step:,} of {of:,}, {when}")
        # as data, since a figure that displays itself could not be drawn over
        shown = figure._repr_mimebundle_()
        if self.handle is None:
            self.handle = display(shown, raw=True, display_id=True)
        else:
            self.handle.update(shown, raw=True)


def words(figure: go.Figure) -> list[str]:
    """What a figure shows, for who does not see it: a line for each of its traces, as "tlm: taught (L2) 85.2"."""
    lines = []
    for trace in figure.data:
        if trace.type == "heatmap":
            lines += [_line(name, list(trace.x), row) for name, row in zip(trace.y, trace.z, strict=True)]
            continue
        places, values = trace.x, trace.y
        if places is None or values is None:
            continue
        if trace.orientation == "h" or not np.issubdtype(np.asarray(values).dtype, np.number):
            places, values = values, places
        if len(places) == 2 and not isinstance(places[0], str) and np.ndim(places[0]):
            places = [", ".join(map(str, pair)) for pair in zip(*places, strict=True)]
        lines.append(_line(trace.name, list(places), values))
    return lines


def _line(name: str, places: list, values) -> str:
    said = [
        f"{place.replace('<br>', ' ') if isinstance(place, str) else f'{place:g}'} {value:.4g}"
        for place, value in zip(places, values, strict=True)
        if pd.notna(value)
    ]
    return unescape(f"{name}: {', '.join(said)}")


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with its texts as plotly draws them letter for letter: it takes tags and `%{...}` for orders."""
    texts = frame.select_dtypes(exclude="number").columns
    return frame.assign(**{name: frame[name].map(plain_text) for name in texts})


def plain_text(text):
    """A text for `plain`; what is none stays what it is."""
    return escape(text, quote=False).replace("%{", "%&#123;") if isinstance(text, str) else text


def error_bars(part: pd.DataFrame, column: str) -> dict | None:
    """Error bars of `value` or `difference`, if it has intervals."""
    low, high = (part[end if column == "value" else f"{column}_{end}"] for end in ("low", "high"))
    if low.isna().all() and high.isna().all():
        return None
    return {"type": "data", "thickness": 1, "array": high - part[column], "arrayminus": part[column] - low}


def fill(i: int) -> dict:
    """What tells the bars of the i-th name from the others."""
    return {"marker_color": COLOURS[i % len(COLOURS)], "marker_pattern_shape": ["", "/", "x"][i // len(COLOURS) % 3]}


def curve(figure: go.Figure, name: str, x, part: pd.DataFrame, column: str, look, hover: str, **place) -> None:
    """Add a curve of `value` or `difference` with its intervals; `look` is colour, symbol and dash."""
    colour, symbol, dash = look
    lines = {"mode": "lines+markers", "line": {"color": colour, "dash": dash}, "marker": {"symbol": symbol, "size": 9}}
    ends = error_bars(part, column)
    figure.add_scatter(name=name, x=x, y=part[column], error_y=ends, hovertemplate=hover, **lines, **place)


def baseline_marks(
    figure: go.Figure, part: pd.DataFrame, digits: int, name: str = "baseline", colour: str = GREY, **place
) -> None:
    """Add a bar (|) for each line of `part` where its `baseline` is, at its `place`; `baseline_is` says which one."""
    marker = {"symbol": "line-ns", "size": 25, "line": {"color": colour, "width": 2}}
    hover = f"%{{y}}: %{{x:.{digits}f}} is the baseline (%{{text}})<extra></extra>"
    where = {"x": part["baseline"], "y": part["place"], "text": part["baseline_is"], "orientation": "h"}
    figure.add_scatter(name=name, mode="markers", marker=marker, hovertemplate=hover, **where, **place)


def grid(wide: pd.DataFrame, names: list[str]) -> dict:
    """What a heat map shows of a table, whose columns are called `names`."""
    shown = {"texttemplate": "%{text}", "hovertemplate": "%{y}<br>%{x}: %{z:.1f}<extra></extra>"}
    return {"z": wide.to_numpy(), "x": names, "y": list(wide.index), **shown}


def _groups(results: pd.DataFrame) -> pd.DataFrame:
    """Group averages, one line per row of the table and group."""
    frame = of_rows(results)
    return frame[frame["language"] == "all"]


def group_title(group: str) -> str:
    return f"{GROUPS[group]} ({group})"


def style(figure: go.Figure, title: str, height: int = 460) -> go.Figure:
    return figure.update_layout(
        title={"text": title, "font_size": 17},
        template="plotly_white",
        height=height,
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#222222"},
        margin={"l": 70, "r": 130, "t": 60, "b": 60},
    )
