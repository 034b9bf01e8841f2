"""The house: which package may import which, and what an import costs."""

import ast
import graphlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ia_lib

pytestmark = pytest.mark.quick
HOME = Path(ia_lib.__file__).parent
LEAVES = {"paths", "randomness"}
# Of whom a package or a module at the top may read: packages, or single modules of them. It may read itself too.
MAY_READ = {
    "paths": set(),
    "randomness": set(),
    "data": LEAVES,
    "instructions": {"data", *LEAVES},
    "models": {"data", "instructions", *LEAVES},
    "training": {"models", "instructions", "data", *LEAVES},
    "evaluation": {"models.encoding", "models.load", "instructions", "data", *LEAVES},
    "recipes": {"instructions", "training.streams", "data", *LEAVES},
    "workflow": {
        "recipes",
        "evaluation",
        "training",
        "models",
        "instructions",
        "data",
        "report.drawings",
        "report.page",
        "report.results",
        "report.trust",
        "report.story_figures",
        *LEAVES,
    },
    "report": {
        *("evaluation.measures", "evaluation.comparison", "evaluation.resampling", "evaluation.rules"),
        *("evaluation.agreement", "evaluation.blind", "evaluation.judge_checks", "evaluation.replies"),
        *("data.languages", "data.files", "data.questions", "evaluation.extraction", *LEAVES),
    },
}
TOP = {"explore", "runs"}  # may read everything, and nothing reads them

HEAVY = ["torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "plotly", "nltk", "huggingface_hub"]
HEAVY += ["requests", "pyarrow"]
# What the command reads before any stage does: settings, sources and checks, and all that they are made of.
LIGHT = ["paths", "randomness", "data", "instructions", "recipes", "training.streams", "models.encoding"]
LIGHT += ["evaluation.tasks", "evaluation.rules", "workflow.settings", "workflow.sources", "workflow.checks", "runs"]


def modules() -> dict[str, Path]:
    """Every module by its name without `ia_lib.`, packages by their `__init__`."""
    found = {}
    for path in HOME.rglob("*.py"):
        parts = path.relative_to(HOME).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def read_by(path: Path) -> set[str]:
    """The modules of ours that a module imports, wherever in it, and if only for type hints."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}, line {node.lineno}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # a name is a module of the package, or stands in it
            found |= {name if name.removeprefix("ia_lib.") in known else node.module for name in names}
    return {name.removeprefix("ia_lib.") for name in found if name.startswith("ia_lib.")} & set(known)


def within(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def test_every_module_stands_in_the_plan():
    unplanned = [name for name in modules() if name and name.partition(".")[0] not in {*MAY_READ, *TOP}]
    assert not unplanned


@pytest.mark.parametrize("package", MAY_READ)
def test_arrows_go_one_way(package):
    wrong = {
        f"{name} reads {read}"
        for name, path in modules().items()
        if within(name, {package})
        for read in read_by(path)
        if not within(read, {package, *MAY_READ[package]})
    }
    assert not wrong


def test_no_module_reads_itself_in_a_circle():
    try:
        graphlib.TopologicalSorter({name: read_by(path) for name, path in modules().items()}).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" reads ".join(reversed(error.args[1])))


def test_every_module_says_what_it_is_for():
    for name, path in modules().items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name} has no docstring"


def run(code: str):
    """What `code` prints last in a fresh Python, as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def loaded_by(names: list[str], heavy: list[str]) -> dict[str, list[str]]:
    """Which heavy packages were first loaded by the import of which module."""
    code = f"""
import importlib, json, sys
found, seen = {{}}, set()
for name in {names!r}:
    importlib.import_module(name)
    if new := [package for package in {heavy!r} if package in sys.modules and package not in seen]:
        found[name] = new
        seen.update(new)
print(json.dumps(found))
"""
    return run(code)


def ours(*places: str) -> list[str]:
    return [f"ia_lib.{name}" for name in sorted(modules()) if within(name, set(places))]


def test_light_modules_load_nothing_heavy():
    assert not {place for place in LIGHT if not ours(place)}, "not written"
    assert loaded_by(["ia_lib", *ours(*LIGHT)], HEAVY) == {}


def test_the_report_needs_no_torch():
    assert loaded_by(ours("report"), ["torch", "transformers", "datasets"]) == {}


def test_the_kit_is_imported_at_once():
    # processor time, which what else the machine does hardly changes
    code = "import time; begin = time.process_time(); import ia_lib; print(time.process_time() - begin)"
    assert min(run(code) for _ in range(3)) < 0.3


def test_a_plan_is_told_within_a_second():
    table = HOME.parent / "params" / "mini.yaml"
    code = f"""
import atexit, json, runpy, sys, time
def told():
    print()
    print(json.dumps([time.process_time(), [name for name in {HEAVY[:4]!r} if name in sys.modules]]))
atexit.register(told)
sys.argv = ["ia_lib.runs", "plan", {str(table)!r}]
runpy.run_module("ia_lib.runs", run_name="__main__")
"""
    found = [run(code) for _ in range(3)]
    assert [loaded for _, loaded in found] == [[]] * 3
    assert min(seconds for seconds, _ in found) < 1
