"""The picture at the top of a table's page: an SVG for each group of languages, drawn from results.csv."""

from html import escape
from textwrap import wrap

import pandas as pd

from ia_lib.data.languages import GROUPS

_ASKS = {"L2": "What was gained?", "L1": "What was kept?", "L3": "What carried over?"}
# Of each kind of task: what is measured, its unit, the highest value, decimals, and what is still called kept: a loss
# that the interval does not reach.
SCALES = {
    "choose": ("weighted F1, in percent", "points", 100, 1, 2.0),
    "extract": ("exact match, in percent", "points", 100, 1, 2.0),
    "open": ("mean mark of free answers, 0 to 3", "marks", 3, 2, 0.1),
    "translate": ("chrF, 0 to 100", "points", 100, 1, 2.0),
    "answer": ("loss of true answers, in nats a token, less is better", "nats a token", None, 2, 0.05),
}
_SHOWN = 12  # rows of a picture, before the others are folded away
# The picture: places in an SVG of this width, in its own units.
_WIDE, _NAMES, _LEFT, _RIGHT, _ROW, _TOP = 380, 116, 126, 306, 24, 30
# The corners of marks; the others are circles.
_FORMS = {
    "gain": [(0, -7), (7, 6), (-7, 6)],
    "loss": [(0, 7), (7, -6), (-7, -6)],
    "tested": [(-5, -5), (5, -5), (5, 5), (-5, 5)],
}


def panels(lines: pd.DataFrame, kind: str) -> tuple[list[str], list[str]]:
    """A drawing of each group of languages, and of the rows for which it has no room: those that gained least. `lines`
    has one for each row and group (`results.headlines`) of a kind of tasks."""
    order = {row: i for i, row in enumerate(dict.fromkeys(lines["row"]))}
    if len(order) > _SHOWN:
        best = lines[lines["group"] == ("L2" if (lines["group"] == "L2").any() else lines["group"].iloc[0])]
        best = best.sort_values("gained", ascending=False, kind="stable", na_position="last")
        order = {row: i for i, row in enumerate(dict.fromkeys([*best["row"], *order]))}
    rows = sorted(order, key=order.get)
    parts = rows[:_SHOWN], rows[_SHOWN:]
    highest = SCALES[kind][2] or max(lines["high"].max(), lines["base"].max(), lines["floor"].max()) * 1.05
    groups = [group for group in ("L2", "L1", "L3") if (lines["group"] == group).any()]
    return tuple(
        [_panel(group, lines[lines["row"].isin(part)], part, highest, kind) for group in groups if part]
        for part in parts
    )


def _panel(group: str, lines: pd.DataFrame, rows: list[str], highest: float, kind: str) -> str:
    """The values of rows in a group: a thin stroke for the base, a mark with its interval, hollow where it is not above
    the baseline (of labels within chance), whose reach is shaded."""
    decimals = SCALES[kind][3]
    own = lines[lines["group"] == group].set_index("row")
    bottom, asks = _TOP + _ROW * len(rows), f"{GROUPS[group].capitalize()} ({group})"
    asks = f"{_ASKS[group]} {asks}" if (lines["verdict"] != "").any() else asks

    def x(value: float) -> str:
        return f"{_LEFT + (_RIGHT - _LEFT) * min(max(value, 0), highest) / highest:.1f}"

    drawn, words = [f'<text class="asks" x="0" y="14">{asks}</text>'], []
    if len(own):
        floor = own["floor"].mean()
        ends = ("0", x(floor)) if kind != "answer" else (x(floor), f"{_RIGHT}")
        left = _LEFT if kind != "answer" else float(ends[0])
        drawn.append(
            f'<rect class="guess" x="{left}" y="{_TOP - 4}" width="{float(ends[1]) - left:.1f}" '
            f'height="{bottom - _TOP + 8}"/>'
        )
    for tick in (0, highest / 2, highest):
        said = f"{tick:.0f}" if highest >= 10 else f"{tick:.1f}"
        drawn.append(f'<path class="grid" d="M{x(tick)} {_TOP - 4}V{bottom + 4}"/>')
        drawn.append(f'<text class="tick" x="{x(tick)}" y="{bottom + 18}">{said}</text>')
    for i, row in enumerate(rows):
        y = _TOP + _ROW * i + _ROW // 2
        lines_of = wrap(row, 18, max_lines=2, placeholder="…", break_on_hyphens=True)
        for number, text in enumerate(lines_of):
            at = y + 4 if len(lines_of) == 1 else y - 2 + 11 * number
            small = ' font-size="10"' if len(lines_of) > 1 else ""
            drawn.append(f'<text class="row" x="{_NAMES}" y="{at}"{small}>{escape(text)}</text>')
        if row not in own.index:
            continue
        line = own.loc[row]
        look = line["verdict"] if line["verdict"] in ("gain", "loss") else "none"
        said = f"{row}: {line['value']:.{decimals}f} [{line['low']:.{decimals}f}, {line['high']:.{decimals}f}]"
        marks = [f'<path class="ends" d="M{x(line["low"])} {y}H{x(line["high"])}"/>']
        if pd.notna(line["base"]):
            marks.append(f'<path class="way" d="M{x(line["base"])} {y}H{x(line["value"])}"/>')
            marks.append(f'<path class="before" d="M{x(line["base"])} {y - 8}V{y + 8}"/>')
            said = f"{row}: from {line['base']:.{decimals}f} to {said[len(row) + 2 :]}, {line['verdict']}"
            change = f"{line['gained']:+.{decimals}f}"
            marks.append(f'<text class="change" x="{_WIDE - 4}" y="{y + 4}">{change}</text>')
        at = float(x(line["value"]))
        form = look if pd.notna(line["base"]) else "tested"
        hollow = "" if line["above"] else ' class="hollow"'
        if form in _FORMS:
            corners = " ".join(f"{at + dx:.1f},{y + dy}" for dx, dy in _FORMS[form])
            marks.append(f'<path{hollow} d="M{corners}Z"/>')
        else:
            marks.append(f'<circle{hollow} cx="{at:.1f}" cy="{y}" r="5"/>')
        drawn.append(f'<g class="{look}"><title>{escape(said)}</title>{"".join(marks)}</g>')
        words.append(said)
    words = f"{asks} {'; '.join(words)}."
    return f'<svg viewBox="0 0 {_WIDE} {bottom + 24}" role="img" aria-label="{escape(words)}">{"".join(drawn)}</svg>'
