"""Wrong answers to the exercises of notebook 04, as learners write them: each is told its bug."""

from __future__ import annotations

import torch
from helpers import assert_told, each_wrong_answer

from picolm_lib.course.muon import checks

A, B, C = 3.4445, -4.7750, 2.0315


def jordan(x, steps, a=A, b=B, c=C):
    for _ in range(steps):
        square = torch.matmul(x, x.transpose(0, 1))
        x = a * x + b * (square @ x) + c * (square @ (square @ x))
    return x


def frobenius(m):
    return m.float() / torch.linalg.norm(m.float())


def lying_down(m, steps):
    x = frobenius(m)
    return jordan(x.T if m.size(0) > m.size(1) else x, steps)


def from_the_right(m, steps):
    x = frobenius(m)
    for _ in range(steps):
        square = x.T @ x
        x = A * x + B * square @ x + C * square @ square @ x
    return x


def entry_by_entry(m, steps):
    x = frobenius(m)
    for _ in range(steps):
        x = x * (A + x.pow(2) * (B + C * x.pow(2)))
    return x


def star_square(m, steps):
    x = frobenius(m)
    for _ in range(steps):
        square = x @ x.T
        x = A * x + B * square @ x + C * square.pow(2) @ x
    return x


def forgot_to_square(m, steps):
    x = frobenius(m)
    for _ in range(steps):
        square = x @ x.T
        x = A * x + B * square @ x + C * square @ x
    return x


def in_sixteen_bits(m, steps):
    return jordan((m / torch.sqrt((m * m).sum())).float(), steps)


def every_time(m, steps):
    x = m.float()
    for _ in range(steps):
        x = jordan(x / x.norm(), 1)
    return x


def spoiled(m, steps):
    x = frobenius(m)
    m /= m.float().norm()
    return jordan(x, steps)


def momentum_in_place(m, g, keep):
    m.lerp_(g, 1 - keep)
    return m, m.lerp(g, 1 - keep)


def old_one(m, g, keep):
    new = m.lerp(g, 1 - keep)
    return new, keep * m + (1 - keep) * g


def by_size(condition):
    def sort(shapes):
        groups = {"muon": [], "adamw": []}
        for name, shape in shapes.items():
            groups["muon" if condition(name, shape) else "adamw"].append(name)
        return groups

    return sort


def without_vectors(shapes):
    inside = [n for n in shapes if "blocks" in n and len(shapes[n]) > 1]
    return {"muon": inside, "adamw": ["embedding.weight", "output.weight"]}


def gate_nowhere(shapes):
    groups = {"muon": [], "adamw": []}
    for name, shape in shapes.items():
        if len(shape) == 1 or name in ("embedding.weight", "output.weight"):
            groups["adamw"].append(name)
        elif len(shape) == 2:
            groups["muon"].append(name)
    return groups


def all_twice(shapes):
    right = by_size(lambda n, s: "blocks" in n and len(s) > 1)(shapes)
    return {"muon": right["muon"], "adamw": [*shapes]}


def exchanged(shapes):
    right = by_size(lambda n, s: "blocks" in n and len(s) > 1)(shapes)
    return {"muon": right["adamw"], "adamw": right["muon"]}


WRONG = {
    "newton_schulz": [
        (lambda m, n: jordan(m.float(), n), "did not normalize"),
        (lambda m, n: jordan(m.float() / m.float().abs().max(), n), "largest entry"),
        (in_sixteen_bits, "normalized in 16 bits"),
        (lambda m, n: jordan(m.float() / (m.float() ** 2).sum(), n), "square root"),
        (lambda m, n: jordan(m.float() / (m.float() ** 2).mean() ** 0.5, n), "root of the mean"),
        (lambda m, n: jordan(torch.nn.functional.normalize(m.float(), dim=1, eps=0), n),
         "each row alone"),
        (lambda m, n: jordan(m.float() / torch.linalg.svdvals(m.float())[0], n),
         "largest singular value"),
        (lambda m, n: jordan(frobenius(m), n, C, B, A), "wrong order"),
        (lambda m, n: jordan(frobenius(m), n, A, C, B), "b and c are swapped"),
        (lying_down, "lying down"),
        (from_the_right, "wrong side"),
        (entry_by_entry, "every number"),
        (star_square, "entries of the gram"),
        (forgot_to_square, "twice as it is"),
        (lambda m, n: jordan(frobenius(m), n + 1), "too many"),
        (lambda m, n: jordan(frobenius(m), n - 1), "too few"),
        (lambda m, n: frobenius(jordan(frobenius(m), n)), "after the last step"),
        (every_time, "in every step"),
        (spoiled, "in place"),
    ],
    "nesterov": [
        (lambda m, g, k: (m * k + g, (m * k + g) * k + g), "added whole"),
        (lambda m, g, k: (m * k + g, (m * k + g) * k + g * (1 - k)), "adds the whole gradient"),
        (lambda m, g, k: (m.lerp(g, 1 - k), m.lerp(g, 1 - k)), "plain momentum"),
        (old_one, "with the old momentum"),
        (lambda m, g, k: (m.lerp(g, 1 - k), g + k * m.lerp(g, 1 - k)), "counts whole"),
        (lambda m, g, k: (m.lerp(g, k), m.lerp(g, k).lerp(g, k)), "are swapped: with"),
        (lambda m, g, k: (m.lerp(g, 1 - k), m.lerp(g, 1 - k).lerp(g, k)),
         "swapped in the direction"),
        (lambda m, g, k: (m.lerp(g, k), m.lerp(g, k).lerp(g, 1 - k)),
         "swapped in the new momentum"),
        (lambda m, g, k: (m.lerp(g, 1 - k).lerp(g, 1 - k), m.lerp(g, 1 - k)), "wrong order"),
        (lambda m, g, k: m.lerp(g, 1 - k).lerp(g, 1 - k), "direction alone"),
        (lambda m, g, k: m.lerp(g, 1 - k), "momentum alone"),
        (lambda m, g, k: (m.lerp(g, 1 - k), g), "never used"),
        (momentum_in_place, "in place"),
    ],
    "sort_parameters": [
        (by_size(lambda n, s: len(s) > 1), "embedding and output layer"),
        (by_size(lambda n, s: "blocks" in n and len(s) == 2), "forgot the gate"),
        (by_size(lambda n, s: "blocks" in n), "norms and biases of the blocks"),
        (by_size(lambda n, s: len(s) > 1 and n != "embedding.weight"), "The output layer"),
        (by_size(lambda n, s: len(s) > 1 and n != "output.weight"), "the embedding went"),
        (by_size(lambda n, s: len(s) > 1 and not ("embedding" in n or "out" in n)), "attn.out"),
        (without_vectors, "never be trained. Every"),
        (gate_nowhere, "the gate is in no group"),
        (all_twice, "in both groups"),
        (exchanged, "are swapped"),
        (by_size(lambda n, s: "blocks" in n and (len(s) > 1 or "qkv" in n)), "bias of qkv"),
        (by_size(lambda n, s: "blocks" in n and "bias" not in n), "weights of the norms"),
    ],
}


@each_wrong_answer(WRONG)
def test_a_wrong_answer_is_told_its_bug(exercise, answer, phrase):
    assert_told(getattr(checks, exercise), answer, phrase)


def test_the_bug_hunt():
    verdicts = {name: checks.bug_hunt(name) for name in ("half", "output", "seed")}
    assert [name for name, verdict in verdicts.items() if verdict.passed] == ["output"]
    assert "plot C" in verdicts["half"].message and "1.00" in verdicts["seed"].message
    assert checks.bug_hunt(None).message.startswith("Not yet")
