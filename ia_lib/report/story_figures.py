"""The pictures of notebooks 3 and 5: functions from a data frame to a plotly figure, whose title says what is seen in
it, counted from the data."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ia_lib.data.languages import GROUPS, NAMES
from ia_lib.report import published
from ia_lib.report.audit import NOT_TESTABLE, TOLERANCE
from ia_lib.report.figures import (
    BASELINES,
    COLOURS,
    GREY,
    LINE,
    SYMBOLS,
    baseline_marks,
    error_bars,
    plain,
    plain_text,
    style,
)

_WRONG, _RIGHT = COLOURS[5], COLOURS[0]
# Mark after the gate -> colour; dark is good, and 0 is grey.
_MARKS = {0: "#B5B5B5", 1: "#BFD9EE", 2: "#56A0D3", 3: "#08519C"}


def label_scores(scores: pd.DataFrame, true: str) -> go.Figure:
    """How probable each label is after each prompt: `scores` has a line for each prompt and a column for each label,
    log-probabilities in nats. The shortest bar of a prompt is its prediction."""
    scores = scores.rename(index=plain_text, columns=plain_text)
    figure, best = go.Figure(), scores.idxmax(axis=1)
    for i, prompt in enumerate(scores.index):
        values = scores.loc[prompt]
        said = [f"{'<b>' * (name == best[prompt])}{_probability(value)}{'</b>' * (name == best[prompt])}"
                for name, value in values.items()]  # fmt: skip
        look = {"marker_color": COLOURS[i % len(COLOURS)], "text": said, "textposition": "auto"}
        hover = prompt + ", %{y}: %{x:.3f} nats<extra></extra>"
        figure.add_bar(name=prompt, x=values, y=list(values.index), orientation="h", hovertemplate=hover, **look)
    right = int((best == plain_text(true)).sum())
    figure.update_layout(barmode="group", legend_title="", bargap=0.25)
    figure.update_xaxes(title="log-probability of the label (nats); nearer to 0 is more probable")
    figure.update_yaxes(autorange="reversed", title="label")
    title = f"{plain_text(true)} is true, and it is chosen by {right} of {len(scores)} prompts (bold: the choice)"
    return style(figure, title, 180 + 30 * scores.size)


def _probability(nats: float) -> str:
    share = 100 * np.exp(nats)
    return f"{share:.1f}%" if share >= 1 else f"{share:.2g}%"


def confusion(counts: pd.DataFrame, mine: tuple[str, str], place: str) -> go.Figure:
    """What was called what: `counts` has true labels as lines and predicted ones as columns, a number of texts each;
    `mine` is the cell (true, predicted) of the text that is followed."""
    names = [plain_text(name) for name in counts.columns]
    total, right = int(counts.to_numpy().sum()), int(np.trace(counts.to_numpy()))
    figure = go.Figure(
        go.Heatmap(
            z=counts.to_numpy(),
            x=names,
            y=names,
            text=counts.to_numpy(),
            texttemplate="%{text}",
            textfont_size=16,
            colorscale="Blues",
            zmin=0,
            showscale=False,
            xgap=2,
            ygap=2,
            hovertemplate="true %{y}, called %{x}: %{z} texts<extra></extra>",
        )
    )
    x, y = (list(counts.columns).index(name) for name in (mine[1], mine[0]))
    box = {"x0": x - 0.48, "x1": x + 0.48, "y0": y - 0.48, "y1": y + 0.48, "line": {"color": _WRONG, "width": 4}}
    figure.add_shape(type="rect", **box)
    note = {"text": "our text", "showarrow": False, "font": {"color": _WRONG, "size": 13}}
    figure.add_annotation(x=x, y=y, yshift=24, bgcolor="rgba(255,255,255,0.8)", **note)
    figure.update_xaxes(title="called by the model", side="top")
    figure.update_yaxes(title="true label", autorange="reversed")
    style(figure, f"{plain_text(place)}: {right} of {total} texts are right (the diagonal)", 400)
    return figure.update_layout(margin_t=120, title_y=0.97, title_yanchor="top", width=680)


def staircase(steps: pd.DataFrame, run: str) -> go.Figure:
    """From prompts to the bar of the report: `steps` has `step, name, value, mine`, a point each (weighted F1, in
    percent); those that are `mine` are joined. Its attribute `levels` has the height of the baselines."""
    steps = plain(steps)
    figure, order = go.Figure(), list(dict.fromkeys(steps["step"]))
    for mine, part in steps.groupby("mine"):
        look = {
            "size": 13 if mine else 9,
            "color": _WRONG if mine else GREY,
            "symbol": "circle" if mine else "circle-open",
        }
        names = part["name"].where(part["mine"] & (part.groupby("step")["name"].transform("size") == 1), "")
        text = [f"{name} {value:.1f}" if name else "" for name, value in zip(names, part["value"], strict=True)]
        hover = "%{customdata}: %{y:.1f}<extra></extra>"
        figure.add_scatter(
            x=part["step"],
            y=part["value"],
            customdata=part["name"],
            mode="markers+text" if mine else "markers",
            text=text,
            textposition="top center",
            marker=look,
            name="our text counts in it" if mine else "others",
            hovertemplate=hover,
        )
    path = steps[steps["mine"]].groupby("step", sort=False)["value"].mean()
    figure.add_scatter(x=path.index, y=path, mode="lines", line={"color": _WRONG, "width": 2}, showlegend=False)
    for name, level in steps.attrs.get("levels", {}).items():
        title, dash = BASELINES[name]
        figure.add_hline(y=level, line=LINE | {"dash": dash})
        note = {"text": f"{title} {level:.0f}", "showarrow": False, "font_size": 11}
        figure.add_annotation(**note, xref="paper", x=1.0, xanchor="left", y=level)
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order, range=[-0.5, len(order) - 0.5])
    figure.update_yaxes(title="weighted F1 (%)", range=[0, 105])
    mine = steps[steps["mine"]]
    path = [", ".join(f"{one:.1f}" for one in part) for _, part in mine.groupby("step", sort=False)["value"]]
    title = f"From our text's prompts to {plain_text(run)} in {mine['name'].iloc[-1]}: {' → '.join(path)}"
    return style(figure, title, 460).update_layout(legend={"orientation": "h", "y": -0.12})


def languages(measures: pd.DataFrame, names: Mapping[str, str] = NAMES) -> go.Figure:
    """Weighted F1 of every language, averaged over prompts, with its 95% interval; what is within chance is hollow.
    `measures` has the lines of measures.csv, `names` those of the languages; a panel a task."""
    frame = measures[(measures["kind"] == "choose") & (measures["metric"] == "weighted_f1")]
    frame = frame[(frame["prompt"].astype(str) == "all") & (frame["language"] != "all") & (frame["dataset"] != "all")]
    frame = frame.assign(
        place=[f"{names.get(c, c)} ({g})" for c, g in zip(frame["language"], frame["group"], strict=True)]
    )
    frame = plain(frame.fillna({"dataset": ""}))
    tasks = list(dict.fromkeys(zip(frame["dataset"], frame["task"], strict=True)))
    titles = [" ".join(filter(None, task)) for task in tasks] if len(tasks) > 1 else None
    figure = make_subplots(1, len(tasks), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    for column, task in enumerate(tasks, 1):
        part = frame[(frame["dataset"] == task[0]) & (frame["task"] == task[1])]
        for i, (group, own) in enumerate(part.groupby("group", sort=False)):
            within = own["within_chance"].astype(str).isin(["True", "1", "1.0"])
            marker = {"color": COLOURS[i], "size": 11, "symbol": [SYMBOLS[i] + "-open" * one for one in within]}
            hover = "%{y}: %{x:.1f}<extra></extra>"
            place = {"x": own["value"], "y": own["place"], "mode": "markers", "marker": marker, "hovertemplate": hover}
            legend = {"name": GROUPS.get(group, group), "legendgroup": group, "showlegend": column == 1}
            figure.add_scatter(error_x=error_bars(own, "value"), **place, **legend, row=1, col=column)
        for name, (title, dash) in BASELINES.items():
            line = {"mode": "lines", "line": LINE | {"dash": dash}, "hovertemplate": title + " %{x:.1f}<extra></extra>"}
            legend = {"name": title, "legendgroup": name, "showlegend": column == 1}
            figure.add_scatter(x=part[name], y=part["place"], **line, **legend, row=1, col=column)
        figure.update_xaxes(title="weighted F1 (%)", range=[0, 103], row=1, col=column)
    figure.update_yaxes(autorange="reversed", automargin=True)
    above = int((~frame["within_chance"].astype(str).isin(["True", "1", "1.0"])).sum())
    title = f"{above} of {len(frame)} scores are shown to be above chance (hollow: within chance)"
    return style(figure, title, 190 + 26 * frame["place"].nunique())


def marks(every: pd.DataFrame, run: str, names: Mapping[str, str] = NAMES) -> go.Figure:
    """How many answers of a run have which mark after the gate, by language, a panel a judge; what they add up to
    stands above. `every` has the lines of marks.parquet."""
    mine = every[(every["run"] == run) & every["mark"].notna()]
    mine = plain(mine.assign(final=mine["mark"] * mine["inside"].astype(bool)))
    judges = list(dict.fromkeys(mine["judge"]))
    figure = make_subplots(1, max(1, len(judges)), subplot_titles=judges, shared_yaxes=True, horizontal_spacing=0.04)
    codes = list(dict.fromkeys(mine["language"]))
    for column, judge in enumerate(judges, 1):
        part = mine[mine["judge"] == judge]
        place = [plain_text(names.get(code, code)) for code in codes]
        for mark, colour in _MARKS.items():
            counts = [int(((part["language"] == code) & (part["final"].round() == mark)).sum()) for code in codes]
            name = "0: in another language" if mark == 0 else f"{mark}"
            hover = f"%{{x}}: %{{y}} answers with {mark}<extra></extra>"
            shown = {"name": name, "legendgroup": name, "showlegend": column == 1, "hovertemplate": hover}
            text = {"text": [count or "" for count in counts], "textposition": "inside"}
            figure.add_bar(x=place, y=counts, marker_color=colour, **shown, **text, row=1, col=column)
        for x, code in zip(place, codes, strict=True):
            own = part[part["language"] == code]
            note = {"text": f"<b>{own['final'].sum():.0f}</b> of {3 * len(own)}", "showarrow": False, "yshift": 12}
            figure.add_annotation(x=x, y=len(own), **note, row=1, col=column)
    turned = int((mine["final"] == 0).sum())
    figure.update_layout(barmode="stack", legend={"title": "mark", "traceorder": "reversed"}, margin_t=85)
    figure.update_yaxes(title="answers", col=1)
    title = f"{turned} of {len(mine)} answers are turned away by the gate; above each bar the sum of its marks"
    return style(figure, title, 420)


def judged(measures: pd.DataFrame, names: Mapping[str, str] = NAMES) -> go.Figure:
    """The score of every language (0 to 3), with its 95% interval, a colour a judge, beside the best baseline.
    `measures` has the lines of a judge stage's measures.csv."""
    frame = measures[(measures["metric"] == "score") & (measures["prompt"].astype(str) == "all")]
    frame = frame[(frame["language"] != "all") & (frame["dataset"] != "all")]
    places = zip(frame["language"], frame["group"], strict=True)
    frame = plain(frame.assign(place=[f"{names.get(code, code)} ({group})" for code, group in places]))
    figure = go.Figure()
    for i, (judge, part) in enumerate(frame.groupby("source", sort=False)):
        marker = {"color": COLOURS[i % len(COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 11}
        hover = f"{judge}<br>%{{y}}: %{{x:.2f}}<extra></extra>"
        place = {"x": part["value"], "y": part["place"], "orientation": "h", "mode": "markers", "marker": marker}
        figure.add_scatter(name=judge, error_x=error_bars(part, "value"), hovertemplate=hover, **place)
        baseline_marks(figure, part, 2, f"{judge}: baseline", marker["color"])
    above = int((frame["low"] > frame["baseline"]).sum())
    figure.update_xaxes(title="score: mean mark after the gate (0 to 3)", range=[-0.1, 3.1])
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(scattermode="group", legend_title="judge")
    title = f"{above} of {len(frame)} scores are shown to be above the best baseline (|)"
    return style(figure, title, 200 + 40 * frame["place"].nunique())


def judged_baselines(every: pd.DataFrame, run: str) -> go.Figure:
    """The mean mark of a run beside those of baselines, before and after the gate (0 to 3), a panel a judge. `every`
    has the lines of marks.parquet."""
    frame = every[every["mark"].notna()]
    frame = plain(frame.assign(final=frame["mark"] * frame["inside"].astype(bool)))
    judges, run = list(dict.fromkeys(frame["judge"])), plain_text(run)
    figure = make_subplots(1, max(1, len(judges)), subplot_titles=judges, shared_yaxes=True, horizontal_spacing=0.04)
    said = []
    for column, judge in enumerate(judges, 1):
        found = frame[frame["judge"] == judge].groupby("run")[["mark", "final"]].mean()
        order = sorted(found.index, key=lambda name: name != run)  # the run first
        found = found.reindex(order)
        looks = {"mark": ("the judge's mark", "#B5B5B5"), "final": ("after the gate: the score", COLOURS[0])}
        for name, (title, colour) in looks.items():
            shown = {"name": title, "legendgroup": name, "showlegend": column == 1, "marker_color": colour}
            text = {"text": found[name].map("{:.2f}".format), "hovertemplate": "%{y}: %{x:.2f}<extra></extra>"}
            figure.add_bar(x=found[name], y=order, orientation="h", **shown, **text, row=1, col=column)
        figure.update_xaxes(range=[0, 3.1], title="mean mark (0 to 3)", row=1, col=column)
        if run in found.index and len(found) > 1:
            rest = found["final"].drop(run)
            own, most = found["final"][run], rest.max()
            word = "less than" if own < most else "more than" if own > most else "as much as"
            said.append(f"{judge}: {run} has {own:.2f}, {word} “{rest.idxmax()}” with {most:.2f}")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return style(figure, "; ".join(said) or "Mean marks", 380).update_layout(legend_title="", margin_t=85)


def recomputed(frame: pd.DataFrame) -> go.Figure:
    """Every published number that follows from others, as printed and as recomputed: what disagrees lies off the line.
    `frame` is what `audit.recomputation` gives, without counts (numbers above 100)."""
    shown = plain(frame[(frame["published"] <= 100) & ~frame["cell"].str.contains("languages|Pearson")])
    off = shown["difference"].abs() > TOLERANCE
    figure = go.Figure()
    line = {"mode": "lines", "line": LINE, "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=[0, 100], y=[0, 100], **line)
    for name, part, colour, symbol in (
        ("agrees", shown[~off], GREY, "circle-open"),
        ("disagrees", shown[off], _WRONG, "x"),
    ):
        text = part["table"] + ", " + part["cell"]
        hover = "%{text}<br>printed %{x:.2f}, recomputed %{y:.2f}<extra></extra>"
        look = {"mode": "markers", "marker": {"color": colour, "symbol": symbol, "size": 8}, "hovertemplate": hover}
        figure.add_scatter(x=part["published"], y=part["recomputed"], text=text, name=name, **look)
    highest = 1.08 * max(shown[["published", "recomputed"]].max())
    figure.update_xaxes(title="as printed", range=[0, highest])
    figure.update_yaxes(title="as it follows from the other tables", range=[0, highest])
    every = int((frame["difference"].abs() > TOLERANCE).sum())
    return style(figure, f"{every} of {len(frame)} numbers do not follow from the numbers that they are made of", 520)


def constant_answers(cells: pd.DataFrame) -> go.Figure:
    """Every published score beside that of the majority label on the same texts: on the line both are the same, below
    it the model does worse than an answer without reading. `cells` is what `audit.constants` gives."""
    cells = plain(cells)
    figure = go.Figure()
    line = {"mode": "lines", "line": LINE, "hoverinfo": "skip", "showlegend": False}
    highest = 1.05 * max(cells["published"].max(), cells["majority"].max())
    figure.add_scatter(x=[0, highest], y=[0, highest], **line)
    for i, ((dataset, task), part) in enumerate(cells.groupby(["dataset", "task"], sort=False)):
        text = part["model"] + " " + part["objective"] + " " + part["language"]
        hover = "%{text}<br>majority label %{x:.1f}, printed %{y:.1f}<extra></extra>"
        marker = {"color": COLOURS[i], "symbol": SYMBOLS[i], "size": 7, "opacity": 0.7}
        name = (
            f"{dataset}<br>{task}: {int((part['published'] < part['majority'] - TOLERANCE).sum())} of {len(part)} below"
        )
        look = {"mode": "markers", "marker": marker, "hovertemplate": hover, "text": text}
        figure.add_scatter(x=part["majority"], y=part["published"], name=name, **look)
    figure.update_xaxes(title="majority label: weighted F1 (%)", range=[0, highest])
    figure.update_yaxes(title="printed: weighted F1 (%)", range=[0, highest])
    same = int(cells["equal"].sum())
    title = f"{same} of {len(cells)} printed scores are exactly those of one answer for all texts"
    return style(figure, title, 520).update_layout(margin_r=190)


def by_counts(comparisons: pd.DataFrame) -> go.Figure:
    """What COMMIT says is better than what: the difference in exact matches (points) with its 95% interval, filled
    where it is shown after Holm's correction. `comparisons` is what `commit_audit.comparisons` gives."""
    frame = plain(comparisons)
    frame["place"] = frame["table"] + ": " + frame["row"] + " − " + frame["than"]
    figure = go.Figure()
    shown = (frame["p_holm"] < 0.05) & (frame["difference"] > 0)
    columns = frame[["dataset", "language"]].drop_duplicates().itertuples(index=False, name=None)
    for i, (dataset, code) in enumerate(columns):
        part = frame[(frame["dataset"] == dataset) & (frame["language"] == code)]
        symbols = [SYMBOLS[i % len(SYMBOLS)] + "-open" * (not one) for one in shown[part.index]]
        marker = {"color": COLOURS[i % len(COLOURS)], "symbol": symbols, "size": 9}
        text = [f"{a} against {b} of {n:,}, p {p:.2g}, after Holm {h:.2g}" for a, b, n, p, h in
                part[["right", "right_than", "questions", "p", "p_holm"]].itertuples(index=False)]  # fmt: skip
        hover = "%{y}<br>%{x:+.2f} points: %{text}<extra></extra>"
        place = {"x": part["difference"], "y": part["place"], "orientation": "h", "text": text}
        ends = error_bars(part.assign(value=part["difference"]), "value")
        look = {"mode": "markers", "marker": marker, "hovertemplate": hover, "error_x": ends}
        figure.add_scatter(name=f"{dataset} {code}", **place, **look)
    figure.add_vline(x=0, line=LINE | {"width": 1})
    figure.update_layout(scattermode="group", legend_title="asked in")
    figure.update_xaxes(title="difference in exact matches (points)")
    figure.update_yaxes(autorange="reversed", automargin=True)
    title = f"{int(shown.sum())} of {len(frame)} advantages are shown by the counts (hollow: not shown)"
    return style(figure, title, 200 + 42 * frame["place"].nunique())


def beside_baselines(cells: pd.DataFrame, table: str = "Table 2") -> go.Figure:
    """COMMIT's printed cells on XQuAD beside the best baseline there: `cells` is what `commit_audit.beside_baselines`
    gives. A printed score left of its line is worse than answering without a model."""
    frame = plain(cells[cells["table"] == table])
    names = {"em": "exact match (%)", "f1": "F1 (%)"}
    titles = [f"{names[metric]}: {int(part['below'].sum())} of {len(part)} below"
              for metric, part in frame.groupby("metric", sort=False)]  # fmt: skip
    metrics = list(dict.fromkeys(frame["metric"]))
    figure = make_subplots(1, len(metrics), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.05)
    codes = list(dict.fromkeys(frame["language"]))
    for column, metric in enumerate(metrics, 1):
        for i, code in enumerate(codes):
            part = frame[(frame["metric"] == metric) & (frame["language"] == code)]
            symbols = [SYMBOLS[i] + "-open" * one for one in part["below"]]
            marker = {"color": COLOURS[i], "symbol": symbols, "size": 11}
            legend = {"name": code, "legendgroup": code, "showlegend": column == 1}
            hover = "%{y}: %{x:.2f}<extra>" + code + "</extra>"
            look = {"mode": "markers", "marker": marker, "hovertemplate": hover}
            figure.add_scatter(x=part["published"], y=part["row"], **look, **legend, row=1, col=column)
            baseline = part["baseline"].iloc[0]
            figure.add_vline(x=baseline, line={"color": COLOURS[i], "dash": "dot", "width": 1.5}, row=1, col=column)
    figure.update_xaxes(title="as printed (dotted: the baseline)", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", automargin=True)
    title = f"{int(frame['below'].sum())} of {len(frame)} printed scores are below the baseline (hollow)"
    return style(figure, title, 440).update_layout(margin_t=100)


def agreements(correlations: pd.DataFrame) -> go.Figure:
    """The Alpaca study's four correlations of judge and people, with the interval that so many models allow:
    `correlations` is what `alpaca_audit.correlations` gives."""
    frame = plain(correlations[correlations["language"] != "all"])
    figure = go.Figure()
    for i, (models, part) in enumerate(frame.groupby("models")):
        ends = {"type": "data", "thickness": 2, "array": part["high"] - part["pearson"]}
        ends["arrayminus"] = part["pearson"] - part["low"]
        names = [NAMES.get(code, code) for code in part["language"]]
        look = {"mode": "markers", "marker": {"size": 11, "color": COLOURS[i], "symbol": SYMBOLS[i]}}
        text = part["p"].map("p = {:.2g}".format)
        hover = "%{y}: r = %{x:.2f}, %{text}<extra></extra>"
        figure.add_scatter(
            x=part["pearson"], y=names, orientation="h", error_x=ends, name=f"over {models:.0f} models", text=text,
            hovertemplate=hover, **look,
        )  # fmt: skip
    figure.add_vline(x=0, line=LINE | {"width": 1})
    figure.update_layout(scattermode="group", legend_title="if they are")
    figure.update_xaxes(title="Pearson's r of judge and people, with its 95% interval", range=[-1.02, 1.02])
    figure.update_yaxes(autorange="reversed", automargin=True)
    fewest = int(frame["models"].min())
    shown = int((frame.loc[frame["models"] == fewest, "p"] < 0.05).sum())
    title = f"Over {fewest} models, {shown} of {frame['language'].nunique()} correlations are shown to differ from 0"
    return style(figure, title, 380)


def claims(ledger: pd.DataFrame) -> go.Figure:
    """How many claims of each paper follow, are contradicted or cannot be tested: `ledger` is `audit.ledger`'s."""
    figure, counts = go.Figure(), pd.crosstab(ledger["paper"], ledger["verdict"])
    colours = {"follows": _RIGHT, "contradicted": _WRONG, NOT_TESTABLE: "#B5B5B5"}
    order = [paper for paper in (published.INSTRUCTALIGN, published.IA1, published.COMMIT, published.ALPACA)
             if paper in counts.index]  # fmt: skip
    for verdict in (name for name in colours if name in counts):
        values = counts[verdict].reindex(order)
        hover = f"%{{y}}: %{{x}} {verdict}<extra></extra>"
        shown = {
            "name": verdict,
            "marker_color": colours[verdict],
            "text": values.where(values > 0),
            "hovertemplate": hover,
        }
        figure.add_bar(x=values, y=order, orientation="h", insidetextanchor="middle", **shown)
    figure.update_layout(barmode="stack", legend_title="")
    figure.update_xaxes(title="claims")
    figure.update_yaxes(autorange="reversed", automargin=True)
    number = {name: int(counts[name].sum()) if name in counts else 0 for name in colours}
    said = "{follows} follow, {contradicted} are contradicted, {other} are not testable".format(
        other=number.pop(NOT_TESTABLE), **number
    )
    figure.update_layout(legend_traceorder="normal")
    return style(figure, f"Of {len(ledger)} claims: {said}", 340)
