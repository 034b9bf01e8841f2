"""Tables made at random from a grammar of fields: each is read, or refused in one sentence."""

import random
import re

import pytest
from conftest import TABLE

from ia_lib import recipes
from ia_lib.workflow import settings, tables
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

pytestmark = pytest.mark.quick
# What stands where something else belongs, as YAML.
VALUES = [
    *("null", "~", "true", "no", "-1", "0", "1", "1.5", ".nan", ".inf", "1e30", "9999999999999", "''", "' '", "x"),
    *(
        '"a\\nb"',
        '"\\0"',
        "[]",
        "[1]",
        "[x, x]",
        "[null]",
        "[[[]]]",
        "{}",
        "{a: 1}",
        "{run: x}",
        "{file: x}",
        "2020-01-02",
    ),
    *("{x: {y: {z: 1}}}", "https://x.y", "../x", "/x", "all", "english", "eng", "[eng]", "[eng, eng]", "'*'", "base"),
]
# What no sentence for people has in it.
PYTHON = re.compile(r"Scalar|<class|object at 0x|Error\(|None|True|False|Traceback|ruamel|pydantic|Comment")


def fields():
    return sorted({name for recipe in recipes.names() for name in settings.row(settings.kind(recipe)).model_fields})


def wrong(draw):
    text = TABLE.rstrip("\n").splitlines()
    for _ in range(draw.randint(1, 2)):
        kind, value = draw.random(), draw.choice(VALUES)
        name = draw.choice(fields())
        if kind < 0.5:  # a field of a row
            text[-1] = f"  - {{name: tlm, objective: tlm, {name}: {value}}}"
        elif kind < 0.7:  # one of the defaults
            text = [line for line in text if not line.startswith(f"  {name}:")]
            text.insert(text.index("defaults:") + 1, f"  {name}: {value}")
        elif kind < 0.8:  # a name that nobody knows
            letters = list(name)
            draw.shuffle(letters)
            text[-1] = f"  - {{name: tlm, {''.join(letters)}: {value}}}"
        elif kind < 0.9:  # the table's own shape
            text.insert(0, f"{draw.choice(['seeds', 'runs', 'defaults', 'rows', 'x'])}: {value}")
        else:  # a row that is none
            text.append(f"  - {value}")
    return "\n".join(text) + "\n"


@pytest.mark.parametrize("seed", range(6))
def test_a_table_is_read_or_refused_in_one_sentence(tmp_path, seed):
    draw, path = random.Random(seed), tmp_path / "t.yaml"
    for _ in range(30):
        text = wrong(draw)
        path.write_text(text)
        try:
            Table(path, tmp_path / "outputs").check()
        except SettingsError as error:
            said = str(error)
            assert said.startswith(str(path)), text
            assert "\n" not in said, text
            assert len(said.replace(str(tmp_path), "")) < 500, (text, said)
            assert not PYTHON.search(said), (text, said)
            assert "found" in said or "not valid YAML" in said or "no such file" in said, (text, said)
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{text}")


NESTED = "[" * 5000
LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NESTED, "line 1: this is not valid YAML"),
        (f"runs: {NESTED}", "line 1: this is not valid YAML"),
        (f"defaults: {{steps: {'1' * 5000}}}", "line 1: this is not valid YAML (a value that cannot be read"),
        ("%YAML 1.3\n---\nruns: []", "line 1: found '%YAML 1.3'; allowed: YAML 1.2"),
        ("%YAML 1.1\n---\nruns: []", "line 1: found '%YAML 1.1'; allowed: YAML 1.2"),
        ("a: 1\na: 2", "line 2: this is not valid YAML (found duplicate key"),
        (LAUGHS, "line 1: found too much (its aliases stand for more than 100,000 values)"),
        ("a: 1\n---\nb: 2", "this is not valid YAML"),
        ("", "line 1: found nothing; allowed: a table"),
        ("- a", "line 1: found ['a']; allowed: a table"),
        ("runs: !!python/object:os.system x", "line 1: found the tag"),
        ("runs:\n\t- x", "line 2: this is not valid YAML"),
        ("runs: \0", "this is not valid YAML"),
    ],
)
def test_yaml_that_is_odd_is_refused_in_one_sentence(tmp_path, text, said):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refusal:
        tables.load(path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_what_is_no_file_or_no_utf_8_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="found no file, but a folder or the like"):
        tables.load(tmp_path)
    path = tmp_path / "t.yaml"
    path.write_text("runs: []", encoding="utf-16")
    with pytest.raises(SettingsError, match="the table is not UTF-8 text"):
        tables.load(path)
    path.write_text(TABLE, encoding="utf-8-sig")
    assert [run.name for run in tables.load(path)] == ["base", "tlm"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("objective: tml", "found 'tml'; did you mean 'tlm'? allowed: none, or some of"),
        ("corpus: nusa", "found 'nusa'; did you mean 'nusax'? allowed: minilab, nusax"),
        ("model: {run: bsae}", "found 'bsae'; did you mean 'base'? allowed: a run above it (base)"),
        ("fidelity: papr", "found 'papr'; did you mean 'paper'? allowed: paper, released, corrected"),
        ("recipe: instructalig", "did you mean 'instructalign'?"),
        ("taught: [snu]", "found 'snu'; did you mean 'sun'? allowed: a known language code ("),
        ("stepz: 5", "found an unknown field; did you mean 'steps'? allowed: steps, "),
        ("wordings: [englis]", "found 'englis'; did you mean 'english'?"),
        ("templates: instructaling", "did you mean 'instructalign'?"),
        ("tasks: [sentimnet]", "did you mean 'sentiment'?"),
        ("threads: 5000", "found 5000; allowed: less than or equal to 1024"),
        ("learning_rate: 1000", "found 1000; allowed: less than or equal to 1"),
        ("steps: 1000000000000", "allowed: less than or equal to 1000000000"),
        ("past: {url: not a url}", "found 'not a url'; allowed: an address that begins with http"),
        ("past: {url: 'http://'}", "allowed: an address that begins with http"),
        ("model: {name: ' '}", "found ' '; allowed: at least 1 character"),
        ("model: {name: 'https://x.y/z'}", "found 'https://x.y/z'; allowed: a folder, or a name on the Hub"),
        ("mirror: 'ftp://x'", "found 'ftp://x'; allowed: a folder, or an address"),
        ("data_dir: nowhere", "found 'nowhere'; allowed: a folder that is there"),
        ("seed: 99999999999", "found 99999999999; allowed: less than 4294967296"),
        ('languages: {sun: "a\\nb"}', "allowed: text in one line, without control characters"),
    ],
)
def test_a_value_that_means_nothing_is_refused_with_the_nearest_that_does(tmp_path, row, said):
    path = tmp_path / "t.yaml"
    path.write_text(
        TABLE.replace("{name: tlm, objective: tlm}", f"{{name: tlm, objective: tlm, {row}}}").replace(
            "objective: tlm, objective", "objective"
        )
    )
    with pytest.raises(SettingsError) as refusal:
        Table(path, tmp_path / "outputs").check()
    assert said in str(refusal.value)
    assert len(str(refusal.value)) < 600


def test_a_run_that_there_is_not(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(TABLE)
    with pytest.raises(SettingsError, match=r"found no run 'bsae'; did you mean 'base'. allowed: base, tlm"):
        Table(path, tmp_path / "outputs").run("bsae")
