"""The report's figures of free answers, by budget, size and family of models: from results.csv to plotly figures."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ia_lib.data.languages import GROUPS
from ia_lib.evaluation.measures import of_rows
from ia_lib.report import published
from ia_lib.report.figures import COLOURS, GREY, LINE, curve, error_bars, plain, style

BUDGET_LOOK = {  # of the Alpaca study: colour, symbol
    "mono": (COLOURS[0], "star"),
    "multilingual": (COLOURS[2], "circle"),
    "downsampled": (COLOURS[1], "triangle-up"),
    "english": (COLOURS[3], "square"),
}


def sizes(results: pd.DataFrame) -> pd.DataFrame:
    """With `size`, billions of parameters as the model's name tells them (infinity where it tells none), and `family`
    of the model."""
    names = [name.rpartition("/")[2] for name in results["model"].fillna("")]
    size = [published.parameters(name) / 1e9 for name in names]
    return results.assign(size=size, family=list(map(published.family, names)))


# Metric of free answers -> its title and its axis.
_OF_ANSWERS = {
    "score": ("Score of free answers", "score (0 to 3)"),
    "lost at the gate": ("What answers in another language lose", "mean mark lost (0 to 3)"),
}


def answers_by_budget(results: pd.DataFrame, metric: str = "score") -> go.Figure:
    """The score of free answers (0 to 3), or what of it is lost at the language gate, in every language: by model size
    and budget where a table has several sizes (the study's Figures 1 to 4 and 8), else by budget; adapters and whole
    tuning by the line. The first judge's; the baseline is grey."""
    frame = _marked(results, metric)
    by_size = frame["size"].nunique() > 1 and np.isfinite(frame["size"]).all()
    languages = list(dict.fromkeys(frame["place"]))
    columns = min(3, len(languages))
    rows = -(-len(languages) // columns)
    gaps = {"horizontal_spacing": 0.05, "vertical_spacing": min(0.2, 0.5 / rows)}
    figure = make_subplots(rows, columns, subplot_titles=languages, shared_yaxes=True, **gaps)
    shown: set[str] = set()
    # where sizes do not tell places apart, rows without a budget come first, and adapters beside whole tuning
    others = frame.loc[frame["budget"] == "", "row"].unique()
    order = [*others, *(budget for budget in BUDGET_LOOK if budget in set(frame["budget"]))]
    for number, place in enumerate(languages):
        at = {"row": number // columns + 1, "col": number % columns + 1}
        here = frame[frame["place"] == place]
        # rows that were tuned on no budget go by their names
        for (_, budget, tuning), part in here.groupby(["called", "budget", "tuning"], sort=False):
            colour, symbol = BUDGET_LOOK.get(budget, (GREY, "diamond"))
            part = part.sort_values("size")
            name = f"{budget}, {'LoRA' if tuning == 'lora' else 'all weights'}" if budget else part["row"].iloc[0]
            legend = {"legendgroup": name, "showlegend": name not in shown}
            shown.add(name)
            hover = f"{name}: %{{y:.2f}}<extra></extra>"
            open_, dash = ("-open", "dot") if tuning == "lora" else ("", "solid")
            beside = 0.12 * ((tuning == "lora") - (tuning == "full")) if budget else 0
            x = part["size"] if by_size else [order.index(budget or name) + beside] * len(part)
            curve(figure, name, x, part, "value", (colour, symbol + open_, dash), hover, **legend, **at)
        if metric == "score":
            figure.add_hline(y=here["baseline"].max(), line=LINE | {"dash": "dash"}, **at)
    if by_size:
        figure.update_xaxes(type="log", title="parameters (billions)")
    else:
        ends = [-0.5, len(order) - 0.5]
        figure.update_xaxes(tickvals=list(range(len(order))), ticktext=order, tickangle=-35, range=ends)
    title, axis = _OF_ANSWERS[metric]
    figure.update_yaxes(range=[-0.1, 3.1])
    figure.update_yaxes(title=axis, col=1)
    figure.update_layout(legend_title="tuned on, how")
    level = " (dashes: baseline)" if metric == "score" else ""
    return style(figure, f"{title}, judged by {frame['source'].iloc[0]}{level}", 160 + 260 * rows)


def families(results: pd.DataFrame) -> go.Figure:
    """The score of free answers (0 to 3) by family of models, each family's largest, in every language (the study's
    Figure 5, which has LoRA alone; of a table without it all weights)."""
    frame = _marked(results, "score")
    frame = frame[frame["tuning"] == "lora"] if (frame["tuning"] == "lora").any() else frame
    frame = frame[frame["size"] == frame.groupby("family")["size"].transform("max")]
    figure = go.Figure()
    for budget, part in frame.groupby("budget", sort=False):
        colour, symbol = BUDGET_LOOK.get(budget, (GREY, "diamond"))
        look = {"mode": "markers", "marker": {"color": colour, "symbol": symbol, "size": 10}}
        place = {"x": [part["place"], part["family"]], "y": part["value"], "error_y": error_bars(part, "value")}
        figure.add_scatter(name=budget or "base", hovertemplate="%{x}: %{y:.2f}<extra></extra>", **look, **place)
    figure.update_layout(scattermode="group", legend_title="tuned on")
    figure.update_yaxes(title="score (0 to 3)", range=[-0.1, 3.1])
    return style(figure, "Score of free answers by family of models")


def _marked(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Lines of a metric of free answers in single languages, as the first judge has it; of a model for one language
    that one alone. With `size, family, place`."""
    frame = sizes(of_rows(results, None))
    frame = frame[(frame["metric"] == metric) & (frame["prompt"].astype(str) == "all")]
    frame = frame[(frame["dataset"] != "all") & (frame["language"] != "all")]
    frame = frame[frame["source"] == frame["source"].iloc[0]].fillna({"budget": "", "tuning": "", "trained_on": ""})
    frame = frame[(frame["trained_on"] == "") | (frame["trained_on"] == frame["language"])]
    order = {group: i for i, group in enumerate(GROUPS)}
    frame = frame.sort_values("group", key=lambda column: column.map(order), kind="stable")
    called = frame["budget"].where(frame["budget"] != "", frame["row"])
    return plain(frame.assign(place=frame["language_name"] + " " + frame["group"], called=called))
