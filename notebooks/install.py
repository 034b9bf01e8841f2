"""Install the kit into a kernel that lacks it (Colab). What the kernel itself runs on must not be replaced under it."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

kit = Path(__file__).resolve().parents[1]
names = ["torch", "ipykernel", "IPython", "ipywidgets", "jupyterlab"]
kept = {name: importlib.metadata.version(name).split("+")[0] for name in names if importlib.util.find_spec(name)}
pins = Path("keep.txt")
pins.write_text("".join(f"{name}=={version}\n" for name, version in kept.items()))
subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-c", pins, "-e", kit], check=True)
sys.path.insert(0, str(kit))
