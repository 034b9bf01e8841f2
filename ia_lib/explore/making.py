"""Panels of what a model is trained on: an instruction, the batches, a text with words of another language."""

from html import escape
from itertools import islice

import ipywidgets as widgets
import pandas as pd

from ia_lib.evaluation import scoring
from ia_lib.explore import panel as panels
from ia_lib.explore.opened import COMMIT, TASTE, Opened
from ia_lib.explore.panel import Panel, Wrong, marked, named, or_sentence, typed
from ia_lib.instructions import code_mixing, cross_lingual, templates
from ia_lib.workflow import show

# Instructions that are looked through for one.
_SOUGHT = 50_000


@or_sentence
def instructions(opened: Opened) -> widgets.Widget:
    """One instruction and its tokens: sentence, direction, objective, noise, template and epoch are chosen."""
    if opened.parallel is None:
        has = [run.name for run in opened.made.runs if run.parallel_codes]
        return opened.nothing("makes no instructions of parallel text", has, TASTE)
    run, some = opened.run, opened.parallel.select(range(min(200, len(opened.parallel))))
    pivots = run.pivots or run.paired_codes[:1]
    controls = {
        "objective": panels.choice("objective", ["tlm", "mt", "xss", "mlm", "word", "span"]),
        "source": panels.choice("from", named(run, pivots)),
        "target": panels.choice("to", named(run, [*run.taught, *pivots])),
        "noise": panels.choice("noise", ["mixture", "infilling", "deletion", "permutation"]),
        "template": widgets.IntSlider(1, 1, 6, description="template"),
        "sentence": widgets.IntSlider(0, 0, max(0, len(some) - 1), description="sentence"),
        "epoch": widgets.IntSlider(0, 0, 20, description="epoch"),
    }

    def draw(objective, source, target, noise, template, sentence, epoch) -> str:
        if source == target and objective != "mlm":
            raise Wrong(f"Both languages are {run.language(source)}: choose two languages, or the objective mlm.")
        kind = "ia1" if objective in ("word", "span") else "instructalign"
        how = {"noise": noise, "names": run.languages, "templates": kind, "xss_negatives": "random"}
        plan = cross_lingual.Plan(objective, [source], [target], f"{run.seed} {epoch}", **how)
        number = min(template, count := len(templates.templates(objective, kind)))
        wanted = {"source_id": some[sentence]["sentence_id"], "template": number - 1, "language": target}
        made = islice(cross_lingual.stream(some, None, plan), _SOUGHT)
        row = next((row for row in made if wanted.items() <= row.items()), None)
        if row is None:
            raise Wrong("No such instruction was drawn; choose another template, sentence or epoch.")
        shown = run.shown(pd.DataFrame([row])).iloc[0]
        body = marked(shown["prompt"], shown["answer"])
        if not run.machine.share_text:
            return body
        (before, own), *_ = scoring.tokens(opened.tokenizer, row["prompt"], [row["answer"]], chat=run.chat)
        what = f"template {number} of {count}; noise: {row['noise'] or 'none'}; {len(before)} + {len(own)} tokens"
        return f"{body}<p>{escape(what)}</p><p>{panels.tokens(before)}{panels.tokens(own, 'answer')}</p>"

    return Panel(controls, draw)


@or_sentence
def batches(opened: Opened) -> widgets.Widget:
    """One batch after the other as the model sees it, old and new in turn."""
    if not opened.rows:
        return opened.nothing("trains on nothing", [run.name for run in opened.made.runs if run.trains], TASTE)
    size = opened.run.per_step
    controls = {
        "step": widgets.IntSlider(1, 1, max(1, len(opened.rows) // size), description="step"),
        "shown": widgets.IntSlider(min(8, size), 1, size, description="examples"),
    }

    def draw(step, shown) -> str:
        rows = opened.rows[(step - 1) * size :][:shown]
        lines = show.decoded(opened.run, opened.tokenizer, rows).itertuples()
        cells = [(row.role, row.role, row.tokens, marked(row.prompt, row.answer)) for row in lines]
        return panels.table(["old or new", "tokens", "prompt and answer"], cells)

    return Panel(controls, draw)


@or_sentence
def mixing(opened: Opened) -> widgets.Widget:
    """A sentence of your own, some of whose words are replaced from a dictionary."""
    if not opened.dictionaries:
        has = [run.name for run in opened.made.runs if getattr(run.data, "dictionaries", None)]
        return opened.nothing("mixes no words of another language into its texts", has, COMMIT)
    run, row = opened.run, opened.run.data
    controls = {
        "text": typed("text", opened.before if run.machine.share_text else ""),
        "code": panels.choice("language", named(run, [*opened.dictionaries, *run.taught, *run.codes])),
        "alpha": widgets.FloatSlider(row.alpha, min=0, max=1, step=0.05, description="alpha"),
        "words": panels.choice("words", ["unicode", "spaces"], row.words),
        "case": panels.choice("case", ["fallback", "exact"], row.case),
        "epoch": widgets.IntSlider(0, 0, 20, description="epoch"),
    }

    def draw(text, code, alpha, words, case, epoch) -> str:
        if code not in opened.dictionaries:
            allowed = f"{', '.join(opened.dictionaries)}, or give the row one under dictionaries: {{{code}: ...}}"
            raise Wrong(f"The row has no dictionary for {run.language(code)} ({code}); allowed: {allowed}")
        known, key = opened.dictionaries[code].translations, (run.seed, epoch, "panel")
        mixed = code_mixing.mix(panels.read(text), known, alpha, key, words, case)
        changed = [pair for pair in mixed.pieces if pair[0] != pair[1]]
        shown = (
            f"<span class='answer' title='{escape(before)}'>{escape(after)}</span>"
            if before != after
            else escape(after)
            for before, after in mixed.pieces
        )
        what = f"{mixed.words} words, {mixed.known} of them in the dictionary, {mixed.changed} changed"
        pairs = "; ".join(f"{before} → {after}" for before, after in dict.fromkeys(changed))
        what += f": {pairs}" if pairs else ""
        return f"<pre dir='auto'>{''.join(shown)}</pre><p>{escape(what)}</p>"

    return Panel(controls, draw)
