"""README and docs: every command and example in them is carried out, every link leads somewhere.

Fenced blocks are found by a Markdown parser. Those of `bash` are run in a copy of the kit whose mini lab's tables are
cut to a few steps and to the rows that pages name, and in which `make reproduce` has been called, as README has it;
`python` is run, `yaml` is read as the table or task that it is. A new command is carried out without a line here. What
cannot be is in INSTEAD, with the reason, what is checked in its place, and the test that carries it out, if one does.
"""

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from packaging.requirements import InvalidRequirement, Requirement
from ruamel.yaml import YAML

from ia_lib.evaluation import tasks
from ia_lib.paths import root
from ia_lib.workflow import tables

PAGES = [root() / "README.md", root() / "CONTRIBUTING.md", *sorted((root() / "docs").glob("*.md"))]
SHELL, LANGUAGES = {"", "bash", "sh"}, {"", "bash", "sh", "python", "yaml", "json", "text"}
# What a line begins with that someone is to type.
TYPED = (
    r"make|pip|python3?|papermill|snakemake|jupyter|source|accelerate|torchrun|sbatch|srun|squeue|scancel|conda|git|cd"
)
TYPED = re.compile(rf"[!%]?(?:[A-Z_]+=\S* )*(?:\S*/bin/)?(?:{TYPED}) \S")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def parsed(page: Path):
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def name(page: Path) -> str:
    return page.relative_to(root()).as_posix()


def fences(*languages: str) -> list[Block]:
    return [
        Block(name(page), token.map[0] + 1, token.info.strip(), token.content)
        for page in PAGES
        for token in parsed(page)
        if token.type == "fence" and (token.info.strip() in languages or not languages)
    ]


def commands() -> list[Block]:
    """The blocks of the shell, and what Python blocks for notebooks hand to it (`!make lab`)."""
    cells = [(block, re.findall(r"^[!%](.+)$", block.text, re.MULTILINE)) for block in fences("python")]
    handed = [Block(block.page, block.line, "sh", "\n".join(lines)) for block, lines in cells if lines]
    return fences(*SHELL) + handed


def inline(page: Path):
    for token in parsed(page):
        yield from token.children or []


# What is looked at in place of carrying a command out. Each gets the command and the copy, fails where the command
# cannot be right, and gives what is run in its place, if anything.


def only_told(command: str, kit: Path) -> str:
    """Make says what it would do."""
    words = shlex.split(command, comments=True)
    if bench := next((word.removeprefix("NAME=") for word in words if word.startswith("NAME=")), None):
        ast.parse((kit / "benchmarks" / f"{bench}.py").read_text(encoding="utf-8"))
    if table := next((word.removeprefix("TABLE=") for word in words if word.startswith("TABLE=")), None):
        runs = next((word.removeprefix("RUNS=") for word in words if word.startswith("RUNS=")), "")
        has_rows(kit / table, runs.split())
    return shlex.join(["make", "--dry-run", *words[1:]])


def has_rows(table: Path, runs: list[str]) -> None:
    names = {run.name for run in tables.load(table)}
    assert not set(runs) - names, f"{table.name} has no rows {set(runs) - names}"


def only_read(command: str, kit: Path) -> str:
    """The table has the rows; and with one that is not there that alone is wrong, so that all else was understood."""
    words = shlex.split(command, comments=True)
    name, table, *others = words[words.index("ia_lib.runs") + 1 :]
    if not Path(table).stem.isupper():
        has_rows(kit / table, others[:1] if name in {"stage", "export"} else [] if name == "sheet" else plain(others))
    return f"{shlex.join(['python', '-m', 'ia_lib.runs', name, 'not there.yaml', *others])} || [ $? = 1 ]"


def plain(words: list[str]) -> list[str]:
    """The words that are no options and no values of theirs."""
    flags = ("--verify", "--changed", "--merged")
    pairs = pairwise(["", *words])
    return [word for before, word in pairs if word[:2] != "--" and (before[:2] != "--" or before in flags)]


def installable(command: str, kit: Path) -> str:
    """What is to be installed is named as pip wants it, and files and folders are there."""
    words = shlex.split(command, comments=True)
    words = words[words.index("install") + 1 :]
    known = (kit / "pyproject.toml").read_text(encoding="utf-8") + (kit / "Makefile").read_text(encoding="utf-8")
    takes = {"-c", "-r", "-e"}
    for before, word in zip(["", *words], words, strict=False):
        path = word.split("[")[0]
        if before in takes or path.startswith((".", "/")):
            assert (kit / path).exists() or path.isupper() or path.startswith("/"), f"{path} is not there"
        elif not word.startswith("-"):
            try:
                package = Requirement(word).name
            except InvalidRequirement:
                pytest.fail(f"pip cannot read {word!r}")
            assert package in known, f"{package} is in neither pyproject.toml nor Makefile"
    return ""


def environment(command: str, kit: Path) -> str:
    return "python3 -m venv --without-pip ../fresh"


def launched(command: str, kit: Path) -> str:
    """Accelerate takes its arguments, and the command its own."""
    from accelerate.commands.launch import launch_command_parser

    words = shlex.split(command, comments=True)[2:]
    if not words:
        return ""
    at = words.index("-m")
    assert launch_command_parser().parse_args([*words[:at], "script.py"]).num_processes
    return only_read(shlex.join(["python", *words[at:]]), kit)


def far_away(command: str, kit: Path) -> str:
    return only_read(command, kit) if "ia_lib.runs" in command else elsewhere(command, kit)


def elsewhere(command: str, kit: Path) -> str:
    """A program that is not the kit's: that its words can be read is all that is looked at."""
    assert shlex.split(command, comments=True)
    return ""


def dry(command: str, kit: Path) -> str:
    """Snakemake makes its graph of a small table's jobs and starts none, if what speaks to the cluster is installed."""
    plugin = importlib.util.find_spec("snakemake_executor_plugin_slurm")
    return f"{re.sub(LARGE, 'mini.yaml', command.partition(' #')[0])} --dry-run" if plugin else ""


@dataclass(frozen=True)
class Instead:
    command: str  # what it begins with, a regular expression
    check: Callable[[str, Path], str]
    why: str
    tested: str = ""  # the test that carries it out


LARGE = r"(?:paper|commit|alpaca|chat_models)\.yaml"
DATA = r"(?:my_language|nusax|smollm2\w*)\.yaml"
RUNS = r"(?:[A-Z_]+=\S+ )*(?:\S*/bin/)?python3? -m ia_lib\.runs"
SLURM = "test_slurm.py::test_a_table_goes_over_slurm_and_goes_on_where_it_was_cut_off"
COLAB = "test_colab.py::test_a_session_that_is_cut_off_goes_on_in_the_next_one"
INSTEAD = [
    Instead(r".*\s/(content|kaggle)/", far_away, "a folder of Colab's or Kaggle's", COLAB),
    Instead(r"make (test|quick)\b", only_told, "this test would call itself"),
    Instead(r"make (env|model)\b", only_told, "installs 500 MB and more"),
    Instead(r"make real\b", only_told, "takes ten minutes", "test_real.py::test_the_short_table_runs"),
    Instead(r"make lab\b", only_told, "waits for a browser", "test_browser.py::test_notebook_0_and_its_widgets"),
    Instead(r"make bench\b", only_told, "takes minutes to an hour"),
    Instead(rf"make reproduce TABLE=params/{DATA}", only_told, "needs data that are not in the kit"),
    Instead(rf"{RUNS} \w+ params/{LARGE}", only_read, "needs GPUs and data that are not in the kit"),
    Instead(rf"{RUNS} (run|stage|export) params/{DATA}", only_read, "needs data that are not in the kit"),
    Instead(r"python3? -m venv \.venv", environment, "there is one, which the other commands need"),
    Instead(r"(\S*/bin/)?(python3? -m )?pip install", installable, "installs 500 MB and more"),
    Instead(
        r"accelerate launch", launched, "needs two machines", "test_processes.py::test_two_processes_train_as_one_does"
    ),
    Instead(r"python convert_hf_to_gguf\.py", elsewhere, "a program of llama.cpp"),
    Instead(rf"{RUNS} run .*--profile (?!profiles/default\b)", only_read, "needs a cluster", SLURM),
    Instead(r"snakemake .*--profile profiles/(?!default\b)", dry, "needs a cluster"),
    Instead(r"(sbatch|srun|squeue|scancel|sinfo|sacct|salloc|module|ssh|rsync)\b", elsewhere, "needs a cluster"),
]


def instead(command: str) -> Instead | None:
    return next((one for one in INSTEAD if re.match(one.command, command.strip())), None)


def statements(text: str) -> list[str]:
    """A shell block's commands: a line, or several where quotes, loops or a backslash go on."""
    found, pending = [], ""
    for line in text.splitlines():
        pending += line + "\n"
        if line.rstrip().endswith("\\"):
            continue
        if subprocess.run(["bash", "-n"], input=pending, capture_output=True, text=True, check=False).returncode == 0:
            found.append(pending.strip())
            pending = ""
    assert not pending, f"unfinished: {pending}"
    return [each for each in found if each and not all(row.startswith("#") for row in each.splitlines())]


# The copy.

SMALL = {"base": 120, "train": 120, "valid": 12, "test": 12, "rows": 600, "steps": 4, "epochs": 1, "replay": 40}
SMALL |= {"hidden": 16, "layers": 1, "heads": 2, "vocabulary": 600, "validation_rows": 6, "per_step": 4}
SMALL |= {"validate_steps": 2, "save_steps": 2, "log_steps": 2}


def cut(value, key=""):
    """The settings with all that takes time made small."""
    if isinstance(value, dict):
        return {name: cut(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [1] if key == "seeds" else [cut(one, key) for one in value]
    return min(value, SMALL[key]) if key in SMALL and isinstance(value, int) else value


def virtual(kit: Path) -> None:
    """An environment in the copy: this one's packages behind the copy's own code, and their programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=kit, check=True)
    (packages,) = (kit / ".venv").glob("lib/python*/site-packages")
    places = [str(kit), *(place for place in sys.path if place.endswith("-packages"))]
    (packages / "kit.pth").write_text("".join(f"{place}\n" for place in places))
    here, there = Path(sys.executable).parent, kit / ".venv/bin"
    for program in here.iterdir():
        if (there / program.name).exists() or not program.is_file():
            continue
        content = program.read_bytes()
        if content.startswith(b"#!"):
            (there / program.name).write_bytes(content.replace(str(here).encode(), str(there).encode(), 1))
            (there / program.name).chmod(0o755)
        else:
            (there / program.name).symlink_to(program)
    if (here.parent / "share").is_dir():
        (kit / ".venv/share").symlink_to(here.parent / "share")
    (kit / ".venv/.ready").touch()


def own_files(kit: Path) -> None:
    """The files that examples name, small and made up, where a user would have them."""
    pairs = [(f"mt-{i}", f"kalimat nomor {i} satu", f"okara nomer {i} settong") for i in range(120)]
    labelled = [(f"s-{i}", f"teks {i}", ("negative", "positive")[i % 2]) for i in range(20)]
    written = kit / "data/nusawrites"
    written.mkdir(parents=True)
    pd.DataFrame(pairs, columns=["id", "ind_text", "tgt_text"]).to_csv(
        written / "nusa_kalimat-mt-mad-train.csv", index=False
    )
    for split in ("train", "valid", "test"):
        pd.DataFrame(labelled, columns=["id", "text", "label"]).to_csv(
            written / f"nusa_kalimat-senti-mad-{split}.csv", index=False
        )
    pd.DataFrame(pairs, columns=["Nomor", "Indonesia", "Madura"]).to_excel(kit / "own.xlsx", index=False)
    pd.DataFrame(labelled, columns=["id", "kalimat", "nilai"]).to_csv(kit / "tests.csv", index=False)
    for code, place in (("ind", 1), ("mad", 2)):
        (kit / f"own.{code}.txt").write_text("".join(f"{pair[place]}\n" for pair in pairs))
    (kit / "hi.txt").write_text("".join(f"यह वाक्य {i} है\n" for i in range(40)))
    (kit / "hi-en.txt").write_text("वाक्य sentence\nयह this\n")
    (kit / "en-hi.txt").write_text("sentence वाक्य\nthis यह\n")
    rows = [{"instruction": f"Write this sentence {i}", "input": "", "output": f"sentence {i}"} for i in range(400)]
    for file in ("alpaca.json", *(f"alpaca.{tag}.json" for tag in ("en", "es", "bg"))):
        (kit / file).write_text(json.dumps(rows))
    asked = kit / "data/alpaca-multilingual"
    asked.mkdir()
    for tag in ("en", "es", "bg", "no"):
        (asked / f"test_{tag}.jsonl").write_text("".join(json.dumps({"prompt": f"{tag} {i}"}) + "\n" for i in range(5)))


def call(script: str, kit: Path) -> subprocess.CompletedProcess:
    inside = {
        **os.environ,
        "PATH": f"{kit / '.venv/bin'}{os.pathsep}{os.environ['PATH']}",
        "IA_DATA": str(kit / "data"),
    }
    inside.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=kit, env=inside, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=1200, check=False
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    """A copy of the kit with an environment, a user's files, and small tables with the rows that commands name."""
    kit = tmp_path_factory.mktemp("docs") / "kit"
    unwanted = shutil.ignore_patterns(".git", ".venv", "outputs", "__pycache__", ".*_cache", ".snakemake")
    shutil.copytree(root(), kit, ignore=unwanted)
    virtual(kit)
    own_files(kit)
    named = set(re.findall(r"[\w~-]+", " ".join(block.text for block in fences(*SHELL))))
    for table in (kit / "params").glob("*.yaml"):
        settings = YAML(typ="safe").load(table)
        if settings.get("defaults", {}).get("corpus") == "minilab":
            first, *others = settings["runs"]
            settings["runs"] = [
                first,
                *(row for row in others if table.stem.startswith("taste") or row["name"] in named),
            ]
            YAML(typ="safe").dump(cut(settings), table)
    return kit


@pytest.fixture(scope="module")
def reproduced(kit) -> Path:
    """The same, with what README's first command leaves."""
    call("make reproduce", kit)
    assert (kit / "outputs/mini/report/index.html").is_file()
    return kit


@pytest.mark.parametrize("block", commands(), ids=str)
def test_commands_are_carried_out(block, reproduced):
    script = []
    for command in statements(block.text):
        one = instead(command)
        script.append(one.check(command, reproduced) if one else command)
    call("\n".join(script), reproduced)


@pytest.mark.parametrize("page", sorted({block.page for block in fences("python")}))
def test_python_is_run(page, reproduced):
    blocks = [
        re.sub(r"^[!%].*$", "", block.text, flags=re.MULTILINE) for block in fences("python") if block.page == page
    ]
    assert all(ast.parse(block) for block in blocks)
    # the module is Colab's own, and nowhere else
    code = "\n".join(block for block in blocks if "google.colab" not in block)
    (reproduced / "example.py").write_text(code, encoding="utf-8")
    call("python example.py", reproduced)


@pytest.mark.parametrize("block", fences("yaml"), ids=str)
def test_examples_are_read(block, kit):
    settings = YAML(typ="safe").load(block.text)
    assert isinstance(settings, dict)
    called = re.match(r"# (\S+\.yaml)", block.text)
    path = kit / (called[1] if called else f"{block.page.replace('/', '-')}-{block.line}.yaml")
    path.write_text(block.text, encoding="utf-8")
    if "kind" in settings:
        assert tasks.load(str(path)).kind == settings["kind"]
    elif "runs" in settings:
        call(f"python -m ia_lib.runs plan {shlex.quote(path.name)}", kit)
    elif "executor" not in settings:  # a profile of Snakemake's
        # fields of a row
        row = {"name": "one", "model": {"name": "some/model"}, "objective": "tlm", **settings}
        YAML(typ="safe").dump({"runs": [row]}, path)
        tables.load(path)


@pytest.mark.parametrize("block", fences("json"), ids=str)
def test_json_is_read(block):
    json.loads(block.text)


def test_blocks_say_what_they_are_and_no_command_hides():
    for block in fences():
        assert block.language in LANGUAGES, f"{block}: {block.language}"
        if block.language == "text":
            hidden = [line for line in block.text.splitlines() if TYPED.match(line.lstrip("$ "))]
            assert not hidden, f"{block}: {hidden} is a command, in a block that is not carried out"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_within_sentences_are_understood(page, kit):
    for token in inline(page):
        command = token.content.lstrip("!%")
        if token.type != "code_inline" or not TYPED.match(command):
            continue
        if short := re.fullmatch(rf"{RUNS} (\w+)", command):
            assert call(f"python -m ia_lib.runs {short[1]} --help", kit).stdout
        elif re.match(RUNS, command):
            call(only_read(command, kit), kit)
        elif command.startswith("make "):
            call(only_told(command, kit), kit)
        elif (one := instead(command)) is not None:
            one.check(command, kit)
        else:
            words = shlex.split(command)
            program = next(word for word in words if "=" not in word)
            places = f"{kit}{os.pathsep}{kit / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
            assert program == "source" or shutil.which(kit / program) or shutil.which(program, path=places), command
            scripts = [word for word in words if word.endswith((".py", ".yaml", ".ipynb"))]
            assert all((kit / script).exists() or script.isupper() for script in scripts), command


def test_exceptions_are_needed_and_say_who_tests_them():
    said = [command for block in commands() for command in statements(block.text)]
    said += [token.content.lstrip("!%") for page in PAGES for token in inline(page) if token.type == "code_inline"]
    for one in INSTEAD:
        assert one.why
        assert any(re.match(one.command, command) for command in said), f"no page says {one.command}"
        if one.tested:
            file, _, test = one.tested.partition("::")
            tree = ast.parse((root() / "tests" / file).read_text(encoding="utf-8"))
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, one.tested


# Links, names and words.


def anchors(page: Path) -> set[str]:
    """The headings' anchors, as GitHub makes them."""
    seen, found, tokens = Counter(), set(), parsed(page)
    for heading, token in pairwise(tokens):
        if heading.type == "heading_open":
            text = "".join(one.content for one in token.children if one.type in {"text", "code_inline"})
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


@pytest.mark.quick
@pytest.mark.parametrize("page", [*PAGES, root() / "params/published/README.md"], ids=name)
def test_links_lead_somewhere(page):
    for token in inline(page):
        target = token.attrGet("href") or token.attrGet("src")
        if not target or re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        where = (page.parent / path).resolve() if path else page
        assert where.exists(), f"{name(page)}: {target}"
        assert where.is_relative_to(root())
        assert not anchor or anchor in anchors(where), f"{name(page)}: {target}"
        assert token.type != "image" or token.content, f"{name(page)}: {target} has no words for who does not see it"


@pytest.mark.quick
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_are_there(page):
    said = [token.content for token in inline(page) if token.type == "code_inline"]
    files = (
        r"(?:params|tests|docs|notebooks|benchmarks|profiles|ia_lib)/[\w./~-]+\.(?:py|yaml|ipynb|md|csv|tsv|png|html)"
    )
    for text in said:
        if re.fullmatch(files, text) and "/mine/" not in text:  # what a reader is told to make
            assert (root() / text).is_file(), f"{name(page)}: {text}"


@pytest.mark.quick
def test_every_page_is_in_the_table_of_contents():
    listed = {token.attrGet("href") for token in inline(root() / "docs/README.md")}
    assert {page.name for page in (root() / "docs").glob("*.md")} - {"README.md"} <= listed


@pytest.mark.quick
def test_readme_stays_short():
    assert len((root() / "README.md").read_text(encoding="utf-8").splitlines()) <= 155


@pytest.mark.quick
def test_every_word_has_one_entry():
    tables = re.findall(
        r"^\| ([^|]+) \| [^|]+ \|$", (root() / "docs/words.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    words = [word for entry in tables for word in entry.split(", ") if entry != "word"]
    assert len(words) >= 30
    assert len(words) == len(set(words))
