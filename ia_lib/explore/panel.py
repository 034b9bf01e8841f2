"""What a panel is made of: controls with labels; a button and a bar where the work takes long; below them the result,
or one sentence that says what was typed and what is allowed.

Colours are shades that let the page's own colour through, so that they can be read in a light and in a dark theme.
"""

import contextlib
import functools
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from html import escape

import ipywidgets as widgets
from traitlets import Unicode

from ia_lib.data.addresses import Told, redacted

_STYLE = """<style>
.ia {overflow-wrap: anywhere; line-height: 1.45} .ia-wide {overflow-x: auto}
.ia table {border-collapse: collapse; overflow-wrap: normal}
.ia td, .ia th {padding: .2rem .6rem; text-align: left; vertical-align: top; min-width: 3rem;
border-bottom: 1px solid rgba(128, 128, 128, .35)} .ia th {font-weight: 600}
.ia .tok {border: 1px solid rgba(128, 128, 128, .6); border-radius: 3px; padding: 0 .2rem; margin: 0 1px;
display: inline-block; font-family: monospace; white-space: pre-wrap; line-height: 1.5}
.ia .answer {background: rgba(33, 150, 243, .25)} .ia .differs {background: rgba(255, 152, 0, .17)}
.ia .best {font-weight: 700; text-decoration: underline} .ia .wrong {font-weight: 600}
.ia pre {white-space: pre-wrap; overflow-wrap: anywhere; word-break: normal; line-height: 1.45; margin: .3rem 0}
.ia progress {width: 12rem; max-width: 60%; vertical-align: middle} .ia summary {cursor: pointer}
.ia .said {border-left: 4px solid rgba(255, 152, 0, .9); padding: .1rem .7rem}
</style>"""
# Characters that a text may have, and seconds between two steps of a bar.
_MOST, _PAUSE = 10_000, 0.1
# How wide a control is: two stand beside each other where there is room for them.
_WIDTH = "min(27rem, 98%)"

Tell = Callable[..., None]  # (what is being done, steps done = 0, steps in all = 0)


class Wrong(ValueError):
    """What was typed or chosen cannot be used; the text is the one sentence that the panel shows."""


class Typed(widgets.Textarea):
    """A text of several lines. What is typed is not sent back to the page: half a character could not be."""

    value = Unicode("").tag(sync=True, echo_update=False)


class Line(widgets.Text):
    """The same of one line."""

    value = Unicode("").tag(sync=True, echo_update=False)


class Panel(widgets.VBox):
    """Controls, and below them what `draw` makes of their values: HTML, drawn again with every change.

    With a `button` `draw` takes long: it is called when the button is pressed, with a `Tell` as its first argument, by
    which it says how far it is. Until it is done the button cannot be pressed, and presses that have come in meanwhile
    find nothing changed and do nothing. When another control changes, the one called "page" goes back to 1.

    Whatever `draw` raises becomes one sentence in the panel.
    """

    def __init__(self, controls: dict[str, widgets.Widget], draw: Callable[..., str], button: str = ""):
        self.controls, self._draw = controls, draw
        self.shown, self._state = widgets.HTML(), widgets.HTML()
        self._values, self._waits, self._told = None, False, 0.0
        for control in controls.values():
            control.observe(self._changed, names="value")
            control.layout.width = _WIDTH
            control.style.description_width = "7.5rem"
            if hasattr(control, "continuous_update"):
                control.continuous_update = False
        row = list(controls.values())
        self.button = None
        if button:
            self.button = widgets.Button(description=button, button_style="primary")
            self.button.on_click(self._pressed)
            row += [
                widgets.HBox(
                    [self.button, self._state],
                    layout=widgets.Layout(flex_flow="row wrap", align_items="center", width="100%"),
                )
            ]
            self._say(f"Press “{button}”.")
        else:
            self._show()
        layout = widgets.Layout(flex_flow="row wrap", align_items="flex-start", width="100%")
        super().__init__([widgets.Box(row, layout=layout), self.shown])

    def values(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    def _changed(self, change: dict) -> None:
        if self._waits:
            return
        page = self.controls.get("page")
        if page is not None and change["owner"] is not page:
            self._waits = True  # for the page to be the first one
            page.value = 1
            self._waits = False
        if not self.button:
            self._show()
        else:
            changed = self.values() != self._values
            self._say(f"This has changed: press “{self.button.description}”." if changed else "")

    def _pressed(self, _) -> None:
        if self.button.disabled or (values := self.values()) == self._values:
            return
        self.button.disabled = True
        try:
            self._tell("beginning")
            # what failed is tried again at the next press
            self._values = values if self._show(self._tell) else None
        finally:
            self.button.disabled = False
            self._say("")

    def _show(self, *tell: Tell) -> bool:
        """Draw; returns whether that would give the same again."""
        try:
            body, same = self._draw(*tell, **self.values()), True
        except (Exception, KeyboardInterrupt) as error:  # whatever it is, the panel goes on
            body, same = sentence(error), isinstance(error, ValueError)
        self.shown.value = html(body)
        return same

    def _tell(self, what: str, done: int = 0, total: int = 0) -> None:
        now = time.monotonic()
        if done and now - self._told < _PAUSE:
            return
        self._told = now
        # without a number of steps the bar moves to and fro
        told = f"{min(done, total):,} of at most {total:,}" if total else ""
        share = f"value='{min(done, total)}' max='{total}'" if total else ""
        self._say(f"working … {what} {told}".rstrip(), f" <progress {share} aria-label='progress'></progress>")

    def _say(self, said: str, more: str = "") -> None:
        self._state.value = html(f"<span role='status'>{escape(said)}</span>{more}") if said else ""


def html(body: str) -> str:
    """What a panel shows, fit to be sent: halves of characters are replaced."""
    return f"{_STYLE}<div class='ia'>{body}</div>".encode("utf-8", "replace").decode("utf-8")


def sentence(error: BaseException) -> str:
    """What went wrong, in one sentence and as HTML."""
    said = redacted(" ".join(str(error).split()))[:500]
    if isinstance(error, KeyboardInterrupt):
        said = "It was stopped; press the button to begin again."
    elif isinstance(error, MemoryError) or "out of memory" in said:
        said = "There is not enough memory for this; allowed: a shorter text, fewer tokens, or a smaller model."
    elif not said or not isinstance(error, Told | ValueError | RuntimeError | ImportError | OSError):
        said = f"This cannot be shown ({type(error).__name__}: {said})."
    return f"<p class='said' role='alert'>{escape(said)}</p>"


def nothing(said: str) -> widgets.Widget:
    """A panel that has nothing to show, and says why and what to set."""
    return widgets.HTML(html(f"<p class='said'>{escape(said)}</p>"))


def or_sentence(build: Callable[..., widgets.Widget]) -> Callable[..., widgets.Widget]:
    """A method that makes a panel: if it cannot be made, the sentence that says why stands in its place."""

    @functools.wraps(build)
    def made(explorer) -> widgets.Widget:
        try:
            return build(explorer)
        except (Told, ValueError, OSError) as error:
            return widgets.HTML(html(sentence(error)))

    return made


def read(text: str, what: str = "text", most: int = _MOST) -> str:
    """A text that somebody typed; raises Wrong for one that is empty, too long (`most` characters) or holds what is no
    character."""
    if not any(unicodedata.category(letter)[0] not in "ZC" for letter in text):
        raise Wrong(f"The {what} is empty: write some words.")
    if len(text) > most:
        raise Wrong(f"The {what} has {len(text):,} characters; allowed: {most:,} at most.")
    for place, letter in enumerate(text, 1):
        if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\r\t":
            what = f"The {what} has U+{ord(letter):04X} as its character {place:,}, a sign for machines"
            raise Wrong(f"{what}; allowed: letters, signs, blanks and line breaks.")
    return text


def words(typed: str, most: int = 20) -> list[str]:
    """Labels with commas or line breaks between them; raises Wrong for fewer than two, more than `most`, and one that
    stands there twice, and as `read` does."""
    found = [word.strip() for line in typed.splitlines() for word in line.split(",") if word.strip()]
    if not 2 <= len(found) <= most:
        raise Wrong(f"Found {len(found)} labels; allowed: 2 to {most}, with commas between them.")
    for i, word in enumerate(found):
        read(word, f"label “{word[:40]}”", 200)
        if word in found[:i]:
            raise Wrong(f"The label “{word}” stands there twice; allowed: each label once.")
    return found


@contextlib.contextmanager
def counted(model, tell: Callable[[int], None]) -> Iterator[None]:
    """Tell how many tokens a model has given: it runs once more for each of them."""
    given = 0

    def hear(*_) -> None:
        nonlocal given
        given += 1
        tell(given)

    hook = model.register_forward_hook(hear)
    try:
        yield
    finally:
        hook.remove()


# ------------------------------------------------------------------ controls


def choice(title: str, options: Iterable, value=None) -> widgets.Dropdown:
    """One of some values, or of pairs (what it is called, value)."""
    pairs = [option if isinstance(option, tuple) else (str(option), option) for option in options]
    values = [value for _, value in pairs]
    return widgets.Dropdown(options=pairs, value=value if value in values else values[0], description=title)


def two(names: Iterable[str]) -> dict[str, widgets.Dropdown]:
    names = list(names)
    return {"first": choice("first run", names), "second": choice("second run", names, names[-1])}


def named(run, codes: Iterable[str]) -> list[tuple[str, str]]:
    """Languages as a run calls them, with their codes."""
    return [(f"{run.language(code)} ({code})", code) for code in dict.fromkeys(codes)]


def typed(title: str, value: str, rows: int = 3) -> Typed:
    return Typed(value, description=title, rows=rows)


# ------------------------------------------------------------------ what is shown


def tokens(pieces: list[str], kind: str = "", most: int = 400) -> str:
    """Each token in a box of its own."""
    more = f" … and {len(pieces) - most:,} more" if len(pieces) > most else ""
    return "".join(f"<span class='tok {kind}'>{escape(piece)}</span>" for piece in pieces[:most]) + more


def marked(prompt: str, answer: str) -> str:
    """A prompt with its answer, which is shaded."""
    return f"<pre dir='auto'>{escape(prompt)}<span class='answer'>{escape(answer)}</span></pre>"


def table(head: list[str], rows: Iterable[tuple]) -> str:
    """A table of cells in HTML, which scrolls sideways by itself; a line begins with its kind."""
    top = "".join(f"<th scope='col'>{name}</th>" for name in head)
    lines = []
    for kind, *cells in rows:
        within = "".join(f"<td dir='auto'>{cell}</td>" for cell in cells)
        lines.append(f"<tr class='{kind}'>{within}</tr>")
    whole = f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f"<div class='ia-wide' tabindex='0' role='region' aria-label='table'>{whole}</div>"
