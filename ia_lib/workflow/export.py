"""A tuned model as a plain folder, for other tools than this kit."""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ia_lib.data.yaml_files import told
from ia_lib.workflow.settings import SettingsError

if TYPE_CHECKING:
    from ia_lib.workflow.graph import Table


def export(table: "Table", name: str, folder: str | Path, merged: bool = False, precision: str = "float32") -> Path:
    """Write what a run's tuning has made to `folder`, which must not be there yet or be empty: weights (safetensors),
    tokenizer, chat template and model card; returns it. Of a run with an adapter the adapter alone, which names its
    model on the Hub, or if `merged` whole weights. Whole weights are written in `precision`. Of a run whose model lies
    between two others it writes that one, whole.

    Raises SettingsError for a run that is not tuned yet or tunes nothing, a folder that holds something, and an adapter
    alone whose model is not on the Hub.
    """
    run, folder = table.run(name), Path(folder).expanduser().absolute()
    between, asked = run.model.interpolate, run
    if between is not None:
        run = table.run(run.model.run)
    if not run.trains:
        raise SettingsError(
            f"{run.place}, run {run.name!r}: it trains on nothing; its model is {told(run.model.name or run.model.run)}"
        )
    stage = table.stage(run.name, "tune")
    if not stage.done:
        raise SettingsError(f"{run.place}, run {run.name!r}: it is {stage.status}; `run` makes it first")
    alone = run.train.adapter and not merged and between is None
    if alone and precision != "float32":
        said = f"found {precision}; allowed: float32, as it was trained, for an adapter alone (or --merged)"
        raise SettingsError(f"{run.place}, run {run.name!r}, --precision: {said}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder}: found something there; allowed: a folder that is new or empty")
    made = stage.folder / "model"
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    if alone:
        weights = stage.inputs.tuned_model
        if len(weights.adapters) > 1 or not stage.inputs.begins.model.name or Path(weights.source).is_dir():
            said = "its adapter stands on a model that is not on the Hub"
            raise SettingsError(f"{run.place}, run {run.name!r}: {said}; allowed: the whole model (--merged)")
        shutil.copytree(made, part)
        config = json.loads((part / "adapter_config.json").read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": weights.source, "revision": weights.revision}
        (part / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    else:
        import torch

        from ia_lib.models import load

        model = load.load_model(*table.stage(asked.name, "evaluate").inputs.tuned_model)
        model.to(getattr(torch, precision)).save_pretrained(part)
        load.load_tokenizer(*stage.inputs.tokenizer).save_pretrained(part)
        card = (made / "README.md").read_text(encoding="utf-8")
        if between is not None:
            card = card.replace(f"# {run.name}\n", f"# {asked.name}\n", 1)
            card += f"\nThe weights are {between:g} of the way from those that {run.name} began with to its last.\n"
        (part / "README.md").write_text(card, encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    os.replace(part, folder)
    return folder
