"""What notebook 0 is made of: panels of ipywidgets to try instructions, batches, label scores and answers by hand.

Every function returns a widget that draws itself anew with each change of its controls. With `share_text: false` texts
of the corpus are replaced by their number of words, as everywhere.
"""

from collections.abc import Callable
from html import escape

import ipywidgets as widgets
import pandas as pd
from datasets import Dataset

from ia_lib.data import languages
from ia_lib.evaluation import choice, measures, scoring
from ia_lib.evaluation.generation import answers
from ia_lib.evaluation.rules import RULES
from ia_lib.instructions import cross_lingual, templates
from ia_lib.models import load
from ia_lib.models.encoding import encode
from ia_lib.workflow import scheduler, work
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import Settings

_STYLE = """<style>
.ia td, .ia th {padding: .2rem .7rem; text-align: left; vertical-align: top} .ia th {font-weight: 600}
.ia .tok {border: 1px solid #9aa7b4; border-radius: 3px; padding: 0 .25rem; margin: 0 1px; display: inline-block;
font-family: monospace; white-space: pre; line-height: 1.5} .ia .answer {background: #cfe3f5; color: #10263a}
.ia .old {color: #51606f} .ia .best {font-weight: 700; text-decoration: underline} .ia pre {white-space: pre-wrap;
line-height: 1.5} .ia .differs {background: #fff0d9; color: #3b2500}
</style>"""
_NOISES = ["mixture", "infilling", "deletion", "permutation"]


class Explorer:
    """Two runs of a table with all that the panels need; what is missing of them is made first."""

    def __init__(self, table: str, run: str, other: str, outputs_dir: str = "outputs"):
        made = Table(table, outputs_dir)
        for failed in scheduler.make(made, [s for s in made.stages([run, other]) if not s.done], report=False):
            print(failed)
        stage, self.run = made.stage(made.run(run).name, "evaluate"), made.run(run)
        self.models, self.scores = {}, {}
        for name in dict.fromkeys([run, other]):
            row = made.run(name)
            self.device = load.computing_device(row.threads)
            done = made.stage(row.name, "evaluate")
            model = load.load_model(*done.inputs.tuned_model, self.device)
            self.models[name] = model, load.load_tokenizer(*done.inputs.tokenizer)
            self.scores[name] = pd.read_parquet(done.folder / "scores.parquet")
        self.first, self.tokenizer = run, self.models[run][1]
        data, tune = (made.stage(self.run.name, name) for name in ("data", "tune"))
        self.parallel, self.rows = data.inputs.usable(), work.begin_tuning(tune).rows
        self.texts, self.labels = stage.inputs.tests(every=False).to_pandas(), stage.inputs.labels

    def instructions(self) -> widgets.Widget:
        return instructions(self.run, self.parallel, self.tokenizer)

    def batches(self) -> widgets.Widget:
        return batches(self.run, self.rows, self.tokenizer)

    def label_scores(self) -> widgets.Widget:
        task, names = next(iter(self.labels.items()))
        last = self.texts.groupby("language", sort=False).first()["text"].iloc[-1]
        return label_scores(self.models, names, task.rpartition("/")[2], last if self.run.machine.share_text else "")

    def translations(self) -> widgets.Widget:
        pivot = self.run.pivots[-1]
        sentence = self.parallel[pivot][0] if self.run.machine.share_text else ""
        return translations(self.models, self.run, sentence, pivot, self.run.taught[0])

    def predictions(self) -> widgets.Widget:
        return predictions(self.run, self.scores, self.texts)


def instructions(run: Settings, parallel: Dataset, tokenizer) -> widgets.Widget:
    """One instruction and its tokens: sentence, direction, objective, noise, template and epoch are chosen."""
    some = parallel.select(range(min(200, len(parallel))))
    controls = {
        "objective": _choice("objective", ["tlm", "mt", "xss", "mlm", "word", "span"]),
        "source": _choice("from", _named(run, run.pivots)),
        "target": _choice("to", _named(run, [*run.taught, *run.pivots])),
        "noise": _choice("noise", _NOISES),
        "template": widgets.IntSlider(1, 1, 6, description="template"),
        "sentence": widgets.IntSlider(0, 0, max(0, len(some) - 1), description="sentence"),
        "epoch": widgets.IntSlider(0, 0, 20, description="epoch"),
    }

    def draw(objective, source, target, noise, template, sentence, epoch) -> str:
        if source == target and objective != "mlm":
            return "<p>Choose two languages.</p>"
        kind = "ia1" if objective in ("word", "span") else "instructalign"
        plan = cross_lingual.Plan(
            objective, [source], [target], f"{run.seed} {epoch}", noise=noise, names=run.languages
        )
        plan = cross_lingual.Plan(**{**vars(plan), "templates": kind, "xss_negatives": "random"})
        number = min(template, len(templates.templates(objective, kind))) - 1
        wanted = some[sentence]["sentence_id"]
        row = next(
            row
            for row in cross_lingual.stream(some, 10**6, plan)
            if row["source_id"] == wanted and row["template"] == number and row["language"] == target
        )
        told = run.shown(pd.DataFrame([row])).iloc[0]
        marked = f"<pre>{escape(told['prompt'])}<span class='answer'>{escape(told['answer'])}</span></pre>"
        if not run.machine.share_text:
            return marked
        (before, own), *_ = scoring.tokens(tokenizer, row["prompt"], [row["answer"]])
        return (
            f"{marked}<p>noise: {escape(str(row['noise'] or 'none'))}; {len(before)} + {len(own)} tokens</p>"
            f"<p>{_tokens(before)}{_tokens(own, 'answer')}</p>"
        )

    return _panel(controls, draw)


def batches(run: Settings, rows: list[dict], tokenizer) -> widgets.Widget:
    """One batch after the other as the model sees it, old and new in turn; `rows` as `batches.lay_out` gives them."""
    steps = max(1, len(rows) // run.per_step)
    controls = {
        "step": widgets.IntSlider(1, 1, steps, description="step"),
        "shown": widgets.IntSlider(min(8, run.per_step), 1, run.per_step, description="rows"),
    }

    def draw(step, shown) -> str:
        begin = (step - 1) * run.per_step
        lines = []
        for row in rows[begin : begin + shown]:
            split = row["answer_start"]
            pieces = [tokenizer.decode(row["input_ids"][:split]), tokenizer.decode(row["input_ids"][split:])]
            lines.append(
                {"role": row["role"], "prompt": pieces[0], "answer": pieces[1], "tokens": len(row["input_ids"])}
            )
        frame = run.shown(pd.DataFrame(lines))
        cells = "".join(
            f"<tr class='{line.role}'><th>{line.role}</th><td>{line.tokens}</td><td><pre>{escape(line.prompt)}"
            f"<span class='answer'>{escape(line.answer)}</span></pre></td></tr>"
            for line in frame.itertuples()
        )
        return f"<table><tr><th>role</th><th>tokens</th><th>prompt and answer</th></tr>{cells}</table>"

    return _panel(controls, draw)


def label_scores(
    models: dict[str, tuple], labels: list[str], task: str = "sentiment", text: str = ""
) -> widgets.Widget:
    """A sentence of one's own under a prompt: the scores of its labels by every rule. `models` maps a run's name to its
    model and tokenizer."""
    controls = {
        "name": _choice("run", list(models)),
        "text": widgets.Textarea(text, description="text", continuous_update=False),
        "names": widgets.Text(", ".join(labels), description="labels", continuous_update=False),
        "template": widgets.IntSlider(1, 1, 3, description="prompt"),
    }

    def draw(name, text, names, template) -> str:
        words = [word.strip() for word in names.split(",") if word.strip()]
        if not text.strip() or len(words) < 2:
            return "<p>Write a text, and two labels at least with commas between them.</p>"
        model, tokenizer = models[name]
        prompt, empty = (
            templates.classification_prompts(some, task, words)[template - 1] for some in (text, choice.CONTENT_FREE)
        )
        whole = not model.config.is_encoder_decoder
        scores = scoring.label_logprobs(
            model, tokenizer, [prompt], words, prompt_logprob=whole, content_free=empty, progress=False
        )
        rules = [rule for rule in RULES if whole or rule not in ("joint", "mean")]
        table = pd.DataFrame({rule: scores.scores(rule)[0] for rule in rules}, index=words)
        rows = "".join(
            f"<tr><th>{rule}</th>"
            + "".join(f"<td class='{'best' * bool(v == table[rule].max())}'>{v:.3f}</td>" for v in table[rule])
            + "</tr>"
            for rule in rules
        )
        head = "".join(
            f"<th>{escape(word)} ({n} tokens)</th>" for word, n in zip(words, scores.label_tokens[0], strict=True)
        )
        return f"<pre>{escape(prompt)}</pre><table><tr><th>rule (nats)</th>{head}</tr>{rows}</table>"

    return _panel(controls, draw)


def translations(
    models: dict[str, tuple], run: Settings, text: str = "", source: str = "ind", target: str = "sun"
) -> widgets.Widget:
    """A sentence of one's own, translated by two runs side by side."""
    codes = _named(run, [*run.pivots, *run.taught])
    controls = {
        "first": _choice("first run", list(models)),
        "second": _choice("second run", list(models)[::-1]),
        "text": widgets.Textarea(text, description="text", continuous_update=False),
        "source": _choice("from", codes, source),
        "target": _choice("to", codes, target),
        "template": widgets.IntSlider(1, 1, 6, description="template"),
    }

    def draw(first, second, text, source, target, template) -> str:
        if not text.strip():
            return "<p>Write a text.</p>"
        names = [run.languages.get(code) or languages.name(code) for code in (source, target)]
        slots = {"SOURCE_LANG": names[0], "TARGET_LANG": names[1], "SOURCE_TEXT": text, "TARGET_TEXT": ""}
        prompt, _ = templates.fill("mt", template - 1, **slots)
        cells = []
        for name in (first, second):
            model, tokenizer = models[name]
            encoding = run.encoding(model.config.is_encoder_decoder)
            (row,), _ = encode(tokenizer, [prompt], [text], **encoding)
            said = answers(model, tokenizer, [row])["model"][0]
            cells.append(f"<td><b>{escape(name)}</b><pre>{escape(said)}</pre></td>")
        return f"<pre>{escape(prompt)}</pre><table><tr>{''.join(cells)}</tr></table>"

    return _panel(controls, draw)


def predictions(run: Settings, scores: dict[str, pd.DataFrame], texts: pd.DataFrame) -> widgets.Widget:
    """The predictions of two runs side by side; `scores` maps a run's name to its scores.parquet, `texts` is
    the labelled texts (`Inputs.tests`)."""
    every = next(iter(scores.values()))
    controls = {
        "first": _choice("first run", list(scores)),
        "second": _choice("second run", list(scores)[::-1]),
        "task": _choice("task", list(every["task"].unique())),
        "language": _choice("language", _named(run, every["language"].unique())),
        "prompt": _choice("prompt", sorted(every["prompt"].unique().tolist())),
        "only": widgets.Checkbox(True, description="only where they differ"),
    }
    texts = run.shown(texts).assign(task=texts["task"].str.rpartition("/")[2])
    key = ["task", "language", "example"]

    def draw(first, second, task, language, prompt, only) -> str:
        sides = []
        for name in (first, second):
            part = scores[name].query("task == @task and language == @language and prompt == @prompt")
            sides.append(measures.predictions(part, run.evaluate.scoring_rule).set_index(key))
        frame = sides[0].join(sides[1]["predicted"].rename("other")).join(texts.set_index(key)["text"])
        differ = frame["predicted"] != frame["other"]
        counts = [f"{name}: {(side['predicted'] == side['gold']).mean():.1%} right" for name, side in
                  zip((first, second), sides, strict=True)]  # fmt: skip
        rows = "".join(
            f"<tr class='{'differs' * bool(line.predicted != line.other)}'><td>{escape(line.text)}</td>"
            f"<td>{escape(line.gold)}</td><td>{escape(line.predicted)}</td><td>{escape(line.other)}</td></tr>"
            for line in frame[differ | (not only)].head(50).itertuples()
        )
        return (
            f"<p>{escape('; '.join(counts))}; they differ in {differ.sum()} of {len(frame)} texts.</p>"
            f"<table><tr><th>text</th><th>true</th><th>{escape(first)}</th><th>{escape(second)}</th></tr>{rows}</table>"
        )

    return _panel(controls, draw)


def _panel(controls: dict[str, widgets.Widget], draw: Callable[..., str]) -> widgets.Widget:
    """Controls above what `draw` makes of their values."""
    shown = widgets.HTML()

    def refresh(*_) -> None:
        try:
            body = draw(**{name: control.value for name, control in controls.items()})
        except (ValueError, RuntimeError, StopIteration) as error:
            # what cannot be shown is said, and the panel goes on
            body = f"<p>{escape(str(error))}</p>"
        shown.value = f"{_STYLE}<div class='ia'>{body}</div>"

    for control in controls.values():
        control.observe(refresh, names="value")
        control.layout.width = "24rem"
    refresh()
    return widgets.VBox([widgets.Box(list(controls.values()), layout=widgets.Layout(flex_flow="row wrap")), shown])


def _choice(title: str, options, value=None) -> widgets.Dropdown:
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    return widgets.Dropdown(options=options, value=value if value in values else values[0], description=title)


def _named(run: Settings, codes) -> list[tuple[str, str]]:
    return [(f"{run.languages.get(code) or languages.name(code)} ({code})", code) for code in dict.fromkeys(codes)]


def _tokens(pieces: list[str], kind: str = "") -> str:
    return "".join(f"<span class='tok {kind}'>{escape(piece)}</span>" for piece in pieces)
