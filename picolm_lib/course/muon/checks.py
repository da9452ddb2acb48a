"""The exercises of notebook 04 and the mistakes that people make in them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from picolm_lib.course.checks import BugHunt, Exercise
from picolm_lib.course.muon import newton_schulz_mistakes as wrong
from picolm_lib.course.muon.duel import MODEL
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import newton_schulz as library_newton_schulz


def _matrix_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    # Few steps: where a mistake lets numbers explode, rounding would hide which mistake it was.
    return [(draw(4, 9), 2), (draw(7, 3), 1), (draw(4, 4), 1), (1e-6 * draw(3, 8), 1),
            ((1e-4 * draw(4, 6)).half(), 1)]


newton_schulz = Exercise(
    reference=library_newton_schulz,
    cases=_matrix_cases,
    praise="Right: normalized in float32, then only products, and all directions end up equal.",
    mistakes={
        "you did not normalize. With a singular value of 3 the polynomial gives 375, and the next "
        "step overflows. Divide by the Frobenius norm first.": wrong.iteration(lambda x: x.float()),
        "you divided only by the largest entry. The singular values can still be far above 1: "
        "divide by the Frobenius norm, the root of the sum of all squares.":
            wrong.iteration(lambda x: x.float() / x.float().abs().amax()),
        "you normalized in 16 bits: there the squares of numbers around 1e-4 are zero. Convert the "
        "matrix to float32 first.":
            wrong.iteration(lambda x: (x / x.square().sum().sqrt()).float()),
        "you divided by the sum of the squares. The norm is its square root.":
            wrong.iteration(lambda x: x.float() / x.float().square().sum()),
        "you divided by the root of the mean square. The Frobenius norm takes the sum.":
            wrong.iteration(lambda x: x.float() / x.float().square().mean().sqrt()),
        "you normalized each row separately. Divide the whole matrix by one number, or its "
        "directions change.":
            wrong.iteration(lambda x: x.float() / x.float().norm(dim=1, keepdim=True)),
        "you divided by the largest singular value. That needs the SVD which we want to avoid: "
        "divide by the Frobenius norm.":
            wrong.iteration(lambda x: x.float() / torch.linalg.matrix_norm(x.float(), 2)),
        "the coefficients are in the wrong order: a = 3.4445 belongs to x, b = -4.7750 to the Gram "
        "matrix, c = 2.0315 to its square.": wrong.iteration(order=lambda abc: abc[::-1]),
        "b and c are swapped: b = -4.7750 belongs to the Gram matrix, c = 2.0315 to its square.":
            wrong.iteration(order=lambda abc: (abc[0], abc[2], abc[1])),
        "a tall matrix was returned transposed: if you transpose it at the start, transpose it "
        "back at the end.": wrong.always_wide,
        "the Gram matrix is on the wrong side: x.T @ x cannot multiply x from the left unless x is "
        "square. Use x @ x.T.": wrong.iteration(step=wrong.wrong_side),
        "you applied the polynomial to every entry of the matrix. It has to act on the singular "
        "values: multiply matrices with @.":
            wrong.iteration(step=lambda x, a, b, c: a * x + b * x**3 + c * x**5),
        "you squared the entries of the Gram matrix. Its square is a matrix product: gram @ gram.":
            wrong.iteration(step=wrong.gram_of_entries),
        "c belongs to the square of the Gram matrix, gram @ gram. You used gram itself twice.":
            wrong.iteration(step=wrong.without_square),
        "you took one step too many.": wrong.iteration(extra=1),
        "you took one step too few.": wrong.iteration(extra=-1),
        "you normalized again after the last step. The result must keep its singular values near "
        "1.": wrong.iteration(last=wrong.unit),
        "you normalized in every step. Once, before the loop, is enough; after it the singular "
        "values are meant to grow.":
            wrong.iteration(step=lambda x, a, b, c: wrong.products(wrong.unit(x), a, b, c)),
    })


def _nesterov(momentum: Tensor, gradient: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    new = keep * momentum + (1 - keep) * gradient
    return new, keep * new + (1 - keep) * gradient


def _nesterov_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(3, 4, generator=generator) for _ in range(4)]
    return [(draws[0], draws[1], 0.9), (draws[2], draws[3], 0.7), (0 * draws[0], draws[3], 0.8)]


def _variant(new: Callable, direction: Callable) -> Callable:
    """A mistake from a rule for the new momentum and one for the direction."""
    def update(m: Tensor, g: Tensor, keep: float) -> tuple[Tensor, Tensor]:
        found = new(m, g, keep)
        return found, direction(m, found, g, keep)

    return update


def _right_new(m: Tensor, g: Tensor, keep: float) -> Tensor:
    return keep * m + (1 - keep) * g


def _right_direction(m: Tensor, new: Tensor, g: Tensor, keep: float) -> Tensor:
    return keep * new + (1 - keep) * g


nesterov = Exercise(
    reference=_nesterov,
    cases=_nesterov_cases,
    praise="Right: an average of the past, and one look ahead with the current gradient.",
    mistakes={
        "the gradient was added in full. Here the momentum is an average: the old one times keep, "
        "plus the gradient times (1 - keep).":
            _variant(lambda m, g, k: k * m + g, lambda m, n, g, k: g + k * n),
        "the new momentum adds the whole gradient. It is an average: the gradient is "
        "multiplied by (1 - keep).": _variant(lambda m, g, k: k * m + g, _right_direction),
        "that is plain momentum: the gradient mixed with the old momentum is the new momentum "
        "itself. Nesterov's direction mixes the gradient in once more, with the new one.":
            _variant(_right_new, lambda m, n, g, k: n),
        "in the direction, the gradient counts in full. It is the same kind of average: keep times "
        "the new momentum plus (1 - keep) times the gradient.":
            _variant(_right_new, lambda m, n, g, k: k * n + g),
        "keep and 1 - keep are swapped: with keep = 0.9, nine tenths of the old momentum stay.":
            _variant(lambda m, g, k: (1 - k) * m + k * g, lambda m, n, g, k: (1 - k) * n + k * g),
        "keep and 1 - keep are swapped in the direction: most of it is the new momentum.":
            _variant(_right_new, lambda m, n, g, k: (1 - k) * n + k * g),
        "keep and 1 - keep are swapped in the new momentum: most of it is the old one.":
            _variant(lambda m, g, k: (1 - k) * m + k * g, _right_direction),
        "the two results are in the wrong order: the new momentum first, then the direction.":
            lambda m, g, k: _nesterov(m, g, k)[::-1],
        "you returned only the direction. The caller also needs the new momentum: a tuple of "
        "both.": lambda m, g, k: _nesterov(m, g, k)[1],
        "you returned only the new momentum. The caller also needs the direction: a tuple of "
        "both.": lambda m, g, k: _nesterov(m, g, k)[0],
        "your direction is the gradient: the momentum is stored and never used.":
            _variant(_right_new, lambda m, n, g, k: g),
    })

Shapes = dict[str, tuple[int, ...]]


def _split(is_muon: Callable[[str, int], bool], is_adamw: Callable[[str, int], bool] | None = None,
           ) -> Callable[[Shapes], dict[str, list[str]]]:
    """A way of sorting, from one rule or from a rule for each group."""
    def sort(shapes: Shapes) -> dict[str, list[str]]:
        muon = [name for name, shape in shapes.items() if is_muon(name, len(shape))]
        adamw = [name for name, shape in shapes.items()
                 if (is_adamw(name, len(shape)) if is_adamw else name not in muon)]
        return {"muon": muon, "adamw": adamw}

    return sort


def _hidden(name: str, axes: int) -> bool:
    return name.startswith("blocks.") and axes >= 2


def _names() -> list[tuple]:
    with torch.device("meta"):
        model = PicoLM(MODEL)
    return [({name: tuple(p.shape) for name, p in model.named_parameters()},)]


sort_parameters = Exercise(
    reference=_split(_hidden),
    cases=_names,
    praise="Right: the matrices inside the blocks, the gate's stack included; the rest to AdamW.",
    mistakes={
        "embedding and output layer went to Muon. They are matrices, but their rows belong to "
        "single tokens: only the blocks get Muon.": _split(lambda n, axes: axes >= 2),
        "you forgot the gate: its shape is (H, E, E), a stack of matrices, and it has three axes. "
        "Ask for at least two.": _split(lambda n, axes: n.startswith("blocks.") and axes == 2),
        "norms and biases of the blocks went to Muon. They are vectors, which have no singular "
        "values: ask for at least two axes.": _split(lambda n, axes: n.startswith("blocks.")),
        "the output layer went to Muon. Like the embedding it has a row per token: AdamW.":
            _split(lambda n, axes: axes >= 2 and "embedding" not in n),
        "the embedding went to Muon. Like the output layer it has a row per token: AdamW.":
            _split(lambda n, axes: axes >= 2 and not n.startswith("output")),
        "you sent everything with \"out\" in its name to AdamW. That hits the output layer, and "
        "also attn.out, which is a hidden matrix.":
            _split(lambda n, axes: axes >= 2 and "out" not in n and "embedding" not in n),
        "norms and biases are in no group, so they would never be trained. Every parameter "
        "belongs to exactly one.":
            _split(_hidden, lambda n, axes: axes >= 2 and not _hidden(n, axes)),
        "the gate is in no group, so it would never be trained: it has three axes, neither two "
        "nor one.": _split(lambda n, axes: n.startswith("blocks.") and axes == 2,
                           lambda n, axes: axes == 1 or not n.startswith("blocks.")),
        "some matrices are in both groups, so they would be updated twice per step.":
            _split(_hidden, lambda n, axes: True),
        "the two groups are swapped.": lambda shapes: dict(zip(
            ("muon", "adamw"), list(_split(_hidden)(shapes).values())[::-1], strict=True)),
        "the bias of qkv went to Muon, because its name contains qkv. It is a vector: look at the "
        "shape too.": _split(lambda n, axes: _hidden(n, axes) or "qkv" in n),
        "the weights of the norms went to Muon, because their names end with weight. They are "
        "vectors: look at the shape too.":
            _split(lambda n, axes: _hidden(n, axes)
                   or (n.startswith("blocks.") and n.endswith("weight"))),
    })


bug_hunt = BugHunt(
    culprit="output",
    alibis={
        "half": "plot C clears the number format. If Newton-Schulz had normalized in 16 bits, the "
                "step of a hidden matrix would not be flat, or it would be NaN. Both runs have the "
                "same flat line there.",
        "seed": "plot B clears the seed. If all blocks had been drawn from one seed, blocks 0 and "
                "1 would start as copies, and the patient's bar would stand at 1.00.",
    },
    praise="Right: it is the output layer. In plot D all singular values of the patient's step "
           "have about the same size, which is what Muon does to a matrix. It belongs in the AdamW "
           "group: its rows belong to single tokens. Nothing crashed; the loss only fell "
           "more slowly, and each step took longer.")
