"""Every figure of the kit, from tables only: functions from a data frame to a plotly figure."""

import time

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

from ia_lib.data.languages import GROUPS
from ia_lib.evaluation.measures import of_rows

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7A7A7A"]
_GREY = "#7A7A7A"  # seen on a light page and on a dark one
CHANCE = "uniform chance"
MAJORITY = "majority label"

# Notebooks keep a figure's data, and JupyterLab draws it with the extension that plotly brings along, offline. Colab
# and plain Python keep what plotly chooses for them.
if "jupyterlab" in pio.renderers and pio.renderers.default in ("", "browser", "plotly_mimetype+notebook"):
    pio.renderers.default = "plotly_mimetype"


def group_bars(results: pd.DataFrame) -> go.Figure:
    """Weighted F1 per group (L1, L2, L3) and run, with 95% intervals and lines for chance and majority.

    `results` has the lines of results.csv; of a row with several seeds those over all of them. A bar within chance is
    marked with a ring (o).
    """
    frame = _per_row(results)
    figure = go.Figure()
    groups = [group for group in GROUPS if group in set(frame["group"])]
    for i, (row, part) in enumerate(frame.groupby("row", sort=False)):
        part = part.set_index("group").reindex(groups)
        figure.add_bar(
            name=row,
            x=[_group_title(group) for group in groups],
            y=part["weighted_f1"],
            marker_color=COLOURS[i % len(COLOURS)],
            marker_pattern_shape=["", "/", "x"][i // len(COLOURS) % 3],
            text=["o" if mark is True or mark == 1 else "" for mark in part["within_chance"]],
            textposition="inside",
            insidetextanchor="start",
            error_y={
                "type": "data",
                "array": part["high"] - part["weighted_f1"],
                "arrayminus": part["weighted_f1"] - part["low"],
                "thickness": 1,
                "color": _GREY,
            },
            hovertemplate="%{x}<br>" + row + ": %{y:.1f}<extra></extra>",
        )
    levels = {name: frame.groupby("group")[name].mean().mean() for name in ("chance", "majority")}
    close = abs(levels["chance"] - levels["majority"]) < 5
    for name, dash in (("chance", "dash"), ("majority", "dot")):
        level = levels[name]
        title = CHANCE if name == "chance" else MAJORITY
        figure.add_hline(y=level, line={"dash": dash, "color": _GREY, "width": 1.5})
        # where the lines are close, one text stands above its line and the other below
        anchor = "middle" if not close else "bottom" if level == max(levels.values()) else "top"
        note = {"text": f"{title} {level:.0f}", "font_size": 11, "showarrow": False, "yanchor": anchor}
        figure.add_annotation(**note, xref="paper", x=1.0, xanchor="left", y=level)
    figure.update_layout(barmode="group", yaxis={"title": "weighted F1 (%)", "range": [0, 105]}, legend_title="run")
    counts = sorted(set(frame["seeds"]))
    seeds = f" over {' or '.join(map(str, counts))} seeds" if counts[-1] > 1 else ""
    return _style(figure, f"Weighted F1 by group of languages, with 95% intervals{seeds} (o = within chance)")


def difference_to_base(results: pd.DataFrame) -> go.Figure:
    """Difference in weighted F1 (points) to the base model against the number of replayed samples r, per objective and
    base, which is named where there are several.

    One panel line per group: solid for taught, dashed for known, dotted for never seen languages.
    """
    frame = _per_row(results).dropna(subset=["difference"])
    frame = frame[frame["replay"].astype(str) != "all"]
    frame["replay"] = frame["replay"].astype(int)
    counts = sorted({int(r) for r in frame["replay"]})
    ticks = [f"{count:,}" for count in counts]
    figure = go.Figure()
    dashes = {"L1": "dash", "L2": "solid", "L3": "dot"}
    symbols = {"L1": "square", "L2": "circle", "L3": "diamond"}
    several = frame["began_with"].nunique() > 1
    for i, ((objective, base), lines) in enumerate(frame.groupby(["objective", "began_with"], sort=False)):
        for group, part in lines.groupby("group"):
            part = part.sort_values("replay")
            figure.add_scatter(
                name=f"{objective}{f' on {base}' if several else ''}, {GROUPS[group]} ({group})",
                x=[ticks[counts.index(int(r))] for r in part["replay"]],
                y=part["difference"],
                mode="lines+markers",
                line={"dash": dashes[group], "color": COLOURS[i % len(COLOURS)]},
                marker={"symbol": symbols[group], "size": 9},
                error_y={
                    "type": "data",
                    "array": part["difference_high"] - part["difference"],
                    "arrayminus": part["difference"] - part["difference_low"],
                    "thickness": 1,
                },
                hovertemplate=f"{objective}, {group}, r = %{{x}}: %{{y:+.1f}} points<extra></extra>",
            )
    figure.add_hline(y=0, line={"color": _GREY, "width": 1})
    figure.update_xaxes(title="replayed samples r", type="category", categoryorder="array", categoryarray=ticks)
    figure.update_layout(scattermode="group", scattergap=0.4)  # side by side where r is the same
    figure.update_yaxes(title="weighted F1 minus base (points)")
    return _style(figure, "What tuning changed, against the amount of replay")


def heat_map(results: pd.DataFrame) -> go.Figure:
    """Weighted F1 of every run in every language; columns in the order known, taught, never seen.

    A cell within chance is marked with a ring (o).
    """
    results = of_rows(results)
    frame = results[(results["prompt"] == "all") & (results["language"] != "all")]
    order = {group: i for i, group in enumerate(GROUPS)}
    languages = frame[["language", "language_name", "group"]].drop_duplicates()
    languages = languages.sort_values("group", key=lambda column: column.map(order), kind="stable")
    columns = list(languages["language"])
    wide = frame.groupby(["row", "language"], sort=False)["weighted_f1"].mean().unstack()[columns]
    marks = frame.groupby(["row", "language"], sort=False)["within_chance"].any().unstack()[columns]
    wide, marks = wide.loc[frame["row"].unique()], marks.loc[frame["row"].unique()]
    names = [f"{name}<br>{group}" for _, name, group in languages.itertuples(index=False)]
    text = [
        [f"{value:.0f}{' o' if mark else ''}" for value, mark in zip(values, row, strict=True)]
        for values, row in zip(wide.to_numpy(), marks.to_numpy(), strict=True)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=wide.to_numpy(),
            x=names,
            y=list(wide.index),
            text=text,
            texttemplate="%{text}",
            colorscale="Cividis",
            zmin=0,
            zmax=100,
            colorbar={"title": "weighted<br>F1 (%)"},
            hovertemplate="%{y}<br>%{x}: %{z:.1f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", title="run")
    figure.update_xaxes(title="language and group (o = within chance)", tickangle=-45)
    return _style(figure, "Weighted F1 by language and run", height=320 + 36 * len(wide))


def loss_curve(log: pd.DataFrame, title: str = "Loss") -> go.Figure:
    """Training and validation loss (nats) against steps; `log` has the lines of log.jsonl."""
    figure = go.Figure()
    for name, label, mode in (
        ("loss", "training", "lines+markers"),
        ("validation_loss", "validation", "lines+markers"),
    ):
        if name in log:
            part = log.dropna(subset=[name])
            figure.add_scatter(
                x=part["step"], y=part[name], name=label, mode=mode, line_color=COLOURS[0 if name == "loss" else 1]
            )
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="loss (nats)", rangemode="tozero")
    return _style(figure, title, height=360)


class LiveLoss:
    """Draws the loss curve anew in a notebook's cell with every record of `tuning.tune(on_log=...)`."""

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
        when = (
            "finished" if step >= of else f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left"
        )
        figure = loss_curve(pd.DataFrame(self.records), f"Loss: step {step:,} of {of:,}, {when}")
        # as data, since a figure that displays itself could not be drawn over
        shown = figure._repr_mimebundle_()
        if self.handle is None:
            self.handle = display(shown, raw=True, display_id=True)
        else:
            self.handle.update(shown, raw=True)


def _per_row(results: pd.DataFrame) -> pd.DataFrame:
    """Group averages, one line per row of the table and group."""
    frame = of_rows(results)
    return frame[(frame["language"] == "all") & (frame["prompt"] == "all")]


def _group_title(group: str) -> str:
    return f"{GROUPS[group]} ({group})"


def _style(figure: go.Figure, title: str, height: int = 460) -> go.Figure:
    return figure.update_layout(
        title={"text": title, "font_size": 17},
        template="plotly_white",
        height=height,
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#222222"},
        margin={"l": 70, "r": 130, "t": 60, "b": 60},
    )
