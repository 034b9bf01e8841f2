"""What notebook 1 draws of a run: its method, and one instruction that is followed, from the sentence that it is made
of to its tokens (`learning` goes on with it). Texts that are not to be shared are in no picture."""

import re

import pandas as pd

from ia_lib.data.languages import GROUPS
from ia_lib.instructions import templates
from ia_lib.report import drawings
from ia_lib.report.drawings import Box, Drawing, Table
from ia_lib.training.streams import interleave
from ia_lib.workflow import show
from ia_lib.workflow.settings import Settings
from ia_lib.workflow.stages import Stage
from ia_lib.workflow.work import MadeData

# What an instruction of each kind asks for, in words.
ASKS = {
    "tlm": "mend a spoilt text with the help of its translation",
    "mlm": "mend a spoilt text without help",
    "mt": "translate a text",
    "xss": "say whether two texts mean the same",
    "word": "fill in masked words with the help of a translation",
    "span": "fill in a masked run of words with the help of a translation",
}
# The looks of what a template's slots are filled with.
_SLOTS = {"INPUT_TEXT": "noise", "CONTEXT": "old", "SOURCE_TEXT": "old", "TARGET_TEXT": "new"}
_CALLED = {"old": "in one language", "noise": "with noise", "new": "in the other"}
_OF_GROUP = {"L1": ("old", "kept?"), "L2": ("new", "gained?"), "L3": ("soft", "carried over?")}


def followed(run: Settings, examples: pd.DataFrame) -> pd.Series | None:
    """The instruction that notebooks 1 and 2 follow; its `name` is its place in `examples`. It is the first one to
    train on that is new, has its answer in a taught language, and does not hold this answer in its prompt; where there
    is none of one of these, the first without it. None, if nothing is trained on."""
    train = examples[examples["split"] == "train"]
    new = train[train["role"] == "new"]
    part = next((part for part in (new[new["language"].isin(run.taught)], new, train) if len(part)), None)
    if part is None:
        return None
    pairs = zip(part["prompt"], part["answer"], strict=True)
    return part.iloc[next((i for i, (prompt, answer) in enumerate(pairs) if answer.strip() not in prompt), 0)]


def _told(run: Settings, row: pd.Series) -> pd.Series:
    """An instruction as it may be shown."""
    return run.shown(row.to_frame().T).iloc[0]


def method(stage: Stage, made: MadeData) -> Drawing:
    """The method with the run's own numbers and languages, and the instruction that is followed."""
    run, examples, report = stage.run, made.examples, made.report
    train = examples[examples["split"] != "validation"]
    new, old = (train[train["role"] == role] for role in ("new", "old"))
    corpus = Box("Nothing new", ["this run teaches no language"], "new", there=False)
    instructions = Box("No new instructions", [], "new", there=False)
    if len(new):
        kinds = [f"{count:,} of {kind}{f': {ASKS[kind]}' if kind in ASKS else ''}"
                 for kind, count in new["kind"].value_counts(sort=False).items()]  # fmt: skip
        instructions = Box("New instructions", kinds, "new")
        mixed = ["words of another language put in"] if "before" in new else []
        corpus = Box("Texts", [f"{new['source_id'].nunique():,} texts", _names(run, new["language"].unique()), *mixed],
                     "new")  # fmt: skip
        if codes := run.parallel_codes:
            lines = [f"{len(stage.inputs.usable()):,} sentences, each in {len(codes)} languages:", _names(run, codes)]
            corpus = Box("Parallel text", lines, "new")
    past = Box("Old instructions", ["are not read: the model may forget them"], "old", there=False)
    replay = Box("No replay", [], "old", there=False)
    if len(old):
        past = Box("Old instructions", [_past(run)], "old")
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in old["kind"].value_counts(sort=False).items())
        often = f"each read {report['repetitions_per_old_row']:g} times"
        looked = ["looked at, not trained on"] if (old["split"] == "kept").all() else [often]
        replay = Box("Replay" if len(new) else "To train on", [f"{len(old):,}: {kinds}", *looked], "old")
    begin = f"the run {run.model.run}" if run.model.run else stage.origin
    model = Box("Model", [
        "new: it knows nothing" if run.model.new else f"its base: {begin}",
        f"{report['steps']:,} steps of {run.per_step} examples",
        "loss: all tokens" if run.train.loss == "all" else "loss: answers only",
    ])  # fmt: skip
    tests = [
        Box(f"{title} ({group})", [_names(run, run.groups[group]), asked], colour)
        for (group, title), (colour, asked) in zip(GROUPS.items(), _OF_GROUP.values(), strict=True)
        if run.groups[group]
    ]
    row, lines = followed(run, examples), []
    if row is not None:
        told = _told(run, row)
        parts = [(text, look) for text, look in _pieces(run, row) if look in _CALLED and not _mixed(row)]
        lines = [(_CALLED[look], text, "noise" if look == "noise" else "ink") for text, look in parts]
        if not parts or not run.machine.share_text:
            said = " ".join(told["prompt"].split())
            lines = [("one prompt", said if len(said) < 88 else "…" + said[-86:], "ink")] if said else []
        lines.append(("its answer", told["answer"].strip(), "new"))
    return drawings.method(corpus, instructions, past, replay, _turns(run), model, tests, lines)


def _turns(run: Settings) -> list[str]:
    """The roles of a batch's examples in turn."""
    streams = run.streams
    order = interleave(streams, {stream.name: stream.per_step for stream in streams}, 1, run.seed)
    roles = {stream.name: stream.role for stream in streams}
    return [roles[name] for name, _ in order]


def _names(run: Settings, codes) -> str:
    names = [show.called(run, code) for code in codes]
    return ", ".join(names if len(names) < 13 else [*names[:11], f"{len(names) - 11} more"])


def _past(run: Settings) -> str:
    """Where old instructions are from, in words."""
    past = run.data.past
    if past is None:
        return "instructions that the row itself names"
    if past.run:
        return f"what the run {past.run} was trained on"
    if past.mixture:
        return "a mixture of tasks in the known languages"
    return "xP3, instructions in " + ", ".join(past.xp3) if past.xp3 else "a file of instructions"


def _noisy(frame: pd.DataFrame) -> bool:
    return "noise" in frame and bool(frame["noise"].notna().any())


def sentence(stage: Stage, made: MadeData) -> Table | None:
    """The sentence that is followed, in all languages that the corpus has it in."""
    run, row = stage.run, followed(stage.run, made.examples)
    if row is None:
        return nothing("This run trains on nothing, so that no sentence is followed.")
    known = {code: f"{GROUPS[group]} ({group})" for group, codes in run.groups.items() for code in codes}
    name, codes = row["source_id"], run.parallel_codes
    if codes:
        text = stage.inputs.usable()
        found = text[text["sentence_id"][:].index(name)]
        lines = [(run.language(code), known.get(code, ""), found[code]) for code in codes]
        frame = pd.DataFrame(lines, columns=["language", "group", "text"])
        left = (
            f"; {stage.inputs.dropped:,} more are left out, since they are in the test data"
            if stage.inputs.dropped
            else ""
        )
        print(f"{len(text):,} sentences, each in {len(codes)} languages{left}. We follow the sentence {name}:")
    else:
        frame = made.examples.loc[[row.name]] if not name else made.examples[made.examples["source_id"] == name]
        frame = frame.drop_duplicates("language")[["language", "prompt", "answer"]]
        frame = frame.assign(language=[show.called(run, code) for code in frame["language"]])
        print(
            "This run reads no parallel text. We follow this instruction"
            + (f", number {name} of its file:" if name else ":")
        )
    return Table(run.shown(frame).replace("\n", "↵", regex=True))


def instruction(stage: Stage, made: MadeData) -> Drawing | None:
    """The followed instruction: what of it is the template, what the corpus, what noise; and its answer."""
    run, row = stage.run, followed(stage.run, made.examples)
    if row is None:
        return nothing("This run trains on nothing, so that there are no instructions.")
    old, told = row["role"] == "old", _told(run, row)
    pieces = _pieces(run, row) if run.machine.share_text else [(told["prompt"] + " ", "plain")]
    answer = [(told["answer"].strip(), "old answer" if old else "answer")]
    pieces += _put_in(row)[1] if _mixed(row) and run.machine.share_text else answer
    names = {"plain": "template", "old": "the text in the other language", "noise": "the text with noise",
             "new": "the second text", "answer": "answer", "old answer": "answer"}  # fmt: skip
    if _mixed(row):
        names["noise"] = "words that were put in"
    if row["kind"] == "mt":
        names["old"] = "the text to translate"
    looks = dict.fromkeys(look for _, look in pieces)
    legend = {names[look]: look for look in looks if look != "plain"}
    said = [f"It asks the model to {ASKS[row['kind']]}" if row["kind"] in ASKS else f"Its kind: {row['kind']}"]
    what = {"xss": "the second text is", "sentiment": "language:"}.get(row["kind"], "its answer is")
    said.append(f"{what} {show.called(run, row['language'])}")
    if not pd.isna(row.get("template")):
        said.append(f"template {int(row['template']) + 1} of {row['kind']}")
    if isinstance(noise := row.get("noise"), str):
        said.append(f"noise drawn: {noise}")
    return drawings.parts("Our sentence as an instruction", pieces, "; ".join(said) + ".", legend)


def _pieces(run: Settings, row: pd.Series) -> list[tuple[str, str]]:
    """A prompt in pieces, each with its look."""
    prompt, kind = row["prompt"], row["kind"]
    if _mixed(row):
        return _put_in(row)[0]
    if kind not in templates.SLOTS or pd.isna(row.get("template")):
        return [(prompt, "plain")]
    template = templates.templates(kind, run.templates)[int(row["template"])]
    head = template.removesuffix(f"[{templates.ANSWER_SLOTS[kind]}]")
    cut = re.split(r"\[([A-Z_]+)\]", head)
    # every slot of a text is a group, every other one only read over
    pattern = "".join(re.escape(part) if i % 2 == 0 else "(.+?)" for i, part in enumerate(cut))
    if not (match := re.fullmatch(pattern, prompt, re.DOTALL)):
        return [(prompt, "plain")]
    looks = _SLOTS | ({"SOURCE_TEXT": "noise"} if kind == "mlm" else {})
    told = [(cut[0], "plain")]
    for slot, text, after in zip(cut[1::2], match.groups(), cut[2::2], strict=True):
        told += [(text, looks.get(slot, "plain")), (after, "plain")]
    return told


def _mixed(row: pd.Series) -> bool:
    return isinstance(row.get("before"), str)


def _put_in(row: pd.Series) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Prompt and answer of an instruction into which words were put, in pieces, each with its look."""
    found, left = ([], []), len(row["prompt"])
    for text, changed in show.changes(row["before"], row["prompt"] + row["answer"]):
        for part, piece, look in zip(
            found, (text[: max(0, left)], text[max(0, left) :]), ("plain", "answer"), strict=True
        ):
            if piece:
                part.append((piece, "noise" if changed else look))
        left -= len(text)
    return found


def kinds(stage: Stage, made: MadeData) -> Drawing:
    """How many instructions of each kind there are to train on, old and new."""
    train = made.examples[made.examples["split"] != "validation"]
    counted = show.counts(train)["rows"].groupby(["role", "kind"], sort=False).sum()
    lines = [(f"{role}: {kind}", count, role) for (role, kind), count in counted.items()]
    report = made.report
    shares = {role: int((train["role"] == role).sum()) for role in ("new", "old")}
    held = report["new_rows_validation"] + report["old_rows_validation"]
    said = f"{shares['new']:,} new instructions and {shares['old']:,} old ones; {held:,} more are held out"
    if shares["old"]:
        said += f". Training reads each old one {report['repetitions_per_old_row']:g} times on average"
    if epochs := shares["new"] and report["epochs_of_new_data"]:
        more = f"More new ones could be made from these texts: training reads {epochs:.0%} of them all"
        often = "once" if epochs == 1 else f"{epochs:g} times"
        said += f". {more if epochs < 1 else f'Training reads each new one {often}'}"
    return drawings.bars("Instructions to train on", lines, said + ".")


def noise(stage: Stage, made: MadeData) -> Drawing | None:
    """How often each kind of noise was drawn, beside the shares of the method's mixture if the run draws from it."""
    if not _noisy(made.examples):
        return nothing("No instruction of this run has noise. The objectives tlm, mlm, word and span have.")
    drawn = made.examples["noise"].value_counts(normalize=True)
    found = show.noise(made.examples).sort_values("expected", ascending=False, kind="stable").fillna(0)
    if getattr(stage.run.data, "noise", "mixture") != "mixture" or not set(drawn.index) <= set(found.index):
        lines = [(str(name), 100 * share, "noise") for name, share in drawn.items()]
        said = "These kinds are not drawn from the method's mixture, so that no mark says how often they should be."
        return drawings.bars("Kinds of noise", lines, said, "%", digits=1)
    lines = [(name, 100 * share, "noise") for name, share in found["observed"].items()]
    off = (found["observed"] - found["expected"]).abs().max()
    said = f"Bars: what was drawn; marks: what the method asks for. They are at most {100 * off:.1f} points apart."
    return drawings.bars("Kinds of noise", lines, said, "%", list(100 * found["expected"]), digits=1)


def tokens(stage: Stage, made: MadeData) -> Drawing | None:
    """The followed instruction as the model reads it: in tokens."""
    from ia_lib.models import load
    from ia_lib.models.encoding import encode

    run, row = stage.run, followed(stage.run, made.examples)
    if row is None:
        return nothing("This run trains on nothing, so that nothing is read in tokens.")
    tokenizer = load.load_tokenizer(*stage.inputs.tokenizer)
    decodes = isinstance(stage.inputs.origin, str) and load.is_encoder_decoder(*stage.inputs.tokenizer)
    (found,), _ = encode(tokenizer, [row["prompt"]], [row["answer"]], **run.encoding(decodes))
    ids, start = found["input_ids"], found["answer_start"]
    words, ends = len((row["prompt"] + " " + row["answer"]).split()), tokenizer.convert_ids_to_tokens(ids[-1])
    said = f"{words} words are {len(ids)} tokens: {start} of the prompt, {len(ids) - start} of the answer. "
    said += f"The last one, {ends}, says that the answer is over." if ids[-1] == tokenizer.eos_token_id else ""
    if not run.machine.share_text:
        return nothing(said + " They are not shown, since share_text is false.")
    look = "old answer" if row["role"] == "old" else "answer"
    pieces = [(text, "plain" if i < start else look) for i, text in enumerate(pronounced(tokenizer, ids))]
    return drawings.parts("Our sentence in tokens", pieces, said, {"answer": look}, apart=True)


def pronounced(tokenizer, ids: list[int]) -> list[str]:
    """Tokens as people read them: a blank before one is a raised dot, part of a letter is shown as �."""
    marks = ("Ġ", "▁")
    raw = tokenizer.convert_ids_to_tokens(ids)
    return [("·" if one.startswith(marks) else "") + (tokenizer.decode([i]).strip(" ") or "")
            for i, one in zip(ids, raw, strict=True)]  # fmt: skip


def tokens_per_word(stage: Stage, made: MadeData) -> Drawing | None:
    """How many tokens a word has in each language of the parallel text."""
    run, found = stage.run, made.report["tokens_per_word"]
    if not found:
        return nothing("This run reads no parallel text, so that words of its languages are not counted here.")
    lines = [(run.language(code), value, "old" if code in run.known else "new") for code, value in found.items()]
    most, least = (pick(found, key=found.get) for pick in (max, min))
    said = (
        f"Grey: known before; blue: taught. {run.language(most)} takes {found[most]:g} tokens a word, "
        f"{run.language(least)} {found[least]:g}."
    )
    return drawings.bars("Tokens for a word", lines, said, digits=2)


def of_other_methods(stage: Stage, made: MadeData) -> Drawing | Table | None:
    """What only some methods have. COMMIT: of each language's dictionary what it has, how many of the words it knows,
    and how many really changed (percent). The Alpaca study: the tokens that each budget of a set of instructions in
    several languages costs."""
    if mixed := made.report.get("code_mixing"):
        return Table(pd.DataFrame(mixed).T, names=True)
    found = made.report.get("budgets", [])
    if not found:
        return nothing(
            "This run does neither. See params/commit_mini.yaml and params/taste_alpaca.yaml for some that do."
        )
    lines = []
    for one in found:
        own = one["budget"] == stage.run.data.budget
        name = f"{one['budget']}{' ' + show.called(stage.run, one['language']) if one['language'] else ''}"
        lines.append((f"{name}, {one['rows']:,} instructions", one["tokens_trained"], "new" if own else "old"))
    said = "Blue: this run's budget. The same number of instructions or steps is not the same number of tokens."
    return drawings.bars("Tokens that training reads, by budget", lines, said)


def nothing(said: str) -> None:
    """In place of a picture: a sentence that says why there is none."""
    print(said)
