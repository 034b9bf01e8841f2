"""The loss over a large vocabulary in pieces: the logits of a batch are never there at once.

In: the hidden states of the tokens that count, and the model's output layer. Out: the loss, and its gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

# So many logits are held at once, by kind of device. Every piece goes over all weights of the layer once more: with a
# quarter as many the loss took a quarter longer on two cores.
_LOGITS = {"cpu": 2**26, "cuda": 2**27}
# So few (64 MB) are made the plain way, at once.
FEW = 2**24


def weighted_cross_entropy(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    targets: torch.Tensor,
    weights: torch.Tensor,
    piece: int | None = None,
) -> torch.Tensor:
    """The sum over tokens of weight x cross-entropy (nats) of `head(hidden)` against `targets`; `hidden` is [tokens,
    size], the others [tokens]. `piece` tokens are looked at together (default: what suits the device).

    The gradients are those of the plain formula up to rounding. Of a layer that only multiplies they are made together
    with the loss, which costs no more than the plain way does; of any other a piece is computed again for them.
    """
    size = getattr(head, "out_features", None) or getattr(head, "weight", hidden).shape[0]
    piece = piece or max(1, _LOGITS.get(hidden.device.type, 2**26) // size)
    dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
    # gradients of 16-bit floats with small exponents must be scaled before they are made
    if type(head) is torch.nn.Linear and torch.float16 not in (dtype, hidden.dtype):
        return _Fused.apply(hidden, head.weight, head.bias, targets, weights, piece, dtype or hidden.dtype)

    def part(hidden, targets, weights):
        return (cross_entropy(head(hidden).float(), targets, reduction="none") * weights).sum()

    parts = zip(hidden.split(piece), targets.split(piece), weights.split(piece), strict=True)
    again = torch.is_grad_enabled()
    losses = [checkpoint(part, *some, use_reentrant=False) if again else part(*some) for some in parts]
    return torch.stack(losses).sum() if losses else hidden.sum() * 0


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, weights, piece, dtype):
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        matrix, loss = weight.to(dtype), torch.zeros((), device=hidden.device)
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        of_weight = torch.zeros_like(weight) if wants_weight else None
        of_bias = torch.zeros_like(bias) if wants_bias else None
        for begin in range(0, len(hidden), piece):
            some = slice(begin, begin + piece)
            read, told, share = hidden[some].to(dtype), targets[some, None], weights[some, None].float()
            logits = torch.nn.functional.linear(read, matrix, None if bias is None else bias.to(dtype)).float()
            logits = torch.log_softmax(logits, -1)
            loss -= (logits.gather(1, told) * share).sum()
            if not (wants_hidden or wants_weight or wants_bias):
                continue
            # the loss's gradient at the logits: weight x (probability - 1 at the target)
            slope = logits.exp_().mul_(share).scatter_add_(1, told, -share)
            if wants_bias:
                of_bias += slope.sum(0)
            slope = slope.to(dtype)
            if wants_hidden:
                of_hidden[some] = slope @ matrix
            if wants_weight and dtype == of_weight.dtype:
                of_weight.addmm_(slope.T, read)
            elif wants_weight:
                of_weight += slope.T @ read
        ctx.save_for_backward(*(part for part in (of_hidden, of_weight, of_bias) if part is not None))
        ctx.wants = wants_hidden, wants_weight, wants_bias
        return loss

    @staticmethod
    def backward(ctx, scale):
        made = iter(ctx.saved_tensors)
        return *(next(made).mul_(scale) if wants else None for wants in ctx.wants), None, None, None, None


@contextmanager
def without_head(head: torch.nn.Module | None) -> Iterator[None]:
    """Let a model give, as its logits, what its output layer `head` would read."""
    if head is not None:
        head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        if head is not None:
            del head.forward


@torch.no_grad()
def output_layer(model: PreTrainedModel, **read: torch.Tensor) -> torch.nn.Module | None:
    """The output layer of a model, if the logits for `read` are nothing but what that makes of its hidden states; None
    for a model that scales or bends them."""
    training, head = model.training, model.get_output_embeddings()
    if head is None:
        return None
    model.eval()
    logits = model(**read).logits
    with without_head(head):
        hidden = model(**read).logits
    model.train(training)
    same = hidden.shape != logits.shape and torch.allclose(head(hidden).float(), logits.float(), rtol=1e-4, atol=1e-4)
    return head if same else None
