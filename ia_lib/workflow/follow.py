"""One test text, followed from its prompt to the number that stands for its group in the report; and one free answer,
from its request to what it adds to the score. Texts that are not to be shared are never shown.

Every step gives something to look at; for a row without what the step needs, a sentence that says which row has it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from ia_lib.evaluation import choice, measures
from ia_lib.evaluation.measures import dataset_and_task
from ia_lib.evaluation.rules import rule_scores
from ia_lib.instructions.templates import classification_prompts, label_words
from ia_lib.report import story_figures
from ia_lib.workflow import show
from ia_lib.workflow.settings import SettingsError
from ia_lib.workflow.stages import Stage
from ia_lib.workflow.work import Evaluated, Evaluation, Judged

# Colours of which half is seen through, so that they are right on a light page and on a dark one.
_STYLE = """<style>
.follow pre {white-space: pre-wrap; background: rgba(128,128,128,.12) !important; padding: .5rem .8rem !important;
margin: .3rem 0 !important; border-left: 3px solid rgba(128,128,128,.6) !important}
.follow .tok {display: inline-block; font-family: monospace; white-space: pre; line-height: 1.5; margin: 1px;
padding: 0 .25rem; border: 1px solid rgba(128,128,128,.6); border-radius: 3px}
.follow .own {background: rgba(0,114,178,.22)}
.follow p {margin: .4rem 0} .follow .read {font-style: italic}
.follow td, .follow th {text-align: left !important; padding: .2rem .7rem; vertical-align: top}
.follow .right {color: inherit; background: rgba(0,158,115,.25)} .follow .wrong {background: rgba(213,94,0,.22)}
.follow ol {margin: .3rem 0} .follow li {margin: .35rem 0}
</style>"""
_BOLD = "font-weight: bold; text-decoration: underline"
_LABELS = (
    "This row chooses no labels, so only the last step has something to show: what the row does instead. "
    'A row that chooses labels: `table = "params/taste.yaml"`, `run = "tlm"`.'
)
_NO_LABELS = "Nothing to show: this row chooses no labels."


def sentence(stage: Stage, begun: Evaluation, language: str | None = None, example: str | None = None) -> "Sentence":
    """A test text to follow: the first one of the first taught language (else of the first language), or that of a
    `language` (code) and an `example` (as `texts` names it).

    Raises SettingsError for a language or an example that the run is not tested on.
    """
    known = begun.texts.to_pandas()
    if not len(known) or not stage.inputs.choices:
        return Sentence(stage, begun)
    first = known["language"].drop_duplicates()
    taught = [code for code in first if code in stage.run.groups.get("L2", ())]
    code = language or next(iter(taught), first.iloc[0])
    part = _chosen(known, "language", code, stage)
    part = part[part["task"] == part["task"].iloc[0]]
    return Sentence(stage, begun, _chosen(part, "example", example, stage).iloc[0].to_dict())


def _chosen(frame: pd.DataFrame, column: str, wanted: str | None, stage: Stage) -> pd.DataFrame:
    """The lines with the wanted value; all, if none is wanted."""
    found = frame if wanted is None else frame[frame[column].astype(str) == str(wanted)]
    if found.empty:
        some = list(map(str, frame[column].drop_duplicates()))
        allowed = ", ".join(some[:12]) + (f" and {len(some) - 12} more" if len(some) > 12 else "")
        raise SettingsError(f"run {stage.run.name!r}, {column} to follow: found {wanted!r}; allowed: {allowed}")
    return found


@dataclass
class Sentence:
    """One test text on its way; `text` has the columns of the labelled texts, and is empty where a row has none."""

    stage: Stage
    begun: Evaluation
    text: dict[str, Any] = field(default_factory=dict)

    def prompt(self) -> HTML | Markdown:
        """The text in its prompts, and the first prompt and the labels in tokens."""
        from ia_lib.evaluation import scoring

        if not self.text:
            return Markdown(_LABELS)
        tokenizer, words = self.begun.tokenizer, self._words
        text = self.stage.run.shown(pd.DataFrame([self.text])).iloc[0]["text"]
        asked = classification_prompts(text, self._task.question, self._task.labels, self._wording)
        more = {"chat": self.stage.run.chat, "encoder_decoder": self.begun.model.config.is_encoder_decoder}
        split = scoring.tokens(tokenizer, asked[0], words, **more)
        before = split[0][0]
        seen = [
            tokenizer.convert_tokens_to_string(scoring.tokens(tokenizer, one, words[:1], **more)[0][0]) for one in asked
        ]
        others = "".join(f"<pre>{escape(one)} ___</pre>" for one in seen[1:])
        labels = "".join(
            f"<tr><td>{escape(word)}</td><td>{_chips(own, 'own')}</td><td>{_many(len(own), 'token')}</td></tr>"
            for word, (_, own) in zip(words, split, strict=True)
        )
        return HTML(
            f"{_STYLE}<div class='follow'><p><b>{escape(self._place)}</b>, text {escape(str(self.text['example']))}; "
            f"its true label: <b>{escape(str(self.text['label']))}</b></p>"
            f"<pre>{escape(seen[0])} ___</pre>"
            f"<details><summary>the other wordings ({len(seen) - 1})</summary>{others}</details>"
            f"<p><b>The same in tokens</b> ({len(before)}); ␣ is a blank, ↵ a new line:</p><p>{_chips(before)}</p>"
            f"<p><b>The labels in tokens:</b></p><table>{labels}</table>"
            f"<p class='read'>{self._read(text)}</p></div>"
        )

    def _read(self, text: str) -> str:
        """In a sentence, how the text's words are cut."""
        cut = {word: self.begun.tokenizer.tokenize(f" {word}") for word in text.split()}
        longest = max(cut, key=lambda word: len(cut[word]))
        if not self.stage.run.machine.share_text or not cut:
            return "The text is not shown, since the table says share_text: false; its words are counted instead."
        count = sum(map(len, cut.values()))
        return (
            f"The text's {len(text.split())} words are {count} tokens; the word with the most is "
            f"<b>{escape(longest)}</b>, with {_many(len(cut[longest]), 'token')}."
        )

    def scores(self):
        """A figure: how probable each label is after each prompt, in nats."""
        if not self.text:
            return Markdown(_NO_LABELS)
        found = self._scores.loc["label_sum"]
        return story_figures.label_scores(found, str(self.text["label"]))

    def rules(self):
        """A table: the scores under every rule, the highest of a line in bold, and which label that is. In nats, but
        for `label_per_char` (nats a character), `label_mean` and `mean` (nats a token)."""
        if not self.text:
            return Markdown(_NO_LABELS)
        frame, mine = self._scores, self.stage.run.evaluate.scoring_rule
        best, true, labels = frame.idxmax(axis=1), str(self.text["label"]), list(frame)
        agree = best.unstack(level=0)
        same = [rule for rule in agree if (agree[rule] == agree[mine]).all()] if mine in agree else []
        like = ", ".join(rule for rule in same if rule != mine) or "none"
        print(f"{true} is true; it is chosen in {int((best == true).sum())} of {len(best)} lines.")
        print(f"The row's own rule is {mine}. Rules that choose the same after every prompt:\n{like}.")
        right = (best == true).map({True: "yes", False: "no"})
        bold = {line: [_BOLD * (label == best[line]) for label in labels] for line in frame.index}
        shown = frame.assign(chosen=best, right=right).style.format("{:.3f}", subset=labels)
        return shown.apply(lambda line: bold[line.name], axis=1, subset=labels)

    def confusion(self, done: Evaluated, prompt: int = 1):
        """A figure: of all texts in the language, how many of each label were called what after a prompt; and in print
        how weighted F1 comes of it."""
        if not self.text:
            return Markdown(_NO_LABELS)
        said = self._own(pd.read_parquet(done.folder / "predictions.parquet").query("kind == 'choose'"))
        said = _chosen(said, "prompt", str(prompt), self.stage)
        labels = list(self._task.labels)
        counts = pd.crosstab(said["gold"], said["predicted"]).reindex(index=labels, columns=labels, fill_value=0)
        mine = said[said["example"].astype(str) == str(self.text["example"])].iloc[0]
        print(arithmetic(counts))
        return story_figures.confusion(
            counts,
            (mine["gold"], mine["predicted"]),
            f"{self.stage.run.language(self.text['language'])}, prompt {prompt}",
        )

    def others(self, done: Evaluated, texts: int = 2) -> HTML | Markdown:
        """Some more texts in the same language, `texts` of each true label, with what was chosen after each prompt and
        by how much it beats the next label."""
        if not self.text:
            return Markdown(_NO_LABELS)
        scores = self._own(pd.read_parquet(done.folder / "scores.parquet"))
        scores["score"] = rule_scores(scores, self.stage.run.evaluate.scoring_rule)
        known = self.begun.texts.to_pandas()
        known = known[(known["task"] == self.text["task"]) & (known["language"] == self.text["language"])]
        known = self.stage.run.shown(known).set_index(known["example"].astype(str))["text"]
        few = scores.drop_duplicates("example").groupby("gold", sort=False).head(texts)
        prompts, lines = sorted(scores["prompt"].unique()), []
        for example, gold in zip(few["example"].astype(str), few["gold"], strict=True):
            cells = [f"<td>{escape(known[example])}</td><td>{escape(gold)}</td>"]
            for prompt in prompts:
                part = scores[(scores["example"].astype(str) == example) & (scores["prompt"] == prompt)]
                first, second = part.sort_values("score", ascending=False, kind="stable").head(2).itertuples()
                kind = "right" if first.label == gold else "wrong"
                cells.append(f"<td class='{kind}'>{escape(first.label)} (+{first.score - second.score:.2f})</td>")
            lines.append(f"<tr>{''.join(cells)}</tr>")
        head = "".join(f"<th>prompt {prompt}</th>" for prompt in prompts)
        head = f"<thead><tr><th>text</th><th>true label</th>{head}</tr></thead>"
        return HTML(f"{_STYLE}<div class='follow'><table>{head}<tbody>{''.join(lines)}</tbody></table></div>")

    def _own(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Of lines of an artefact those of the text's task and language."""
        dataset, task = dataset_and_task(self.text["task"])
        given = frame["dataset"].fillna("") if "dataset" in frame else pd.Series("", frame.index)
        return frame[(given == dataset) & (frame["task"] == task) & (frame["language"] == self.text["language"])].copy()

    def average(self, done: Evaluated):
        """A figure: the prompts of the text's language, the languages of its group and the groups, with the way that
        the text takes to the number in the report."""
        if not self.text:
            return Markdown(_NO_LABELS)
        frame = done.measures.fillna({"dataset": "", "source": ""})
        frame = frame[(frame["kind"] == "choose") & (frame["metric"] == measures.HEADLINE)]
        code, every = self.text["language"], frame
        dataset, task = dataset_and_task(self.text["task"])
        frame = frame[(frame["dataset"] == dataset) & (frame["task"] == task)]
        whole = frame["prompt"].astype(str) == "all"
        group = frame.loc[frame["language"] == code, "group"].iloc[0]
        name = self.stage.run.language
        prompts = frame[(frame["language"] == code) & ~whole].copy()
        prompts["name"] = "prompt " + prompts["prompt"].astype(str)
        here = frame[whole & (frame["language"] != "all") & (frame["group"] == group)].copy()
        here["name"] = here["language"].map(name)
        groups = frame[whole & (frame["language"] == "all")].copy()
        groups["name"] = groups["group"]
        steps = [
            prompts.assign(step=f"prompts, {name(code)}", mine=True),
            here.assign(step=f"languages of {group}", mine=here["language"] == code),
            groups.assign(step="groups", mine=groups["group"] == group),
        ]
        tests = every[(every["dataset"] == "all") & (every["language"] == "all") & (every["group"] == group)]
        if len(tests):  # of several tests
            steps.append(tests.head(1).assign(step="all tests", name=group, mine=True))
        found = pd.concat(steps)[["step", "name", "value", "mine"]].reset_index(drop=True)
        own = groups[groups["group"] == group].iloc[0]
        found.attrs["levels"] = {level: own[level] for level in ("chance", "majority") if own[level] == own[level]}
        return story_figures.staircase(found, self.stage.run.name)

    @cached_property
    def _task(self):
        return next(task for task in self.stage.inputs.choices if task.name == self.text["task"])

    @cached_property
    def _wording(self):
        return next(iter(self._task.asked(self.stage.run.wordings)))

    @property
    def _words(self) -> list[str]:
        return label_words(self._task.labels, self._wording)

    @property
    def _place(self) -> str:
        return f"{self.text['task']} in {self.stage.run.language(self.text['language'])}"

    @cached_property
    def _scores(self) -> pd.DataFrame:
        """A line for each rule and prompt, a column for each label."""
        task, run = self._task, self.stage.run
        texts = self.text["text"], choice.CONTENT_FREE
        asked, empty = (classification_prompts(text, task.question, task.labels, self._wording) for text in texts)
        more = {"chat": run.chat, "max_length": run.evaluate.score_max_length}
        found = show.under_rules(self.begun.model, self.begun.tokenizer, asked, self._words, empty, **more)
        return found.set_axis(task.labels, axis="columns")


def arithmetic(counts: pd.DataFrame) -> str:
    """How weighted F1 (percent) comes of a table of counts, true labels as lines and predicted ones as columns: a line
    for each label, and their mean, weighted by how many texts have it."""
    lines, total, score = [], int(counts.to_numpy().sum()), 0.0
    for label in counts.index:
        right, called, true = (int(x) for x in (counts.at[label, label], counts[label].sum(), counts.loc[label].sum()))
        f1 = 200 * right / (called + true) if called + true else 0.0
        score += f1 * true / total
        lines.append(
            f"{label}: {true} texts are {label}, {called} were called so, {right} of these rightly: "
            f"F1 = 2 x {right} / ({called} + {true}) = {f1:.1f}%"
        )
    parts = " + ".join(f"{int(counts.loc[label].sum())}" for label in counts.index)
    return "\n".join([*lines, f"weighted by {parts} of {total} texts: weighted F1 = {score:.1f}%"])


def languages(stage: Stage, done: Evaluated):
    """A figure: weighted F1 in every language with its interval, beside the baselines."""
    if not (done.measures["kind"] == "choose").any():
        return Markdown(_NO_LABELS)
    names = {code: stage.run.language(code) for code in set(done.measures["language"]) - {"all"}}
    return story_figures.languages(done.measures, names)


def others(stage: Stage, done: Evaluated) -> Iterator[Any]:
    """What a row does beside choosing labels, to be displayed: translations and losses, questions on passages with one
    of them followed, free answers. For what it does not do, a row that does."""
    asked = bool(stage.inputs.extracted)
    questions = show.passages(stage) if asked else pd.DataFrame()
    if asked:
        questions["right"] = questions["right"].map({True: "yes", False: "no"})
        questions = questions.replace({"answered": {"": "(nothing)"}}).reset_index(drop=True)
    scores = show.translations(done).fillna("").reset_index(drop=True)
    scores = scores[[name for name in scores if not (scores[name] == "").all()]]
    found = {
        "Scores of translations and answers, beside their baselines": (
            scores,
            'the field `held_out`: `changes = {"held_out": True}`',
        ),
        "Questions on passages": (
            questions,
            'COMMIT\'s rows: `table = "params/commit_mini.yaml"`, `run = "commit-jav-s1"`',
        ),
        "Requests that are answered freely": (
            show.requests(stage),
            'the Alpaca study\'s rows: `table = "params/taste_alpaca.yaml"`, `run = "multilingual"`',
        ),
    }
    if asked:
        yield _question(stage, done)
    for title, (frame, which) in found.items():
        yield Markdown(f"**{title}**" + ("" if len(frame) else f": none in this row. They come with {which}."))
        if len(frame):
            yield frame


def _question(stage: Stage, done: Evaluated) -> HTML:
    """One question on a passage, from its prompt to its language's score: the first right one in a taught language
    (else the first)."""
    from ia_lib.evaluation.extraction import agreement

    task, run = stage.inputs.extracted[0], stage.run
    codes = list(stage.inputs.tested(task))
    code = next((code for code in codes if code in run.groups.get("L2", ())), codes[0])
    asked = stage.inputs.asked(task, code).to_pandas().set_index("id")
    said = show.said_on(pd.read_parquet(done.folder / "predictions.parquet"), task.name, code).reindex(asked.index)
    pairs = zip(said, asked["answers"], strict=True)
    marks = pd.DataFrame([agreement(one, true, "corrected", code) for one, true in pairs], asked.index, ["exact", "f1"])
    number = marks["exact"].idxmax()
    one, mark = asked.loc[number], marks.loc[number]
    texts = {"text": task.prompt(code, one["context"], one["question"]), "model": said[number]}
    texts = run.shown(pd.DataFrame([texts | {"answer": " / ".join(one["answers"])}])).iloc[0]
    name = escape(run.language(code))
    return HTML(
        f"{_STYLE}<div class='follow'><p><b>One question in {name}, followed:</b></p>"
        f"<ol><li>The prompt: <pre>{escape(texts['text'])} ___</pre></li>"
        f"<li>The model wrote: <pre>{escape(texts['model']) or '(nothing)'}</pre></li>"
        f"<li>The true answer: <pre>{escape(texts['answer'])}</pre></li>"
        f"<li>Are they the same words (an <i>exact match</i>)? <b>{'yes' if mark['exact'] else 'no'}</b>. Words in "
        f"common (<i>F1</i>): <b>{100 * mark['f1']:.0f}%</b>.</li>"
        f"<li>Over the {len(marks):,} questions in {name} exact matches are "
        f"<b>{100 * marks['exact'].mean():.1f}%</b>, F1 is <b>{100 * marks['f1'].mean():.1f}%</b> on "
        "average. These stand in the report.</li></ol></div>"
    )


def answer(stage: Stage, done: Judged, language: str | None = None, example: str | None = None) -> HTML:
    """One free answer, from its request over gate and mark to the sum: the best that the gate turned away (else the
    best), or that of a `language` (code) and an `example`. Raises SettingsError as `sentence` does."""
    mine = done.marks[(done.marks["run"] == stage.run.name) & done.marks["mark"].notna()]
    mine = _chosen(_chosen(mine, "language", language, stage), "example", example, stage)
    order = mine.assign(gated=mine["inside"].astype(bool)).sort_values(
        ["gated", "mark"], ascending=[True, False], kind="stable"
    )
    one = order.iloc[0]
    texts = {"prompt": one["question"], "answer": one["answer"], "text": one["reference"]}
    texts = stage.run.shown(pd.DataFrame([texts])).iloc[0]
    name, inside, mark = stage.run.language(one["language"]), bool(one["inside"]), int(one["mark"])
    everything = done.marks[(done.marks["run"] == stage.run.name) & (done.marks["judge"] == one["judge"])]
    same = everything[(everything["language"] == one["language"]) & everything["mark"].notna()]
    total = (same["mark"] * same["inside"].astype(bool)).sum()
    right = f"<li>A right answer would be: <pre>{escape(texts['text'])}</pre></li>" if one["reference"] else ""
    said = "is" if inside else "is <b>not</b>"
    return HTML(
        f"{_STYLE}<div class='follow'><ol><li>The request, in {escape(name)}: <pre>{escape(texts['prompt'])}</pre></li>"
        f"<li>The model answered: <pre>{escape(texts['answer']) or '(nothing)'}</pre></li>{right}"
        f"<li>The judge <b>{escape(str(one['judge']))}</b> gives it <b>{mark}</b> of 3.</li>"
        f"<li>The gate: the answer {said} in {escape(name)}, so it counts <b>{mark if inside else 0}</b>.</li>"
        f"<li>With it the {len(same)} answers in {escape(name)} add up to <b>{total:.0f}</b> of {3 * len(same)}: a "
        f"score of {total / max(1, len(same)):.2f} (0 to 3).</li></ol></div>"
    )


def judged(stage: Stage, done: Judged):
    """A figure: the score in every language, with its interval, beside the best baseline."""
    names = {code: stage.run.language(code) for code in set(done.measures["language"]) - {"all"}}
    return story_figures.judged(done.measures, names)


def known_marks(done: Judged) -> pd.DataFrame | Markdown:
    """What judges made of answers whose mark is known beforehand; a sentence, where they were not asked."""
    found = show.checks(done)
    if len(found):
        return found
    return Markdown(
        "No judge of this row was tested in this way. That needs a judge that is a model or an endpoint (of a rule the "
        "marks are known anyway), and the field `judge_checks`: the number of requests of each language to try."
    )


def _chips(tokens: list[str], kind: str = "") -> str:
    return "".join(f"<span class='tok {kind}'>{escape(_plain(token))}</span>" for token in tokens)


def _plain(token: str) -> str:
    """A token as people read it: byte-level and SentencePiece tokens mark blanks and new lines in their own way."""
    return token.replace("Ġ", "␣").replace("▁", "␣").replace("Ċ", "↵").replace("\n", "↵")


def _many(count: int, name: str) -> str:
    return f"{count} {name}" + "s" * (count != 1)
