"""The kernel of a stage's notebook: always of this interpreter, and spoken to by sockets in a folder of its own."""

import os
import sys
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from ia_lib.workflow import ending


class Kernel(AsyncKernelManager):
    """Starts this module as the kernel, whatever kernels are installed; it ends with the process that started it."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ia_lib.workflow.kernel", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")

    async def _async_launch_kernel(self, kernel_cmd, **more):
        with open(last_words(Path(self.connection_file).parent), "w") as file:
            await super()._async_launch_kernel(kernel_cmd, stderr=file, **more)

    _launch_kernel = _async_launch_kernel


def lighten() -> None:
    """Make what reads notebooks quicker to import: jsonschema would compile a grammar of addresses for a second, and no
    notebook is checked for those. A package that is None counts as not installed, and jsonschema does without it."""
    sys.modules.setdefault("rfc3987_syntax", None)


def configured(folder: Path) -> Config:
    """How a kernel is spoken to by files in `folder`, whose path must be short; on Windows by this machine's ports."""
    transport = "tcp" if os.name == "nt" else "ipc"
    # a step of training may end, and its checkpoint be written, before a kernel that is asked to end is killed
    return Config(
        {
            "ConnectionFileMixin": {"transport": transport, "connection_file": str(folder / "k.json")},
            "KernelManager": {"shutdown_wait_time": 30.0},
        }
    )


def last_words(folder: Path) -> Path:
    """The file of what the kernel of that folder wrote to stderr past its notebook."""
    return folder / "stderr"


if __name__ == "__main__":
    ending.with_parent()
    lighten()

    from ipykernel import kernelapp

    # it would listen on a port of this machine to children that it forks; what those print goes to the job's log
    listener = kernelapp.IOPubThread
    kernelapp.IOPubThread = lambda socket, **more: listener(socket, **{**more, "pipe": False})
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: vars(sys).update(stdout=sys.__stdout__, stderr=sys.__stderr__))
    kernelapp.launch_new_instance()
