"""Rows written at once: a table with a grid is the same table written out, and tells what is wrong in it as well."""

import itertools
import json
import random

import pytest
import yaml
from test_tables_random import PYTHON, VALUES

from ia_lib.data.yaml_files import Refusal
from ia_lib.workflow import tables
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

pytestmark = pytest.mark.quick

GRID = """\
seeds: [1, 2]
defaults:
  corpus: own
  known: [eng]
  pivots: [eng]
  unseen: []
  past: {file: "{tag}.jsonl"}
  steps: 30
runs:
  - name: "base-{size}"
    grid:
      size:
        560m: {model: {name: some/model-560m}}
        1b1: {model: {name: some/model-1b1}}
    held_out: false
  - name: "{method}-{size}-{language}-r{replay}"
    grid:
      method:
        lora: {adapter: {rank: 8}, learning_rate: 3.0e-4}
        full:
      size: [560m, 1b1]
      language: [jav, sun]
      replay: [0, 10]
    recipe: instructalign
    objective: mlm
    model: {run: "base-{size}"}
    taught: ["{language}"]
    parallel: {lines: {eng: en.txt, "{language}": "{language}-{split}.txt"}}
    reproduces: ["Figure 1: {language}, {method} of {size}"]
"""


def written_out() -> dict:
    """The same, by loops."""
    table = yaml.safe_load(GRID)
    runs = [
        {"name": f"base-{size}", "model": {"name": f"some/model-{size}"}, "held_out": False} for size in ("560m", "1b1")
    ]
    for method in ("lora", "full"):
        for size in ("560m", "1b1"):
            for code in ("jav", "sun"):
                for replay in (0, 10):
                    row = {"name": f"{method}-{size}-{code}-r{replay}", "recipe": "instructalign", "objective": "mlm"}
                    row |= {"model": {"run": f"base-{size}"}, "taught": [code], "replay": replay}
                    row["parallel"] = {"lines": {"eng": "en.txt", code: f"{code}-{{split}}.txt"}}
                    row["reproduces"] = [f"Figure 1: {code}, {method} of {size}"]
                    runs.append(row | ({"adapter": {"rank": 8}, "learning_rate": 3e-4} if method == "lora" else {}))
    return {**table, "runs": runs}


def load(folder, text, name="t.yaml", **options):
    path = folder / name
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text, sort_keys=False), encoding="utf-8")
    return tables.load(path, **options)


def refusal(folder, text) -> str:
    with pytest.raises(SettingsError) as error:
        load(folder, text)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_grid_is_the_table_written_out(tmp_path):
    made, written = load(tmp_path, GRID), load(tmp_path, written_out(), "written.yaml")
    assert [run.name for run in made] == [run.name for run in written]
    assert [type(run) for run in made] == [type(run) for run in written]
    assert [run.model_dump() for run in made] == [run.model_dump() for run in written]
    assert len(made) == 2 * (2 + 16)
    # the first axis slowest
    assert [run.name for run in made[4:9:2]] == ["lora-560m-jav-r0-s1", "lora-560m-jav-r10-s1", "lora-560m-sun-r0-s1"]
    # a reference means the run of the same seed, and the row is the full name without it
    assert (made[5].model.run, made[5].row, made[5].seed) == ("base-560m-s2", "lora-560m-jav-r0", 2)
    assert made[4].data.parallel.lines["jav"] == "jav-{split}.txt"


def naive(row: dict) -> list[dict]:
    """A row's grid by text: each slot replaced in the row's JSON."""
    grid, rows = row.pop("grid"), []
    axes = [list(axis.items()) if isinstance(axis, dict) else [(v, {k: v}) for v in axis] for k, axis in grid.items()]
    for chosen in itertools.product(*axes):
        text = json.dumps({**row, **{k: v for _, fields in chosen for k, v in fields.items()}})
        for key, (short, _) in zip(grid, chosen, strict=True):
            text = text.replace(f"{{{key}}}", str(short))
        rows.append(json.loads(text))
    return rows


FIELDS = {
    "steps": [10, 20, 30],
    "learning_rate": [0.1, 0.25, 0.5],
    "objective": ["mlm", "tlm", "mt+xss"],
    "replay": [0, 5, 7],
    "chat": [{"chat": False}, {"chat": True, "threads": 2}],
    "weights": [{"adapter": {"rank": 4}, "loss": "all"}, {"precision": "bfloat16"}, {}],
}


@pytest.mark.parametrize("seed", range(8))
def test_grids_at_random_are_what_replacing_text_makes(tmp_path, seed):
    draw = random.Random(seed)
    keys = draw.sample(sorted(FIELDS), draw.randint(1, 4))
    grid = {}
    for key in keys:
        values = draw.sample(FIELDS[key], draw.randint(1, len(FIELDS[key])))
        grid[key] = {f"v{i}": v for i, v in enumerate(values)} if isinstance(values[0], dict) else values
    row = {"name": "-".join(f"{key[:2]}{{{key}}}" for key in keys), "grid": grid, "model": {"name": "a/b"}}
    row |= {} if "objective" in keys else {"objective": "mlm"}
    row["reproduces"] = [" and ".join(f"{{{key}}} {{other}}" for key in keys)]
    table = {"defaults": {"past": {"file": "x.jsonl"}}, "runs": [row]}
    made = load(tmp_path, table)
    written = load(tmp_path, {**table, "runs": naive(json.loads(json.dumps(row)))}, "written.yaml")
    assert [run.model_dump() for run in made] == [run.model_dump() for run in written]


def test_a_bare_value_sets_its_field_or_is_a_word_of_the_row(tmp_path):
    head = "runs:\n  - {model: {name: m}, objective: mlm, corpus: nusax, "
    (run,) = load(tmp_path, head + 'name: "a-{taught}", grid: {taught: [[sun, jav]]}}')
    assert (run.name, run.taught) == ("a-sun+jav", ["sun", "jav"])
    # a text that is nothing but a slot is the value, a number or a list as it may be
    (run,) = load(tmp_path, head + 'name: "a-{n}", grid: {n: [40]}, steps: "{n}", reproduces: ["n = {n}"]}')
    assert (run.data.steps, run.reproduces) == (40, ["n = 40"])
    # what the row itself says with the slot is not set twice
    text = 'name: "a-{mask}", grid: {mask: [x/y, z]}, mask: "<{mask}>"}'
    assert [(run.name, run.data.mask) for run in load(tmp_path, head + text)] == [("a-x-y", "<x/y>"), ("a-z", "<z>")]
    text = 'name: "a-{recipe}", grid: {recipe: [instructions, instructalign]}, past: {file: x.jsonl}}'
    found = load(tmp_path, head.replace("objective: mlm, ", "") + text)
    assert [run.recipe for run in found] == ["instructions", "instructalign"]


ROW = """\
defaults:
  past: {file: past.jsonl}
  model: {name: m}
runs:
  - name: "a-{size}-{steps}"
    objective: mlm
    grid:
      size:
        small: {replay: 0}
        large: {replay: 5}
      steps: [10, 20]
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "parts"),
    [
        ("[10, 20]", "[10, -1]", 11, ["run 'a-small--1', field 'steps': found -1; allowed: at least 0"]),
        ("[10, 20]", "\n        - 10\n        - x", 13, ["run 'a-small-x', field 'steps': found 'x'"]),
        ("replay: 5", "replay: x", 10, ["run 'a-large-10', field 'replay': found 'x'"]),
        ("replay: 5", "replai: 5", 10, ["run 'a-large-10', field 'replai'", "did you mean 'replay'"]),
        ("replay: 5", "model: {nome: x}", 10, ["run 'a-large-10', field 'model.nome'", "did you mean 'name'"]),
        ("{replay: 5}", "\n          model:\n            run: b", 5, ["field 'model.run': found 'b'", "a run above"]),
        ("mlm", "mmm", 6, ["run 'a-small-10', field 'objective': found 'mmm'"]),
        ("[10, 20]", "[]", 11, ["run 'a-{size}-{steps}', field 'grid.steps': found []", "at least one"]),
        ("[10, 20]", "10", 11, ["field 'grid.steps': found 10; allowed: a list of values"]),
        ("[10, 20]", "{}", 11, ["field 'grid.steps': found {}"]),
        ("[10, 20]", "[10, 10]", 11, ["field 'grid.steps': found '10', '10' in two names"]),
        ("[10, 20]", "[10, ü]", 11, ["field 'grid.steps': found 'ü', what a name cannot have"]),
        ("[10, 20]", "[10, {x: 1}]", 11, ["field 'grid.steps': found {x: 1}; allowed: a plain value, or a short"]),
        ("{replay: 5}", "7", 10, ["field 'grid.size.large': found 7; allowed: fields with their values"]),
        ("replay: 5", "name: x", 10, ["field 'grid.size.large.name': found 'name'; allowed: fields of a row, as"]),
        ("replay: 5", "grid: {}", 10, ["field 'grid.size.large.grid'"]),
        ("replay: 5", "steps: 5", 11, ["field 'grid.steps': found 'steps' twice; allowed: each field once"]),
        ("objective: mlm", "objective: mlm\n    replay: 3", 10, ["'grid.size.small.replay': found 'replay' twice"]),
        ("objective: mlm", "objective: mlm\n    steps: 3", 12, ["field 'grid.steps': found 'steps' twice"]),
        ("a-{size}-{steps}", "a-{size}", 5, ["field 'name': found 'a-{size}'; allowed: a name with {steps} in it"]),
        ("{size}-{steps}", "{size}-{stebs}-{steps}", 5, ["found {stebs}; did you mean 'steps'? allowed: {size}, {st"]),
        ("steps: [", "stebs: [", 5, ["field 'name'"]),
        ("{steps}", "{stebs}", 5, ["field 'name'"]),
        ("      size:", "      tag:", 8, ["field 'grid.tag': found 'tag'; allowed: letters, digits, _ and -, but not"]),
        ("      size:", "      'a b':", 8, ["field 'grid.a b': found 'a b'; allowed: letters"]),
        ("grid:\n      size:\n        small: {replay: 0}\n        large: {replay: 5}\n      steps: [10, 20]",
         "grid: [1]", 7, ["field 'grid': found [1]; allowed: fields with lists of values"]),
        ("defaults:", "defaults:\n  grid: {steps: [1]}", 2, ["defaults, field 'grid'", "a grid stands in a row"]),
        ("defaults:", "seeds: [1]\ndefaults:\n  seed: 2", 3, ["field 'seed'"]),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_grid_is_told_with_its_line(tmp_path, old, new, line, parts):
    assert old in ROW
    message = refusal(tmp_path, ROW.replace(old, new))
    for part in [f"t.yaml, line {line},", *parts]:
        assert part in message, message


def test_a_word_that_no_field_is_called_by_must_stand_in_the_row(tmp_path):
    text = ROW.replace("{steps}", "{stebs}").replace("steps: [", "stebs: [")
    message = refusal(tmp_path, text)
    assert "line 11, run 'a-{size}-{stebs}', field 'grid.stebs': found an unknown field, and {stebs} stands" in message
    assert "did you mean 'steps'" in message
    assert load(tmp_path, text.replace("objective: mlm", 'objective: mlm\n    reproduces: ["n = {stebs}"]'))


def test_names_that_two_grids_make_are_refused(tmp_path):
    again = '  - {name: "{n}-20", objective: mlm, grid: {n: [a-small]}, reproduces: ["{n}"]}\n'
    assert "field 'name': found 'a-small-20'; allowed: a name no other run has" in refusal(tmp_path, ROW + again)


def test_keys_that_slots_make_equal_are_refused(tmp_path):
    text = ROW.replace("objective: mlm", 'objective: mlm\n    languages: {"{size}": x, small: y}')
    assert "found 'small' twice in one place" in refusal(tmp_path, text)


def test_too_many_rows_are_refused_before_they_are_made(tmp_path):
    many = ", ".join(map(str, range(1, 101)))
    text = ROW.replace("[10, 20]", f"[{many}]").replace("{size}-", "{size}-{threads}-{seed}-")
    text = text.replace("      size:", f"      threads: [{many}]\n      seed: [{many}]\n      size:")
    assert "line 7, run" in (message := refusal(tmp_path, text))
    assert "field 'grid': found 2,000,000 rows; allowed: 10,000 at most" in message
    text = "seeds: [1, 2, 3]\n" + ROW.replace("[10, 20]", f"[{', '.join(map(str, range(1, 1668)))}]")
    assert "found 3,334 rows; allowed: 3,333 at most" in refusal(tmp_path, text)


def test_changes_and_refusals_find_a_row_by_its_full_name(tmp_path):
    runs = load(tmp_path, ROW, row="a-large-20", changes={"replay": 9})
    assert [run.data.replay for run in runs] == [0, 0, 5, 9]
    with pytest.raises(SettingsError, match="changes, run 'a-large-20', field 'replay': found 'x'"):
        load(tmp_path, ROW, row="a-large-20", changes={"replay": "x"})
    with pytest.raises(SettingsError, match="allowed: fields with their values, but not name"):
        load(tmp_path, ROW, row="a-large-20", changes={"name": "x"})
    with pytest.raises(SettingsError, match="field 'grid': found an unknown field"):
        load(tmp_path, ROW, row="a-large-20", changes={"grid": {"steps": [1]}})
    said = tables.refused(tmp_path / "t.yaml", runs[3], Refusal("replay", 5, "less"))
    assert str(said).endswith("t.yaml, line 10, run 'a-large-20', field 'replay': found 5; allowed: less")
    said = tables.refused(tmp_path / "t.yaml", runs[3], Refusal("past.file", "past.jsonl", "a file"))
    assert "line 2, defaults (in run 'a-large-20'), field 'past.file'" in str(said)


def test_a_table_with_a_grid_finds_its_runs(tmp_path):
    load(tmp_path, ROW)
    table = Table(tmp_path / "t.yaml", tmp_path / "outputs")
    assert table.run("a-large-20").data.steps == 20
    assert table.add(table.run("a-large-20"), {"replay": 9}).name == "a-large-20~replay=9"
    with pytest.raises(SettingsError, match="found no run 'a-large-21'; did you mean 'a-large-20'"):
        table.run("a-large-21")


@pytest.mark.parametrize("seed", range(4))
def test_a_grid_of_anything_is_read_or_refused_in_one_sentence(tmp_path, seed):
    draw = random.Random(seed)
    names = ["size", "steps", "tag", "model", "name", "seed", "recipe", "a b", "''", "5", "true", "past", "data"]
    others = ["model: {name: m}", 'mask: "{size}"', '"{steps}": 5', 'languages: {"{model}": x, x: y}']
    refused = 0
    for _ in range(80):
        one, two = draw.sample(names, 2)
        values = [f"[{draw.choice(VALUES)}, {draw.choice(VALUES)}]", f"{{x: {draw.choice(VALUES)}}}"]
        values += [draw.choice(VALUES), f"{{x: {{{draw.choice(names)}: {draw.choice(VALUES)}}}, y: }}"]
        name = draw.choice([f"{{{one}}}-{{{two}}}", f"{{{one}}}", "r", "{x}", f"a{{{two}}}-{{{one}}}"])
        text = (
            f"defaults: {{past: {{file: p}}}}\nruns:\n  - name: {json.dumps(name)}\n    objective: tlm\n"
            f"    grid: {{{one}: {draw.choice(values)}, {two}: {draw.choice(values)}}}\n"
            f"    {draw.choice(others)}\n"
        )
        try:
            load(tmp_path, text)
        except SettingsError as error:
            refused += 1
            said = str(error)
            assert said.startswith(str(tmp_path / "t.yaml")), text
            assert "\n" not in said, text
            assert len(said.replace(str(tmp_path), "")) < 500, (text, said)
            assert not PYTHON.search(said), (text, said)
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{text}")
    assert refused > 40
