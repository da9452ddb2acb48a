"""What notebook 04 measures and draws, against references."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from picolm_lib.config import PRESETS
from picolm_lib.course.muon import (
    duel,
    duel_pictures,
    hunt,
    paths,
    pictures,
    spectrum,
)
from picolm_lib.model.picolm import PicoLM, count_parameters
from picolm_lib.train.muon import COEFFICIENTS, newton_schulz, parameter_groups


@pytest.fixture(autouse=True)
def briefly(monkeypatch):
    monkeypatch.setenv("PICOLM_PRESET", "smoke")


def test_sgd_walks_as_its_closed_form_says():
    path = paths.descend(lambda w: paths.RULES["SGD"](w, 0.03), paths.valley(10.0), (-2.0, 1.0), 7)
    for step, (x, y) in enumerate(path.tolist()):
        assert x == pytest.approx(-2 * (1 - 0.03) ** step, rel=1e-5)
        assert y == pytest.approx((1 - 0.3) ** step, rel=1e-5)
    assert paths.loss(torch.tensor([2.0, 3.0]), paths.valley(10.0)).item() == pytest.approx(47)


def test_turning_the_valley_turns_the_way_of_sgd_but_not_of_adamw():
    straight, turned = paths.valley(), paths.valley(degrees=30)
    start = torch.tensor(paths.START)
    torch.testing.assert_close(paths.turn(90) @ torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]),
                               atol=1e-6, rtol=0)
    for rule, same in (("SGD", True), ("momentum", True), ("AdamW", False)):
        def make(w, rule=rule):
            return paths.RULES[rule](w, 0.03)

        one = paths.descend(make, straight, start.tolist()) @ paths.turn(30).T
        other = paths.descend(make, turned, (paths.turn(30) @ start).tolist())
        assert torch.allclose(one, other, atol=1e-3) == same, rule


def test_a_matrix_has_the_spectrum_that_it_was_given():
    wanted = torch.tensor([2.0, 1.0, 0.25])
    matrix = spectrum.with_spectrum(wanted, 7)
    assert matrix.shape == (3, 7)
    torch.testing.assert_close(torch.linalg.svdvals(matrix), wanted)
    assert spectrum.share_of_largest(matrix, 2) == pytest.approx(5 / 5.0625)


@pytest.mark.parametrize("name", spectrum.CHOICES)
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_newton_schulz_applies_the_polynomial_to_the_singular_values(name, steps):
    before = torch.tensor([0.8, 0.5, 0.3, 0.1]) / torch.tensor([0.8, 0.5, 0.3, 0.1]).norm()
    after = newton_schulz(spectrum.with_spectrum(before, 6), steps,
                          coefficients=spectrum.CHOICES[name])
    a, b, c = spectrum.CHOICES[name]
    expected = []
    for s in before.tolist():
        for _ in range(steps):
            s = a * s + b * s**3 + c * s**5
        expected.append(s)
    torch.testing.assert_close(torch.linalg.svdvals(after),
                               torch.tensor(sorted(expected, reverse=True)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(spectrum.polynomial(before, steps, (a, b, c)),
                               torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_classical_polynomials_rest_at_one_and_jordans_is_the_librarys():
    for name in ("classical cubic", "classical quintic"):
        a, b, c = spectrum.CHOICES[name]
        assert a + b + c == pytest.approx(1) and a + 3 * b + 5 * c == pytest.approx(0)
    assert spectrum.CHOICES["Jordan's quintic"] == COEFFICIENTS


def test_errors_by_size():
    errors = spectrum.errors_by_size([1e-8, 1e-6, 1e-2], spectrum.sample(8, 12))
    assert errors["all in float16"][:2] == [1.0, 1.0] and errors["all in float16"][2] < 0.1
    assert errors["cast first, norm in float32"][0] == 1.0
    assert max(errors["normalized in float32 first"]) < 0.05
    assert spectrum.relative_error(torch.tensor([math.nan]), torch.ones(1)) == 1.0
    assert spectrum.relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])) == (
        pytest.approx(1 / 18**0.5))


def test_operations_and_shapes():
    # By hand: X X' (2 m m n), its square (2 m m m), and the product with X (2 m m n).
    assert spectrum.products_flops(3, 5, steps=1) == 2 * 45 + 2 * 27 + 2 * 45
    assert spectrum.products_flops(5, 3) == spectrum.products_flops(3, 5)
    for rows, cols in ((8, 8), (8, 24), (24, 8)):
        with FlopCounterMode(display=False) as counter:
            newton_schulz(torch.randn(rows, cols))
        assert counter.get_total_flops() == spectrum.products_flops(rows, cols)
    for name in ("nano", "pico"):
        config = PRESETS[name].model
        with torch.device("meta"):
            model = PicoLM(config)
            hidden = sum(p.numel() for n, p in model.named_parameters()
                         if n.startswith("blocks.") and p.ndim >= 2)
        assert sum(rows * cols for rows, cols in spectrum.muon_shapes(config)) == hidden
    assert spectrum.products_seconds([(4, 6), (6, 4), (4, 6)], repeats=1) > 0


def test_momenta_are_the_optimizers():
    momenta = spectrum.momentum_matrices(steps=4)
    run = duel.trainer(tokens=duel.RUN.max_tokens)
    for _ in range(4):
        run.step()
    kept = run.optimizer.state[run.model.get_parameter("blocks.2.mlp.down.weight")]
    torch.testing.assert_close(momenta["blocks.2.mlp.down"], kept["momentum_buffer"].cpu())
    qkv = torch.cat([momenta[f"blocks.0.attn.{part}"] for part in "qkv"])
    kept = run.optimizer.state[run.model.get_parameter("blocks.0.attn.qkv.weight")]
    torch.testing.assert_close(qkv, kept["momentum_buffer"].cpu())
    assert len(momenta) == 7 * 3


def test_the_two_sides_differ_in_the_rule_of_the_hidden_matrices_alone():
    sides = {rule: duel.trainer(rule, rate=0.004, seed=3) for rule in ("adamw", "muon")}
    for parameters in zip(*(run.model.parameters() for run in sides.values()), strict=True):
        assert torch.equal(*parameters)
    kinds = {}
    for rule, run in sides.items():
        run.step()
        names = {id(p): name for name, p in run.model.named_parameters()}
        kinds[rule] = {names[id(p)]: (group["kind"], group["role"])
                       for group in run.optimizer.param_groups for p in group["params"]}
        assert len(kinds[rule]) == len(names)
        hidden = {group["lr"] for group in run.optimizer.param_groups
                  if group["role"] == "hidden"}
        assert len(hidden) == 1
    assert kinds["adamw"].keys() == kinds["muon"].keys()
    for name in kinds["muon"]:
        here, there = kinds["muon"][name], kinds["adamw"][name]
        if name.startswith("blocks.") and sides["muon"].model.get_parameter(name).ndim >= 2:
            assert (here, there) == (("muon", "hidden"), ("adamw", "hidden"))
        else:
            assert here == there == ("adamw", here[1]) and here[1] != "hidden"


def test_the_adamw_side_is_torchs_adamw():
    run = duel.trainer("adamw", rate=0.004)
    name = "blocks.1.mlp.up.weight"
    weight = run.model.get_parameter(name)
    twin = nn.Parameter(weight.detach().clone())
    theirs = torch.optim.AdamW([twin], betas=(run.config.adamw_beta1, run.config.adamw_beta2),
                               weight_decay=0.0)
    seen = []
    run.optimizer.register_step_pre_hook(lambda *_: seen.append(weight.grad.clone()))
    for _ in range(3):
        run.step()
        twin.grad = seen[-1]
        theirs.param_groups[0]["lr"] = next(g["lr"] for g in run.optimizer.param_groups
                                            if any(p is weight for p in g["params"]))
        theirs.step()
    torch.testing.assert_close(twin.detach(), weight.detach())


def test_a_race_ends_where_it_should_and_equal_time_is_longer():
    runs = {rule: duel.race(rule, 0.005, (1, 2)) for rule in ("adamw", "muon")}
    for pair in runs.values():
        for run in pair:
            assert run.tokens[-1] == duel.budget() == 6 * duel.STEP
            assert 0 < run.last < 10 and len(run.bits_per_byte) == len(run.tokens)
        assert pair[0].bits_per_byte != pair[1].bits_per_byte
    assert duel.tokens_in_equal_time({"adamw": 1.0, "muon": 1.5}) == 9 * duel.STEP
    assert duel.tokens_in_equal_time({"adamw": 2.0, "muon": 1.0}) == duel.budget()
    assert duel.tokens_in_equal_time({"adamw": 1.0, "muon": 9.0}) == 12 * duel.STEP
    assert duel.best({0.1: 3.0, 0.2: 1.0, 0.4: 2.0}) == 0.2
    assert set(duel.step_seconds(steps=1)) == {"adamw", "muon"}
    low, mean, high = duel_pictures.band([SimpleNamespace(bits_per_byte=[3.0, 1.0]),
                                          SimpleNamespace(bits_per_byte=[1.0, 2.0])])
    assert (low.tolist(), mean.tolist(), high.tolist()) == ([1, 1], [2, 1.5], [3, 2])
    for picture in (duel_pictures.draw_race(runs, runs, {"adamw": 0.1, "muon": 0.2}),
                    duel_pictures.draw_sweep({"adamw": {0.1: 2.0, 0.2: 1.0}, "muon": {0.1: 1.5}})):
        assert len(picture.png) < 80_000
    table = duel_pictures.race_table(runs, runs).splitlines()
    assert len(table) == 5
    assert table[2].split()[-3] == f"{sum(run.last for run in runs['muon']) / 2:.3f}"


def test_the_patient_differs_by_its_output_layer_alone():
    model = PicoLM(duel.MODEL)
    faulty, sound = duel.output_by_muon(model), parameter_groups(model)
    kinds = [{id(p): group["kind"] for group in groups for p in group["params"]}
             for groups in (faulty, sound)]
    moved = [name for name, p in model.named_parameters() if kinds[0][id(p)] != kinds[1][id(p)]]
    assert moved == ["output.weight"] and kinds[0].keys() == kinds[1].keys()


def test_the_hunt_shows_what_its_suspects_say():
    found = {"healthy": hunt.observe("healthy"),
             "patient": hunt.observe("patient", duel.output_by_muon)}
    for seen in found.values():
        assert abs(seen.similarity) < 0.1                            # acquits "seed"
        assert seen.steps[hunt.HIDDEN].min() > 0.3                   # acquits "half"
        assert seen.loss[0] == pytest.approx(math.log(2_048), abs=1e-2)
    flat, steep = (found[name].steps[hunt.OUTPUT].min() for name in ("patient", "healthy"))
    assert flat > 0.4 and steep < 0.5 * flat
    assert len(hunt.draw_findings(found).png) < 80_000


def test_groups_are_counted_once():
    config = PRESETS["nano"].model
    counts = pictures.group_counts(config)
    model = PicoLM(config)
    assert sum(numbers for _, _, numbers in counts.values()) == count_parameters(model)
    assert sum(t for _, t, _ in counts.values()) == len(list(model.parameters()))
    assert counts["attention gate"] == ("muon", 4, 4 * 4 * 32 * 32)
    assert counts["output layer"] == ("adamw", 1, 2_048 * 128)
    assert counts["attention out"][0] == "muon"


def test_the_stepper_shows_each_direction_at_its_own_place():
    matrix = spectrum.with_spectrum(torch.tensor([0.8, 0.6]), 3)     # its length is 1
    text = pictures.draw_stepper(matrix, 1, "classical cubic").text
    assert "6.0e-01 to 0.80 become" in text and "1 iteration in fp32" in text
    low, high = 1.5 * 0.6 - 0.5 * 0.6**3, 1.5 * 0.8 - 0.5 * 0.8**3
    assert f"{low:.1e} to {high:.2f}" in text and "0.0% away" in text
