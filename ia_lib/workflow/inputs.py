"""What a run reads, from its settings: parallel text, labelled tests, past instruction data, and where each is from.

`folder` is in all of it the mini lab's own folder, or the data folder of the real corpora (`runs.Table.lab`).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, concatenate_datasets

from ia_lib.data import corpora, downloads, languages
from ia_lib.data.corpora import CorpusError
from ia_lib.data.downloads import SourceError
from ia_lib.data.pools import Jsonl
from ia_lib.instructions import cross_lingual, replay, templates
from ia_lib.instructions.mixture import mixture
from ia_lib.paths import locate
from ia_lib.randomness import generator, permuted, shuffled
from ia_lib.workflow.settings import Refusal, Settings


def parallel(run: Settings, folder: Path) -> Dataset:
    """The parallel text that instructions are made from: `sentence_id` and a column per language of `Settings.plan`.

    With `sentences`, so many of them drawn uniformly. Raises CorpusError or SourceError for what is wrong or missing.
    """
    codes = _taught(run)
    if run.corpus == "own":
        part = run.parallel
        if part.lines:
            missing = [code for code in codes if code not in part.lines]
            if missing:
                raise CorpusError(f"parallel.lines: there is no file for the language {missing[0]!r}; name one")
            found = corpora.parallel_lines({code: find_file(run, folder, part.lines[code]) for code in codes})
        else:
            found = corpora.parallel_file(
                find_file(run, folder, part.file), {c: part.columns.get(c, c) for c in codes}, part.id
            )
    else:
        found = corpora.parallel(folder, codes, "train", run.corpus, **_where(run))
    if run.sentences:
        if run.sentences > len(found):
            raise CorpusError(f"sentences: found {run.sentences:,}, but the parallel text has {len(found):,}")
        drawn = permuted((run.seed, "sentences"), np.arange(run.sentences), len(found))
        found = found.select(sorted(drawn.tolist()))
    return found


def usable(run: Settings, folder: Path) -> tuple[Dataset, int]:
    """`parallel` without the pairs that occur in test texts, unless the run keeps them, and how many those were."""
    found = parallel(run, folder)
    return corpora.drop_overlap(found, all_labelled(run, folder)) if run.drop_test_overlap else (found, 0)


def held_out(run: Settings, folder: Path) -> Dataset:
    """The parallel sentences that no instruction of the run is made from."""
    return cross_lingual.split_off(usable(run, folder)[0], run.validation_sentences, run.seed)[1]


def labelled(run: Settings, folder: Path) -> Dataset:
    """All labelled texts that the run is tested on: columns as `corpora.labelled` has them; `task` is the name under
    which results stand. The first `examples` of each language, if that is set."""
    parts = []
    for name, corpus, task in run.evaluates():
        for code in _tested(run, corpus):
            part = corpora.labelled(folder, task, [code], run.test_split, corpus, **_where(run))
            parts.append(part.remove_columns("task").add_column("task", [name] * len(part)))
    for test in run.tests:
        path = find_file(run, folder, test.file)
        parts.append(corpora.labelled_file(path, test.task, test.language, test.labels, test.text, test.label, test.id))
    order = ["task", "language", "example", "text", "label"]
    if not parts:
        return Dataset.from_dict({name: [] for name in order})
    return concatenate_datasets(
        [part.select(range(min(run.examples or len(part), len(part)))).select_columns(order) for part in parts]
    )


def all_labelled(run: Settings, folder: Path) -> Dataset:
    """All labelled texts of the test split, however many of them the run is tested on."""
    return labelled(run.model_copy(update={"examples": None}), folder)


def task_labels(run: Settings) -> dict[str, list[str]]:
    """The labels of every task of the run, in the order in which its prompts name them."""
    found = {name: corpora.labels(corpus, task) for name, corpus, task in run.evaluates()}
    found |= {test.task: test.labels for test in run.tests}
    if run.label_order == "shuffled":
        found = {
            name: [labels[i] for i in shuffled(generator(run.seed, run.name, "labels", name), len(labels))]
            for name, labels in found.items()
        }
    return found


def training_labels(run: Settings, folder: Path) -> dict[str, tuple[list[str], str]]:
    """For every task the labels that the majority baseline counts, and of what they are: the training texts of the
    first of the run's languages that has some at hand, else its validation texts, else the test texts themselves."""
    found: dict[str, tuple[list[str], str]] = {}
    wanted = [] if run.majority_of == "test" else ["train", "valid"]
    for name, corpus, task in run.evaluates():
        for split in wanted:
            for code in _tested(run, corpus):
                if name not in found:
                    try:
                        rows = corpora.labelled(folder, task, [code], split, corpus, **{**_where(run), "offline": True})
                        found[name] = rows["label"][:], f"{split} texts in {code}"
                    except (CorpusError, SourceError):
                        continue
    everything = labelled(run, folder).to_pandas()
    for name, rows in everything.groupby("task", sort=False):
        found.setdefault(name, (list(rows["label"]), "the test texts"))
    return found


def pool(run: Settings, folder: Path, past: Path | None) -> tuple[Dataset, list[dict[str, Any]]]:
    """The past instruction data that `replay.draw` draws from, and where it is from (for the manifest).

    `past` is the file of the run's past, if it has one. Of a pool too large to load, the rows of random parts.
    """
    source = run.past
    if source is None or not run.uses_old:
        return corpora.past(None), []
    if source.mixture:
        return mixture(folder, run.known, source.mixture, run.seed, run.corpus, **_where(run)), []
    if source.run:
        return corpora.past(past), []
    rows = run.replay if run.replay == "all" else run.replay + (0 if run.uses_new else run.validation_rows)
    if source.file:
        if source.stream and rows != "all":
            lines = Jsonl(past, source.fields)
            if run.replay_sampling == "released":
                return lines.head(rows + replay.BUFFER), []
            return replay.spaced(Dataset.from_list(replay.reservoir(lines.rows(), rows, run.seed))), []
        found = corpora.past(past, **source.fields, column=run.replay_stratify)
        return (found if run.replay_sampling == "released" else replay.spaced(found)), []
    places = [source.url] if source.url else [_xp3(code, run.mirror) for code in source.xp3]
    cache = downloads.cache_folder() / "past"
    columns = {run.replay_stratify: run.replay_stratify} if run.replay_stratify and source.url else {}
    files = [Jsonl(place, {**source.fields, **columns}, cache=cache, offline=run.offline) for place in places]
    if run.replay_sampling == "released":
        # nearly contiguous rows of the one file, as the released code reads them
        return files[0].head(rows + replay.BUFFER), [files[0].facts]
    total = sum(file.size for file in files)
    parts = [
        file.sample(run.seed, max(1, round(source.blocks * file.size / total)), rows if len(files) == 1 else 0)
        for file in files
    ]
    facts = [file.facts for file in files]
    if source.xp3:
        parts = [part.add_column("language", [code] * len(part)) for part, code in zip(parts, source.xp3, strict=True)]
        facts = [{**downloads.provenance("xp3"), **fact} for fact in facts]
    return replay.spaced(concatenate_datasets(parts)), facts


def read_files(run: Settings, folder: Path, stage: str) -> dict[str, Any]:
    """What a stage reads from outside, by name: the paths of local files, or None for what is to be fetched."""
    wanted: list[tuple[str, str]] = []
    found: dict[str, Any] = {}
    if (stage == "data" and run.uses_new) or (stage == "evaluate" and run.measures_held_out):
        if run.corpus == "own":
            named = run.parallel.lines or {"file": run.parallel.file}
            found |= {f"parallel {name}": find_file(run, folder, path) for name, path in named.items()}
        elif run.corpus != "minilab":
            wanted += corpora.places(run.corpus, None, _taught(run), "train")
    for _, corpus, task in run.evaluates():
        if corpus != "minilab":
            wanted += corpora.places(corpus, task, _tested(run, corpus), run.test_split)
    for test in run.tests:
        found[f"test {test.file}"] = find_file(run, folder, test.file)
    if stage == "data":
        field, names, own = "templates", [run.templates], templates.TEMPLATES
    else:
        field, names, own = "wordings", run.wordings, templates.wordings()
    for name in names:
        path = find_file(run, folder, name)
        if name not in own and not path.is_file():
            raise Refusal(field, name, f"{', '.join(own)}, or a YAML file")
        if templates.is_file(name):
            found[f"prompts {name}"] = path
    for source, file in dict.fromkeys(wanted):
        path = folder / source / file
        found[f"{source}/{file}"] = path if path.is_file() else None
    if stage == "data" and run.uses_old and run.past.file:
        found["past"] = find_file(run, folder, run.past.file)
    return found


def to_download(run: Settings, folder: Path, stage: str) -> list[str]:
    """What a stage reads that is not on this machine yet, in words: published files, and pools drawn from afar."""
    found = []
    files = read_files(run, folder, stage) if stage != "tune" else {}
    for name in [name for name, path in files.items() if path is None]:
        source, _, file = name.partition("/")
        place = downloads.location(source, file, run.mirror)
        if isinstance(place, str) and not (downloads.cache_folder() / source / file).is_file():
            found.append(f"{name} from {place}")
    if stage == "data" and run.uses_old and run.past and (run.past.url or run.past.xp3):
        for place in [run.past.url] if run.past.url else [_xp3(code, run.mirror) for code in run.past.xp3]:
            try:
                Jsonl(place, cache=downloads.cache_folder() / "past", offline=True)
            except CorpusError:
                found.append(f"parts of {place}")
    return list(dict.fromkeys(found))


def provenance(run: Settings, folder: Path, stage: str) -> list[dict[str, Any]]:
    """Licence, citation and checksums of the published files that a stage has read, for its manifest."""
    by_source: dict[str, list[Path]] = {}
    for name, path in read_files(run, folder, stage).items():
        source, _, file = name.partition("/")
        if source in downloads.known():
            by_source.setdefault(source, []).append(path or downloads.fetch(source, file, **_where(run)))
    own = [
        {"file": name, "bytes": path.stat().st_size, "sha256": downloads.checksum(path)}
        for name, path in read_files(run, folder, stage).items()
        if path and name.partition("/")[0] not in downloads.known()
    ]
    return [downloads.provenance(source, paths) for source, paths in by_source.items()] + own


def check(run: Settings, folder: Path, past: Path | None) -> None:
    """Read what is here of all that the run will read, so that what is wrong is said before any work.

    Raises CorpusError, SourceError, PromptError or Refusal.
    """
    for objective in run.objective.split("+") if run.uses_new else ():
        templates.templates(objective, run.plan()["templates"])
    for wording in run.asked():
        templates.label_words([], wording)
    if run.uses_old and run.past.xp3:
        corpora.xp3_languages(run.past.xp3)
    here = all(path is not None for stage in ("data", "evaluate") for path in read_files(run, folder, stage).values())
    if run.corpus == "minilab":
        # it is not written yet, and no sentence of it stands in two of its files
        _check_sentences(run, run.lab.train, run.sentences or run.lab.train)
    elif here:
        all_labelled(run, folder)
        if run.uses_new or run.measures_held_out:
            if run.sentences:
                _check_sentences(run, len(parallel(run.model_copy(update={"sentences": None}), folder)))
            _check_sentences(run, None, len(usable(run, folder)[0]))
    if here and run.uses_old and run.past.file and not run.past.stream:
        rows = 0 if run.uses_new else run.validation_rows
        try:
            replay.draw(
                pool(run, folder, past)[0], run.replay, run.seed, rows, run.replay_stratify, run.replay_sampling
            )
        except ValueError as error:
            raise CorpusError(str(error)) from None


def _check_sentences(run: Settings, parallel: int | None, left: int | None = None) -> None:
    """Refuse to draw more than all parallel sentences, or to hold out all that are left of them."""
    if parallel and run.sentences and run.sentences > parallel:
        raise Refusal("sentences", run.sentences, f"{parallel:,} at most, the sentences of the parallel text")
    held_out = (run.uses_new or run.measures_held_out) and run.hold_out == "sentence"
    if left is not None and held_out and run.validation_sentences >= left:
        raise Refusal(
            "validation_sentences",
            run.validation_sentences,
            f"below {left:,}, the parallel sentences that are left beside the test texts",
        )


def find_file(run: Settings, folder: Path, path: str) -> Path:
    """A user's file: beside the table, from the data folder, from here, or from the kit's folder."""
    return locate(path, run.home, folder)


def _taught(run: Settings) -> list[str]:
    return list(dict.fromkeys([*run.pivots, *run.plan()["taught"]]))


def _tested(run: Settings, corpus: str) -> list[str]:
    have = languages.CORPORA[corpus]
    return [code for group in run.groups.values() for code in group if code in have]


def _where(run: Settings) -> dict[str, Any]:
    return {} if run.corpus == "minilab" else {"mirror": run.mirror, "offline": run.offline}


def _xp3(code: str, mirror: str | None) -> str | Path:
    return downloads.location("xp3", f"{code}/merged_{code}.jsonl", mirror)


def shown(run: Settings, frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` as notebooks and reports may show it: with `share_text: false` every text in it is replaced by its
    number of words, since whoever it belongs to has not agreed to its being passed on."""
    if run.share_text:
        return frame
    codes = [code for group in run.groups.values() for code in group]
    hidden = [name for name in frame if name in ("prompt", "answer", "text", "model", *codes)]
    return frame.assign(**{name: [f"({len(str(text).split())} words)" for text in frame[name]] for name in hidden})
