"""Muon for the hidden matrices, AdamW for the rest, in one optimizer.

AdamW scales every number of a gradient on its own. Muon takes the momentum of a whole matrix,
M = U S V^T, and steps along U V^T: all directions get the same length, the rare ones included.
An SVD is slow, so U V^T is approached by Newton-Schulz iteration, which is matrix products alone.

Sources: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
Ilya Loshchilov and Frank Hutter, "Decoupled Weight Decay Regularization", 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

# Jordan's quintic: its slope at zero is steep, so small singular values grow fast; in return the
# result's singular values end between about 0.7 and 1.2 instead of at exactly 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
WIDE = 1.5  # times as wide as high: from here on iterating on the Gram matrix takes fewer FLOPs


@torch.no_grad()
def newton_schulz(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32,
                  coefficients: tuple[float, float, float] = COEFFICIENTS) -> Tensor:
    """U V^T of every matrix, approximately.

    Args:
        matrices: (..., M, N), any scale.
        steps: iterations.
        dtype: type of the products. The matrices are normalized in float32 first: gradients of
            size 1e-6 cast to float16 would be mere noise.
        coefficients: a, b, c of the odd polynomial a s + b s^3 + c s^5 that is applied to every
            singular value s.

    Returns:
        (..., M, N) of `dtype`. A zero matrix stays zero.
    """
    x = matrices.float()
    x = x / x.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1)  # Frobenius: now all s <= 1. The
    x = x.to(dtype)                                                 # squares of tiny x would vanish
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    wide = x.shape[-1] > WIDE * x.shape[-2] and dtype in (torch.float32, torch.float64)
    walk = iterate_on_gram if wide else iterate
    x = walk(x.flatten(0, -3) if x.ndim > 2 else x[None], steps, *coefficients)  # (B, M, N)
    return (x.mT if tall else x).reshape(matrices.shape)


def iterate(x: Tensor, steps: int, a: float, b: float, c: float) -> Tensor:
    """a X + b (X X^T) X + c (X X^T)^2 X of every (B, M, N) matrix, again and again."""
    for _ in range(steps):
        gram = x @ x.mT                                             # (B, M, M), the smaller side
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)                 # a x + (b gram + c gram^2) x
    return x


def iterate_on_gram(x: Tensor, steps: int, a: float, b: float, c: float) -> Tensor:
    """The same for wide matrices, with the long side in the first and the last product alone.

    An iteration is X <- P X with P = a I + b G + c G^2 and G = X X^T. So G <- P G P, which is as
    small as G, and X follows at the end from the product of all P. Five iterations take 34 M^3 +
    4 M^2 N FLOPs instead of 10 M^3 + 20 M^2 N. G holds the squares of the singular values, which
    float32 has digits enough for, and 16 bits have not (measured: tests/benchmarks/speed.py).
    """
    gram, product = x @ x.mT, None                                  # (B, M, M)
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    return product @ x if product is not None else x


def update_scale(rows: int, cols: int) -> float:
    """Length of the step for a matrix of this shape, times the learning rate.

    sqrt(max(1, rows / cols)) as in the source: then an update changes a layer's output by about
    the same amount in every shape, so one learning rate serves all widths.
    """
    return math.sqrt(max(1.0, rows / cols))


def parameter_groups(model: nn.Module) -> list[dict]:
    """Sorts every parameter of a PicoLM into exactly one group.

    Muon gets the matrices inside the blocks. The fused qkv is three matrices on top of each other,
    which `rows` tells; the gate (H, E, E) is H matrices. AdamW gets all else: embedding and output
    layer, whose rows belong to single tokens, and norms and biases, which are no matrices.
    """
    qkv, hidden, tables, vectors = [], [], [], []
    for name, parameter in model.named_parameters():
        if name.endswith("attn.qkv.weight"):
            qkv.append(parameter)
        elif ".blocks." in f".{name}" and parameter.ndim >= 2:
            hidden.append(parameter)
        else:
            (tables if parameter.ndim >= 2 else vectors).append(parameter)
    config = model.config
    rows = tuple(n * config.head_dim for n in (config.n_heads, config.n_kv_heads,
                                               config.n_kv_heads))
    return [{"kind": "muon", "params": qkv, "rows": rows},
            {"kind": "muon", "params": hidden, "rows": None},
            {"kind": "adamw", "params": tables},
            {"kind": "adamw", "params": vectors, "rate": "vector_lr", "weight_decay": 0.0}]


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer, two rules: a group's "kind" says which.

    Args:
        groups: as `parameter_groups` makes them.
        muon_lr, adamw_lr: learning rates of the two kinds.
        vector_lr: of the groups whose "rate" says so: norms and biases.
        momentum: of Muon (Nesterov).
        betas, eps: of AdamW.
        weight_decay: decoupled, of matrices.
        dtype: of the Newton-Schulz products.
        scale: (rows, cols) -> length of Muon's step.
    """

    def __init__(self, groups: Iterable[dict], muon_lr: float = 0.01, adamw_lr: float = 0.012,
                 vector_lr: float = 0.036, momentum: float = 0.9,
                 betas: tuple[float, float] = (0.8, 0.99), eps: float = 1e-8,
                 weight_decay: float = 0.0, dtype: torch.dtype = torch.float32,
                 scale: Callable[[int, int], float] = update_scale) -> None:
        rates = {"muon_lr": muon_lr, "adamw_lr": adamw_lr, "vector_lr": vector_lr}
        groups = [{"rate": f"{group['kind']}_lr", **group} for group in groups]
        groups = [{"lr": rates[group["rate"]], **group} for group in groups]
        super().__init__(groups, {"momentum": momentum, "betas": betas, "eps": eps,
                                  "weight_decay": weight_decay})
        self.dtype, self.scale = dtype, scale

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon([g for g in self.param_groups if g["kind"] == "muon"])
        for group in self.param_groups:
            if group["kind"] == "adamw":
                self._adamw(group)
        return loss

    def _muon(self, groups: list[dict]) -> None:
        pieces, targets, steps = [], [], []
        for group in groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = self._nesterov(parameter, group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                pieces += self.matrices(update, group["rows"])
                targets += self.matrices(parameter, group["rows"])
                steps += [group["lr"] * self.scale(*piece.shape) for piece in pieces[len(steps):]]
        directions = self.orthogonalize(pieces)
        for target, direction, step in zip(targets, directions, steps, strict=True):
            target.add_(direction, alpha=-step)

    def matrices(self, tensor: Tensor, rows: tuple[int, ...] | None) -> Sequence[Tensor]:
        """The matrices that a parameter consists of, as views: blocks of rows, or a stack."""
        return tensor.split(rows) if rows else (tensor,) if tensor.ndim == 2 else tensor.unbind()

    def orthogonalize(self, matrices: Sequence[Tensor]) -> Sequence[Tensor]:
        """The direction of every matrix. Those of one shape, wide or tall, are one stack."""
        wide = [m.T if m.shape[0] > m.shape[1] else m for m in matrices]
        same_shape: dict[torch.Size, list[int]] = {}
        for i, matrix in enumerate(wide):
            same_shape.setdefault(matrix.shape, []).append(i)
        for members in same_shape.values():
            stack = newton_schulz(torch.stack([wide[i] for i in members]), dtype=self.dtype)
            for i, direction in zip(members, stack, strict=True):
                wide[i] = direction
        return [d if d.shape == m.shape else d.T for d, m in zip(wide, matrices, strict=True)]

    def _nesterov(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)

    def _adamw(self, group: dict) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(step=torch.zeros(()),
                                             exp_avg=torch.zeros_like(parameter),
                                             exp_avg_sq=torch.zeros_like(parameter))
        states = [self.state[p] for p in parameters]
        if parameters:
            adamw(parameters, [p.grad for p in parameters], [s["exp_avg"] for s in states],
                  [s["exp_avg_sq"] for s in states], [], [s["step"] for s in states],
                  fused=parameters[0].is_cpu or None, amsgrad=False, beta1=group["betas"][0],
                  beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
                  eps=group["eps"], maximize=False)
