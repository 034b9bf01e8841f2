"""What a stage will read, looked at before any work: files, settings that depend on them, texts, the model."""

import json
import os
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import combinations
from typing import TYPE_CHECKING

from ia_lib.data import corpora, dirt
from ia_lib.data.files import CorpusError, CorpusWarning
from ia_lib.data.yaml_files import Refusal
from ia_lib.evaluation.tasks import Open
from ia_lib.instructions import code_mixing, replay, templates
from ia_lib.instructions import judging as wordings
from ia_lib.workflow import devices, fit
from ia_lib.workflow.inputs import Inputs
from ia_lib.workflow.tables import drawn

if TYPE_CHECKING:
    from datasets import Dataset


def check(inputs, seen: set, without: bool = False) -> None:
    """Read what is here of all that a stage will read, so that what is wrong is said before any work. `inputs` are the
    stage's; `seen` remembers, from stage to stage, which texts were looked at. What looks wrong in texts is a warning.
    `without` lets files of the user's be missing.

    Raises CorpusError, SourceError, PromptError, TaskError or Refusal.
    """
    run = inputs.run
    if run.machine.data_dir and not inputs.data_folder.is_dir():
        raise Refusal("data_dir", run.machine.data_dir, f"a folder that is there (looked for: {inputs.data_folder})")
    for source in inputs.sources.values():
        if source not in seen and not (without and source.absent()):
            source.check()
            seen.add(source)
    if inputs.stage == "data" and run.data.past and run.data.past.xp3:
        corpora.check_xp3(run.data.past.xp3)
    if inputs.stage == "judge":
        _check_judges(inputs, seen)
    if inputs.stage in ("tune", "judge"):
        return
    if inputs.stage == "evaluate":
        _check_bfloat16(run, seen)
        fit.check(inputs, seen)
    # reads the files, and so finds what is wrong in them
    templates.templates("mt", run.templates)
    for task in inputs.of_files if inputs.stage == "evaluate" else ():
        if inputs.here(inputs.places(task)):
            pairs = inputs.pairs(task)
            for code in inputs.tested(task):
                _look(inputs, seen, corpora.cells(pairs, code), f"of {task.name} in {code}")
    for task in inputs.answered if inputs.stage == "evaluate" else ():
        if inputs.here(inputs.places(task)):
            questions = inputs.questions(task)
            for column in ("prompt", "answer"):
                _look(inputs, seen, corpora.cells(questions, column), f"of {task.name} ({column}s)")
    if inputs.stage == "evaluate" and inputs.opened:
        inputs.gate()
    for task in [*inputs.extracted, *inputs.opened] if inputs.stage == "evaluate" else ():
        for code in inputs.tested(task):
            looked = task.name, code, str(task.file), run.evaluate.examples
            if looked not in seen and inputs.here(task.places([code], inputs.split_of(task))):
                seen.add(looked)
                questions = inputs.asked(task, code)
                if isinstance(task, Open):
                    _look(inputs, seen, corpora.cells(questions, "question"), f"of {task.name} in {code}")
                    continue
                unspaced = any(code_mixing.UNSPACED.search(text) for text in corpora.cells(questions, "question"))
                if unspaced and find_spec("icu4py") is None:
                    raise CorpusError(f"{task.name} in {code}: {code_mixing.MISSING}")
                for column in ("context", "question"):
                    _look(inputs, seen, corpora.cells(questions, column), f"of {task.name} in {code} ({column}s)")
    for task in inputs.opened if inputs.stage == "evaluate" else ():
        codes = [code for code in inputs.tested(task) if inputs.here(task.places([code], inputs.split_of(task)))]
        last = {code: task.read(inputs.find, [code], inputs.split_of(task))["example"][-1] for code in codes}
        if len({*last.values()}) > 1:
            told = ", ".join(f"{number} in {code}" for code, number in last.items())
            _say(seen, f"the last request of {task.name} stands in line {told}: line n must be the same request in all")
    for wording in run.wordings if inputs.stage == "evaluate" else ():
        templates.label_words([], wording)
    if inputs.stage == "evaluate":
        read = {code for task in [*inputs.choices, *inputs.extracted, *inputs.opened] for code in inputs.tested(task)}
        read |= {*run.paired_codes} if run.parallel_codes or run.measures_held_out else set()
        read |= {*getattr(run.data, "texts", ()), *getattr(run.data, "dictionaries", ())}
        read |= {*getattr(getattr(run.data, "instructions", None), "languages", ())}
        tested = run.evaluate.tasks != [] or run.evaluate.tests
        asked = {code for task in inputs.extracted for code in inputs.tested(task)}
        for code in run.taught if asked and getattr(run.data, "dictionaries", None) else ():
            if code not in asked:
                _say(
                    seen, f"the run {run.name} is asked nothing in {code}: its tasks have no questions in that language"
                )
        for code in (code for code in [*run.taught, *run.unseen] if tested and code not in read):
            _say(seen, f"the run {run.name} reads no text in {code}: neither a test nor parallel text")
    if inputs.stage == "evaluate" and inputs.tests_read not in seen and inputs.labels_here:
        seen.add(inputs.tests_read)
        inputs.training_labels(here=True)
        _look_at(inputs, seen, inputs.tests(here=True))
    paired = bool(run.measures_held_out if inputs.stage == "evaluate" else run.parallel_codes)
    if not {(_texts(inputs), True), (_texts(inputs), paired)} & seen:
        seen.add((_texts(inputs), paired))
        _check_texts(inputs, seen, paired)
    if inputs.stage == "evaluate":
        check_earlier(inputs)
        _check_earlier_past(inputs)
    if inputs.stage == "data" and hasattr(run.method, "look") and inputs.here(places := run.method.places(run)):
        looked = run.data.model_dump_json(), *places
        if looked not in seen:
            seen.add(looked)
            run.method.look(run, inputs)
    file = run.data.past.file if run.data.past and not run.data.past.stream else None
    if inputs.stage == "data" and drawn(run) and file and inputs.here([("file", file)]):
        pool = inputs.pool()[0]
        try:
            replay.draw(pool, seed=run.seed, **drawn(run))
        except ValueError as error:
            raise CorpusError(str(error)) from None
        if (run.data.past.file, "past") not in seen:
            seen.add((run.data.past.file, "past"))
            for field in ("prompt", "answer"):
                _look(inputs, seen, corpora.cells(pool, field), f"of {run.data.past.file} ({field}s)")


def _check_bfloat16(run, seen: set) -> None:
    """Warn of bfloat16 on a GPU that has none of its own: PyTorch computes it there all the same, and very slowly."""
    fields = {"precision": run.train.precision if run.trains else "", "score_precision": run.evaluate.score_precision}
    for field in (field for field, found in fields.items() if found == "bfloat16" and field not in seen):
        if name := devices.without_bfloat16():
            seen.add(field)
            what = "training will be refused here" if field == "precision" else "evaluation will be very slow here"
            said = f"{field}: bfloat16, which this machine's {name} does not have: {what}, in other such runs too; "
            _say(seen, f"the run {run.name}: {said}float16 and float32 are allowed")


def _check_judges(inputs, seen: set) -> None:
    """Refuse a wording or sheet that cannot be read, and a rule without references."""
    from ia_lib.evaluation import blind

    for name, judge in inputs.run.judge.judges.items():
        wordings.read(inputs.wording(judge))
        if judge.endpoint and not judge.endpoint.local and not inputs.run.machine.share_text:
            allowed = "an endpoint on this machine, since share_text is false"
            raise Refusal(f"judges.{name}.endpoint.base_url", judge.endpoint.base_url, allowed)
        far = judge.endpoint and judge.endpoint.key and not judge.endpoint.local
        if far and not os.environ.get(judge.endpoint.key):
            _say(
                seen,
                f"the judge {name} needs its key in the environment variable {judge.endpoint.key}, which is not set",
            )
        if judge.people:
            blind.read(*(inputs.find("file", file) for file in (judge.people, judge.key)))
        for task in inputs.opened if judge.rule else ():
            if not task.data.reference:
                allowed = f"a judge of another kind, since the task {task.name} has no reference"
                raise Refusal(f"judges.{name}.rule", judge.rule, allowed)


def check_keys(inputs) -> None:
    """Refuse endpoints without their keys, before any work. Raises CorpusError."""
    from ia_lib.evaluation import endpoint

    for judge in inputs.run.judge.judges.values():
        try:
            if judge.endpoint:
                endpoint.credential(judge.endpoint)
        except endpoint.EndpointError as error:
            raise CorpusError(str(error)) from None


def _texts(inputs) -> str:
    """What settles which texts of tests and of parallel sentences are read, and how they are split."""
    run, data = inputs.run, {"parallel", "sentences", "drop_test_overlap", "validation_sentences", "hold_out"}
    shared = {"corpus", "known", "taught", "unseen", "pivots", *(("seed",) if run.data.sentences else ())}
    asked = {**dict.fromkeys(shared, True), "data": data, "evaluate": {"tasks", "tests", "test_split", "held_out"}}
    place = [str(inputs.data_folder), str(run.home), run.paired_codes]
    return json.dumps([run.model_dump(mode="json", include=asked), place], sort_keys=True)


def _check_texts(inputs, seen: set, paired: bool) -> None:
    """Split what is here of the parallel texts, if they are `paired`, and warn of what looks wrong in them."""
    run = inputs.run
    if run.corpus == "minilab":
        # it is not written yet, and no sentence of it stands in two of its files
        inputs.check_sentences(run.lab.train, run.data.sentences or run.lab.train)
        return
    if not paired or not inputs.here(inputs.parallel_places()):
        return
    tested = (inputs.places(task) for task in [*inputs.choices, *inputs.of_files])
    whole = not run.data.drop_test_overlap or all(map(inputs.here, tested))
    pairs = inputs.usable() if whole else inputs.parallel()
    inputs.check_sentences(None, len(pairs))
    by_sentence = getattr(run.data, "hold_out", "sentence") == "sentence"
    if whole and by_sentence and run.data.validation_sentences:
        try:
            inputs.held_out()
        except ValueError as error:
            raise CorpusError(str(error)) from None
    for code in run.paired_codes:
        _look(inputs, seen, corpora.cells(pairs, code), f"of the parallel text in {code}")
    prints = corpora.fingerprints(pairs)
    for (i, a), (j, b) in combinations(enumerate(name for name in pairs.column_names if name != "sentence_id"), 2):
        equal = int((prints[:, i] == prints[:, j]).sum())
        if equal > 0.1 * len(pairs):
            _say(seen, f"{equal:,} of {len(pairs):,} sentences read the same in {a} and {b}: not translated?")


def check_earlier(inputs) -> None:
    """Refuse a model that was trained on sentences which this run holds out, or on those that it is tested on: a run
    keeps its own ones apart, and so must its base. What is not here yet is passed over.

    Raises Refusal.
    """
    import numpy as np

    run = inputs.run
    mine = Inputs(inputs.chain, "data", inputs.outputs) if run.parallel_codes else inputs
    chain = [Inputs(inputs.chain[i:], "data", inputs.outputs) for i in range(1, len(inputs.chain))]
    for earlier in (one for one in chain if one.run.trains and one.run.parallel_codes and _all_here(one)):
        trained = earlier.trained_on()
        splits = run.parallel_codes or run.measures_held_out
        if splits and getattr(run.data, "hold_out", "sentence") == "sentence" and _all_here(mine):
            held_out = mine.held_out()
            shared = np.isin(corpora.fingerprints(held_out), corpora.fingerprints(trained)).any(axis=1)
            if shared.any():
                said = f"while {earlier.run.name!r} was trained on {int(shared.sum()):,} of the {len(held_out):,} "
                allowed = "a run with the same seed, sentences, validation_sentences, languages and tests"
                raise Refusal("model.run", run.model.run, allowed, said=f"{said}sentences that are held out here")
        tested = corpora.drop_overlap(trained, inputs.tests(here=True))[1] if run.data.drop_test_overlap else 0
        if tested:
            said = f"while {earlier.run.name!r} was trained on {tested:,} pairs that occur in the test texts here"
            allowed = "a run with the same tests, which then leaves them out, or drop_test_overlap: false"
            raise Refusal("model.run", run.model.run, allowed, said=said)


def _check_earlier_past(inputs) -> None:
    """Refuse a base that was trained on old instructions which this run holds out of the same file."""
    run = inputs.run
    if not (run.data.past and run.data.past.held_out and inputs.here(past := [("file", run.data.past.file)])):
        return
    (task,) = (one for one in inputs.answered if one.data.held_out)
    held_out = set(map(corpora.normalised, inputs.questions(task)["prompt"]))
    for i, earlier in enumerate(inputs.chain[1:], 1):
        if not (earlier.trains and drawn(earlier) and earlier.data.past.file and not earlier.data.past.stream):
            continue
        theirs = Inputs(inputs.chain[i:], "data", inputs.outputs)
        if theirs.here(past) and (shared := held_out & set(map(corpora.normalised, theirs.pool()[0]["prompt"]))):
            said = (
                f"while {earlier.name!r} may draw {len(shared):,} of the {len(held_out):,} old instructions that are "
            )
            allowed = "a run with the same seed and past, held_out in it"
            raise Refusal("model.run", run.model.run, allowed, said=f"{said}held out here")


def _all_here(inputs) -> bool:
    """Whether all texts of a run can be read at once."""
    return all(map(inputs.here, [inputs.parallel_places(), *map(inputs.places, inputs.tasks)]))


def _look_at(inputs, seen: set, tests: "Dataset") -> None:
    texts: dict[tuple[str, str], list[str]] = {}
    labels: dict[tuple[str, str, str], set[str]] = {}
    for row in zip(*(tests[name][:] for name in ("task", "language", "text", "label")), strict=True):
        texts.setdefault(row[:2], []).append(row[2])
        labels.setdefault(row[:3], set()).add(row[3])
    for (task, code), some in texts.items():
        _look(inputs, seen, some, f"of {task} in {code}")
        if double := sum(len(labels[task, code, text]) > 1 for text in set(some)):
            _say(seen, f"{double:,} texts of {task} in {code} are there with different labels: one of them is wrong")


def _look(inputs, seen: set, texts: Iterable[str], what: str) -> None:
    """Warn of dirt in texts."""
    for said in dirt.Found().add(texts).warnings(what, inputs.run.machine.share_text):
        _say(seen, said)


def _say(seen: set, said: str) -> None:
    if said not in seen:
        seen.add(said)
        warnings.warn(said, CorpusWarning, stacklevel=2)
