"""Continual instruction tuning: transformers' Trainer over batches that are laid out beforehand (see `batches`)."""

import contextlib
import inspect
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from accelerate.utils.memory import should_reduce_batch_size
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState, PrinterCallback
from transformers.utils.logging import disable_progress_bar

from ia_lib.models.adapters import plain
from ia_lib.models.load import fuse_gelu
from ia_lib.training import checkpoints, pieces
from ia_lib.training.batches import Collator, keeps_apart, weigh
from ia_lib.training.retention import Retention

if TYPE_CHECKING:
    from peft import PeftModel

_PLAIN = Retention()


def save(model: "PreTrainedModel | PeftModel", tokenizer: PreTrainedTokenizerBase, folder: Path, card: str) -> None:
    """Write weights (safetensors; of a PeftModel its adapter's), tokenizer and `card`, the model card (README.md)."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


class _OneDevice(TrainingArguments):
    """One process computes on one device: over all visible GPUs Trainer would multiply the batch size by their number,
    and return one loss for each GPU's part of a batch, whose weights only sum to one together."""

    @property
    def n_gpu(self) -> int:
        return min(1, super().n_gpu)


class AnswerTrainer(Trainer):
    """A Trainer whose loss is the weighted sum over the batch's tokens, read in the order they are given. It computes a
    step's examples in `parts`, whose gradients add up to the batch's, and in more of them where memory runs out."""

    loss_is_scaled_for_ga = True

    def __init__(
        self, model, *given, collate: Collator, parts: int, log: "_Log", retention: Retention = _PLAIN, **named
    ):
        # examples stay apart until it is known how many of them go together
        super().__init__(model, *given, data_collator=list, callbacks=[log], **named)
        self.log_file, self.collate, self.parts, self.retention = log, collate, parts, retention
        some = {"input_ids": torch.arange(4, device=model.device)[None]}
        more = {"decoder_input_ids": some["input_ids"]} if model.config.is_encoder_decoder else {}
        self.head = pieces.output_layer(model, **some, **more)

    def training_step(self, model, inputs, num_items_in_batch=None):
        scale = self.accelerator.scaler.get_scale() if self.accelerator.scaler else 1.0
        loss = self.retention.step(inputs, lambda rows: self._accumulate(model, rows), scale)
        self.log_file.losses = self.log_file.losses + loss
        return loss

    def _accumulate(self, model, rows: list[dict]) -> torch.Tensor:
        """The loss of a pass over `rows`; leaves its gradients in the parameters, which have none yet. Several
        processes have parts of them each, and the loss and the gradients of all."""
        step, processes = super().training_step, self.accelerator.num_processes

        def part(begin):
            last = begin + size >= len(rows)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                return step(model, self.collate(rows[begin : begin + size])).float() / processes

        while True:
            size = -(-len(rows) // self.parts)
            try:
                return self.accelerator.reduce(sum(part(begin) for begin in range(0, len(rows), size)))
            except RuntimeError as error:
                # one of several processes cannot go back alone
                if size == 1 or processes > 1 or not _no_room(error):
                    raise
            # what some layers have of the gradient already is no part of it
            model.zero_grad()
            self._halve(size, len(rows))

    def _halve(self, size: int, rows: int) -> None:
        """From now on as many parts of so many `rows` as make half of `size` rows at once."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.parts = -(-rows // (size // 2))
        print(f"memory is too small for {size} examples at once: from now on {size // 2}, the batch stays the same")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        counted = inputs["weights"] > 0
        # the vocabulary's logits are needed from the first position that counts (of examples cut at their ends maybe
        # none)
        keep = counted.shape[1] - int(counted.any(0).int().argmax())
        accepted = inspect.signature(plain(self.model).forward).parameters
        given = {**inputs, "logits_to_keep": keep, "use_cache": False}
        few = counted.shape[0] * keep * plain(self.model).config.get_text_config().vocab_size <= pieces.FEW
        head = None if few else self.head
        with pieces.without_head(head):
            hidden = model(**{name: value for name, value in given.items() if name in accepted}).logits
        counted, targets, weights = (part[:, -keep:] for part in (counted, inputs["targets"], inputs["weights"]))
        chosen, targets, weights = hidden[:, -keep:][counted], targets[counted], weights[counted]
        if head is None:
            loss = (torch.nn.functional.cross_entropy(chosen.float(), targets, reduction="none") * weights).sum()
        else:
            # the model's own precision ends with its forward pass
            with self.accelerator.autocast():
                loss = pieces.weighted_cross_entropy(chosen, head, targets, weights)
        if self.model.training:
            # gradients are the mean over processes, each of which has its own examples' share of the weights
            loss = loss * self.accelerator.num_processes
        return (loss, {"loss": loss}) if return_outputs else loss

    def loss_of(self, rows: list[dict]) -> torch.Tensor:
        """The loss of weighed examples that are no step's, by the model as it is now."""
        return self.compute_loss(self.model, self._prepare_inputs(self.collate(rows)))

    @torch.inference_mode()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        # each of several processes reads all held-out examples, whose weights sum to one
        rows, most = self.eval_dataset, self.args.train_batch_size
        self.model.eval()
        while True:
            size = -(-most // self.parts)
            try:
                loss = sum(self.loss_of(rows[begin : begin + size]).float() for begin in range(0, len(rows), size))
                break
            except RuntimeError as error:
                if size == 1 or not _no_room(error):
                    raise
            self._halve(size, most)
        metrics = {"eval_loss": float(loss)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Log(TrainerCallback, ExportableState):
    """Writes log.jsonl while training goes on, and tells the caller how far it is. A record's loss is the mean over the
    steps since the last record, also where training was cut off between them: a checkpoint keeps the sum so far."""

    def __init__(self, path: Path, tokens_per_step: list[int], on_log: Callable | None, on_progress: Callable | None):
        self.path, self.report, self.progress, self.tokens = path, on_log, on_progress, tokens_per_step
        self.losses, self.losses_from = 0.0, 0  # the sum of the losses of the steps behind that one

    def state(self):
        return {"losses": float(self.losses), "losses_from": self.losses_from}

    def on_train_begin(self, args, state, control, **kwargs):
        self.last_step, self.last_time = state.global_step, time.monotonic()
        self.first = state.is_world_process_zero
        if state.best_model_checkpoint:
            # the folder may have been moved since
            state.best_model_checkpoint = str(Path(args.output_dir, Path(state.best_model_checkpoint).name))
        kept = state.stateful_callbacks.get("_Log", {})
        self.losses, self.losses_from = kept.get("losses", 0.0), kept.get("losses_from", state.global_step)
        if not self.first:
            return
        # what a killed run logged after its last checkpoint will be logged again
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        lines = [line for line in lines if (_step(line) or state.global_step + 1) <= state.global_step]
        self.path.write_text("".join(line + "\n" for line in lines))

    def on_save(self, args, state, control, **kwargs):
        # only a checkpoint with this list is gone on from; each process writes files of its own
        PartialState().wait_for_everyone()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if not self.first:
            return
        checkpoints.seal(folder)
        checkpoints.prune(folder.parent)

    def on_step_end(self, args, state, control, **kwargs):
        if self.progress and self.first:
            self.progress(state.global_step, state.max_steps)

    def on_log(self, args, state, control, logs=None, **kwargs):
        names = {"loss": "loss", "eval_loss": "validation_loss", "learning_rate": "learning_rate"}
        record = {"step": state.global_step, **{names[name]: logs[name] for name in logs if name in names}}
        if len(record) == 1:
            return
        if "loss" in record:
            record["loss"] = float(self.losses) / (state.global_step - self.losses_from)
            self.losses, self.losses_from = 0.0, state.global_step
            now = time.monotonic()
            tokens = sum(self.tokens[self.last_step : state.global_step])
            record["tokens_per_second"] = round(tokens / max(now - self.last_time, 1e-9))
            self.last_step, self.last_time = state.global_step, now
        if not self.first:
            return
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")
        if self.report:
            self.report({**record, "of": state.max_steps})


def _no_room(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def _most(number: int) -> int:
    """The largest of the processes' numbers."""
    if PartialState().num_processes == 1:
        return number
    found = torch.tensor(number, device=PartialState().device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return int(found)


def _step(line: str) -> int | None:
    """The step of a record; None of a line that is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return None


class Stop(TrainerCallback):
    """Ends training behind the step that is at work, with a checkpoint, once a signal has asked for it."""

    asked = 0

    def __enter__(self):
        # only the main thread may; in another one nothing asks
        mine = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if mine else ()
        self.before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number, _):
        self.asked = number

    def on_step_end(self, args, state, control, **kwargs):
        # several processes stop behind the same step
        self.asked = _most(self.asked)
        if self.asked:
            control.should_save = control.should_training_stop = True


class _Patience(EarlyStoppingCallback):
    """Early stopping that counts on from a checkpoint."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = self.counted(state)

    @staticmethod
    def counted(state: TrainerState) -> int:
        """Validations without a lower loss up to a checkpoint."""
        kept = state.stateful_callbacks.get("_Patience", {}).get("attributes", {})
        return kept.get("early_stopping_patience_counter", 0)


def tune(
    model: "PreTrainedModel | PeftModel",
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
    optimiser: str = "adamw",
    schedule: str = "linear",
    floor: float = 0.0,
    gradient_checkpointing: bool = False,
    packing: bool = False,
    keep: str = "last",
    patience: int | None = None,
    retention: Retention = _PLAIN,
    kept: Sequence[dict] = (),
    log_steps: int = 50,
    validate_steps: int = 500,
    save_steps: int = 500,
    seed: int = 1,
    on_log: Callable[[dict], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "PreTrainedModel | PeftModel":
    """Train `model` on `rows` (from `lay_out`), batch after batch in the order given; resume if `folder` has a
    checkpoint. The gradient's norm is cut at 1. After a linear warm-up over that share of steps the learning rate falls
    to 0 (`schedule`: "linear"), along a cosine to `floor` times itself, or stays ("constant"). With `keep="best"` the
    model of the lowest validation loss is returned, and training ends after `patience` validations without a lower one.
    `model` may be a peft.PeftModel, of which the adapter alone is trained and saved. `retention` is a method against
    forgetting, which looks at the old instructions `kept` before the first step.

    Writes `folder/log.jsonl` (step; loss and validation loss in nats; learning rate; tokens per second) and
    `folder/checkpoints/`; calls `on_log(record)` and `on_progress(step, steps)`. Batches are never shuffled, so a
    killed run ends with the weights of an unbroken one. Of several processes (as torchrun starts them, and accelerate
    knows them) each computes an equal part of every batch, one behind the other, and the first one writes.

    On SIGINT or SIGTERM the step at work is finished and saved as a checkpoint; then KeyboardInterrupt is raised.

    Raises ValueError for `loss="all"` with an encoder-decoder model, whose prompt no token predicts, for an optimiser
    or a precision that needs a GPU where there is none, or a newer one, for `packing` with a model that cannot keep
    examples apart, and for `keep="best"` without validation examples.
    """
    decoder_start = None
    if model.config.is_encoder_decoder:
        if loss == "all":
            allowed = "'answer' for an encoder-decoder model, which predicts no prompt"
            raise ValueError(f"loss: found 'all'; allowed: {allowed}")
        decoder_start = model.prepare_decoder_input_ids_from_labels(torch.zeros((1, 1), dtype=torch.long)).item()
    gpu = torch.cuda.is_available()
    if precision == "float16" and not gpu:
        raise ValueError(f"precision: found {precision!r}; allowed: float32 or bfloat16, where there is no GPU")
    # an older GPU takes bfloat16 as well, and computes it by other means, many times as slowly
    if precision == "bfloat16" and gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        here = f"this machine's {torch.cuda.get_device_name()} has no bfloat16"
        raise ValueError(f"precision: found {precision!r}; allowed: float32 or float16, since {here}")
    if optimiser == "paged_adamw_8bit" and not gpu:
        raise ValueError(f"optimiser: found {optimiser!r}; allowed: adamw or adafactor, where there is no GPU")
    if packing and (model.config.is_encoder_decoder or not keeps_apart(plain(model))):
        raise ValueError(
            "packing: found true; allowed: false, for a model that cannot tell examples in one sequence apart"
        )
    if keep == "best" and not validation:
        raise ValueError("keep: found 'best'; allowed: last, since there are no validation examples")
    folder.mkdir(parents=True, exist_ok=True)
    weighed = weigh(rows, batch_size, loss, loss_average, retention.apart)
    lengths = [len(row["input_ids"]) for row in rows]
    per_step = [sum(lengths[begin : begin + batch_size]) for begin in range(0, len(rows), batch_size)]
    held_out = weigh(validation, len(validation) or 1, loss, loss_average)
    processes = int(os.environ.get("WORLD_SIZE") or 1)
    sizes = {"per_device_train_batch_size": batch_size // processes}
    rates = {"learning_rate": learning_rate, "warmup_steps": round(warmup * steps), "weight_decay": weight_decay}
    rates |= {"optim": {"adamw": "adamw_torch_fused"}.get(optimiser, optimiser), **_scheduled(schedule, floor)}
    evaluation = {"eval_strategy": "steps" if held_out else "no", "eval_steps": validate_steps}
    if keep == "best":
        # what is best is known where it is validated, so that is where it is saved
        save_steps = validate_steps
        evaluation |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
    reading = {"train_sampling_strategy": "sequential", "remove_unused_columns": False}
    disable_progress_bar()  # of every checkpoint that is written
    arguments = _OneDevice(
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        **{**sizes, **rates, **evaluation, **reading, "save_steps": save_steps, "seed": seed},
        **{"bf16": precision == "bfloat16", "fp16": precision == "float16"},
        **{"logging_steps": log_steps, "logging_nan_inf_filter": False, "disable_tqdm": True},
        **({"gradient_checkpointing": True} if gradient_checkpointing else {}),
        **({"ddp_find_unused_parameters": False} if processes > 1 else {}),
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
    )
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    data = {"train_dataset": weighed, "eval_dataset": held_out or None}
    log = _Log(folder / "log.jsonl", per_step, on_log, on_progress)
    how = {"collate": Collator(padding, decoder_start, packing), "parts": accumulation, "retention": retention}
    trainer = AnswerTrainer(fuse_gelu(model), arguments, log=log, **how, **data)
    # it would print every record; the log and the caller's own display take its place
    trainer.remove_callback(PrinterCallback)
    kept = [{**row, "weight": 1.0} for row in weigh(kept, 1, loss)]
    retention.prepare(trainer.model.eval(), kept, trainer.loss_of)
    with Stop() as stop:
        trainer.add_callback(stop)
        if patience:
            trainer.add_callback(_Patience(patience))
        with arguments.main_process_first(local=False):
            last = checkpoints.last(folder / "checkpoints")
        if last and patience:
            state = TrainerState.load_from_json(str(Path(last, "trainer_state.json")))
            if _Patience.counted(state) >= patience:
                # it had ended there, and only what comes behind the last step is left to do
                arguments.max_steps = state.global_step
                trainer.train_dataset = weighed[: state.global_step * batch_size]
        trainer.train(resume_from_checkpoint=last)
        if stop.asked and trainer.state.global_step < steps:
            raise KeyboardInterrupt(f"stopped behind step {trainer.state.global_step}, which is kept")
    return trainer.model


def _scheduled(schedule: str, floor: float) -> dict:
    if schedule == "cosine":
        return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": floor}}
    return {"lr_scheduler_type": {"constant": "constant_with_warmup"}.get(schedule, schedule)}
