import os
import select
import subprocess
import sys

import pytest

from ia_lib.workflow import devices

TOLD = """
import sys
from ia_lib.workflow import devices
with devices.held(int(sys.argv[1])) as has:
    print(has, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A stand-in for NVIDIA's tool on a machine with two GPUs, and a folder of locks for this test alone."""
    file = tmp_path / "nvidia-smi"
    file.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-a)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-b)'\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", devices.GIVEN):
        monkeypatch.delenv(name, raising=False)


def job(count):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", TOLD, str(count)], **pipes)


def test_a_job_has_its_own_devices(tool, monkeypatch):
    assert devices.known() == ["0", "1"]
    first, second = job(1), job(1)
    has = {first.stdout.readline().strip(), second.stdout.readline().strip()}
    assert has == {"{'CUDA_VISIBLE_DEVICES': '0'}", "{'CUDA_VISIBLE_DEVICES': '1'}"}
    third = job(2)
    assert not select.select([third.stdout], [], [], 2)[0]  # it waits for both
    first.kill()  # a killed job's device is free
    second.communicate("")
    assert third.stdout.readline().strip() == "{'CUDA_VISIBLE_DEVICES': '0,1'}"
    third.communicate("")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    assert devices.known() == ["GPU-b"]
    with devices.held(4) as has:
        assert has == {"CUDA_VISIBLE_DEVICES": "GPU-b"}


@pytest.mark.parametrize(("number", "found"), [("7.5", "Tesla T4"), ("8.6", ""), ("[N/A]", "")])
def test_an_old_gpu_without_bfloat16_is_known(tool, tmp_path, number, found):
    asked = "--query-gpu=name,compute_cap --format=csv,noheader --id=0,1"
    lines = "GPU 0: x\\nGPU 1: x\\n"
    said = f'if [ "$*" = "{asked}" ]; then printf "NVIDIA L4, 8.9\\nTesla T4, {number}\\n"; else printf "{lines}"; fi\n'
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{said}")
    devices.without_bfloat16.cache_clear()
    assert devices.without_bfloat16() == found
    devices.without_bfloat16.cache_clear()


def test_a_user_without_a_name_has_locks_too(tool, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: 1 / 0)
    with devices.held(1) as has:
        assert has == {"CUDA_VISIBLE_DEVICES": "0"}


def test_without_a_device_nothing_is_waited_for(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with devices.held(2) as has:
        assert has == {}


def test_what_a_cluster_has_given_is_kept(tool, monkeypatch):
    with devices.held(2) as has:
        assert has == {"CUDA_VISIBLE_DEVICES": "0,1"}
        # in its own allocation a job sees other GPUs by the same numbers
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        with devices.held(1) as in_allocation:
            assert in_allocation == {"CUDA_VISIBLE_DEVICES": "0"}
            second = job(1)
            assert second.stdout.readline().strip() == "{'CUDA_VISIBLE_DEVICES': '1'}"
            second.communicate("")
        monkeypatch.setenv(devices.GIVEN, "1")
        with devices.held(1) as given:
            assert given == {}
