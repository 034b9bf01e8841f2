"""What notebook 0 is made of: panels of ipywidgets to try instructions, batches, code-mixing, label scores and answers
by hand.

Every function returns a widget that draws itself anew with each change of its controls. With `share_text: false` texts
of the corpus are replaced by their number of words, as everywhere.
"""

from collections.abc import Callable, Iterable
from html import escape

import ipywidgets as widgets
import pandas as pd

from ia_lib.evaluation import choice, extraction, measures, scoring
from ia_lib.evaluation.blind import PROMPT
from ia_lib.evaluation.generation import answers
from ia_lib.instructions import code_mixing, cross_lingual, templates
from ia_lib.models import load
from ia_lib.models.encoding import encode
from ia_lib.workflow import judging, scheduler, show, work
from ia_lib.workflow.graph import Table
from ia_lib.workflow.notebook import check_parameters
from ia_lib.workflow.settings import Settings
from ia_lib.workflow.stages import Stage

_STYLE = """<style>
.ia td, .ia th {padding: .2rem .7rem; text-align: left; vertical-align: top} .ia th {font-weight: 600}
.ia .tok {border: 1px solid #9aa7b4; border-radius: 3px; padding: 0 .25rem; margin: 0 1px; display: inline-block;
font-family: monospace; white-space: pre; line-height: 1.5} .ia .answer {background: #cfe3f5; color: #10263a}
.ia .old {color: #51606f} .ia .best {font-weight: 700; text-decoration: underline} .ia pre {white-space: pre-wrap;
line-height: 1.5} .ia .differs {background: #fff0d9; color: #3b2500}
</style>"""


class Explorer:
    """Two runs of a table with all that the panels need; what is missing of them is made first."""

    def __init__(self, table: str, run: str, other: str, outputs_dir: str = "outputs"):
        check_parameters()
        made = Table(table, outputs_dir)
        made.settle([run, other])
        for failed in scheduler.make(made, [run, other]):
            print(failed)
        self.run: Settings = made.run(run)
        # by a run's name: its model and tokenizer, whether it is asked in its chat template, its scores.parquet and
        # predictions.parquet
        self.models, self.chats, self.scores, self.said = {}, {}, {}, {}
        for name in dict.fromkeys([run, other]):
            self.device = load.computing_device(made.run(name).threads)
            done = made.stage(made.run(name).name, "evaluate")
            model = load.load_model(*done.inputs.tuned_model, self.device)
            self.models[name] = model, load.load_tokenizer(*done.inputs.tokenizer)
            self.chats[name] = done.run.chat
            if (done.folder / "scores.parquet").is_file():
                self.scores[name] = pd.read_parquet(done.folder / "scores.parquet")
            self.said[name] = pd.read_parquet(done.folder / "predictions.parquet")
        self.tokenizer = self.models[run][1]
        data, tune, evaluate = (made.stage(self.run.name, name) for name in ("data", "tune", "evaluate"))
        self.parallel = data.inputs.usable() if data.inputs.reads_parallel else None
        self.rows = work.begin_tuning(tune).rows
        self.texts, self.labels = evaluate.inputs.tests(every=False).to_pandas(), evaluate.inputs.labels
        mixes = hasattr(self.run.method, "dictionaries")
        self.before = pd.read_parquet(tune.inputs.examples)["before"].iloc[0] if mixes else ""
        self.dictionaries = self.run.method.dictionaries(self.run, data.inputs) if mixes else {}
        # of all finished runs that are asked the same: their free answers, with marks
        self.answers = {
            stage.run.name: _judged(made, stage)
            for stage in (made.stage(one.name, "evaluate") for one in made.runs if evaluate.inputs.opened)
            if stage.done and stage.inputs.opened and stage.run.machine.share_text
        }
        self.passages = {
            (task.name, code): evaluate.inputs.asked(task, code).to_pandas()
            for task in evaluate.inputs.extracted
            for code in evaluate.inputs.tested(task)
        }

    def instructions(self) -> widgets.Widget:
        """One instruction and its tokens: sentence, direction, objective, noise, template and epoch are chosen."""
        if self.parallel is None:
            return _nothing("The row makes no instructions of parallel text.")
        run, some = self.run, self.parallel.select(range(min(200, len(self.parallel))))
        controls = {
            "objective": _choice("objective", ["tlm", "mt", "xss", "mlm", "word", "span"]),
            "source": _choice("from", _named(run, run.pivots)),
            "target": _choice("to", _named(run, [*run.taught, *run.pivots])),
            "noise": _choice("noise", ["mixture", "infilling", "deletion", "permutation"]),
            "template": widgets.IntSlider(1, 1, 6, description="template"),
            "sentence": widgets.IntSlider(0, 0, max(0, len(some) - 1), description="sentence"),
            "epoch": widgets.IntSlider(0, 0, 20, description="epoch"),
        }

        def draw(objective, source, target, noise, template, sentence, epoch) -> str:
            if source == target and objective != "mlm":
                return "<p>Choose two languages.</p>"
            kind = "ia1" if objective in ("word", "span") else "instructalign"
            how = {"noise": noise, "names": run.languages, "templates": kind, "xss_negatives": "random"}
            plan = cross_lingual.Plan(objective, [source], [target], f"{run.seed} {epoch}", **how)
            number = min(template, len(templates.templates(objective, kind))) - 1
            wanted = {"source_id": some[sentence]["sentence_id"], "template": number, "language": target}
            row = next(row for row in cross_lingual.stream(some, 10**6, plan) if wanted.items() <= row.items())
            told = run.shown(pd.DataFrame([row])).iloc[0]
            marked = _marked(told["prompt"], told["answer"])
            if not run.machine.share_text:
                return marked
            (before, own), *_ = scoring.tokens(self.tokenizer, row["prompt"], [row["answer"]], chat=run.chat)
            return (
                f"{marked}<p>noise: {escape(str(row['noise'] or 'none'))}; {len(before)} + {len(own)} tokens</p>"
                f"<p>{_tokens(before)}{_tokens(own, 'answer')}</p>"
            )

        return _panel(controls, draw)

    def batches(self) -> widgets.Widget:
        """One batch after the other as the model sees it, old and new in turn."""
        size = self.run.per_step
        controls = {
            "step": widgets.IntSlider(1, 1, max(1, len(self.rows) // size), description="step"),
            "shown": widgets.IntSlider(min(8, size), 1, size, description="rows"),
        }

        def draw(step, shown) -> str:
            rows = self.rows[(step - 1) * size :][:shown]
            lines = show.decoded(self.run, self.tokenizer, rows).itertuples()
            cells = [(row.role, row.role, row.tokens, _marked(row.prompt, row.answer)) for row in lines]
            return _table(["role", "tokens", "prompt and answer"], cells)

        return _panel(controls, draw)

    def label_scores(self) -> widgets.Widget:
        """A sentence of one's own under a prompt: the scores of its labels by every rule."""
        if not self.labels:
            return _nothing("The row is tested on no labels.")
        task, labels = next(iter(self.labels.items()))
        last = self.texts.groupby("language", sort=False).first()["text"].iloc[-1]
        controls = {
            "name": _choice("run", list(self.models)),
            "text": _text("text", last if self.run.machine.share_text else ""),
            "names": widgets.Text(", ".join(labels), description="labels", continuous_update=False),
            "template": widgets.IntSlider(1, 1, 3, description="prompt"),
        }

        def draw(name, text, names, template) -> str:
            words = [word.strip() for word in names.split(",") if word.strip()]
            if not text.strip() or len(words) < 2:
                return "<p>Write a text, and two labels at least with commas between them.</p>"
            model, tokenizer = self.models[name]
            how = task.rpartition("/")[2], words
            prompt, empty = (
                templates.classification_prompts(some, *how)[template - 1] for some in (text, choice.CONTENT_FREE)
            )
            found = show.under_rules(model, tokenizer, [prompt], words, empty, chat=self.chats[name])
            how = {"chat": self.chats[name], "encoder_decoder": model.config.is_encoder_decoder}
            split = scoring.tokens(tokenizer, prompt, words, **how)
            head = [f"{escape(word)} ({len(own)} tokens)" for word, (_, own) in zip(words, split, strict=True)]
            rows = []
            for (rule, _), values in found.iterrows():
                cells = (f"<span class='{'best' * bool(value == max(values))}'>{value:.3f}</span>" for value in values)
                rows.append(("", f"<b>{rule}</b>", *cells))
            return f"<pre>{escape(prompt)}</pre>{_table(['rule (nats)', *head], rows)}"

        return _panel(controls, draw)

    def translations(self) -> widgets.Widget:
        """A sentence of one's own, translated by two runs side by side."""
        if self.parallel is None:
            return _nothing("The row has no parallel text.")
        run, pivot = self.run, self.run.pivots[-1]
        codes = _named(run, [*run.pivots, *run.taught])
        controls = {
            **_two(self.models),
            "text": _text("text", self.parallel[pivot][0] if run.machine.share_text else ""),
            "source": _choice("from", codes, pivot),
            "target": _choice("to", codes, run.taught[0]),
            "template": widgets.IntSlider(1, 1, 6, description="template"),
        }

        def draw(first, second, text, source, target, template) -> str:
            if not text.strip():
                return "<p>Write a text.</p>"
            names = [run.language(code) for code in (source, target)]
            slots = {"SOURCE_LANG": names[0], "TARGET_LANG": names[1], "SOURCE_TEXT": text, "TARGET_TEXT": ""}
            prompt, _ = templates.fill("mt", template - 1, **slots)
            return f"<pre>{escape(prompt)}</pre>{self._side_by_side(first, second, prompt)}"

        return _panel(controls, draw)

    def questions(self) -> widgets.Widget:
        """A question or request of one's own, answered by two runs side by side."""
        controls = {
            **_two(self.models),
            "text": _text("you", "What is the capital of France?"),
            "tokens": widgets.IntSlider(60, 10, 200, step=10, description="tokens", continuous_update=False),
        }

        def draw(first, second, text, tokens) -> str:
            return self._side_by_side(first, second, text, tokens) if text.strip() else "<p>Write something.</p>"

        return _panel(controls, draw)

    def mixing(self) -> widgets.Widget:
        """A sentence of one's own, some of whose words are replaced out of a dictionary."""
        if not self.dictionaries:
            return _nothing("The row mixes no words of another language into its texts.")
        run, row = self.run, self.run.data
        # of an instruction its first part
        text = self.before.rpartition("### Instruction:\n")[2].partition("\n\n###")[0]
        controls = {
            "text": _text("text", text if run.machine.share_text else ""),
            "code": _choice("language", _named(run, self.dictionaries)),
            "alpha": widgets.FloatSlider(row.alpha, min=0, max=1, step=0.05, description="alpha"),
            "words": _choice("words", ["unicode", "spaces"], row.words),
            "case": _choice("case", ["fallback", "exact"], row.case),
            "epoch": widgets.IntSlider(0, 0, 20, description="epoch"),
        }

        def draw(text, code, alpha, words, case, epoch) -> str:
            known = self.dictionaries[code].translations
            mixed = code_mixing.mix(text, known, alpha, (run.seed, epoch, "panel"), words, case)
            marked = (
                f"<span class='answer' title='{escape(before)}'>{escape(after)}</span>"
                if before != after
                else escape(after)
                for before, after in mixed.pieces
            )
            told = f"{mixed.words} words, {mixed.known} of them in the dictionary, {mixed.changed} changed"
            return f"<pre>{''.join(marked)}</pre><p>{told}</p>"

        return _panel(controls, draw)

    def passages_answered(self) -> widgets.Widget:
        """What two runs answered to questions on passages, beside what is true."""
        if not self.passages:
            return _nothing("The row is tested on no questions on passages.")
        controls = {
            **_two(self.said),
            "task": _choice("task", list(dict.fromkeys(task for task, _ in self.passages))),
            "code": _choice("language", _named(self.run, (code for _, code in self.passages))),
            "only": widgets.Checkbox(True, description="only where they differ"),
        }

        def draw(first, second, task, code, only) -> str:
            if (task, code) not in self.passages:
                return "<p>The task has no questions in that language.</p>"
            asked, said = self.passages[task, code].set_index("id"), []
            for name in (first, second):
                said.append(show.said_on(self.said[name], task, code).reindex(asked.index).fillna(""))
            true, (one, other) = asked["answers"], said
            counts = []
            for name, given in zip((first, second), said, strict=True):
                pairs = zip(given, true, strict=True)
                hits = [extraction.agreement(answer, some, "corrected", code)[0] for answer, some in pairs]
                counts.append(f"{name}: {sum(hits) / len(hits):.1%} right")
            parts = {"text": asked["context"], "prompt": asked["question"], "answer": true.map(" / ".join)}
            frame = self.run.shown(pd.DataFrame({**parts, "model": one, "translation": other}))
            lines = frame[(one != other) | (not only)].head(50).map(escape).itertuples(index=False)
            rows = (("", f"<span title='{text}'>{question}</span>", *rest) for text, question, *rest in lines)
            told = f"{'; '.join(counts)}; they differ in {(one != other).sum()} of {len(frame)}"
            told = f"<p>{escape(told)}. The passage is shown where the mouse is over a question.</p>"
            return told + _table(["question", "true", escape(first), escape(second)], rows)

        return _panel(controls, draw)

    def free_answers(self) -> widgets.Widget:
        """What all finished runs answered to one request, with what the gate and each judge say."""
        if not self.answers:
            return _nothing("The row is tested on no requests that are answered freely.")
        mine = self.answers.get(self.run.name, next(iter(self.answers.values())))
        tasks = list(dict.fromkeys(zip(mine["dataset"], mine["task"], strict=True)))
        controls = {
            "task": _choice("task", [("/".join(filter(None, task)), task) for task in tasks]),
            "code": _choice("language", _named(self.run, mine["language"])),
            # the number of its line, the same in all languages
            "number": widgets.BoundedIntText(1, 1, int(mine["example"].astype(int).max()), description="request"),
        }

        def draw(task, code, number) -> str:
            lines, asked = [], None
            for name, frame in self.answers.items():
                part = frame[(frame["dataset"] == task[0]) & (frame["task"] == task[1]) & (frame["language"] == code)]
                if len(part := part[part["example"] == str(number)]):
                    line = part.iloc[0]
                    asked = line if asked is None else asked
                    marks = ", ".join(
                        f"{judge} {mark:g}" if mark == mark else f"{judge} none" for judge, mark in line["marks"]
                    )
                    inside = "yes" if line["inside"] else "no: counts 0"
                    lines.append(
                        ("" if line["inside"] else "differs", name, line["answer"] or "(nothing)", inside, marks)
                    )
            if asked is None:
                return "<p>There is no such request in that language.</p>"
            told = f"<pre>{escape(asked['question'])}</pre>"
            if asked["reference"]:
                told += f"<p>One right answer: {escape(asked['reference'])}</p>"
            rows = ((kind, *map(escape, cells)) for kind, *cells in lines)
            return told + _table(["run", "answer", "in the language", "marks"], rows)

        return _panel(controls, draw)

    def _side_by_side(self, first: str, second: str, prompt: str, tokens: int = 40) -> str:
        """What two runs answer to a prompt."""
        said = []
        for name in (first, second):
            model, tokenizer = self.models[name]
            how = {**self.run.encoding(model.config.is_encoder_decoder), "chat": self.chats[name]}
            # the true answer is not known, and nothing of it is shown
            rows, _ = encode(tokenizer, [prompt], ["?"], **how)
            said.append(f"<pre>{escape(answers(model, tokenizer, rows, tokens)['model'][0])}</pre>")
        return _table([escape(first), escape(second)], [("", *said)])

    def predictions(self) -> widgets.Widget:
        """The predictions of two runs side by side."""
        if not self.scores:
            return _nothing("Neither row is tested on labels.")
        every = next(iter(self.scores.values()))
        controls = {
            **_two(self.scores),
            "task": _choice("task", list(every["task"].unique())),
            "language": _choice("language", _named(self.run, every["language"].unique())),
            "prompt": _choice("prompt", sorted(every["prompt"].unique().tolist())),
            "only": widgets.Checkbox(True, description="only where they differ"),
        }
        key = ["task", "language", "example"]
        texts = self.run.shown(self.texts).assign(task=self.texts["task"].str.rpartition("/")[2]).set_index(key)["text"]

        def draw(first, second, task, language, prompt, only) -> str:
            said, counts = [], []
            for name in (first, second):
                part = self.scores[name].query("task == @task and language == @language and prompt == @prompt")
                said.append(measures.predictions(part, self.run.evaluate.scoring_rule).set_index(key))
                counts.append(f"{name}: {(said[-1]['predicted'] == said[-1]['gold']).mean():.1%} right")
            frame = said[0].join(said[1]["predicted"].rename("other")).join(texts)
            differ = frame["predicted"] != frame["other"]
            kinds = frame.assign(kind=differ.map({True: "differs", False: ""}))[differ | (not only)].head(50)
            columns = ["kind", "text", "gold", "predicted", "other"]
            rows = kinds[columns].map(escape).itertuples(index=False)
            told = f"<p>{escape('; '.join(counts))}; they differ in {differ.sum()} of {len(frame)} texts.</p>"
            return told + _table(["text", "true", escape(first), escape(second)], rows)

        return _panel(controls, draw)


def _judged(table: Table, stage: Stage) -> pd.DataFrame:
    """The free answers of a run (`judged.ITEMS`), with the `marks` of its judges: (judge, mark) each."""
    found = judging.items(stage)
    found["marks"] = [()] * len(found)
    judge = table.stage(stage.run.name, "judge") if stage.inputs.judged else None
    if judge and judge.done:
        marks = pd.read_parquet(judge.folder / "marks.parquet").query("run == @stage.run.name")
        pairs = marks.groupby(list(PROMPT), sort=False)[["judge", "mark"]].apply(
            lambda part: list(map(tuple, part.to_numpy()))
        )
        found["marks"] = [pairs[key] for key in zip(*(found[name] for name in PROMPT), strict=True)]
    return found


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


def _nothing(said: str) -> widgets.Widget:
    return widgets.HTML(f"<p>{escape(said)}</p>")


def _choice(title: str, options, value=None) -> widgets.Dropdown:
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    return widgets.Dropdown(options=options, value=value if value in values else values[0], description=title)


def _named(run: Settings, codes) -> list[tuple[str, str]]:
    return [(f"{run.language(code)} ({code})", code) for code in dict.fromkeys(codes)]


def _tokens(pieces: list[str], kind: str = "") -> str:
    return "".join(f"<span class='tok {kind}'>{escape(piece)}</span>" for piece in pieces)


def _two(runs) -> dict[str, widgets.Dropdown]:
    return {"first": _choice("first run", list(runs)), "second": _choice("second run", list(runs)[::-1])}


def _text(title: str, value: str) -> widgets.Textarea:
    return widgets.Textarea(value, description=title, continuous_update=False)


def _marked(prompt: str, answer: str) -> str:
    return f"<pre>{escape(prompt)}<span class='answer'>{escape(answer)}</span></pre>"


def _table(head: list[str], rows: Iterable[tuple]) -> str:
    """A table of cells in HTML; a row begins with what kind of row it is."""
    lines = (f"<tr class='{kind}'>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for kind, *cells in rows)
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{''.join(lines)}</table>"
