"""Pictures that notebooks draw of a run: its method, an instruction, a batch, the loss of tokens. Functions from plain
values to SVG.

A picture is shown as an image with its own ground, light or dark as the browser is, so that it can be read in any
theme, on paper and in a page, and so that no text in it is ever taken for code. What it shows is said below it.
"""

import math
import re
import unicodedata
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import pandas as pd

WIDTH = 880  # pixels of every picture
_LINE = 22  # height of a line of text
_MONO = 7.8  # width of a letter of 13 pixels
_LIGHT = {
    **{"paper": "#ffffff", "ink": "#1b2733", "soft": "#55616d", "line": "#b4bec8"},
    **{"old": "#65717e", "oldtint": "#dfe4e9", "new": "#0068a5", "newtint": "#cfe3f2"},
    **{"noise": "#8a4500", "noisetint": "#fbe3c8", "on": "#ffffff"},
}
_DARK = {
    **{"paper": "#141a21", "ink": "#e6ebf0", "soft": "#a9b4bf", "line": "#4b5763"},
    **{"old": "#a3afba", "oldtint": "#323c46", "new": "#62bbee", "newtint": "#1b4059"},
    **{"noise": "#f0ab45", "noisetint": "#4a3410", "on": "#0b1117"},
}
# What cannot stand in XML, or would turn the direction of what follows it.
_ILLEGAL = re.compile("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Drawing:
    """A picture: its SVG, its title, what can be read from it, and what else stands in it, for those who do not see
    it."""

    svg: str
    title: str
    said: str
    inside: str = ""

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        data = b64encode(self.svg.encode("utf-8")).decode()
        seen = escape(f"{self.title}. {self.inside}".strip())
        image = f'<img width="{WIDTH}" alt="{seen}" src="data:image/svg+xml;base64,{data}">'
        return {"text/plain": f"{self.title}\n{self.said}", "text/html": f"{image}<p>{escape(self.said)}</p>"}


@dataclass(frozen=True)
class Table:
    """A table of texts, which begin at the left, as they are read; with `names` its lines have theirs."""

    frame: pd.DataFrame
    names: bool = False

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        table = self.frame.to_html(index=self.names, border=0, justify="left", classes="ia-texts")
        for cell in ("td", "th"):  # a look of the table's own is taken away from a notebook that is not trusted
            table = table.replace(f"<{cell}>", f'<{cell} style="text-align: left; vertical-align: top">')
        plain = self.frame.to_string(index=self.names) if len(self.frame) else "(no lines)"
        return {"text/plain": plain, "text/html": table}


@dataclass
class _Canvas:
    """Shapes in the order in which they are drawn. Colours are names in `_LIGHT`."""

    height: float = 0
    parts: list[str] = field(default_factory=list)

    def box(self, x: float, y: float, width: float, height: float, fill: str = "none", edge: str = "", dash="", rx=4):
        """A rectangle, its corners rounded by `rx`."""
        look = f'style="fill:{_colour(fill)};stroke:{_colour(edge or "none")}"'
        dashed = ' stroke-dasharray="5 4"' if dash else ""
        place = (
            f'x="{x:.1f}" y="{y:.1f}" width="{max(0, width):.1f}" height="{height:.1f}" rx="{min(rx, height / 3):.1f}"'
        )
        self.parts.append(f"<rect {place} {look}{dashed}/>")
        self.height = max(self.height, y + height)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size=13,
        colour="ink",
        bold=False,
        anchor="start",
        mono=False,
        halo=False,
    ) -> None:
        """One line of text; `mono` gives every letter its width, whatever the font; with `halo` it is read over
        lines."""
        known = f' textLength="{_mono(text):.1f}" lengthAdjust="spacingAndGlyphs"' if mono and text.strip() else ""
        look = f"fill:{_colour(colour)};font-size:{size}px" + (";font-weight:600" if bold else "")
        look += ";paint-order:stroke;stroke:var(--paper);stroke-width:3px" if halo else ""
        kind = ' class="mono"' if mono else ""
        where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self.parts.append(f'<text {where}{known}{kind} style="{look}">{_plain(text)}</text>')
        self.height = max(self.height, y + 6)

    def line(self, *points: tuple[float, float], colour: str = "soft", arrow: bool = False, dash: bool = False) -> None:
        """A line through the points, perhaps with a head."""
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        more = (' marker-end="url(#head)"' if arrow else "") + (' stroke-dasharray="4 3"' if dash else "")
        self.parts.append(
            f'<polyline points="{way}" style="fill:none;stroke:{_colour(colour)}" stroke-width="1.5"{more}/>'
        )

    def done(self, title: str, said: str, inside: str = "") -> Drawing:
        """The picture, as high as what is in it."""
        height = self.height + 14
        colours = ["".join(f"--{name}:{value};" for name, value in those.items()) for those in (_LIGHT, _DARK)]
        style = (
            f":root{{{colours[0]}}}@media (prefers-color-scheme:dark){{:root{{{colours[1]}}}}}"
            "text{font-family:system-ui,'Segoe UI',Roboto,'Noto Sans',sans-serif;white-space:pre}"
            ".mono{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono','Noto Sans',monospace}"
        )
        head = (
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path d="M0,0 L8,4 L0,8 z" style="fill:var(--soft)"/></marker></defs>'
        )
        size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
        ground = f'<rect width="{WIDTH}" height="{height:.0f}" rx="6" style="fill:var(--paper)"/>'
        body = "".join(self.parts)
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>{head}{ground}{body}</svg>'
        return Drawing(svg, title, said, inside)


def _colour(name: str) -> str:
    return name if name == "none" else f"var(--{name})"


def _plain(text: str) -> str:
    return escape(_ILLEGAL.sub("\ufffd", text.replace("\n", "↵").replace("\t", " ")), quote=False)


def _mono(text: str) -> float:
    """The width of a text whose letters are all as wide; those of East Asia are twice as wide, marks have none."""
    wide = sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return wide * _MONO


def cut(text: str, letters: int) -> str:
    """The beginning of a text, if it is longer."""
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def _wrapped(text: str, width: float, size: float = 13) -> list[str]:
    """A text in lines that are hardly wider than `width` pixels."""
    lines, most = [""], max(4, int(width / (size * 0.57)))
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {cut(word, most)}".strip()
    return lines


# ---------------------------------------------------------------------- the method


@dataclass
class Box:
    """A box of the picture of the method: its heading, lines of text, and its colour (old, new, soft)."""

    title: str
    lines: list[str]
    colour: str = "soft"
    there: bool = True  # else it is dashed


def method(corpus: Box, instructions: Box, past: Box, replay: Box, batch: list[str], model: Box, tests: list[Box],
           followed: Sequence[tuple[str, str, str]]) -> Drawing:  # fmt: skip
    """The whole method from left to right: new texts become instructions, old ones are replayed, both take turns in
    batches, which train a model, which is tested on groups of languages. `batch` names the roles of a batch's examples
    in turn; `followed` are lines (what, text, colour) of the instruction that is followed."""
    canvas = _Canvas()
    column, gap, top = 182, 28, 20
    second = column + gap + 14
    heights = [_box_height(box, column) for box in (corpus, instructions, past, replay)]
    high, low = max(heights[:2]), max(heights[2:])
    below = top + high + 26
    for box, x, y, height in (
        *((corpus, 14, top, high), (instructions, second, top, high)),
        *((past, 14, below, low), (replay, second, below, low)),
    ):
        _box(canvas, box, x, y, column, height)
    for y, there in ((top + high / 2, instructions.there), (below + low / 2, replay.there)):
        canvas.line((14 + column, y), (second - 3, y), arrow=True, dash=not there)
    # the batch, as stripes
    x, bottom = second + column + gap, below + low
    middle, stripes = (top + bottom) / 2, batch[:12]
    begin = middle - len(stripes) * 7
    canvas.text(x + 30, begin - 12, "a batch", size=12, colour="soft", anchor="middle")
    for number, role in enumerate(stripes):
        canvas.box(x, begin + number * 14, 60, 11, fill=role)
    if stripes:
        for y, box in ((top + high / 2, instructions), (below + low / 2, replay)):
            if box.there:
                canvas.line((second + column, y), (second + column + 14, y), (x - 3, middle), arrow=True)
    if len(batch) > len(stripes):
        canvas.text(x + 30, begin + len(stripes) * 14 + 12, f"… {len(batch)} in all", size=12, colour="soft",
                    anchor="middle")  # fmt: skip
    # the model, and what it is tested on
    wide = 146
    x, height = x + 60 + 26, _box_height(model, wide)
    canvas.line((x - 26, middle), (x - 3, middle), arrow=True)
    _box(canvas, model, x, middle - height / 2, wide, height)
    begin, last = x + wide + 26, WIDTH - 14
    sizes = [_box_height(box, last - begin) for box in tests]
    free = max(10, (bottom - top - sum(sizes)) / max(1, len(sizes)))
    y = max(8, middle - (sum(sizes) + free * (len(sizes) - 1)) / 2)
    for box, size in zip(tests, sizes, strict=True):
        canvas.line((x + wide, middle), (begin - 3, y + size / 2), arrow=True)
        _box(canvas, box, begin, y, last - begin, size)
        y += size + free
    if followed:
        y = canvas.height + 26
        canvas.line((14, y - 12), (WIDTH - 14, y - 12), colour="line")
        for what, text, colour in followed:
            canvas.text(14, y + 10, what, size=12, colour="soft")
            canvas.text(160, y + 10, cut(text, 88), mono=True, colour=colour)
            y += _LINE
    told = [f"{box.title}: {' '.join(box.lines)}" for box in (corpus, instructions, past, replay, model, *tests)]
    said = "Blue is what is new to the model, grey what it has seen before; dashed is what this run does not use."
    return canvas.done("The method, from texts to tests", said, ". ".join(told))


def _box_height(box: Box, width: float) -> float:
    return 34 + 17 * sum(len(_wrapped(line, width - 20, 12)) for line in box.lines)


def _box(canvas: _Canvas, box: Box, x: float, y: float, width: float, height: float) -> None:
    colour = box.colour if box.there else "line"
    canvas.box(x, y, width, height, fill=f"{box.colour}tint" if box.there and box.colour != "soft" else "none",
               edge=colour, dash="" if box.there else "yes")  # fmt: skip
    canvas.text(x + 10, y + 20, box.title, bold=True, colour="ink" if box.there else "soft")
    y += 38
    for part in (part for line in box.lines for part in _wrapped(line, width - 20, 12)):
        canvas.text(x + 10, y, part, size=12, colour="ink" if box.there else "soft")
        y += 17


# ---------------------------------------------------------------------- texts, word by word


# The looks of parts of a text: ground, letters.
LOOKS = {
    "plain": ("none", "ink"),
    "old": ("oldtint", "ink"),
    "new": ("newtint", "ink"),
    "noise": ("noisetint", "noise"),
    "answer": ("new", "on"),
    "old answer": ("old", "on"),
}


def parts(title: str, pieces: Iterable[tuple[str, str]], said: str, legend: Mapping[str, str] | None = None,
          most: int = 24, apart: bool = False) -> Drawing:  # fmt: skip
    """A text in pieces (text, look in `LOOKS`), `most` lines of it. With `apart` every piece stands in a box of its
    own, as tokens do; `legend` says what looks mean."""
    canvas = _Canvas()
    x, y, line = 14.0, 12.0, 0
    for name, look in (legend or {}).items():
        canvas.box(x, y, 14, 14, fill=LOOKS[look][0], edge="line")
        canvas.text(x + 20, y + 12, name, size=12, colour="soft")
        x += 40 + 6.6 * len(name)
    x, y = 14.0, y + (26 if legend else 0)
    for text, look in pieces:
        fill, ink = LOOKS[look]
        for word in [text] if apart else re.findall(r"\n|[^\S\n]+|[^\s]+", text):
            if word == "\n":
                x, y, line = 14.0, y + _LINE + 2, line + 1
                continue
            word = cut(word, 90)
            width = _mono(word.replace("\n", "↵")) + (8 if apart else 0)
            if x + width > WIDTH - 14:
                x, y, line = 14.0, y + _LINE + (6 if apart else 2), line + 1
                if not word.strip() and not apart:
                    continue
            if line >= most:
                canvas.text(x, y + 15, "…", colour="soft")
                return canvas.done(title, said)
            if fill != "none" or apart:
                own = {"edge": "line"} if apart else {"rx": 0}
                canvas.box(x, y, width + (0 if apart else 0.5), _LINE - 2, fill=fill, **own)
            canvas.text(x + (4 if apart else 0), y + 15, word.replace("\n", "↵"), colour=ink, mono=True)
            x += width + (3 if apart else 0)
    canvas.height = max(canvas.height, y + _LINE)
    return canvas.done(title, said)


# ---------------------------------------------------------------------- counts


def bars(title: str, lines: Sequence[tuple[str, float, str]], said: str, unit: str = "",
         expected: Sequence[float] | None = None, digits: int = 0) -> Drawing:  # fmt: skip
    """A bar for each line (name, value, colour); a mark where `expected` has it. `unit` stands behind the numbers."""
    canvas = _Canvas()
    canvas.text(14, 24, title, size=14, bold=True)
    left = 30 + max((_mono(cut(name, 40)) for name, *_ in lines), default=0)
    most = max([value for _, value, _ in lines] + list(expected or ()), default=0) or 1
    scale = (WIDTH - left - 140) / most
    for number, (name, value, colour) in enumerate(lines):
        y = 40 + number * _LINE
        canvas.text(left - 12, y + 13, cut(name, 40), anchor="end")
        canvas.box(left, y, max(1.5, value * scale), 16, fill=colour)
        end = value
        if expected is not None:
            end, at = max(value, expected[number]), left + expected[number] * scale
            canvas.line((at, y - 2), (at, y + 18), colour="ink")
        canvas.text(left + end * scale + 8, y + 13, f"{value:,.{digits}f}{unit}", size=12, colour="soft")
    return canvas.done(title, said)


def lengths(title: str, groups: Mapping[str, tuple[Sequence[int], str]], said: str, bins: int = 40) -> Drawing:
    """How long examples are, in tokens: of each group (name -> lengths, colour) a line of columns on the same scale."""
    canvas = _Canvas()
    canvas.text(14, 24, title, size=14, bold=True)
    most = max((max(values) for values, _ in groups.values() if len(values)), default=1)
    size = max(1, math.ceil((most + 1) / bins))
    left, width, high = 110.0, WIDTH - 150.0, 64
    step = width / (most // size + 1)
    y = 40.0
    for name, (values, colour) in groups.items():
        counts: dict[int, int] = {}
        for value in values:
            counts[value // size] = counts.get(value // size, 0) + 1
        tallest = max(counts.values(), default=1)
        canvas.text(left - 12, y + high - 4, name, anchor="end")
        canvas.line((left, y + high), (left + width, y + high), colour="line")
        for place, count in sorted(counts.items()):
            tall = max(1.5, count / tallest * high)
            canvas.box(left + place * step + 0.5, y + high - tall, step - 1, tall, fill=colour)
        y += high + 16
    marks = [round(most * share / 4) for share in range(5)]
    for mark in dict.fromkeys(marks):
        canvas.text(left + (mark / size) * step, y + 4, f"{mark:,}", size=12, colour="soft", anchor="middle")
    canvas.text(left + width, y + 22, "tokens", size=12, colour="soft", anchor="end")
    return canvas.done(title, said)


# ---------------------------------------------------------------------- the batch


def batch(title: str, rows: Sequence[tuple[str, int, int]], said: str, marked: int | None = None,
          most: int = 32) -> Drawing:  # fmt: skip
    """The examples of a batch, one below the other, as (role, tokens without loss, tokens with loss): the light part of
    a bar is only read, on the full one the loss is computed. The example `marked`, from 0, is pointed at."""
    canvas = _Canvas()
    x = 14.0
    legend = [(f"{role}, {what}", role + tint) for role in dict.fromkeys(role for role, *_ in rows)
              for what, tint in (("only read", "tint"), ("with loss", ""))]  # fmt: skip
    for name, fill in legend:
        canvas.box(x, 12, 18, 13, fill=fill, edge="line")
        canvas.text(x + 24, 23, name, size=12, colour="soft")
        x += 44 + 6.4 * len(name)
    shown = rows[: max(most, (marked or 0) + 1)][-most:]
    first = len(rows[: max(most, (marked or 0) + 1)]) - len(shown)
    left, longest = 84.0, max((read + counted for _, read, counted in shown), default=1)
    scale = (WIDTH - left - 150) / longest
    high = 20 if len(shown) <= 16 else 15
    for number, (role, read, counted) in enumerate(shown):
        y, own = 38 + number * high, marked is not None and number + first == marked
        canvas.text(left - 10, y + high - 7, f"{number + first + 1:>2} {role}", size=12, bold=own, anchor="end")
        canvas.box(left, y, read * scale, high - 4, fill=f"{role}tint")
        canvas.box(left + read * scale, y, counted * scale, high - 4, fill=role)
        end = left + (read + counted) * scale + 8
        own_said = " ◀ ours" if own else ""
        canvas.text(end, y + high - 7, f"{read} + {counted}{own_said}", size=12, colour="ink" if own else "soft",
                    bold=own)  # fmt: skip
    if len(rows) > len(shown) + first:
        more = len(rows) - len(shown) - first
        canvas.text(left, 38 + len(shown) * high + 14, f"… and {more} more", size=12, colour="soft")
    return canvas.done(title, said)


# ---------------------------------------------------------------------- the loss, token by token


def losses(title: str, tokens: Sequence[str], now: Sequence[float], said: str, before: Sequence[float] | None = None,
           level: float | None = None, most: int = 32) -> Drawing:  # fmt: skip
    """A column for each token of an answer: how much it surprised the model, in nats; hollow what it was `before`.
    `level` is chance: the loss of a guess among all tokens."""
    canvas, high, top = _Canvas(), 130, 50
    tokens, now, before = tokens[:most], now[:most], None if before is None else before[:most]
    canvas.text(14, 24, title, size=14, bold=True)
    tallest = max([*now, *(before or ()), level or 0, 0.1])
    step = min(96.0, (WIDTH - 60) / max(1, len(tokens)))
    for share in (0, 0.5, 1):
        y = top + high * (1 - share)
        canvas.line((44, y), (WIDTH - 14, y), colour="line")
        canvas.text(38, y + 4, f"{tallest * share:.1f}", size=11, colour="soft", anchor="end")
    slanted = any(_mono(token) > step - 4 for token in tokens)
    for number, (token, value) in enumerate(zip(tokens, now, strict=True)):
        x = 50 + number * step
        if before is not None:
            tall = before[number] / tallest * high
            canvas.box(x + step * 0.1, top + high - tall, step * 0.62, tall, edge="soft", dash="yes")
        tall = max(1.5, value / tallest * high)
        canvas.box(x + step * 0.1, top + high - tall, step * 0.62, tall, fill="new")
        if slanted:
            at = f'transform="translate({x + step * 0.35:.1f},{top + high + 16:.1f}) rotate(35)"'
            canvas.parts.append(f"<g {at}>")
            canvas.text(0, 0, cut(token, 14), size=12)
            canvas.parts.append("</g>")
        else:
            canvas.text(x + step * 0.41, top + high + 18, token, size=12, anchor="middle")
        canvas.text(x + step * 0.41, top + high - max(tall, 0) - 5, f"{value:.1f}", size=11, anchor="middle",
                    halo=True)  # fmt: skip
    canvas.height = top + high + (30 if not slanted else 30 + 4.6 * max(len(cut(token, 14)) for token in tokens))
    if level is not None:
        y = top + high - level / tallest * high
        canvas.line((44, y), (WIDTH - 14, y), colour="noise", dash=True)
        canvas.text(WIDTH - 16, y - 5, f"chance: {level:.1f}", size=11, colour="noise", anchor="end")
    return canvas.done(title, said)


def curves(
    title: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float], str]], said: str, across: str
) -> Drawing:
    """Lines (name -> places across, values, colour) from zero up; `across` says what is counted across."""
    canvas, left, top, wide, high = _Canvas(), 60.0, 56.0, WIDTH - 90.0, 200
    canvas.text(14, 24, title, size=14, bold=True)
    lines = {name: line for name, line in lines.items() if len(line[0])}
    last = max((max(places) for places, *_ in lines.values()), default=1) or 1
    tallest = max((max(values) for _, values, _ in lines.values()), default=1) or 1
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = top + high * (1 - share)
        canvas.line((left, y), (left + wide, y), colour="line")
        canvas.text(left - 8, y + 4, f"{tallest * share:.1f}", size=11, colour="soft", anchor="end")
        canvas.text(
            left + wide * share, top + high + 18, f"{last * share:,.0f}", size=11, colour="soft", anchor="middle"
        )
    x = left
    for name, (places, values, colour) in lines.items():
        points = [(left + wide * p / last, top + high * (1 - v / tallest)) for p, v in zip(places, values, strict=True)]
        canvas.line(*points, colour=colour)
        for px, py in points if len(points) < 60 else ():
            canvas.box(px - 3, py - 3, 6, 6, fill=colour)
        canvas.box(x, 36, 14, 8, fill=colour)
        canvas.text(x + 20, 44, name, size=12, colour="soft")
        x += 50 + 6.6 * len(name)
    canvas.text(left + wide, top + high + 36, across, size=12, colour="soft", anchor="end")
    return canvas.done(title, said)
