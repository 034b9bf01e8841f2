"""Continual instruction tuning: transformers' Trainer over batches that the replay plan lays out (section 3.2)."""

import inspect
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.models.bloom.modeling_bloom import BloomGelu
from transformers.trainer_callback import ExportableState

from ia_lib import prompts, replay
from ia_lib.settings import New


def device(threads: int = 1) -> str:
    """The device to compute on, "cuda" or "cpu"; sets the number of CPU threads, on which rounding depends."""
    torch.set_num_threads(threads)
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(
    source: str,
    revision: str | None = None,
    device: str = "cpu",
    quantisation: str = "none",
    precision: str = "float32",
) -> PreTrainedModel:
    """A causal or encoder-decoder model, as its config says, from a folder or the Hub, in `precision` (float32,
    bfloat16, float16), or its linear layers in 8 or 4 bits (`quantisation`: "int8", bitsandbytes' LLM.int8(), or "nf4";
    both on CPU and GPU) and the rest in `precision`."""
    version = {"revision": revision} if revision else {}
    dtype = getattr(torch, precision)
    options = {"dtype": dtype, **version}
    if quantisation != "none":
        how = {
            "int8": {"load_in_8bit": True},
            "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
        }
        options |= {"quantization_config": BitsAndBytesConfig(**how[quantisation]), "device_map": device}
    model = (AutoModelForSeq2SeqLM if is_encoder_decoder(source, revision) else AutoModelForCausalLM).from_pretrained(
        source, **options
    )
    return fuse_gelu(model.to(device) if quantisation == "none" else model)


def is_encoder_decoder(source: str | New, revision: str | None = None) -> bool:
    """Whether the model in a folder or of a Hub name has a decoder of its own; a new one has not."""
    return isinstance(source, str) and AutoConfig.from_pretrained(source, revision=revision).is_encoder_decoder


def fuse_gelu(model: PreTrainedModel) -> PreTrainedModel:
    """Let BLOOM's activation be computed by torch's own kernel: the same formula (GELU by tanh) in one pass instead of
    ten, which saves the mini lab a fifth of its time. Changes `model` and returns it."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, BloomGelu):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
    return model


def prepare(
    folder: Path, tokenizer: PreTrainedTokenizerBase, settings, encoder_decoder: bool = False
) -> tuple[list[dict], list[dict], list[tuple]]:
    """Read a finished data stage and lay out the batches.

    Returns the training rows in order (as `prompts.encode` gives them), the validation rows, and for each training
    row ("old" | "new", index).
    """
    frames = {
        "new": pd.read_parquet(folder / "instructions.parquet"),
        "old": pd.read_parquet(folder / "replay.parquet"),
    }
    encoded = {}
    for split in ("train", "validation"):
        for kind, frame in frames.items():
            part = frame[frame["split"] == split]
            encoded[split, kind] = prompts.encode(
                tokenizer, list(part["prompt"]), list(part["answer"]), **settings.encoding(encoder_decoder)
            )[0]
    order = replay.interleave(
        len(encoded["train", "new"]),
        len(encoded["train", "old"]),
        settings.steps or len(encoded["train", "new"]) // settings.new_per_step,
        settings.new_per_step if settings.uses_new else 0,
        settings.old_per_step if settings.uses_old else 0,
        settings.seed,
        {kind: [len(row["input_ids"]) for row in encoded["train", kind]] for kind in frames},
        settings.length_window,
        settings.alternation,
    )
    rows = [encoded["train", kind][index] for kind, index in order]
    return rows, encoded["validation", "new"] + encoded["validation", "old"], order


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, settings) -> None:
    """Write weights (safetensors), tokenizer and a model card."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    start = settings.model.name or (f"the run {settings.model.run}" if settings.model.run else "random weights")
    (folder / "README.md").write_text(
        f"# {settings.name}\n\n"
        f"Began with {start}; objective {settings.objective}, {settings.replay} replayed samples, "
        f"seed {settings.seed}.\n\n"
        f"Taught languages: {', '.join(settings.taught) if settings.uses_new else 'none'}. "
        f"Corpus: {settings.corpus}.\n\n"
        "Made for research on teaching languages; check its evaluation before you rely on it.\n",
        encoding="utf-8",
    )


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    tokens: int = 40,
    batch_size: int = 16,
) -> pd.DataFrame:
    """What the model answers (greedily, at most `tokens`) to rows from `prompts.encode`, beside the true answers.

    Columns `prompt, answer, model`. The model stops where the rows' answers do, at the end of the sequence or turn.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = {tokenizer.eos_token_id} | {row["input_ids"][-1] for row in rows} & special
    lines: dict[int, dict] = {}
    order = sorted(range(len(rows)), key=lambda i: rows[i]["answer_start"])
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    for begin in range(0, len(rows), batch_size):
        numbers = order[begin : begin + batch_size]
        asked = [rows[i]["input_ids"][: max(1, rows[i]["answer_start"])] for i in numbers]
        width = max(map(len, asked))
        ids = torch.full((len(asked), width), pad, device=model.device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(asked):
            # a causal model goes on from the right end; an encoder may count positions from the left one
            place = slice(len(prompt)) if model.config.is_encoder_decoder else slice(width - len(prompt), width)
            ids[row, place], mask[row, place] = torch.tensor(prompt, device=model.device), 1
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=sorted(ends),
            )
        for i, prompt, said in zip(numbers, asked, out, strict=True):
            # a causal model's output begins with the prompt, a decoder's with the token that starts every answer
            given = tokenizer.decode(said[1 if model.config.is_encoder_decoder else width :], skip_special_tokens=True)
            true = tokenizer.decode(rows[i]["input_ids"][rows[i]["answer_start"] :], skip_special_tokens=True)
            lines[i] = {"prompt": tokenizer.decode(prompt), "answer": true.strip(), "model": given.strip()}
    return pd.DataFrame([lines[i] for i in range(len(rows))], columns=["prompt", "answer", "model"])


def weigh(rows: list[dict], batch_size: int, loss: str = "answer", average: str = "example") -> list[dict]:
    """Give every row the weight of each of its tokens in the loss of its batch of `batch_size` consecutive rows.

    Returns for each row its `input_ids`, `first`, the index of the first token that counts, and `weight`. `loss`:
    "answer" counts the answer's tokens, "all" every token but the first. `average`: "example" gives every row the same
    weight, "token" every counted token. The weights of a batch sum to one, however it is cut into micro-batches, so
    gradient accumulation changes nothing.
    """
    first = [1 if loss == "all" else max(1, row["answer_start"]) for row in rows]
    # a row that was cut at its end may have nothing left that counts
    counts = [max(0, len(row["input_ids"]) - f) for row, f in zip(rows, first, strict=True)]
    weighed = []
    for begin in range(0, len(rows), batch_size):
        batch = range(begin, min(begin + batch_size, len(rows)))
        total = sum(counts[i] for i in batch)
        for i in batch:
            weight = 1 / max(1, total) if average == "token" else 1 / (len(batch) * max(1, counts[i]))
            weighed.append({"input_ids": rows[i]["input_ids"], "first": first[i], "weight": weight})
    return weighed


class Collator:
    """Padded batches of weighed rows: `input_ids, attention_mask, targets, weights`, all [rows, tokens].

    `targets` are the tokens that the logits at the same place predict, `weights` their shares in the loss, zero for
    prompts and padding. For a causal model (`position_ids` too) padding stands on the left, so that all answers end
    together and the vocabulary's logits can be computed for the last positions alone. For an encoder-decoder model,
    whose answers begin with the token `decoder_start`, the encoder reads what stands before a row's first counted
    token, and `decoder_input_ids, targets, weights` are the answer's; padding stands on the right.
    """

    def __init__(self, pad_token_id: int, decoder_start: int | None = None):
        self.pad_token_id, self.decoder_start = pad_token_id, decoder_start

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        causal = self.decoder_start is None
        batch = {"input_ids": [], "attention_mask": [], "targets": [], "weights": []}
        for row in rows:
            ids, first = row["input_ids"], row["first"]
            weights = [0.0] * first + [row["weight"]] * (len(ids) - first)
            # a causal model's logits at one token predict the next; what comes round to the end has no weight
            told = (ids[1:] + ids[:1], weights[1:] + weights[:1]) if causal else (ids[first:], weights[first:])
            read = ids if causal else ids[:first]
            for column, values in zip(batch.values(), (read, [1] * len(read), *told), strict=True):
                column.append(values)
        for name, column in batch.items():
            fill = self.pad_token_id if name in ("input_ids", "targets") else 0
            width = max(map(len, column))
            gaps = [[fill] * (width - len(values)) for values in column]
            pairs = zip(gaps, column, strict=True)
            batch[name] = torch.tensor([gap + values if causal else values + gap for gap, values in pairs])
        if causal:
            return batch | {"position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)}
        start = torch.full((len(rows), 1), self.decoder_start)
        return batch | {"decoder_input_ids": torch.cat([start, batch["targets"][:, :-1]], 1)}


class _OneDevice(TrainingArguments):
    """One process computes on one device, however many it sees.

    By itself Trainer spreads a batch over all visible GPUs by DataParallel. It would multiply the batch size by their
    number, so that a step reads the rows of several, and return one loss for each GPU's part of a batch, whose weights
    only sum to one together.
    """

    @property
    def n_gpu(self) -> int:
        return min(1, super().n_gpu)


class AnswerTrainer(Trainer):
    """A Trainer whose loss is the weighted sum over the batch's tokens, read in the order they are given."""

    loss_is_scaled_for_ga = True

    def __init__(self, *given, log: "_Log", **named):
        super().__init__(*given, callbacks=[log], **named)
        self.log_file = log

    def training_step(self, *given, **named):
        loss = super().training_step(*given, **named)
        self.log_file.losses = self.log_file.losses + loss.float()
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        counted = inputs["weights"] > 0
        if not counted.any():
            # rows cut at their ends may have nothing left that counts
            loss = sum(parameter.sum() for parameter in self.model.parameters()) * 0.0
            return (loss, {"loss": loss}) if return_outputs else loss
        # the vocabulary's logits are needed from the first position that counts
        keep = counted.shape[1] - int(counted.any(0).nonzero()[0])
        accepted = inspect.signature(self.model.forward).parameters
        given = {**inputs, "logits_to_keep": keep, "use_cache": False}
        outputs = model(**{name: value for name, value in given.items() if name in accepted})
        counted = counted[:, -keep:]
        losses = torch.nn.functional.cross_entropy(
            outputs.logits[:, -keep:][counted].float(), inputs["targets"][:, -keep:][counted], reduction="none"
        )
        loss = (losses * inputs["weights"][:, -keep:][counted]).sum()
        return (loss, {"loss": loss}) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.inference_mode():
            loss = self.compute_loss(model, self._prepare_inputs(inputs)).detach()
        # the weights of all held-out rows sum to one; Trainer takes the mean over rows of what is returned for a batch
        return loss * len(self.eval_dataset) / len(inputs["weights"]), None, None


class _Log(TrainerCallback, ExportableState):
    """Writes log.jsonl while training goes on, and tells the caller how far it is.

    A record's loss is the mean over the steps since the last record, also where training was cut off between them:
    Trainer would begin to count at the checkpoint, so the sum so far is kept in it.
    """

    def __init__(self, path: Path, tokens_per_step: list[int], on_log: Callable | None, on_progress: Callable | None):
        self.path, self.report, self.progress, self.tokens = path, on_log, on_progress, tokens_per_step
        self.last_step, self.last_time = 0, time.monotonic()
        self.losses, self.losses_from = 0.0, 0  # the sum of the losses of the steps behind that one

    def state(self):
        return {"losses": float(self.losses), "losses_from": self.losses_from}

    def on_train_begin(self, args, state, control, **kwargs):
        self.last_step, self.last_time = state.global_step, time.monotonic()
        kept = state.stateful_callbacks.get("_Log", {})
        self.losses, self.losses_from = kept.get("losses", 0.0), kept.get("losses_from", state.global_step)
        # what a killed run logged after its last checkpoint will be logged again
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= state.global_step]
        self.path.write_text("".join(line + "\n" for line in kept))

    def on_step_end(self, args, state, control, **kwargs):
        if self.progress:
            self.progress(state.global_step, state.max_steps)

    def on_log(self, args, state, control, logs=None, **kwargs):
        names = {"loss": "loss", "eval_loss": "validation_loss", "learning_rate": "learning_rate"}
        record = {names[k]: v for k, v in logs.items() if k in names}
        if not record:
            return
        record = {"step": state.global_step, **record}
        if "loss" in record:
            record["loss"] = float(self.losses) / (state.global_step - self.losses_from)
            self.losses, self.losses_from = 0.0, state.global_step
            now = time.monotonic()
            tokens = sum(self.tokens[self.last_step : state.global_step])
            record["tokens_per_second"] = round(tokens / max(now - self.last_time, 1e-9))
            self.last_step, self.last_time = state.global_step, now
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")
        if self.report:
            self.report({**record, "of": state.max_steps})


def tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    validation: list[dict],
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup: float = 0.0,
    weight_decay: float = 0.0,
    accumulation: int = 1,
    loss: str = "answer",
    loss_average: str = "example",
    precision: str = "float32",
    log_steps: int = 50,
    validate_steps: int = 500,
    save_steps: int = 500,
    seed: int = 1,
    on_log: Callable[[dict], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PreTrainedModel:
    """Train `model` on `rows` (from `prepare`), batch after batch in the order given; resume if `folder` has a
    checkpoint. AdamW, gradient norm cut at 1, learning rate linear to 0 after a linear warm-up of that share of steps.

    Writes `folder/log.jsonl` (step; loss and validation loss in nats; learning rate; tokens per second) and
    `folder/checkpoints/`; calls `on_log(record)` and `on_progress(step, steps)`. Batches are never shuffled, so a
    killed run ends with the weights of an unbroken one. The validation loss is the mean over all of `validation`, by
    example or token as `loss_average` says.

    Raises ValueError for `loss="all"` with an encoder-decoder model, whose prompt no token predicts.
    """
    decoder_start = None
    if model.config.is_encoder_decoder:
        if loss == "all":
            raise ValueError(
                "loss: found 'all'; allowed: 'answer' for an encoder-decoder model, which predicts no prompt"
            )
        decoder_start = model.prepare_decoder_input_ids_from_labels(torch.zeros((1, 1), dtype=torch.long)).item()
    folder.mkdir(parents=True, exist_ok=True)
    model = fuse_gelu(model)
    weighed = weigh(rows, batch_size, loss, loss_average)
    per_step = [
        sum(len(row["input_ids"]) for row in weighed[i : i + batch_size]) for i in range(0, len(rows), batch_size)
    ]
    held_out = weigh(validation, len(validation) or 1, loss, loss_average)
    arguments = _OneDevice(
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=batch_size // accumulation,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(warmup * steps),
        weight_decay=weight_decay,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        logging_steps=log_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if held_out else "no",
        eval_steps=validate_steps,
        save_strategy="steps",
        save_steps=save_steps,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        seed=seed,
    )
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=weighed,
        eval_dataset=held_out or None,
        data_collator=Collator(
            tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id, decoder_start
        ),
        log=_Log(folder / "log.jsonl", per_step, on_log, on_progress),
    )
    # it would print every record; the log and the caller's own display take its place
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_checkpoint(folder / "checkpoints"))
    return trainer.model


def _last_checkpoint(folder: Path) -> str | None:
    """The last complete checkpoint: Trainer writes trainer_state.json last, so a half-written one has none."""
    for path in folder.glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            shutil.rmtree(path)
    complete = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return str(complete[-1]) if complete else None
