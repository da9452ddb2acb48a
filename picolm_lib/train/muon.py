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
from torch import Tensor
from torch.optim.adamw import adamw

from picolm_lib.config import TrainConfig
from picolm_lib.model.picolm import PicoLM

# Jordan's quintic: its slope at zero is steep, so small singular values grow fast; in return the
# result's singular values end between about 0.7 and 1.2 instead of at exactly 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


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
    a, b, c = coefficients
    x = matrices.float()
    # Divide by the largest entry first: the squares of tiny numbers would underflow in the norm.
    x = x / x.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    # The Frobenius norm is at least the largest singular value: afterwards none exceeds 1.
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1)
    x = x.to(dtype)
    # Of the products X X^T and X^T X the one over the short side is smaller.
    tall = x.shape[-2] > x.shape[-1]
    x = (x.mT if tall else x).reshape(-1, min(x.shape[-2:]), max(x.shape[-2:]))  # (B, M, N)
    for _ in range(steps):
        # a X + (b G + c G G) X, where G = X X^T. A product and its sum at once are rounded once.
        gram = x @ x.mT  # (B, M, M)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).reshape(matrices.shape)


def update_scale(rows: int, cols: int) -> float:
    """Length of the step for a matrix of this shape, times the learning rate.

    sqrt(max(1, rows / cols)) as in the source: then an update changes a layer's output by about
    the same amount in every shape, so one learning rate serves all widths.
    """
    return math.sqrt(max(1.0, rows / cols))


def parameter_groups(model: PicoLM) -> list[dict]:
    """Sorts every parameter of a PicoLM into exactly one group.

    Muon gets the matrices inside the blocks. The fused qkv is three matrices on top of each other,
    which `rows` states; the gate (H, E, E) is H matrices. AdamW gets all else: embedding and output
    layer, whose rows belong to single tokens, and norms and biases, which are no matrices.
    """
    qkv: list[Tensor] = []
    hidden: list[Tensor] = []
    tables: list[Tensor] = []
    vectors: list[Tensor] = []
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
    return [{"kind": "muon", "role": "hidden", "params": qkv, "rows": rows},
            {"kind": "muon", "role": "hidden", "params": hidden, "rows": None},
            {"kind": "adamw", "role": "embedding", "params": tables},
            {"kind": "adamw", "role": "vector", "params": vectors, "weight_decay": 0.0}]


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer, two rules: a group's "kind" says which.

    Args:
        groups: as `parameter_groups` makes them. A group's "role" decides its learning rate; where
            none is given, a muon group is "hidden" and an adamw group is "embedding".
        muon_lr: initial learning rate of the role "hidden", whatever the kind of its group.
        adamw_lr: of the role "embedding".
        vector_lr: of the role "vector": norms and biases.
        momentum: of Muon (Nesterov).
        betas, eps: of AdamW.
        weight_decay: decoupled, of matrices.
        dtype: of the Newton-Schulz products.
        scale: (rows, cols) -> length of Muon's step.

    Raises:
        ValueError: a group is of no known kind.
    """

    def __init__(self, groups: Iterable[dict], muon_lr: float = TrainConfig.muon_lr,
                 adamw_lr: float = TrainConfig.adamw_lr, vector_lr: float = TrainConfig.vector_lr,
                 momentum: float = TrainConfig.momentum,
                 betas: tuple[float, float] = (TrainConfig.adamw_beta1, TrainConfig.adamw_beta2),
                 eps: float = 1e-8, weight_decay: float = TrainConfig.weight_decay,
                 dtype: torch.dtype = torch.float32,
                 scale: Callable[[int, int], float] = update_scale) -> None:
        rates = {"hidden": muon_lr, "embedding": adamw_lr, "vector": vector_lr}
        roles = {"muon": "hidden", "adamw": "embedding"}
        groups = [{"role": roles.get(group.get("kind", "")), **group} for group in groups]
        # The schedule multiplies `initial_lr`; torch's own schedulers use the same name.
        groups = [{"initial_lr": rates.get(group["role"]), **group} for group in groups]
        groups = [{"lr": group["initial_lr"], **group} for group in groups]
        super().__init__(groups, {"rows": None, "momentum": momentum, "betas": betas, "eps": eps,
                                  "weight_decay": weight_decay})
        self.dtype, self.scale = dtype, scale

    def add_param_group(self, group: dict) -> None:
        """Adds a group of parameters, with its "kind" and "lr"."""
        if group.get("kind") not in ("muon", "adamw") or group.get("lr") is None:
            raise ValueError('a group needs its "kind", muon or adamw, and its "lr"')
        super().add_param_group({"initial_lr": group["lr"], **group})

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"dtype": self.dtype, "scale": self.scale}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None,  # type: ignore[override]
             ) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon([group for group in self.param_groups if group["kind"] == "muon"])
        for group in self.param_groups:
            if group["kind"] == "adamw":
                self._adamw(group)
        return loss

    def _muon(self, groups: list[dict]) -> None:
        """Nesterov momentum, made orthogonal. All groups at once: equal shapes become a stack.

        torch._foreach_* do one operation to a whole list: where all tensors are of one dtype, a GPU
        starts it once, and not once for each matrix. PyTorch's own optimizers are made of them.
        """
        weights: list[Tensor] = []
        updates: list[Tensor] = []
        lengths: list[float] = []
        for group in groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            averages = [self._average(p) for p in parameters]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            ahead = torch._foreach_lerp(gradients, averages, group["momentum"])
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            for parameter, update in zip(parameters, ahead, strict=True):
                weights += map(self.local, self.matrices(parameter, group["rows"]))
                updates += (found := self.matrices(update, group["rows"]))
                lengths += [group["lr"] * self.scale(*matrix.shape) for matrix in found]
        directions = self.orthogonalize(updates)
        for length in set(lengths):
            same = [i for i, other in enumerate(lengths) if other == length]
            torch._foreach_add_([weights[i] for i in same], [directions[i] for i in same],
                                alpha=-length)

    def _average(self, parameter: Tensor) -> Tensor:
        """The running mean of a parameter's gradients."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]

    def local(self, matrix: Tensor) -> Tensor:
        """What of a matrix is here."""
        return matrix

    def matrices(self, tensor: Tensor, rows: tuple[int, ...] | None) -> Sequence[Tensor]:
        """The matrices that a parameter consists of, as views: blocks of rows, or a stack."""
        return tensor.split(rows) if rows else (tensor,) if tensor.ndim == 2 else tensor.unbind()

    def orthogonalize(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """The direction of every matrix. Those of one shape are iterated as one stack."""
        same_shape: dict[torch.Size, list[int]] = {}
        for i, matrix in enumerate(matrices):
            same_shape.setdefault(matrix.shape, []).append(i)
        directions = list(matrices)
        for members in same_shape.values():
            stack = torch.stack([matrices[i] for i in members])  # (B, M, N)
            for i, direction in zip(members, newton_schulz(stack, dtype=self.dtype), strict=True):
                directions[i] = direction
        return directions

    def _adamw(self, group: dict) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        states = [self.state[p] for p in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state.update(step=torch.zeros((), device=parameter.device),
                             exp_avg=torch.zeros_like(parameter),
                             exp_avg_sq=torch.zeros_like(parameter))
            # load_state_dict leaves it where the file was read; the fused kernel wants it here.
            state["step"] = state["step"].to(parameter.device)
        if parameters:
            adamw(parameters, [p.grad for p in parameters], [s["exp_avg"] for s in states],
                  [s["exp_avg_sq"] for s in states], [], [s["step"] for s in states],
                  fused=True, amsgrad=False, beta1=group["betas"][0],
                  beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
                  eps=group["eps"], maximize=False)
