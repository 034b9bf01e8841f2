"""Panels that ask the models: the labels of a text of your own, a translation, a question, a question on a passage.
Each has a button, since a large model takes its time."""

from html import escape

import ipywidgets as widgets

from ia_lib.evaluation import choice, scoring
from ia_lib.evaluation.generation import answers
from ia_lib.explore import panel as panels
from ia_lib.explore.opened import COMMIT, TASTE, Opened
from ia_lib.explore.panel import Panel, Tell, Wrong, named, or_sentence, two, typed
from ia_lib.instructions import templates
from ia_lib.models.encoding import asked, encode
from ia_lib.workflow import show

# Tokens that label scores read at most.
_READ = 1024


@or_sentence
def label_scores(opened: Opened) -> widgets.Widget:
    """A sentence of your own in a prompt: the scores of its labels by every rule."""
    if not opened.labels:
        return opened.nothing("is tested on no labels", opened.having("choices"), TASTE)
    task, labels = next(iter(opened.labels.items()))
    last = opened.texts.groupby("language", sort=False).first()["text"].iloc[-1]
    controls = {
        "name": panels.choice("run", list(opened.runs)),
        "template": widgets.IntSlider(1, 1, 3, description="prompt"),
        "text": typed("text", last if opened.run.machine.share_text else ""),
        "names": typed("labels", ", ".join(labels), rows=1),
    }

    def draw(tell, name, text, names, template) -> str:
        words, how = panels.words(names), {"chat": opened.chats[name]}
        asking = task.rpartition("/")[2], words
        prompt, empty = (
            templates.classification_prompts(some, *asking)[template - 1]
            for some in (panels.read(text), choice.CONTENT_FREE)
        )
        model, tokenizer = opened.model(name, tell)
        two_parts = {"encoder_decoder": model.config.is_encoder_decoder}
        split = scoring.tokens(tokenizer, prompt, words, **how, **two_parts)
        _check_room(model, max(len(before) + len(own) for before, own in split), _READ, "what is scored at most")
        tell(f"scoring {len(words)} labels")
        found = show.under_rules(model, tokenizer, [prompt], words, empty, **how)
        counts = [f"{len(own)} token{'s' * (len(own) > 1)}" for _, own in split]
        head = [f"{escape(word)} ({count})" for word, count in zip(words, counts, strict=True)]
        rows, chosen = [], {}
        for (rule, _), values in found.iterrows():
            best = values.to_numpy() == values.max()
            chosen.setdefault(words[best.argmax()], []).append(rule)
            cells = (f"<span class='{'best' * bool(b)}'>{v:.3f}</span>" for b, v in zip(best, values, strict=True))
            rows.append(("", f"<b>{rule}</b>", *cells))
        what = "; ".join(f"“{word}” by {', '.join(rules)}" for word, rules in chosen.items())
        what = f"All rules choose {next(iter(chosen))!r}." if len(chosen) == 1 else f"The rules differ: {what}."
        return f"<p>{escape(what)}</p><pre dir='auto'>{escape(prompt)}</pre>" + panels.table(
            ["rule (nats)", *head], rows
        )

    return Panel(controls, draw, "Score")


@or_sentence
def translations(opened: Opened) -> widgets.Widget:
    """A sentence of your own, translated by two runs side by side."""
    if opened.parallel is None:
        has = [run.name for run in opened.made.runs if run.parallel_codes]
        return opened.nothing("has no parallel text", has, TASTE)
    run, pivot = opened.run, (opened.run.pivots or opened.run.paired_codes)[-1]
    codes = named(run, [*run.pivots, *run.taught])
    controls = {
        **two(opened.runs),
        "source": panels.choice("from", codes, pivot),
        "target": panels.choice("to", codes, run.taught[0] if run.taught else None),
        "text": typed("text", opened.parallel[pivot][0] if run.machine.share_text else ""),
        "template": widgets.IntSlider(1, 1, 6, description="template"),
    }

    def draw(tell, first, second, source, target, text, template) -> str:
        if source == target:
            raise Wrong(f"Both languages are {run.language(source)}: choose two languages.")
        names = [run.language(code) for code in (source, target)]
        slots = {"SOURCE_LANG": names[0], "TARGET_LANG": names[1], "SOURCE_TEXT": panels.read(text)}
        count = len(templates.templates("mt"))
        prompt, _ = templates.fill("mt", min(template, count) - 1, **slots, TARGET_TEXT="")
        return _side_by_side(opened, tell, first, second, prompt)

    return Panel(controls, draw, "Translate")


@or_sentence
def questions(opened: Opened) -> widgets.Widget:
    """A question or request of your own, answered by two runs side by side."""
    controls = {
        **two(opened.runs),
        "text": typed("you", "What is the capital of France?"),
        "tokens": widgets.IntSlider(60, 10, 200, step=10, description="tokens"),
    }

    def draw(tell, first, second, text, tokens) -> str:
        return _side_by_side(opened, tell, first, second, panels.read(text), tokens)

    return Panel(controls, draw, "Ask")


@or_sentence
def passage_asked(opened: Opened) -> widgets.Widget:
    """A question of your own on a passage of your own, answered by two runs side by side."""
    if not opened.passages:
        return opened.nothing("is tested on no questions on passages", opened.having("extracted"), COMMIT)
    tasks = {task.name: task for task in opened.evaluated(opened.run.name).inputs.extracted}
    first = next(iter(opened.passages.values())).iloc[0]
    shared = opened.run.machine.share_text
    controls = {
        **two(opened.runs),
        "task": panels.choice("task", tasks),
        "code": panels.choice("language", named(opened.run, (code for _, code in opened.passages))),
        "passage": typed("passage", first["context"] if shared else "", rows=6),
        "question": typed("question", first["question"] if shared else "", rows=2),
    }

    def draw(tell, first, second, task, code, passage, question) -> str:
        passage, question = panels.read(passage, "passage"), panels.read(question, "question", 1000)
        if (task, code) not in opened.passages:
            raise Wrong("The task has no questions in that language; choose another one.")
        prompt, most = tasks[task].prompt(code, passage, question), tasks[task].max_new_tokens
        return _side_by_side(opened, tell, first, second, prompt, most, stop="\n")

    return Panel(controls, draw, "Ask")


def _side_by_side(
    opened: Opened, tell: Tell, first: str, second: str, prompt: str, tokens: int = 40, stop: str = ""
) -> str:
    """The prompt, and what two runs answer to it: greedily, `tokens` at most, up to `stop`."""
    found, names = {}, list(dict.fromkeys([first, second]))
    for name in names:
        model, tokenizer = opened.model(name, tell)
        run, decodes = opened.runs[name], model.config.is_encoder_decoder
        how = {**run.encoding(decodes), "chat": opened.chats[name]}
        (ids,) = asked(tokenizer, [prompt], chat=opened.chats[name], encoder_decoder=decodes)
        _check_room(model, len(ids) + 1, how["max_length"], "the row’s max_length", name)
        # the true answer is not known, and nothing of it is shown
        rows, _ = encode(tokenizer, [prompt], ["?"], **how)
        with panels.counted(model, lambda n, name=name: tell(f"{name} answers: token", n, tokens)):
            said = answers(model, tokenizer, rows, tokens)["model"][0]
        found[name] = said.partition(stop)[0] if stop else said
    cells = (f"<pre dir='auto'>{escape(found[name]) or '(nothing)'}</pre>" for name in names)
    return f"<pre dir='auto'>{escape(prompt)}</pre>" + panels.table([*map(escape, names)], [("", *cells)])


def _check_room(model, tokens: int, most: int, why: str, name: str = "") -> None:
    """Raises Wrong for a prompt of more tokens than are read."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or most
    if tokens > min(most, positions):
        why = why if most <= positions else "the model’s positions"
        whose = f" for {name}" if name else ""
        raise Wrong(f"The whole prompt has {tokens:,} tokens{whose}; allowed: {min(most, positions):,} ({why}).")
