"""As on Colab: a kernel with packages of its own, the kit unpacked beside it, results on a drive that comes and goes.

This is a simulation, and not Colab: its packages are those that Colab listed in June 2026, with torch, transformers and
what these need from the environment that runs the tests, and its Python is that environment's.
"""

import contextlib
import importlib.metadata
import json
import os
import queue
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from packaging.requirements import Requirement
from safetensors.torch import load_file
from torch import equal

from ia_lib import paths
from ia_lib.paths import root
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

NOTEBOOKS = sorted((root() / "notebooks").glob("*.ipynb"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="Colab is a Linux, and so is what is like it")

# Of what Colab listed what the kit has a use for: it must be content with these versions. Not listed, and so installed,
# are papermill, snakemake, bitsandbytes, ruamel.yaml, py3langid, sacrebleu, kaleido and httpx2.
_LISTED = """
accelerate==1.13.0 annotated-types==0.7.0 anyio==4.13.0 argon2-cffi==25.1.0 argon2-cffi-bindings==25.1.0
arrow==1.4.0 attrs==26.1.0 backcall==0.2.0 beautifulsoup4==4.13.5 bleach==6.3.0 cffi==2.0.0 datasets==4.0.0
debugpy==1.8.15 decorator==4.4.2 defusedxml==0.7.1 dill==0.3.8 docutils==0.21.2 entrypoints==0.4 et_xmlfile==2.0.0
fastjsonschema==2.21.2 filelock==3.29.0 fqdn==1.5.1 fsspec==2025.3.0 gitdb==4.0.12 GitPython==3.1.50 greenlet==3.5.1
ipykernel==6.17.1 ipython==7.34.0 ipython-genutils==0.2.0 ipywidgets==7.7.1 isoduration==20.11.0 jedi==0.19.2
Jinja2==3.1.6 joblib==1.5.3 jsonpointer==3.1.1 jsonschema==4.26.0 jsonschema-specifications==2025.9.1
jupyter_client==7.4.9 jupyter_core==5.9.1 jupyter-events==0.12.1 jupyterlab_pygments==0.3.0
jupyterlab_widgets==3.0.16 jupyter_server==2.14.0 jupyter_server_terminals==0.5.4 lark==1.3.1 lxml==6.1.1
matplotlib-inline==0.2.2 mistune==3.2.1 multiprocess==0.70.16 narwhals==2.22.0 nbclassic==1.3.3 nbclient==0.10.4
nbconvert==7.17.1 nbformat==5.10.4 nest-asyncio==1.6.0 nltk==3.9.1 notebook==6.5.7 notebook_shim==0.2.4 numpy==2.0.2
openpyxl==3.1.5 overrides==7.7.0 packaging==26.2 pandas==2.2.2 pandocfilters==1.5.1 parso==0.8.7 peft==0.19.1
pexpect==4.9.0 pickleshare==0.7.5 platformdirs==4.10.0 plotly==5.24.1 prometheus_client==0.25.0
prompt_toolkit==3.0.52 psutil==5.9.5 ptyprocess==0.7.0 PuLP==3.3.2 pyarrow==18.1.0 pycparser==3.0 pydantic==2.12.3
pydantic_core==2.41.4 python-dateutil==2.9.0.post0 python-json-logger==4.1.0 pytz==2025.2 pyzmq==26.2.1
referencing==0.37.0 requests==2.32.4 rfc3339-validator==0.1.4 rfc3986-validator==0.1.1 rfc3987-syntax==1.1.0
rpds-py==2026.5.1 Send2Trash==2.1.0 simplejson==4.1.1 six==1.17.0 smart_open==7.6.1 smmap==5.0.3 soupsieve==2.8.4
SQLAlchemy==2.0.50 tabulate==0.9.0 tenacity==9.1.4 terminado==0.18.1 tinycss2==1.4.0 tornado==6.5.1 traitlets==5.7.1
typing-inspection==0.4.2 tzdata==2026.2 uri-template==1.3.0 urllib3==2.5.0 wcwidth==0.7.0 webcolors==25.10.0
webencodings==0.5.1 websocket-client==1.9.0 widgetsnbextension==3.6.10 wrapt==2.2.1 xxhash==3.7.0
"""
LISTED = _LISTED.split()
LARGE = ("torch", "transformers", "scipy", "scikit-learn", "regex", "tqdm")

# A mounted drive knows no links and no locks. What is at work there is Python, so it is Python that is told so.
REFUSES = """
import errno, fcntl, os

def refusing(call, place, number):
    def refuse(*given, **more):
        if place(*given).startswith(os.environ["DRIVE"]):
            raise OSError(number, os.strerror(number))
        return call(*given, **more)
    return refuse

def behind(file, *_):
    return os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")

def second(_, path, *more):
    return os.path.abspath(path)

os.symlink, os.link = (refusing(call, second, errno.EOPNOTSUPP) for call in (os.symlink, os.link))
fcntl.flock = refusing(fcntl.flock, behind, errno.ENOSYS)
"""

TABLE = """
defaults:
  corpus: minilab
  lab: {base: 200, train: 100, test: 20}
  known: [eng, ind]
  taught: [sun, jav]
  unseen: [bbc]
  replay: 100
  past: {run: base}
  model: {run: base}
  steps: 160
  new_per_step: 4
  old_per_step: 4
  learning_rate: 1.0e-3
  log_steps: 5
  validate_steps: 100
  save_steps: 20
runs:
  - name: base
    recipe: instructions
    past: {mixture: {sentiment: 25, mt: 40, xss: 25, mlm: 10, rows: 400}}
    model: {new: {hidden: 32, layers: 2, heads: 4, vocabulary: 800}}
    per_step: 8
    steps: 20
  - {name: tlm, objective: tlm}
"""


def named(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def needed_by(names: tuple[str, ...], but: set[str]) -> set[str]:
    """These packages of this environment and what they need, without those of `but`."""
    found, left = set(), list(names)
    while left:
        name = named(left.pop())
        if name in found or name in but:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for other systems
        found.add(name)
        left += [
            each.name for each in map(Requirement, needs) if not each.marker or each.marker.evaluate({"extra": ""})
        ]
    return found


def link(name: str, folder: Path) -> None:
    """Make a package of this environment importable from `folder`."""
    one = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
        place = Path(one.locate_file(top))
        if place.exists() and not (folder / top).exists():
            (folder / top).symlink_to(place)


def pip(python: Path, *arguments: str) -> None:
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode and re.search("No matching distribution|ConnectionError|Name or service", done.stderr):
        pytest.skip(f"packages cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """What a new machine of Colab's begins with."""
    folder = tmp_path_factory.mktemp("colab")
    (folder / "large").mkdir()
    for name in needed_by(LARGE, {named(pin.partition("==")[0]) for pin in LISTED}):
        link(name, folder / "large")
    subprocess.run([sys.executable, "-m", "venv", folder / "image"], check=True)
    python = folder / "image" / "bin" / "python"
    # an old one of venv's own would stand before the linked one that torch needs
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "setuptools"], check=True, capture_output=True)
    (folder / "listed.txt").write_text("\n".join(LISTED))
    pip(python, "--no-deps", "--no-compile", "--only-binary", ":all:", "-r", str(folder / "listed.txt"))
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    (packages / "refuses.py").write_text(REFUSES)
    (packages / "image.pth").write_text(f"{folder / 'large'}\nimport refuses\n")
    return folder / "image"


class Session:
    """A session: a new machine with the kit unpacked beside what it has, a drive, and a kernel."""

    def __init__(self, image: Path, home: Path, cloud: Path):
        from jupyter_client import KernelManager

        self.home, self.content, self.cloud, self.ended = home, home / "content", cloud, False
        shutil.copytree(image, home / "vm", symlinks=True, copy_function=os.link)
        self.python = home / "vm" / "bin" / "python"
        self.content.mkdir()
        (home / "tmp").mkdir()
        unpack(self.content / "ia_lib")
        self.drive = self.content / "drive"
        cloud.rename(self.drive)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
        environment |= {"PATH": f"{home / 'vm' / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(home / "tmp")}
        environment |= {"DRIVE": str(self.drive), "HOME": str(home), "HF_HUB_OFFLINE": "1"}
        # what a fresh machine would fetch again lies here already
        environment |= {"PIP_CACHE_DIR": pip_cache()}
        environment |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        self.kernel = KernelManager()
        self.kernel.kernel_spec.argv = [str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self.kernel.start_kernel(cwd=self.content, env=environment)
        self.client = self.kernel.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def do(self, code: str, until: Callable[[], object] = lambda: False) -> str | None:
        """Do a cell, and return what it printed; nothing if `until` is true before it has ended."""
        asked, said = self.client.execute(code, allow_stdin=False), []
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            if until():
                return None
            try:
                message = self.client.get_iopub_msg(timeout=0.1)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                said.append(content["text"])
            elif kind == "error":
                pytest.fail(f"{code}\n{''.join(said)}\n{content['ename']}: {content['evalue']}")
            elif kind == "status" and content["execution_state"] == "idle":
                return "".join(said)
        pytest.fail(f"not done in time: {code}")

    def open(self, name: str, until: Callable[[], object] = lambda: False, **parameters: str) -> str | None:
        """Do all cells of a notebook, with parameters changed as by hand; returns what they printed."""
        said = []
        for cell in nbformat.read(self.content / "ia_lib" / "notebooks" / f"{name}.ipynb", as_version=4).cells:
            if cell.cell_type != "code":
                continue
            if cell.metadata.get("tags") == ["parameters"]:
                for key, value in parameters.items():
                    cell.source, count = re.subn(
                        rf'^{key} = "[^"]*"', f"{key} = {json.dumps(value)}", cell.source, flags=re.M
                    )
                    assert count == 1
            if (printed := self.do(cell.source, until)) is None:
                return None
            said.append(printed)
        return "".join(said)

    def versions(self) -> dict[str, str]:
        code = "import importlib.metadata as m, json\n"
        code += "print(json.dumps({d.metadata['Name']: m.version(d.metadata['Name']) for d in m.distributions()}))"
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True, cwd=self.home)
        return json.loads(done.stdout)

    def end(self) -> None:
        """The machine is taken away at once, and what was on it; the drive's content stays where it is kept."""
        if self.ended:
            return
        self.ended = True
        first = psutil.Process(self.kernel.provisioner.pid)
        for process in [first, *first.children(recursive=True)]:
            process.send_signal(signal.SIGKILL)
        self.client.stop_channels()
        self.kernel.cleanup_resources()
        psutil.wait_procs([first], timeout=20)
        time.sleep(2)  # what ends with its parent looks for it every half second
        self.drive.rename(self.cloud)
        shutil.rmtree(self.home)


def unpack(folder: Path) -> None:
    """The kit as from an archive of it: without .git and .venv."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git, which says what belongs to the kit, is not there or this is no checkout")
    for name in filter(None, listed):
        if (root() / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root() / name, folder / name)


def pip_cache() -> str:
    command = [sys.executable, "-m", "pip", "cache", "dir"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def begin(image, tmp_path) -> Iterator[Callable[[], Session]]:
    """Begins a session, which ends with the test at the latest."""
    with contextlib.ExitStack() as left:

        def begun() -> Session:
            session = Session(image, tmp_path / "machine", tmp_path / "cloud")
            left.callback(session.end)
            return session

        yield begun


@linux
def test_a_session_that_is_cut_off_goes_on_in_the_next_one(image, begin, tmp_path):
    cloud = tmp_path / "cloud"
    (cloud / "MyDrive").mkdir(parents=True)
    (cloud / "MyDrive" / "first.yaml").write_text(TABLE)

    session = begin()
    had = session.versions()
    outputs = session.drive / "MyDrive" / "outputs"
    tune = outputs / "first" / "tlm" / "tune.part"
    given = {
        "table": str(session.drive / "MyDrive" / "first.yaml"),
        "outputs_dir": str(outputs),
        "kit": str(session.content / "ia_lib"),
    }
    kept = lambda: [path.parent for path in tune.glob("checkpoints/checkpoint-[4-9]?/files.sums")]  # noqa: E731
    assert session.open("2_tune", until=kept, **given) is None, "it ended before it could be cut off"
    # what was there is there, and nothing lies about
    assert {name: version for name, version in session.versions().items() if name in had} == had
    assert sorted(os.listdir(session.content)) == ["drive", "ia_lib"]
    assert not (session.content / "ia_lib" / ".venv").exists()
    step = max(int(folder.name.split("-")[1]) for folder in kept())
    told = (tune / "log.jsonl").read_text().splitlines()
    session.end()
    assert not session.content.exists()

    # a machine with a package that is too old for the kit
    pip(image / "bin" / "python", "--no-deps", "tenacity==8.5.0")
    session = begin()
    said = session.open("2_tune", **given)
    assert "changed, as the kit needs: tenacity 8.5.0 -> " in said
    now = session.versions()
    assert {name for name in had if now.get(name) != had[name]} <= {"tenacity"}
    went_on = (tune.with_name("tune") / "log.jsonl").read_text().splitlines()
    # with the times of the session that was cut off
    before = [line for line in told if json.loads(line)["step"] <= step]
    assert before
    assert went_on[: len(before)] == before

    # the whole table, in a cell, from where a notebook stands
    command = f"!python -m ia_lib.runs run {given['table']} --outputs {session.drive}/MyDrive/whole"
    printed = session.do(command)
    assert f"{session.drive}/MyDrive/whole" in printed
    assert "failed" not in printed
    whole = session.drive / "MyDrive" / "whole" / "first"
    assert (whole / "report" / "index.html").is_file()
    models = [load_file(folder / "tlm/tune/model/model.safetensors") for folder in (outputs / "first", whole)]
    assert models[0].keys() == models[1].keys()
    assert all(equal(models[0][name], models[1][name]) for name in models[0])
    session.end()


@pytest.mark.quick
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_folder_called_like_the_kit_is_not_taken_for_it(path, tmp_path):
    (tmp_path / "ia_lib" / "notebooks").mkdir(parents=True)
    (tmp_path / "ia_lib" / "notebooks" / "install.py").write_text("print('installed')")
    cells = nbformat.read(path, as_version=4).cells
    setup = next(cell.source for cell in cells if cell.metadata.get("tags") == ["setup"])
    # without what is installed here, but with the folder it is in
    code = f"import sys; sys.path.insert(0, ''); kit = 'ia_lib'\n{setup}"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "installed\n", done.stderr


@pytest.mark.quick
def test_all_notebooks_are_set_up_alike():
    cells = [nbformat.read(path, as_version=4).cells for path in NOTEBOOKS]
    setup = {next(cell.source for cell in found if cell.metadata.get("tags") == ["setup"]) for found in cells}
    given = [next(cell.source for cell in found if cell.metadata.get("tags") == ["parameters"]) for found in cells]
    assert len(setup) == 1
    assert len({line for source in given for line in source.splitlines() if line.startswith("kit = ")}) == 1


@pytest.mark.quick
def test_what_colab_listed_is_enough():
    project = tomllib.loads((root() / "pyproject.toml").read_text())["project"]
    needed = {named(each.name): each.specifier for each in map(Requirement, project["dependencies"])}
    listed = dict(pin.split("==") for pin in LISTED)
    refused = {
        name: version
        for name, version in listed.items()
        if (specifier := needed.get(named(name))) is not None and version not in specifier
    }
    assert refused == {}


HOLDS = """
import sys
from pathlib import Path
sys.path.append(sys.argv[2])
import refuses
from ia_lib.paths import lock
held = lock(Path(sys.argv[1]))
held.acquire()
print(held.lock_file, flush=True)
sys.stdin.read()
"""


@pytest.mark.quick
@linux
def test_a_drive_that_knows_no_locks_has_them_on_this_machine(tmp_path):
    drive = tmp_path / "drive"
    drive.mkdir()
    (tmp_path / "refuses.py").write_text(REFUSES)
    environment = {**os.environ, "DRIVE": str(drive), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", HOLDS, drive / "x.lock", tmp_path]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, env=environment, **pipe) for _ in range(2)]
    try:
        (first,), _, _ = select.select([one.stdout for one in started], [], [], 60)
        holder, waiting = started if started[0].stdout is first else started[::-1]
        place = Path(first.readline().strip())
        assert not place.is_relative_to(drive)
        assert not list(drive.iterdir())
        assert not select.select([waiting.stdout], [], [], 2)[0]
        holder.kill()
        assert waiting.stdout.readline().strip() == str(place)
    finally:
        for one in started:
            one.kill()
            one.communicate()


@pytest.mark.quick
def test_a_drive_that_is_not_mounted_is_told_before_anything_is_written(table, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_DRIVES", (str(tmp_path / "drive"),))
    with pytest.raises(SettingsError, match=r"Google Drive is not mounted there; first run: from google\.colab import"):
        Table(table, tmp_path / "drive" / "MyDrive" / "outputs")
    assert not (tmp_path / "drive").exists()
    Table(table, tmp_path / "drives")
