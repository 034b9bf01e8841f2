"""A table on a real Slurm: one node, this machine, with two cores and two devices that Slurm takes for GPUs.

Its daemons listen on free ports and keep all that they write in the test's own folder. Where the system lacks Slurm and
this is root on Debian or Ubuntu, its packages are installed.
"""

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml

from ia_lib.paths import root
from ia_lib.workflow.cluster import Cluster
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

PACKAGES, NEEDED = ("slurm-wlm", "munge"), ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue")
# Where daemons lie; a user's PATH may lack it.
PLACES = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000 Gres=gpu:toy:2
PartitionName=small Nodes={host} Default=YES MaxTime=INFINITE
PartitionName=large Nodes={host} MaxTime=INFINITE
"""
DEVICES = "Name=gpu Type=toy File=/dev/null\nName=gpu Type=toy File=/dev/zero\n"
TABLE = {
    "defaults": {
        **{"corpus": "minilab", "taught": ["sun"], "unseen": [], "lab": {"base": 300, "train": 300, "test": 20}},
        **{"past": {"run": "base"}, "model": {"run": "base"}, "replay": 200, "objective": "mt", "steps": 120},
        **{"new_per_step": 4, "old_per_step": 4, "log_steps": 1, "validation_rows": 8},
        # a checkpoint can only come of a signal
        **{"save_steps": 1000, "validate_steps": 1000},
    },
    "runs": [
        {
            **{"name": "base", "recipe": "instructions", "per_step": 8, "steps": 4},
            "model": {"new": {"hidden": 16, "layers": 1, "heads": 2, "vocabulary": 400}},
            "past": {"mixture": {"sentiment": 50, "mt": 50, "rows": 300}},
        },
        {"name": "whole"},
        {"name": "cut"},
    ],
}
# What Python reads as it starts: while a file is there, one row's steps take a second each, and it tells its GPUs.
SLOW = """
import os

if os.environ.get("IA_JOB") == "cut: tune":
    import time
    from pathlib import Path

    from ia_lib.training.batches import Collator

    with open(Path(__file__).with_name("devices"), "a") as file:
        print(os.environ.get("CUDA_VISIBLE_DEVICES"), file=file)
    whole = Collator.__call__

    def slow(self, rows):
        if Path(__file__).with_name("slow").exists():
            time.sleep(1)
        return whole(self, rows)

    Collator.__call__ = slow
"""


def here(name):
    return shutil.which(name, path=PLACES)


def installed():
    """Skips the test where Slurm is not and cannot be installed."""
    if all(map(here, NEEDED)):
        return
    if not (shutil.which("apt-get") and os.getuid() == 0):
        pytest.skip(f"no Slurm here ({', '.join(PACKAGES)}); only root can have it installed, and only by apt-get")
    where = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-q", *command], env=where, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"Slurm cannot be installed: apt-get {command[0]} said {done.stderr.strip()[-300:]}")


def eventually(what, seconds=900, say=lambda: ""):
    """The first value of `what()` that counts as true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, say()
        time.sleep(0.3)
    return found


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Starts a Slurm of one node; returns the environment in which its commands find it."""
    installed()
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    facts = {"ports": [one.getsockname()[1] for one in sockets], "host": socket.gethostname().partition(".")[0]}
    for one in sockets:
        one.close()
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, user=getpass.getuser(), **facts))
    (folder / "gres.conf").write_text(DEVICES)
    # Snakemake's plugin takes all of Slurm's variables from a job's srun, also where the configuration lies
    (folder / "bin" / "srun").write_text(
        f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {here("srun")} "$@"\n',
    )
    (folder / "bin" / "srun").chmod(0o755)
    where = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    where |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}{os.pathsep}{PLACES}"}
    # a system of its own has two files for munge in folders that others may not write to; here the folder is pytest's
    munge = ["--foreground", "--force", f"--socket={folder}/munge.sock", f"--key-file={key}"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("log", "pid", "seed")]
    with contextlib.ExitStack() as stack:

        def start(*command):
            log = stack.enter_context(open(folder / f"{command[0]}.log", "w"))
            process = subprocess.Popen([here(command[0]), *command[1:]], env=where, stdout=log, stderr=log)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)

        def said():
            return "\n".join(file.read_text()[-2000:] for file in folder.glob("*.log"))

        start("munged", *munge)
        eventually(lambda: (folder / "munge.sock").exists(), 30, said)
        for daemon in ("slurmctld", "slurmd"):
            start(daemon, "-D", "-f", str(folder / "slurm.conf"))
        eventually(lambda: ask(where, "sinfo", "--noheader", "--format=%T", "--partition=large") == "idle", 60, said)
        stack.callback(lambda: subprocess.run(["scancel", "--full", "--state=RUNNING"], env=where, check=False))
        yield where


def ask(where, *command):
    done = subprocess.run(command, env=where, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def jobs(where, rule):
    """Slurm's jobs for a rule, in order, each as what `scontrol show job` tells of it."""
    said = ask(where, "squeue", "--noheader", "--states=all", "--sort=i", "--format=%i %k")
    numbers = [line.split()[0] for line in said.splitlines() if line.split()[1:] == [f"rule_{rule}"]]
    shown = [ask(where, "scontrol", "show", "job", number) for number in numbers]
    return [dict(word.split("=", 1) for word in text.split() if "=" in word) for text in shown]


def test_a_table_goes_over_slurm_and_goes_on_where_it_was_cut_off(slurm, tmp_path):
    table, outputs, profile = tmp_path / "t.yaml", tmp_path / "o", tmp_path / "profile"
    table.write_text(yaml.safe_dump(TABLE))
    # the kit's profile, with what a user would fill in, and asked for more often than on a real cluster
    settings = yaml.safe_load((root() / "profiles" / "slurm" / "config.yaml").read_text())
    settings["config"] |= {"gpu_partition": "large", "cpu_partition": "small", "gpu_model": "toy", "here": "report"}
    profile.mkdir()
    (profile / "config.yaml").write_text(yaml.safe_dump({**settings, "slurm-init-seconds-before-status-checks": 2}))
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(SLOW)
    slow = tmp_path / "hook" / "slow"
    slow.touch()
    where = {**slurm, "PYTHONPATH": f"{tmp_path / 'hook'}:{root()}", "OMP_NUM_THREADS": "1"}
    command, there = [sys.executable, "-m", "ia_lib.runs", "run", str(table)], ["--outputs", str(outputs)]
    # what both rows begin with is made here: a cluster's jobs go on from it
    base = subprocess.run([*command, "base", *there], env=where, capture_output=True, text=True, check=False)
    assert base.returncode == 0, base.stderr

    def begun():
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*command, *there, "--profile", str(profile)], env=where, **pipes)

    folder = outputs / "t" / "cut"
    log = folder / "tune.part" / "log.jsonl"

    def told():
        logs = sorted((outputs / "t" / ".jobs").rglob("*.log"))
        return "\n".join(f"{path}\n{path.read_text(errors='replace')[-1500:]}" for path in logs)

    def trained(number, steps):
        """The job that trains at the given attempt, once it is behind so many steps."""

        def behind():
            found = jobs(slurm, "cut_tune")
            lines = log.read_text().splitlines() if len(found) == number and log.is_file() else []
            # the last line may be half written
            there = max((json.loads(line)["step"] for line in lines[:-1]), default=0) > steps + 1
            return found[-1] if there and found[-1]["JobState"] == "RUNNING" else None

        return eventually(behind, say=told)

    def ended(number):
        """The step of the last checkpoint that a job has left that was ended, and its state."""
        state = eventually(
            lambda: (now := jobs(slurm, "cut_tune")[number - 1]["JobState"]) not in ("RUNNING", "COMPLETING") and now,
            say=told,
        )
        kept = (folder / "tune.part" / "checkpoints").glob("checkpoint-*[0-9]")
        return max(int(path.name.split("-")[1]) for path in kept), state

    run = begun()
    try:
        # who stops the command stops its jobs
        trained(1, 0)
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=300)[0]
        assert "stopped; kept: " in said
        assert "the same command goes on from here" in said
        first, state = ended(1)
        assert first > 0
        assert state in ("CANCELLED", "FAILED")
        run = begun()
        # a job that is killed is submitted again, and one that meets its limit
        ask(slurm, "scancel", trained(2, first)["JobId"])
        second, _ = ended(2)
        assert second > first
        ask(slurm, "scontrol", "update", f"JobId={trained(3, second)['JobId']}", "TimeLimit=1")
        third, state = ended(3)
        assert third > second
        assert state in ("TIMEOUT", "FAILED")
        slow.unlink()
        said = run.communicate(timeout=900)[0]
    finally:
        run.kill()
    assert run.returncode == 0, f"{said}\n{told()}"

    # every step was done once, and what came of it is what an uninterrupted run has made
    paths = [outputs / "t" / name / "tune" / "manifest.json" for name in ("whole", "cut")]
    whole, cut = (json.loads(path.read_text()) for path in paths)
    steps = [json.loads(line) for line in (folder / "tune" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "loss" in line] == list(range(1, TABLE["defaults"]["steps"] + 1))
    assert third < TABLE["defaults"]["steps"]
    # but for the card, which names its run
    files = [{n: x for n, x in one["files"].items() if n.startswith("model/") and n != "model/README.md"}
             for one in (whole, cut)]  # fmt: skip
    assert any(name.endswith(".safetensors") for name in files[0])
    assert files[0] == files[1]
    assert (outputs / "t" / "report" / "index.html").is_file()
    verify = [sys.executable, "-m", "ia_lib.runs", "verify", str(table), "--outputs", str(outputs)]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0

    # GPUs, partition, memory and time, as each stage needs them
    (data,), tune = jobs(slurm, "cut_data"), jobs(slurm, "cut_tune")
    assert jobs(slurm, "table_report") == []  # made here
    assert [job["Partition"] for job in (data, *tune)] == ["small", *["large"] * 4]
    assert [job.get("TresPerJob") for job in (data, *tune)] == [None, *["gres:gpu:toy:1"] * 4]
    assert data["MinMemoryNode"] == "8000M"
    assert [job["TimeLimit"] for job in (data, *tune)] == [
        *["01:00:00"] * 3, "00:01:00", "03:00:00",
    ]  # fmt: skip
    # each time Slurm has given one, and nothing of the kit's has taken it away
    given = (tmp_path / "hook" / "devices").read_text().split()
    assert len(given) == 4
    assert set(given) <= {"0", "1"}


def row(name, folder, **more):
    whole = {**TABLE, "runs": [TABLE["runs"][0], {"name": "cut", **more}]}
    (folder / "t.yaml").write_text(yaml.safe_dump(whole))
    return Table(folder / "t.yaml", folder / "o").stage("cut", name)


@pytest.mark.quick
def test_what_a_stage_asks_for(tmp_path):
    h200, t4, cpu = Cluster("H200"), Cluster(), Cluster("cpu")
    assert t4.hardware == "T4"  # the slowest
    model = {"model": {"name": "bigscience/bloomz-3b", "revision": "1" * 40}, "steps": 50000}
    model |= {"new_per_step": 32, "old_per_step": 32}
    tune = row("tune", tmp_path, **model)
    # 3.003 billion parameters at 16 bytes, times 1.2
    assert h200.memory_mb(tune) == pytest.approx(8000 + 1.2 * 16 * 3003, rel=0.01)
    assert cpu.memory_mb(tune) > h200.memory_mb(tune)
    assert h200.memory_mb(row("evaluate", tmp_path, **model)) == pytest.approx(8000 + 1.44 * 4 * 3003, rel=0.01)
    assert [one.gpus(tune) for one in (h200, cpu)] == [1, 0]
    assert h200.gpus(row("tune", tmp_path, processes=2)) == 2
    assert h200.gpus(row("evaluate", tmp_path, processes=2)) == 1
    assert [h200.gpus(row(name, tmp_path)) for name in ("data", "evaluate")] == [0, 1]
    # twice as long as estimated, longer at each attempt, and never longer than allowed
    unlimited = Cluster("H200", longest=10**6)
    minutes = unlimited.minutes(tune)
    in_16_bits = unlimited.minutes(row("tune", tmp_path, **model, precision="bfloat16"))
    assert in_16_bits == pytest.approx(2 * 6 * 3.003e9 * 50000 * 32 * (50 + 31) / (0.35 * 989e12) / 60, rel=0.02)
    assert minutes == pytest.approx(4 * in_16_bits, rel=0.01)
    assert unlimited.minutes(tune, 2) == 2 * minutes
    assert Cluster("H200", longest=600).minutes(tune) == 600
    assert h200.minutes(row("data", tmp_path)) == 60
    # of a model whose size nobody knows
    unknown = row("tune", tmp_path, model={"name": "somebody/model", "revision": "1" * 40})
    assert (h200.minutes(unknown), h200.memory_mb(unknown)) == (1440, 64000)
    parts = Cluster("H200", gpu_partition="large", cpu_partition="small")
    assert [parts.partition(row(name, tmp_path)) for name in ("data", "tune")] == ["small", "large"]


@pytest.mark.quick
def test_what_is_said_of_a_cluster_is_checked():
    assert Cluster.of({"table": "t", "hardware": "H200", "longest": "60", "gpu_model": 100}) == Cluster(
        "H200", 60, gpu_model="100"
    )
    with pytest.raises(SettingsError, match=r"hardware: found 'H20'; .*H200.*allowed: T4"):
        Cluster.of({"hardware": "H20"})
    with pytest.raises(SettingsError, match="longest: found '1 day'; allowed: minutes"):
        Cluster.of({"longest": "1 day"})
    with pytest.raises(SettingsError, match="here: found 'figures'; allowed: stages"):
        Cluster.of({"here": "data,figures"})
