import re

import pytest

from ia_lib import recipes
from ia_lib.paths import root
from ia_lib.recipes import fields, instructalign
from ia_lib.workflow import settings, tables

pytestmark = pytest.mark.quick

GOOD = """\
defaults:
  model: {name: some/model}
  past: {file: past.jsonl}
runs:
  - name: one
    objective: tlm
  - name: two
    objective: mt+xss
    replay: 10
"""


def load(tmp_path, text, **options):
    path = tmp_path / "table.yaml"
    path.write_text(text, encoding="utf-8")
    return tables.load(path, **options)


def refusal(tmp_path, text) -> str:
    with pytest.raises(tables.SettingsError) as error:
        load(tmp_path, text)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_good_table(tmp_path):
    one, two = load(tmp_path, GOOD)
    assert (one.name, one.data.objective, one.data.replay) == ("one", "tlm", 0)
    assert (two.name, two.data.objective, two.data.replay) == ("two", "mt+xss", 10)


@pytest.mark.parametrize("path", sorted((root() / "params").glob("*.yaml")), ids=lambda path: path.name)
def test_the_tables_of_the_kit(path):
    assert tables.load(path)


def test_no_is_norwegian(tmp_path):
    # refused as a language that the corpus does not have, and not as the truth value false
    message = refusal(tmp_path, GOOD.replace("objective: tlm", "taught: [no]\n    objective: tlm"))
    assert "field 'taught': found 'no'; allowed: a language of the corpus" in message


def test_seeds_make_a_run_each_and_keep_references_together(tmp_path):
    text = "seeds: [1, 2]\n" + GOOD + "  - {name: three, objective: tlm, model: {run: one}}\n"
    runs = {run.name: run for run in load(tmp_path, text)}
    assert list(runs) == ["one-s1", "one-s2", "two-s1", "two-s2", "three-s1", "three-s2"]
    assert runs["three-s2"].model.run == "one-s2"
    assert (runs["three-s2"].seed, runs["three-s2"].row) == (2, "three")


@pytest.mark.parametrize(
    ("old", "new", "line", "parts"),
    [
        ("replay: 10", "repaly: 10", 9, ["'two'", "repaly", "did you mean 'replay'"]),
        ("replay: 10", "replay: lots", 9, ["'two'", "'replay'", "'lots'", "whole number", "'all'"]),
        ("replay: 10", "replay: -1", 9, ["'replay'", "-1", "at least 0"]),
        ("replay: 10", "replay: 1.5", 9, ["'replay'", "1.5"]),
        ("objective: tlm", "objective: tml", 6, ["'one'", "'objective'", "'tml'", "tlm"]),
        ("objective: tlm", "objective: TLM", 6, ["found 'TLM'; did you mean 'tlm'?"]),
        ("objective: mt+xss", "objective: mt+xxs", 8, ["found 'mt+xxs'; did you mean 'mt+xss'?"]),
        ("    replay: 10", "    replay: 10.000", 9, ["found 10.0; allowed: a whole number, written without a point"]),
        ("{file: past.jsonl}", "past.jsonl", 3, ["as {file: 'past.jsonl'}"]),
        ("{file: past.jsonl}", "{file: past.jsonl, answers}", 3, ["'past.answers'", "a comma begins a new field"]),
        ("{file: past.jsonl}", '{file: "C:\\past.jsonl"}', 3, ["not valid YAML", "in single quotes, or /"]),
        ("    objective: tlm", "    taught: [mda]\n    objective: tlm", 6, ["did you mean 'mad'?"]),
        ("    objective: tlm", "    taught: [madurese]\n    objective: tlm", 6, ["did you mean 'mad'?"]),
        (
            "    objective: tlm",
            "    taught: [xdm]\n    languages: {xmd: Madura}\n    objective: tlm",
            6,
            ["did you mean 'xmd'?"],
        ),
        ("objective: tlm", "objective: tlm+tlm", 6, ["'objective'", "tlm+tlm"]),
        ("{name: some/model}", "{nam: some/model}", 2, ["'model.nam'", "name"]),
        ("{name: some/model}", "{name: a, run: b}", 2, ["'model'", "exactly one"]),
        ("    objective: tlm", "    taught: [xxx]\n    objective: tlm", 6, ["'taught'", "'xxx'"]),
        ("    objective: tlm", "    taught: [eng]\n    objective: tlm", 6, ["'taught'", "'eng'", "known"]),
        ("    objective: tlm", "    pivots: [jav]\n    objective: tlm", 6, ["'pivots'", "jav"]),
        ("  - name: two", "  - name: one", 7, ["'one'", "'name'", "no other run"]),
        ("{file: past.jsonl}", "{run: zero}", 5, ["'past.run'", "'zero'", "a run above it"]),
        ("    objective: tlm", "    threads: yes\n    objective: tlm", 6, ["'threads'", "'yes'"]),
        ("    objective: tlm", "    accumulation: 3\n    objective: tlm", 6, ["'accumulation'", "3", "16"]),
        ("objective: tlm", "objective: [tlm", 7, ["not valid YAML"]),
        (
            "objective: tlm",
            "objective: !!python/tuple [tlm]",
            6,
            ["found the tag", "python/tuple"],
        ),
        ("{name: some/model}", "base", 2, ["'model'", "'base'", "some of new, run, name"]),
        ("{name: some/model}", "{new: {heads: 3}}", 2, ["'model.new.heads'", "3", "divisor of hidden"]),
        ("{name: some/model}", "{new: {}, revision: a}", 2, ["'model.revision'"]),
        ("{name: some/model}", "{new: {}, gguf: a}", 2, ["'model.gguf'", "unless the model has a name"]),
        ("    objective: tlm", "    warmup: 0.1", 6, ["'one'", "'warmup'", "0.1", "it has no objective"]),
        ("{file: past.jsonl}", "{mixture: {rows: 100}}", 3, ["'past.mixture'", "no shares"]),
        ("    objective: tlm", "    learning_rate: .inf\n    objective: tlm", 6, ["'learning_rate'", "inf"]),
        ("    objective: tlm", "    noise_probability: '0.5'\n    objective: tlm", 6, ["'noise_probability'", "'0.5'"]),
        ("    objective: tlm", "    taught: [bg]\n    objective: tlm", 6, ["'taught'", "'bg'", "minilab"]),
        ("    objective: tlm", "    known: [eng, sun]\n    objective: tlm", 6, ["'known'", "'sun'"]),
        ("    objective: tlm", "    row: x\n    objective: tlm", 6, ["'row'", "unknown"]),
        ("  - name: one", "  - name: one,two", 5, ["'name'", "one,two"]),
        (
            "    replay: 10",
            "    replay: 10\n    model: {run: one}\n    seed: 2",
            7,
            ["'seed'", "found 2", "allowed: 1"],
        ),
        ("runs:", "rums:", 4, ["'rums'", "did you mean 'runs'"]),
        ("  - name: two", "  - nome: two", 7, ["'name'", "nome"]),
        ("  - name: two", "  - name: " + "x" * 101, 7, ["'name'", "100 at most"]),
        ("  - name: two", "  - name: One", 7, ["'name'", "found 'One'", "in any case"]),
        ("  - name: two", "  - name: 5", 7, ["'name': found 5; allowed: a name"]),
        ("defaults:", "seeds: [-1]\ndefaults:", 1, ["field 'seeds': found [-1]", "each from 0"]),
        ("defaults:", "seeds: [1, 1]\ndefaults:", 1, ["field 'seeds': found [1, 1]", "once"]),
        ("defaults:", "seeds: [1]\ndefaults:\n  seed: 2", 3, [", defaults, field 'seed': found 2", "seeds"]),
        ("runs:", "seeds: [1]\nruns:\n  - {name: a, seed: 3}", 6, ["run 'a', field 'seed': found 3", "seeds"]),
        ("defaults:", "defaults:\n  name: a", 2, [", defaults, field 'name': found 'a'"]),
        ("defaults:", "defaults:\n  steps: x", 2, [", defaults, field 'steps': found 'x'; allowed: a whole number"]),
        ("defaults:", "defaults:\n  taught: [xxx]", 2, [", defaults (in run 'one'), field 'taught': found 'xxx'"]),
        ("defaults:", "defaults:\n  wordings: []", 2, ["found []; allowed: at least one entry"]),
        ("defaults:", "defaults:\n  wordings: a", 2, ["found 'a'; allowed: a list"]),
        ("defaults:", "defaults:\n  chat: maybe", 2, ["found 'maybe'; allowed: true or false"]),
        ("defaults:", "defaults:\n  mask: ''", 2, ["found ''; allowed: at least 1 character"]),
    ],
)
def test_bad_tables_are_refused_with_one_sentence(tmp_path, old, new, line, parts):
    assert old in GOOD
    message = refusal(tmp_path, GOOD.replace(old, new))
    assert message.startswith(str(tmp_path / "table.yaml"))
    for part in parts:
        assert part in message, message
    assert f"line {line}" in message, message


def test_what_is_not_validated_cannot_be_best(tmp_path):
    message = refusal(tmp_path, GOOD.replace("objective: tlm", "objective: tlm\n    keep: best\n    steps: 60"))
    assert "field 'validate_steps': found 500; allowed: 60 at most, the steps, where keep is best" in message


def test_a_key_given_twice_is_refused(tmp_path):
    assert "line 7" in refusal(tmp_path, GOOD.replace("objective: tlm", "objective: tlm\n    objective: mt"))


def test_a_missing_table(tmp_path):
    with pytest.raises(tables.SettingsError, match="there is no such file; allowed"):
        tables.load(tmp_path / "none.yaml")
    (tmp_path / "nine.yaml").write_text(GOOD)
    with pytest.raises(tables.SettingsError, match=r"did you mean '.*nine\.yaml'"):
        tables.load(tmp_path / "none.yaml")
    with pytest.raises(tables.SettingsError, match="not valid YAML"):
        load(tmp_path, GOOD + "\x07")


def test_changes_are_checked_too(tmp_path):
    assert load(tmp_path, GOOD, row="two", changes={"replay": 5})[1].data.replay == 5
    with pytest.raises(tables.SettingsError, match=r"changes, run 'two', field 'replay': found 'x'"):
        load(tmp_path, GOOD, row="two", changes={"replay": "x"})
    for changes in ({"name": "x"}, "replay=5"):
        with pytest.raises(tables.SettingsError, match="allowed: fields with their values, but not name"):
            load(tmp_path, GOOD, row="two", changes=changes)


def test_a_reading_sets_what_the_row_does_not_say(tmp_path):
    def one(text):
        path = tmp_path / "table.yaml"
        path.write_text(f"runs:\n  - {{name: one, model: {{name: m}}{text}}}\n")
        return tables.load(path)[0]

    assert one(", fidelity: released").data.xss_negatives == "corrupted"
    assert one(", fidelity: released, xss_negatives: hard").data.xss_negatives == "hard"
    assert one("").data.xss_negatives == "mixed"
    for number, name in enumerate(recipes.FIDELITY):
        run = one(f", fidelity: {name}")
        for field, reading in instructalign.READINGS.items():
            block = settings.blocks(type(run)).get(field)
            assert getattr(getattr(run, block) if block else run, field) == reading[number], field


@pytest.mark.parametrize("name", ["instructalign", "commit"])
def test_every_reading_is_explained(name):
    text = (root() / "docs" / "fidelity.md").read_text()
    for field, reading in recipes.load(name).READINGS.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{field}` |"))
        said = [cell.strip() for cell in line.split("|")[2:5]]
        shown = [{True: "yes", False: "no"}.get(v, v) if isinstance(v, bool) else v for v in reading]
        assert said == [", ".join(v) if isinstance(v, list) else str(v) for v in shown], field


def test_every_field_stands_in_the_docs():
    text = (root() / "docs" / "settings.md").read_text()
    parts = [part for part in vars(fields).values() if isinstance(part, type) and issubclass(part, fields.Part)]
    kinds = [settings.kind(name) for name in recipes.names()]
    for field in [
        *(f for kind in kinds for f in settings.row(kind).model_fields),
        *(f for p in parts for f in p.model_fields),
    ]:
        assert re.search(rf"`{field}[`:]", text), field
    defaults: dict[str, set] = {}
    for kind in kinds:
        for part in (kind, *(kind.model_fields[block].annotation for block in settings.BLOCKS)):
            for name, field in part.model_fields.items():
                # recipes may differ
                defaults.setdefault(name, set()).update({field.default} if type(field.default) in (int, float) else ())
    lines = dict(line[2:].split(" | ")[:2] for line in text.splitlines() if line.startswith("| `") and " †" not in line)
    for field, default in lines.items():
        for name, said in zip(re.findall(r"`(\w+)`", field), default.replace(",", " ").split(), strict=False):
            if plain := {one for one in defaults[name] if one < 1000}:
                assert float(said) in plain, field


def test_the_papers_table_has_every_published_model():
    runs = tables.load(root() / "params" / "paper.yaml")
    cells = {cell for run in runs for cell in run.reproduces}
    published = (root() / "params" / "published" / "instructalign_per_language.csv").read_text()
    rows = [line.split(",") for line in published.splitlines()][1:]
    for model, objective, replay in {(r[3], r[4], r[5]) for r in rows}:
        named = model if objective == "none" else f"{model} {objective} r={replay}"
        assert f"Tables 2, 16-19: {named}" in cells


def test_every_field_has_a_name_of_its_own():
    for name in recipes.names():
        found = list(settings.row(settings.kind(name)).model_fields)
        assert len(found) == len(set(found))


def test_fields_that_only_other_recipes_have_may_stand_in_defaults(tmp_path):
    text = GOOD.replace("  past: {file: past.jsonl}", "  past: {file: past.jsonl}\n  replay: 7")
    runs = load(tmp_path, text + "  - {name: plain, recipe: instructions, per_step: 4}\n")
    assert [run.data.replay for run in runs[:2]] == [7, 10]
    assert (runs[2].data.per_step, hasattr(runs[2].data, "replay")) == (4, False)
    message = refusal(tmp_path, text + "  - {name: plain, recipe: instructions, replay: 3}\n")
    assert "run 'plain', field 'replay': found an unknown field" in message
    assert (
        "field 'recipe': found 'instruct'; did you mean 'instructions'? allowed: alpaca, commit, instructalign, inst"
        in refusal(tmp_path, GOOD + "  - {name: plain, recipe: instruct}\n")
    )
