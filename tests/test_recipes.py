"""A recipe of one's own: the one that CONTRIBUTING.md shows, dropped in beside the kit's and carried out."""

import re

import pandas as pd
import pytest
from conftest import TABLE, copied

from ia_lib import recipes
from ia_lib.paths import root
from ia_lib.workflow import settings, show, tables, work
from ia_lib.workflow.graph import Table


@pytest.fixture
def copying(tmp_path, monkeypatch):
    """The recipe `copying`, as if it lay in ia_lib/recipes."""
    text = (root() / "CONTRIBUTING.md").read_text()
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "copying.py").write_text(re.search(r"A whole one:\n\n```python\n(.*?)```", text, re.DOTALL)[1])
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(folder)])
    caches = (recipes.names, recipes.load, settings._kind, settings.blocks, settings.row)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_a_recipe_dropped_in_is_trained_on_and_measured(copying, finished, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TABLE + "  - {name: copy, recipe: copying, copies: 6, held_out: true, past: null}\n")
    # A copy: the report of this larger table is not the one that other tests read.
    table = Table(path, copied(finished, tmp_path / "outputs"))
    assert {str(stage) for stage in table.stages() if not stage.done} == {"copy: data", "copy: tune", "copy: evaluate"}
    data = table.stage("copy", "data").open()
    assert "copies 6" in show.run(data)
    made = work.make_data(data)
    assert list(show.counts(made.examples)["rows"]) == [120]
    assert "Repeat: " in show.instructions(data, made.examples)
    assert show.noise(made.examples)["observed"].isna().all()
    assert made.report["steps"] == 6
    tune = table.stage("copy", "tune").open()
    begun = work.begin_tuning(tune)
    assert [row["stream"] for row in begun.rows] == ["copies"] * 36
    assert len(work.tune(tune, begun).log) >= 3
    evaluate = table.stage("copy", "evaluate").open()
    done = work.evaluate(evaluate, work.begin_evaluation(evaluate))
    assert set(done.measures["kind"]) == {"choose", "translate"}
    results = work.write_report(table.report().open()).results
    assert set(results["run"]) == {"base", "tlm", "copy"}
    assert set(pd.read_parquet(evaluate.folder / "predictions.parquet")["kind"]) == {"choose", "translate"}


def test_its_fields_are_checked_like_any_others(copying, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TABLE + "  - {name: copy, recipe: copying, copies: many}\n")
    with pytest.raises(tables.SettingsError, match="run 'copy', field 'copies': found 'many'; allowed: a whole"):
        tables.load(path)
    path.write_text(TABLE + "  - {name: copy, recipe: copying, objective: mt}\n")
    with pytest.raises(tables.SettingsError, match="field 'objective': found an unknown field"):
        tables.load(path)
