# A table of settings as a graph of jobs: one job is one notebook for one run, executed by papermill.
#
#     snakemake --profile profiles/default --config table=params/mini.yaml
#
# `python -m ia_lib.runs run TABLE` does the same with a progress display. What is finished is decided by the
# manifests (see ia_lib/workflow/stages.py): a job's output is a marker whose name carries the key of its settings and inputs.
import shlex
import sys

from ia_lib.workflow.graph import Table

table = Table(config["table"], config.get("outputs") or "outputs")
names = str(config.get("runs") or "")
stages = table.stages([name for name in names.split(",") if name])
if not names and config.get("report", True):
    stages.append(table.report())
for stage in stages:
    if stage.done:
        stage.marker.parent.mkdir(parents=True, exist_ok=True)
        stage.marker.touch()
    else:
        stage.marker.unlink(missing_ok=True)
command = [sys.executable, "-m", "ia_lib.runs", "stage", str(table.path)]


rule all:
    input:
        [str(stage.marker) for stage in stages],


for stage in stages:

    rule:
        name:
            f"{stage.run.name if stage.run else 'table'}_{stage.name}"
        input:
            [str(needed.marker) for needed in stage.needs],
        output:
            str(stage.marker),
        threads: stage.run.threads if stage.run else 1
        params:
            command=shlex.join(
                [*command, stage.run.name if stage.run else "-", stage.name, "--outputs", str(table.outputs)]
            ),
        shell:
            "{params.command}"
