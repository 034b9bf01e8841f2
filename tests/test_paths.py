import subprocess
import sys

import pytest

from ia_lib.paths import root

pytestmark = pytest.mark.quick


def test_another_projects_folder_is_not_taken_for_the_kit(tmp_path, monkeypatch):
    kit = root()
    for name in ("notebooks", "params", "deep"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert root() == kit
    code = "from ia_lib.paths import root; print(root())"
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == str(kit)
    monkeypatch.chdir(kit / "ia_lib" / "data")
    assert root() == kit
