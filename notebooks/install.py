"""Install the kit into a kernel that lacks it (Colab, Kaggle, JupyterHub), beside what is there.

What is there keeps its version. Where something of it is too old for the kit, that alone is changed, and what it needs,
and told; but never what the kernel itself runs on, nor torch, numpy and pandas: those would be replaced under a running
program.
"""

import importlib
import importlib.metadata
import re
import site
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

kit = Path(__file__).resolve().parents[1]
FIXED = {"torch", "torchvision", "torchaudio", "triton", "numpy", "pandas", "pyarrow", "google-colab", "requests"}
FIXED |= {"ipykernel", "ipython", "ipywidgets", "jupyter-client", "jupyter-core", "jupyter-server", "jupyterlab"}
FIXED |= {"notebook", "packaging", "pyzmq", "tornado", "traitlets"}


def named(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def versions() -> dict[str, str]:
    """What is installed; of two of one name the one that is imported."""
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        if (name := one.metadata["Name"]) and one.version and name != "ia-lib":
            found.setdefault(named(name), one.version)
    return found


def needed(texts: list[str]) -> list[Requirement]:
    """What these requirements ask for on this system, without extras."""
    found = map(Requirement, texts)
    return [one for one in found if not one.marker or one.marker.evaluate({"extra": ""})]


def too_old(here: dict[str, str]) -> set[str]:
    """What the kit cannot use in its version, and what that needs, of which it may need newer ones."""
    wanted = needed(tomllib.loads((kit / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"])
    left = [named(w.name) for w in wanted if (is_here := here.get(named(w.name))) and is_here not in w.specifier]
    found: set[str] = set()
    while left:
        if (name := left.pop()) in here and name not in found:
            found.add(name)
            left += [named(one.name) for one in needed(importlib.metadata.requires(name) or [])]
    return found - FIXED


def install(kept: dict[str, str]) -> str:
    """Install the kit with these versions kept; returns pip's errors, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "keep.txt"
        # a build's own name, as in 2.11.0+cu128, is none of the versions that a package index knows
        pins.write_text("".join(f"{name}=={version.split('+')[0]}\n" for name, version in kept.items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--root-user-action=ignore", "-c", str(pins), "-e", str(kit)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    return done.stderr if done.returncode else ""


before, modules = versions(), {name.partition(".")[0] for name in sys.modules}
print(f"installing the kit from {kit}; this takes a minute or two ...", flush=True)
# the last one, where what is there does not agree with itself
error = "not tried"
for free in (too_old(before), before.keys() - FIXED):
    error = install({name: version for name, version in before.items() if name not in free})
    if "ResolutionImpossible" not in error:
        break
if error:
    said = [line.removeprefix("ERROR: ") for line in error.splitlines() if line.startswith("ERROR: ")]
    offline = re.search("Could not find a version|No matching distribution|ConnectionError|Name or service", error)
    hint = "; is there internet? On Kaggle it is switched on in the notebook's settings" if offline else ""
    raise RuntimeError(f"the kit could not be installed: {' '.join(said[:2]) or error[-300:]}{hint}")

# this kernel looked for its packages before they were there
for place in {str(kit), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])} - {*sys.path}:
    sys.path.insert(0, place)
importlib.invalidate_caches()
after = versions()
moved = {name: f"{name} {old} -> {after.get(name, 'gone')}" for name, old in before.items() if after.get(name) != old}
print(f"installed {len(after.keys() - before.keys())} packages; ", end="")
print(f"changed, as the kit needs: {', '.join(moved.values())}" if moved else "what was there is as it was")
by_module = importlib.metadata.packages_distributions()
if at_work := {named(name) for module in modules for name in by_module.get(module, ())} & moved.keys() - {"pip"}:
    print(f"restart the kernel before you go on: it still works with the old {', '.join(sorted(at_work))}")
