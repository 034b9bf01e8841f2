"""What each of several processes does in `test_processes`: trains a model on rows, in all ways asked for."""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ia_lib.recipes.fields import Retention
from ia_lib.training import retention, trainer


def train(home: Path, name: str, options: dict, stop: int | None = None):
    """Train as `options` say into `home/name`; end without a word behind step `stop`."""
    given = json.loads((home / "rows.json").read_text())
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(home / "model")
    method = retention.method(Retention(**options["retention"]) if options.get("retention") else None)

    def told(step, _):
        if step == stop:
            raise RuntimeError("cut off")

    options = {**given["options"], **options, "retention": method, "kept": given["kept"], "on_progress": told}
    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    model = trainer.tune(model, tokenizer, given["rows"], given["validation"], home / name, **options)
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


if __name__ == "__main__":
    home, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    for name, options in asked.items():
        stop = options.pop("stop", None)
        weights = train(home, name, options, stop)
        # every process ends with the same weights
        torch.save(weights, home / f"{name}.{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
