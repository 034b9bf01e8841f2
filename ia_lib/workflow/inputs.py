"""What one stage of a run reads: its sources in one list, and the texts that are read through them.

Every reader gets `find`, which knows the files of the list and no others: what is not in the list is in no key, so it
cannot be read either.
"""

import json
import os
from collections.abc import Iterable
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia_lib.data import corpora, files, minilab
from ia_lib.data.addresses import shown
from ia_lib.data.downloads import SourceError
from ia_lib.data.files import CorpusError
from ia_lib.data.yaml_files import Refusal
from ia_lib.evaluation.tasks import Answer, Choose, Extract, Open, Task, Translate
from ia_lib.instructions import templates
from ia_lib.paths import params, root
from ia_lib.recipes.fields import Judge
from ia_lib.workflow import cost, past
from ia_lib.workflow.settings import Settings
from ia_lib.workflow.sources import Address, Asked, File, MiniLab, Published, Source
from ia_lib.workflow.tested import Tested

if TYPE_CHECKING:
    from datasets import Dataset

    from ia_lib.evaluation.gate import Gate
    from ia_lib.instructions.cross_lingual import Plan


# What settles which texts a run is tested on (`Inputs.tests_read`) -> how many they are.
_LABELLED: dict[str, int] = {}


class Inputs(Tested):
    """The inputs of a stage of a run."""

    def __init__(self, chain: list[Settings], stage: str, outputs: Path):
        super().__init__(chain, outputs)
        self.stage = stage

    @property
    def examples(self) -> Path:
        """The file of the examples that the run trains on."""
        return self.made(self.run, "data") / "examples.parquet"

    @cached_property
    def sources(self) -> dict[str, Source]:
        """All that the stage reads from outside, by name. Raises Refusal, or an error that names the file."""
        if self.stage == "report":
            kit = Path(__file__).parents[1] / "report" / "page.html"
            tables = sorted((params() / "published").glob("*.csv")) if self.run.reproduces else []
            return {file.name: File(file.name, file, ours=True) for file in [kit, *tables]}
        return {source.name: source for source in self._listed()}

    def _listed(self) -> list[Source]:
        run, outside = self.run, [self.outside] if self.begins.model.name else []
        if self.stage == "tune":
            return outside
        if self.stage == "judge":
            return self._judged_by()
        evaluates = self.stage == "evaluate"
        found, wanted = self._prompts(), self.parallel_places() if self.reads_parallel else []
        # the data stage takes the texts of tasks, whose pairs it may leave out, and the labels' tokens
        others = self.of_files if wanted and run.data.drop_test_overlap else []
        for number, task in enumerate(self.tasks if evaluates else [*self.choices, *others]):
            parts = None if evaluates else {"name", "labels", "data"}
            said = {"split": run.evaluate.test_split, **task.model_dump(mode="json", include=parts)}
            found.append(Asked(f"task {number}", said, task.file))
            others = [path for path in task.files(run.wordings if evaluates else ()) if path != task.file]
            found += [self._kits(path) for path in others]
            wanted += self.places(task)
        if evaluates and self.opened and run.evaluate.gate and run.evaluate.gate.file:
            wanted.append(("file", run.evaluate.gate.file))
        if self.stage == "data":
            wanted += past.places(self)
            wanted += run.method.places(run) if hasattr(run.method, "places") else []
        else:
            found += self._majority.values()
        return [*found, *(self._source(*place) for place in dict.fromkeys(wanted)), *outside]

    def _judged_by(self) -> list[Source]:
        """What judges read: requests, their wording, a model, sheets that people have filled in."""
        found: list[Source] = [Asked(task.name, task.model_dump(mode="json", include={"name", "data"}), task.file)
                               for task in self.opened]  # fmt: skip
        wanted = [place for task in self.opened for place in self.places(task)]
        gate = self.run.evaluate.gate
        wanted += [("file", gate.file)] if gate and gate.file else []
        for name, judge in self.run.judge.judges.items():
            found.append(self._kits(self.wording(judge)))
            found += [self.found(judge.model, f"judges.{name}.model")] if judge.model else []
            wanted += [("file", judge.people), ("file", judge.key)] if judge.people else []
        return [*found, *(self._source(*place) for place in dict.fromkeys(wanted))]

    def wording(self, judge: Judge) -> Path:
        """The file of what a judge is asked."""
        return Path(self.run.locate(judge.wording)) if judge.wording else params() / "judges" / "wording.yaml"

    def _prompts(self) -> list[Source]:
        """The files of templates and wordings. Raises Refusal for a name that is neither the kit's nor a file's."""
        run, data, asked = self.run, self.run.data, []
        if self.stage == "data" or self.translations:
            asked.append(("templates", data.templates, run.templates, templates.TEMPLATES))
        if self.stage == "evaluate":
            names = zip(run.evaluate.wordings, run.wordings, strict=True)
            asked += [("wordings", name, path, templates.wordings()) for name, path in names]
        for field, name, path, own in asked:
            if name not in own and not Path(path).is_file():
                raise Refusal(field, name, f"{', '.join(own)}, or a YAML file", own)
        return [self._kits(path) for path in templates.files([path for _, _, path, _ in asked])]

    @property
    def reads_parallel(self) -> bool:
        """Whether the stage reads parallel text: to make instructions of it, to train a tokenizer on it, to test on it
        what was held out."""
        run = self.run
        if run.corpus == "own" and not run.data.parallel:
            return False
        return run.measures_held_out if self.stage == "evaluate" else bool(run.parallel_codes or run.model.new)

    def _kits(self, path: Path) -> File:
        ours = path.is_relative_to(params())
        return File(path.relative_to(params()).as_posix() if ours else str(path), path, ours)

    def _source(self, source: str, file: str) -> Source:
        run = self.run
        if source == "minilab":
            return self.lab
        if source == "file":
            return File(f"file/{file}", Path(run.locate(file, self.data_folder)))
        if source == "address":
            return Address(file, run.machine.offline)
        return Published(f"{source}/{file}", self.data_folder, run.machine.mirror, run.machine.offline)

    @cached_property
    def data_folder(self) -> Path:
        """The folder of real data: `data_dir`, else the environment variable IA_DATA, else ../shared/data."""
        folder = Path(self.run.machine.data_dir or os.environ.get("IA_DATA") or "../shared/data").expanduser()
        return folder if folder.is_absolute() else root() / folder

    @cached_property
    def lab(self) -> MiniLab:
        """The mini lab: its own folder for each seed, size and choice of languages, and for what it is made from."""
        run, sizes = self.run, self.run.lab.model_dump()
        content = minilab.identity(run.seed, run.codes, sizes)
        folder = self.outputs / "lab" / f"seed{run.seed}-{content[:8]}"
        return MiniLab("minilab", folder, content, partial(minilab.write, folder, run.seed, run.codes, sizes))

    def find(self, source: str, file: str) -> Path | str:
        """Where a file of the list is read. Raises SourceError for one that is not in it."""
        name = "minilab" if source == "minilab" else file if source == "address" else f"{source}/{file}"
        if name not in self.sources:
            raise SourceError(f"{name}: {self.run.name}'s {self.stage} stage does not read this; it reads: "
                              f"{', '.join(self.sources)}")  # fmt: skip
        place = self.sources[name].path()
        return place / file if source == "minilab" else place

    # ------------------------------------------------------------------ loops over the list

    def identities(self) -> dict[str, Any]:
        """For the stage's key; what a user's file is called is no part of it, nor who asks an address."""
        users = [name for name, source in self.sources.items() if isinstance(source, File) and not source.ours]
        called = {name: f"file {number}" for number, name in enumerate(users)}
        return {shown(called.get(name, name), query=True): source.identity() for name, source in self.sources.items()}

    def here(self, places: Iterable[tuple[str, str]]) -> bool:
        """Whether these (source, file) can be read at once: nothing to be brought or downloaded, and no mini lab to be
        written."""
        found = [self._source(*place) for place in places]
        return not any(isinstance(source, MiniLab) or source.absent() or source.missing() for source in found)

    def provenance(self) -> list[dict[str, Any]]:
        """For the manifest: licence, citation and checksums; the files of one published source together."""
        found: dict[str, dict[str, Any]] = {}
        for name, source in self.sources.items():
            if said := source.provenance():
                known = found.setdefault(said.get("source", name), said)
                if known is not said:
                    known["files"] += said["files"]
        return list(found.values())

    def check_sentences(self, parallel: int | None, left: int | None = None) -> None:
        """Refuse to draw more than all parallel sentences, or to hold out all that are left of them."""
        data = self.run.data
        if parallel and data.sentences and data.sentences > parallel:
            allowed = f"{parallel:,} at most, the sentences of the parallel text"
            raise Refusal("sentences", data.sentences, allowed)
        reads = self.run.parallel_codes or self.run.measures_held_out
        by_sentence = getattr(data, "hold_out", "sentence") == "sentence"
        if left is not None and reads and by_sentence and left < 2:
            said = f"{left} of the parallel sentences {'is' if left == 1 else 'are'} left beside the test texts"
            raise CorpusError(f"{said}; at least 2 are needed, one of which is held out")
        if left is not None and reads and by_sentence and data.validation_sentences >= left:
            allowed = f"below {left:,}, the parallel sentences that are left beside the test texts"
            raise Refusal("validation_sentences", data.validation_sentences, allowed)

    # ------------------------------------------------------------------ what is read

    def pairs(self, task: Translate) -> "Dataset":
        """The parallel text of a task: `sentence_id` and a column per language."""
        if task.data.held_out:
            return self.held_out()
        return task.read(self.find, self.tested(task), self.split_of(task))

    def questions(self, task: Answer) -> "Dataset":
        """The questions of a task and their true answers: columns `prompt, answer`."""
        if task.data.held_out:
            return past.split(self, self.find("file", self.run.data.past.file))[1]
        return task.read(self.find, self.tested(task), self.split_of(task))

    def asked(self, task: Extract | Open, code: str) -> "Dataset":
        """The questions of a task in one language, with their passages, or its requests; the first `examples` of
        them."""
        found, few = task.read(self.find, [code], self.split_of(task)), self.run.evaluate.examples
        return found.select(range(few)) if few and few < len(found) else found

    @cached_property
    def asked_on_passages(self) -> int:
        """How many questions on passages are asked, of those that are here or will be written."""
        return self._count(self.extracted)

    @cached_property
    def requested(self) -> int:
        """How many requests are made, of those that are here or will be written."""
        return self._count(self.opened)

    @property
    def judged(self) -> bool:
        """Whether the run's answers are judged."""
        return bool(self.run.judge.judges and self.opened)

    def gate(self) -> "Gate":
        """What tells whether an answer is in its request's language: among those of its tasks and their near
        neighbours, by the mini lab's words where they are the lab's, else by py3langid, unless the row says. Raises
        Refusal for a language that it cannot tell."""
        from ia_lib.evaluation.gate import beside, gate

        asked, tasks = self.run.evaluate.gate, self.opened
        lab = all(task.data.source == "minilab" for task in tasks)
        by = asked.by if asked else "lexicon" if lab else "langid"
        codes = list(dict.fromkeys(code for task in tasks for code in task.data.languages))
        if asked and asked.among:
            if missing := [code for code in codes if code not in asked.among]:
                raise Refusal("gate.among", asked.among, f"{missing[0]}, too, in which the row is asked")
            codes = asked.among
        elif by != "lexicon":
            codes += beside(codes)
            # one alone is told from nothing
            codes += ["eng"] if len(codes) == 1 and codes[0] not in ("eng", "en") else []
        return gate(by, codes, self.find("file", asked.file) if asked and asked.file else None)

    @property
    def asked_like_passages(self) -> float:
        """All questions that are answered freely, counted in those on passages, whose time they take."""
        return self.asked_on_passages + self.requested * cost.REQUEST / cost.PASSAGE

    def _count(self, tasks: "list[Extract] | list[Open]") -> int:
        pairs = [(task, code) for task in tasks for code in self.tested(task)]
        few, of_lab = self.run.evaluate.examples or 10**9, [task for task, _ in pairs if task.data.source == "minilab"]
        sizes = [(task, getattr(self.run.lab, self.split_of(task))) for task in of_lab]
        written = [minilab.questions(size) if isinstance(task, Extract) else size for task, size in sizes]
        here = [pair for pair in pairs if self.here(pair[0].places([pair[1]], self.split_of(pair[0])))]
        return sum(len(self.asked(*pair)) for pair in here) + sum(min(few, count) for count in written)

    def places(self, task: Task) -> list[tuple[str, str]]:
        """What the run's texts of a task are read from, as (source, file)."""
        if isinstance(task, Answer) and task.data.held_out:
            return [("file", self.run.data.past.file)]
        return task.places(self.tested(task), self.split_of(task))

    @property
    def labels_here(self) -> bool:
        """Whether any labelled texts can be read at once."""
        places = [place for task in self.choices for place in self.places(task)]
        return any(self.here([place]) for place in [*places, *(p for _, _, p in self._majority_places.values())])

    @property
    def tests_read(self) -> str:
        """What settles which labelled texts are read: runs that are alike in it read the same ones."""
        run, asked = self.run, {"tasks", "tests", "test_split", "examples", "majority_of", "label_order"}
        of = run.evaluate.model_dump_json(include=asked)
        return json.dumps([of, run.tested_codes, str(run.home), str(self.data_folder)])

    @property
    def labelled(self) -> int:
        """How many labelled texts the run is tested on."""
        if self.tests_read not in _LABELLED:
            _LABELLED[self.tests_read] = len(self.tests(every=False))
        return _LABELLED[self.tests_read]

    def tests(self, every: bool = True, here: bool = False) -> "Dataset":
        """All labelled texts: columns `task, language, example, text, label`; `task` is the name under which results
        stand. Without `every` the first `examples` of each language, which are those that the run is tested on; with
        `here` only those that can be read at once."""
        from datasets import Dataset, concatenate_datasets

        few = None if every else self.run.evaluate.examples
        parts = [
            task.read(self.find, [code], self.split_of(task))
            for task in self.choices
            for code in self.tested(task)
            if not here or self.here(task.places([code], self.split_of(task)))
        ]
        if not parts:
            return Dataset.from_dict({name: [] for name in ("task", "language", "example", "text", "label")})
        ids: set[tuple[str, str, str]] = set()
        for part in parts:
            for key in zip(part["task"][:], part["language"][:], part["example"][:], strict=True):
                if key in ids:
                    allowed = f"texts of {key[0]} in {key[1]} from one file, or with ids of their own"
                    raise Refusal("tests", key[2], allowed)
                ids.add(key)
        return concatenate_datasets([part.select(range(min(few or len(part), len(part)))) for part in parts])

    def sample(self, count: int) -> dict[str, list[str]]:
        """Some texts of each of the run's languages that can be read at once, known ones first."""
        found: dict[str, list[str]] = {}
        if self.run.corpus == "minilab":
            return found
        if self.reads_parallel and self.run.paired_codes and self.here(self.parallel_places()):
            pairs = self.parallel()[:count]
            found |= {code: pairs[code] for code in self.run.paired_codes}
        if self.labels_here:
            tests = self.tests(here=True).to_pandas()
            for code, rows in tests.groupby("language", sort=False):
                found.setdefault(code, rows["text"].tolist()[:count])
        return {code: found[code] for code in self.run.codes if code in found}

    def cut(self, text: str, tokens: int) -> list[str]:
        """A text in parts of so many of the model's tokens, the last one of fewer."""
        from ia_lib.models.encoding import tokenised

        ((ids, offsets, _),) = tokenised(self._cutting, [("", text)], add_special_tokens=False)
        borders = [0, *(offsets[i][0] for i in range(tokens, len(ids), tokens)), len(text)]
        return [text[begin:end] for begin, end in pairwise(borders)]

    def tokens(self, rows: list[dict[str, str]]) -> list[int]:
        """How many of the model's tokens of each instruction (`prompt, answer`) are tuned on."""
        from ia_lib.models.encoding import encode

        pairs = [row["prompt"] for row in rows], [row["answer"] for row in rows]
        return [len(row["input_ids"]) for row in encode(self._cutting, *pairs, **self.run.encoding())[0]]

    @cached_property
    def _cutting(self):
        from ia_lib.models.load import load_tokenizer

        return load_tokenizer(*self.tokenizer)

    @cached_property
    def _majority(self) -> dict[str, Source]:
        """Task -> the file whose labels the majority baseline counts: the training texts of the first of the run's
        languages that has some in the data folder, else its validation texts; nothing where neither is there."""
        return {name: self._source(*place) for name, (_, _, place) in self._majority_places.items()}

    @cached_property
    def _majority_places(self) -> dict[str, tuple[str, str, tuple[str, str]]]:
        found: dict[str, tuple[str, str, tuple[str, str]]] = {}
        for task in self.choices if self.run.evaluate.majority_of == "train" else ():
            for split in ("train", "valid"):
                for code in self.tested(task):
                    for place in task.places([code], split) if split in task.splits else ():
                        source = self._source(*place)
                        if isinstance(source, MiniLab):
                            there = split != "train" or code in minilab.KNOWN
                        else:
                            there = source.file.is_file() if isinstance(source, File) else source.here
                        if there:
                            found.setdefault(task.name, (split, code, place))
        return found

    def training_labels(self, here: bool = False) -> dict[str, tuple[list[str], str]]:
        """For every task the labels that the majority baseline counts, and of what they are; with `here` only of what
        can be read at once."""
        found: dict[str, tuple[list[str], str]] = {}
        for task in self.choices:
            split, code, place = self._majority_places.get(task.name, ("", "", None))
            if place and (not here or self.here([place])):
                found[task.name] = task.read(self.find, [code], split)["label"][:], f"{split} texts in {code}"
        for name, rows in self.tests(every=False, here=here).to_pandas().groupby("task", sort=False):
            found.setdefault(name, (list(rows["label"]), "the test texts"))
        return found

    @cached_property
    def _whole(self) -> "Dataset":
        run, part = self.run, self.run.data.parallel
        if run.corpus == "own":
            paths = {place: self.find(*place) for place in self.parallel_places()}
            if part.lines:
                return corpora.parallel_lines({code: paths["file", part.lines[code]] for code in run.paired_codes})
            columns = {code: part.columns.get(code, code) for code in run.paired_codes}
            return corpora.parallel_file(paths["file", part.file], columns, part.id, part.sheet)
        return corpora.parallel(self.find, run.paired_codes, "train", run.corpus)

    def remarks(self) -> list[str]:
        """What is said of workbooks of the user's of which only one sheet is read."""
        run, part, read = self.run, self.run.data.parallel, []
        if part and part.file:
            read.append((part.file, part.sheet))
        for task in self.tasks:
            sheet = task.data.columns.sheet if isinstance(task, Choose) else getattr(task.data, "sheet", None)
            read += [(file, sheet) for source, file in self.places(task) if source == "file"]
        books = [(run.locate(file, self.data_folder), sheet) for file, sheet in dict.fromkeys(read)]
        said = (files.unread(Path(book), sheet) for book, sheet in books if book.lower().endswith(".xlsx"))
        return list(filter(None, said))

    def parallel_places(self) -> list[tuple[str, str]]:
        """What the parallel text is read from, as (source, file)."""
        run, part = self.run, self.run.data.parallel
        if run.corpus != "own":
            return corpora.places(run.corpus, run.paired_codes, "train")
        if not part:
            return []
        if part.file:
            return [("file", part.file)]
        for code in run.paired_codes:
            if code not in part.lines:
                raise CorpusError(f"parallel.lines: there is no file for the language {code!r}; name one")
        return [("file", part.lines[code]) for code in run.paired_codes]

    def parallel(self) -> "Dataset":
        """The parallel text: `sentence_id` and a column per language. With `sentences`, so many drawn uniformly."""
        found, sentences = self._whole, self.run.data.sentences
        if not sentences:
            return found
        import numpy as np

        from ia_lib.randomness import permuted

        self.check_sentences(len(found))
        drawn = permuted((self.run.seed, "sentences"), np.arange(sentences), len(found))
        return found.select(sorted(drawn.tolist()))

    @cached_property
    def _usable(self) -> "tuple[Dataset, int]":
        found, dropped = self.parallel(), 0
        if self.run.data.drop_test_overlap:
            for tests in (self.tests(), *map(self.pairs, self.of_files)):
                found, more = corpora.drop_overlap(found, tests)
                dropped += more
        return found, dropped

    def usable(self) -> "Dataset":
        """`parallel` without the pairs that occur in test texts, unless the run keeps them."""
        return self._usable[0]

    @property
    def dropped(self) -> int:
        """How many pairs were left out because they occur in test texts."""
        return self._usable[1]

    def plan(self) -> "Plan":
        """Languages and templates of what is translated, to and from the pivots."""
        from ia_lib.instructions.cross_lingual import Plan

        run = self.run
        taught = [code for code in run.paired_codes if code not in run.pivots]
        return Plan("mt", run.pivots, taught, run.seed, templates=run.templates, names=run.languages)

    def trained_on(self) -> "Dataset":
        """The parallel sentences that instructions of the run are made from."""
        from ia_lib.instructions.cross_lingual import split_off

        if getattr(self.run.data, "hold_out", "sentence") == "row":
            return self.usable()
        return split_off(self.usable(), self.run.data.validation_sentences, self.run.seed)[0]

    def held_out(self) -> "Dataset":
        """The parallel sentences that no instruction of the run is made from."""
        from ia_lib.instructions.cross_lingual import split_off

        return split_off(self.usable(), self.run.data.validation_sentences, self.run.seed)[1]

    def pool(self) -> "tuple[Dataset, list[dict[str, Any]]]":
        """The old instructions that `replay.draw` draws from, and where they are from (`past.pool`)."""
        return past.pool(self)
