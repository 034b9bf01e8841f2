"""Methods against forgetting, beside replay: each looks at old instructions before training, and has a hand in every
step.

In: the model as training begins, old instructions, and a function that computes a loss. Out: changed gradients.
"""

from collections.abc import Callable, Sequence

import torch
from transformers.pytorch_utils import Conv1D

# What a step hands on: it adds the gradients of the examples' loss to the parameters', and returns the loss.
Accumulate = Callable[[list[dict]], torch.Tensor]


class Retention:
    """Plain training, and what a method against forgetting may do otherwise."""

    # whether the loss of the old examples of a step and that of the new ones are two, each with weights that sum to one
    apart = False

    def prepare(self, model: torch.nn.Module, rows: Sequence[dict], loss_of: Callable[[list[dict]], torch.Tensor]):
        """Look at `model` as training begins, and at the old instructions `rows`, whose every token has the weight 1 in
        `loss_of`."""

    def step(self, rows: list[dict], accumulate: Accumulate, scale: float = 1.0) -> torch.Tensor:
        """Leave a step's gradients in the parameters, which have none yet; returns the loss, without gradients. All
        gradients are `scale` times what they are (as 16-bit floats with small exponents need it)."""
        return accumulate(rows)


class Elastic(Retention):
    """Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3): every weight is drawn back
    to where it began, the stronger the more the old instructions depend on it. To the loss is added

        strength / 2 x sum over weights of F x (weight - beginning)^2

    where F is the mean over old instructions of the squared gradient of the log-probability (nats) of their own answer
    (with all tokens in the loss also of their prompt): the diagonal of the empirical Fisher information. Holds two
    numbers more for every trained weight."""

    def __init__(self, strength: float = 1.0):
        self.strength = strength

    def prepare(self, model, rows, loss_of):
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.beginning = [weight.detach().clone() for weight in self.weights]
        self.fisher = [torch.zeros_like(weight) for weight in self.weights]
        for row in rows:
            gradients = torch.autograd.grad(loss_of([row]), self.weights, allow_unused=True)
            for fisher, gradient in zip(self.fisher, gradients, strict=True):
                if gradient is not None:
                    fisher.addcmul_(gradient, gradient, value=1 / len(rows))

    def step(self, rows, accumulate, scale=1.0):
        loss = accumulate(rows)
        with torch.no_grad():
            for weight, begun, fisher in zip(self.weights, self.beginning, self.fisher, strict=True):
                moved = weight - begun
                pull = self.strength * fisher * moved
                loss = loss + (pull * moved).sum() / 2
                weight.grad = pull * scale if weight.grad is None else weight.grad.add_(pull, alpha=scale)
        return loss


class AveragedGem(Retention):
    """A-GEM (Chaudhry et al. 2019, arXiv 1812.00420, equation 11): a step's old instructions are not trained on,
    but the gradient of its new ones, taken as one vector, loses what would make the old ones' loss grow. The loss is
    that of the new ones. Holds one number more for every trained weight, and reads old and new ones in passes of their
    own."""

    apart = True

    def prepare(self, model, rows, loss_of):
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]

    def step(self, rows, accumulate, scale=1.0):
        old, new = ([row for row in rows if row["role"] == role] for role in ("old", "new"))
        if not old or not new:
            raise ValueError(
                f"retention: found {len(old)} old and {len(new)} new examples in a step; allowed: some of both"
            )
        accumulate(old)
        references = [weight.grad for weight in self.weights]
        for weight in self.weights:
            weight.grad = None
        loss = accumulate(new)
        pairs = [
            (weight.grad, reference)
            for weight, reference in zip(self.weights, references, strict=True)
            if weight.grad is not None and reference is not None
        ]
        along = sum((gradient * reference).sum() for gradient, reference in pairs)
        size = sum((reference * reference).sum() for reference in references if reference is not None)
        if not torch.isfinite(size):
            # 16-bit floats were too small: the optimiser must see it, and skip the step
            for gradient, reference in pairs:
                gradient.add_(reference)
        elif along < 0:
            for gradient, reference in pairs:
                gradient.sub_(reference * (along / size))
        return loss


class Shield(Retention):
    """Source-Shielded Updates (Yamaguchi et al. 2025, arXiv 2512.04844): of each linear layer but the output layer the
    columns (what it makes of one input) that matter most to the old instructions stay as they are; `share` of them. A
    column matters by the sum of its weights' sizes, times the norm of its input over the old instructions' tokens
    (Wanda's score)."""

    def __init__(self, share: float = 0.5):
        self.share = share

    def prepare(self, model, rows, loss_of):
        last = model.get_output_embeddings()
        layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear | Conv1D) and part is not last]
        squares = [0.0] * len(layers)

        def watch(number):
            def read(_, given):
                squares[number] = squares[number] + given[0].detach().float().square().flatten(0, -2).sum(0)

            return read

        watched = [layer.register_forward_pre_hook(watch(number)) for number, layer in enumerate(layers)]
        with torch.no_grad():
            for row in rows:  # one by one, since padding would count
                loss_of([row])
        for hook in watched:
            hook.remove()
        self.frozen = []
        for layer, square in zip(layers, squares, strict=True):
            # GPT-2's layers hold their weights the other way round
            columns = layer.weight.detach() if isinstance(layer, Conv1D) else layer.weight.detach().T
            score = columns.abs().sum(1) * square**0.5
            chosen = score.topk(round(self.share * len(score))).indices
            self.frozen.append((layer.weight, chosen if isinstance(layer, Conv1D) else (slice(None), chosen)))

    def step(self, rows, accumulate, scale=1.0):
        loss = accumulate(rows)
        for weight, columns in self.frozen:
            if weight.grad is not None:
                weight.grad[columns] = 0
        return loss


def method(asked) -> Retention:
    """The method that a row asks for (`recipes.fields.Retention`); without one, plain training."""
    if asked is None:
        return Retention()
    named = {"ewc": lambda: Elastic(asked.strength), "agem": AveragedGem, "ssu": lambda: Shield(asked.share)}
    return named[asked.method]()
