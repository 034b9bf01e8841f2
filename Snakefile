# A table of settings as a graph of jobs: one job is one notebook for one run, executed by papermill.
#
#     snakemake --profile profiles/default --config table=params/mini.yaml
#
# `python -m ia_lib.runs run TABLE` does the same with a progress display. What is finished is decided by the
# manifests (see ia_lib/workflow/stages.py): a job's output is a marker whose name carries the key of its settings and inputs.
import os
import shlex
import sys

from ia_lib.workflow import ending
from ia_lib.workflow.graph import Table

ending.with_parent()
os.environ[ending.PARENT] = str(os.getpid())

table = Table(config["table"], config.get("outputs") or "outputs")
names = str(config.get("runs") or "")
stages = table.stages([name for name in names.split(",") if name])
if not names and config.get("report", True):
    stages.append(table.report())
for stage in stages:
    if stage.complete:
        stage.marker.parent.mkdir(parents=True, exist_ok=True)
        stage.marker.touch()
    else:
        stage.marker.unlink(missing_ok=True)
command = [sys.executable, "-m", "ia_lib.runs", "stage", str(table.path.resolve())]
# a signal to the job reaches the stage, with no shell between
command = ["exec", *command] if os.name == "posix" else command


def local(path):
    """A path as seen from here: braces in a folder's name would be wildcards."""
    return os.path.relpath(path)


def cores(stage):
    """The cores that a stage keeps busy."""
    if not stage.run:
        return 1
    return stage.run.threads * (stage.run.train.processes if stage.name == "tune" else 1)


rule all:
    input:
        [local(stage.marker) for stage in stages],


for stage in stages:
    name = stage.run.name if stage.run else "-"

    rule:
        name:
            f"{stage.run.name if stage.run else 'table'}_{stage.name}"
        input:
            [local(needed.marker) for needed in stage.needs],
        output:
            local(stage.marker),
        log:
            local(stage.log),
        threads: cores(stage)
        # what others wait for comes first
        priority: {"tune": 2, "data": 1}.get(stage.name, 0)
        params:
            command=lambda wildcards, said=shlex.join(
                [*command, name, stage.name, "--outputs", str(table.outputs)]
            ): said,
        shell:
            "{params.command} 2> {log:q}"
