# A table of settings as a graph of jobs: one job is one notebook for one run, executed by papermill.
#
#     snakemake --profile profiles/default --config table=params/mini.yaml
#     snakemake --profile profiles/slurm --config table=params/paper.yaml hardware=H200
#
# `python -m ia_lib.runs run TABLE` does the same with a progress display. What is finished is decided by the
# manifests (see ia_lib/workflow/stages.py): a job's output is a marker whose name carries the key of its settings and inputs.
import os
import shlex
import sys
from itertools import takewhile

from ia_lib.workflow import devices, ending
from ia_lib.workflow.cluster import Cluster
from ia_lib.workflow.graph import STAGES, Table

# a job of a cluster reads this file again where it runs, and is told its rule
only = set()
if workflow.remote_exec and "--allowed-rules" in sys.argv:
    behind = sys.argv[sys.argv.index("--allowed-rules") + 1 :]
    only = set(takewhile(lambda said: not said.startswith("-"), behind))
if workflow.remote_exec:
    # it was started by no process of its machine, and ends when the cluster says
    os.environ.pop(ending.PARENT, None)
    os.environ[devices.GIVEN] = "1"
ending.with_parent()
os.environ[ending.PARENT] = str(os.getpid())

table, cluster = Table(config["table"], config.get("outputs") or "outputs"), Cluster.of(config)


def called(run, stage):
    """The name of a stage's rule."""
    return f"{run or 'table'}_{stage}"


names = [name for name in str(config.get("runs") or "").split(",") if name]
if only:
    # of hundreds of rows the one that the job is for
    wanted = [name for name in table.by_name if not only.isdisjoint(called(name, stage) for stage in STAGES)]
    stages = table.stages(wanted) if wanted else []
else:
    stages = table.stages(names)
if not names and config.get("report", True) and (not only or called(None, "report") in only):
    stages.append(table.report())
if only:
    stages = [stage for stage in stages if called(stage.run and stage.run.name, stage.name) in only]
for stage in stages if not workflow.remote_exec else ():
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


def resources(stage):
    """What a stage's job asks a cluster for; reckoned when it is about to be submitted."""
    asked = {
        "mem_mb": lambda wildcards: cluster.memory_mb(stage),
        "runtime": lambda wildcards, attempt: cluster.minutes(stage, attempt),
        "gpu": cluster.gpus(stage),
    }
    if cluster.partition(stage):
        asked["slurm_partition"] = cluster.partition(stage)
    if cluster.gpu_model and cluster.gpus(stage):
        asked["gpu_model"] = cluster.gpu_model
    return asked


workflow.localrules(
    *(called(stage.run and stage.run.name, stage.name) for stage in stages if stage.name in cluster.here.replace(" ", "").split(","))
)


rule all:
    input:
        [local(stage.marker) for stage in stages],


for stage in stages:
    name = stage.run.name if stage.run else "-"

    rule:
        name:
            called(stage.run and stage.run.name, stage.name)
        input:
            [local(needed.marker) for needed in stage.needs],
        output:
            local(stage.marker),
        log:
            local(stage.log),
        threads: cores(stage)
        # what others wait for comes first
        priority: {"tune": 2, "data": 1}.get(stage.name, 0)
        resources:
            **resources(stage),
        params:
            command=lambda wildcards, said=shlex.join(
                [*command, name, stage.name, "--outputs", str(table.outputs)]
            ): said,
        shell:
            "{params.command} 2> {log:q}"
