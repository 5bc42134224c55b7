"""`ptq` beyond its plain form: ranges, rounding, biases and equalisation, against optima and an independent library."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from qpatchbench.ops.quantization.fake_quantization import code_range, max_scale
from qpatchbench.ops.quantization.ranges import CodeGrid, codes_from, covering_grid, least_squares_grid, squared_error
from qpatchbench.ops.quantization.rounding import (
    learn_rounding,
    matched_weights,
    output_error,
    refine_codes,
    round_sequentially,
    weighted_scale,
)
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.calibrated.equalisation import ChannelClip, equalize
from qpatchbench.quantizers.frozen.folding import fold_batch_norm
from qpatchbench.quantizers.frozen.network import frozen_layers
from qpatchbench.quantizers.inspection.audit_layers import audit
from qpatchbench.quantizers.ptq import BEST, Ptq
from qpatchbench.types import FLOAT, Bits

Build = Callable[[], nn.Module]
FOUR = Bits(4, 4)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def deployed(build: Build, images: torch.Tensor, bits: Bits = FOUR, **fields: Any) -> nn.Module:  # noqa: ANN401 (fields of any type)
    ptq = Ptq.model_validate({"name": "ptq", "bits": (bits,), **fields})
    return ptq.deploy(Checkpoint(build, build().state_dict(), None, (FLOAT,)), bits, images)


# ranges


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_covering_grid_has_zero_and_reaches_both_ends(bits: int) -> None:
    grid = covering_grid(torch.tensor(-0.3), torch.tensor(1.7), bits)
    assert grid.codes.qmax - grid.codes.qmin == 2**bits - 1
    assert grid.codes.qmin <= 0 <= grid.codes.qmax
    points = grid.scale * torch.arange(grid.codes.qmin, grid.codes.qmax + 1)
    assert float((points[0] + 0.3).abs()) <= float(grid.scale) / 2 + 1e-6
    assert float((points[-1] - 1.7).abs()) <= float(grid.scale) / 2 + 1e-6


@pytest.mark.parametrize("bits", [4, 8])
def test_asymmetric_rounding_is_that_of_torch(bits: int) -> None:
    values = torch.randn(2000, generator=seeded(0)) * 0.5 + 0.4
    grid = covering_grid(values.min(), values.max(), bits)
    from qpatchbench.ops.quantization.fake_quantization import fake_quantize

    ours = fake_quantize(values, grid.scale, *grid.codes)
    zero_point = -grid.codes.qmin
    theirs = torch.fake_quantize_per_tensor_affine(values, float(grid.scale), zero_point, 0, 2**bits - 1)
    assert torch.equal(ours, theirs)


def test_asymmetric_extremes_are_those_of_brevitas() -> None:
    brevitas = pytest.importorskip("brevitas.nn")
    from brevitas.quant.shifted_scaled_int import ShiftedUint8ActPerTensorFloat

    identity = brevitas.QuantIdentity(ShiftedUint8ActPerTensorFloat)
    values = torch.rand(64, 16, generator=seeded(1)) * 3 - 1
    identity.train()
    for _ in range(3):
        identity(values)
    identity.eval()
    grid = covering_grid(values.min(), values.max(), 8)
    assert float(identity.act_quant.scale()) == pytest.approx(float(grid.scale), rel=0.02)
    assert float(identity.act_quant.zero_point()) == pytest.approx(-grid.codes.qmin, abs=2)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.6, 3.0])
def test_least_squares_is_no_worse_than_any_grid_of_a_dense_search(shift: float) -> None:
    values = torch.randn(400, generator=seeded(3)) + shift
    found = squared_error(values, least_squares_grid(values, 3))
    top = float(values.abs().max())
    dense = min(
        squared_error(values, CodeGrid(torch.tensor(top * step / 300), codes_from(zero, 3)))
        for step in range(1, 301)
        for zero in range(8)
    )
    assert found <= dense * 1.02


# rounding


def problem(seed: int, groups: int = 1, rows: int = 3, size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(groups, size, 40, generator=seeded(seed), dtype=torch.float64)
    inputs = inputs + inputs.mean(1, keepdim=True) * 2  # inputs of a layer go together
    return torch.randn(groups, rows, size, generator=seeded(seed + 100), dtype=torch.float64), inputs @ inputs.mT / 40


@pytest.mark.parametrize("seed", range(5))
def test_rounding_approaches_the_optimum_of_all_codes(seed: int) -> None:
    weight, hessian = problem(seed)
    codes = code_range(2, signed=True)
    scale = max_scale(weight[0], codes.qmax, 0).view(1, -1, 1)
    choices = torch.tensor(list(itertools.product(range(-1, 2), repeat=5)), dtype=torch.float64)
    best = torch.stack(
        [output_error(choices[None] * scale[:, r : r + 1] - weight[:, r : r + 1], hessian).min() for r in range(3)]
    ).sum()

    def error(chosen: torch.Tensor) -> float:
        return float(output_error(chosen * scale - weight, hessian).sum())

    nearest = (weight / scale).round().clamp(*codes)
    refined = refine_codes(nearest, weight, hessian, scale, codes, 10)
    assert error(refined) <= error(nearest) + 1e-9
    sequential = round_sequentially(weight, hessian, scale, codes)
    polished = refine_codes(sequential, weight, hessian, scale, codes, 10)
    assert float(best) - 1e-9 <= error(polished) <= error(sequential) + 1e-9
    assert error(polished) <= error(nearest) + 1e-9
    learned = learn_rounding(weight, hessian, scale, codes, 400)
    # Up or down only, so that it may end above the optimum of all codes.
    assert error(learned) <= error(nearest) * 1.05
    assert bool(((learned * scale - weight).abs() <= scale * (1 + 1e-9)).all())


def test_rounding_is_to_nearest_where_inputs_do_not_go_together() -> None:
    weight, _ = problem(0, rows=6, size=8)
    codes = code_range(4, signed=True)
    scale = max_scale(weight[0], codes.qmax, 0).view(1, -1, 1)
    nearest = (weight / scale).round().clamp(*codes)
    hessian = torch.diag(torch.rand(8, generator=seeded(1), dtype=torch.float64) + 0.1)[None]
    assert torch.equal(round_sequentially(weight, hessian, scale, codes), nearest)
    assert torch.equal(learn_rounding(weight, hessian, scale, codes, 300), nearest)


def test_groups_are_independent() -> None:
    weight, hessian = problem(2, groups=4, rows=2)
    codes = code_range(3, signed=True)
    scale = weighted_scale(weight, hessian.diagonal(dim1=-2, dim2=-1), codes)
    nearest = (weight / scale).round().clamp(*codes)
    together = refine_codes(nearest, weight, hessian, scale, codes, 9)
    assert not torch.equal(together, nearest)
    for part in (slice(group, group + 1) for group in range(4)):
        alone = refine_codes(nearest[part], weight[part], hessian[part], scale[part], codes, 9)
        assert torch.equal(together[part], alone)


def test_matched_weights_solve_ridge_regression() -> None:
    exact = torch.randn(6, 500, generator=seeded(0), dtype=torch.float64)
    real = exact + 0.3 * torch.randn(6, 500, generator=seeded(1), dtype=torch.float64)
    weight = torch.randn(1, 4, 6, generator=seeded(2), dtype=torch.float64)
    matched, damped = matched_weights(weight, (real @ real.T / 500)[None], (exact @ real.T / 500)[None], 0.05)
    strength = float(damped[0, 0, 0] - (real @ real.T / 500)[0, 0])
    # Rows for the ridge behind rows of data, as any least-squares solver takes them.
    data = torch.cat([real.T / 500**0.5, strength**0.5 * torch.eye(6, dtype=torch.float64)])
    wanted = torch.cat([(weight[0] @ exact).T / 500**0.5, strength**0.5 * weight[0].T])
    assert torch.allclose(matched[0], torch.linalg.lstsq(data, wanted).solution.T, atol=1e-8)


def test_inputs_that_hardly_vary_are_rounded_too() -> None:
    """Their moments are rounding errors of either sign; a group beside them is solved as it is alone."""
    generator = torch.Generator().manual_seed(3)
    weight, noise = torch.randn(2, 4, 6, generator=generator), torch.randn(6, 6, generator=generator)
    inputs = torch.randn(6, 50, generator=generator)
    hessian = torch.stack([1e-7 * (noise + noise.T), inputs @ inputs.T / 50]).double()
    assert float(torch.linalg.eigvalsh(hessian[0]).min()) < 0
    matched, damped = matched_weights(weight.double(), hessian, hessian, 0.01)
    alone, own = matched_weights(weight[1:].double(), hessian[1:], hessian[1:], 0.01)
    assert torch.equal(damped[1:], own)
    assert torch.allclose(matched[1:], alone)
    assert float(torch.linalg.eigvalsh(damped[0]).min()) > 0
    scale = torch.full((2, 4, 1), 0.1, dtype=torch.float64)
    codes = code_range(4, signed=True)
    found = round_sequentially(weight.double(), damped, scale, codes)
    assert found.equal(found.round().clamp(*codes))


def test_the_scale_follows_the_weights_whose_inputs_vary() -> None:
    codes = code_range(3, signed=True)
    weight = torch.tensor([[[3.0, 0.4, -0.35, 0.2]]], dtype=torch.float64)
    loud = weighted_scale(weight, torch.tensor([[100.0, 1, 1, 1]], dtype=torch.float64), codes)
    quiet = weighted_scale(weight, torch.tensor([[1e-6, 1, 1, 1]], dtype=torch.float64), codes)
    assert float(loud) == pytest.approx(1.0, abs=0.05)  # the large weight is met
    assert float(quiet) < 0.3  # it is clipped


# networks


def test_the_plain_form_keeps_its_key() -> None:
    ptq = Ptq(name="ptq", bits=(FOUR,), label="x")
    assert ptq.identity() == {
        "class": "qpatchbench.quantizers.ptq:Ptq",
        "version": 1,
        "name": "ptq",
        "bits": [4],
        "calibration": "minmax",
        "percentile": 99.99,
        "batch_size": 64,
    }


def test_the_recipe_fills_fields_that_are_not_given() -> None:
    best = Ptq.model_validate({"name": "ptq", "bits": ["4"], "recipe": "best", "rounding": "nearest"})
    assert best.rounding == "nearest"
    assert all(getattr(best, name) == value for name, value in BEST.items() if name != "rounding")
    assert best.mode == "ptq-best"
    written_out = Ptq.model_validate({"name": "ptq", "bits": ["4"], **BEST, "rounding": "nearest"})
    assert best.identity() == written_out.identity() != Ptq(name="ptq", bits=(FOUR,)).identity()


def test_bias_correction_restores_the_mean_output(build: Build, images: torch.Tensor) -> None:
    expected = deployed(build, images, FLOAT)(images).mean(0)
    plain = (deployed(build, images)(images).mean(0) - expected).abs().max()
    corrected = (deployed(build, images, bias_correction=True)(images).mean(0) - expected).abs().max()
    assert float(corrected) <= 1e-5 < float(plain)


class Deep(nn.Module):
    """Thirty linear layers with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(48, 48) for _ in range(30)]
        self.layers = nn.ModuleList(layers)
        for layer in layers:
            nn.init.orthogonal_(layer.weight, gain=2**0.5)
            nn.init.normal_(layer.bias, std=0.05)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = images.flatten(1)
        for layer in self.layers:
            values = torch.relu(layer(values))
        return values


def deep() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Deep()


def test_biases_of_shrinking_weights_mend_the_own_error_of_each_layer() -> None:
    """b' = b + mean of (W - Q(W)) x over the inputs x of the float network, by hand; not over those that arrive."""
    images = torch.rand(64, 3, 4, 4, generator=seeded(1))
    fields: dict[str, Any] = {"bias_correction": True, "weight_scale": "mse", "fitting_images": 64}
    network, original = deployed(deep, images, Bits(4, 32), **fields), deep()
    values = images.flatten(1)
    with torch.no_grad():
        for name, exact in original.named_modules():
            if not isinstance(exact, nn.Linear):
                continue
            layer: Any = network.get_submodule(name)
            expected = exact.bias + ((exact.weight - layer.stored_weight) @ values.T).mean(1)
            torch.testing.assert_close(layer.bias, expected, rtol=1e-4, atol=1e-5)
            values = torch.relu(exact(values))


class Inverted(nn.Module):
    """1x1, ReLU6, depthwise, ReLU6, 1x1, with channels of very different range."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.act1, self.act2 = nn.ReLU6(), nn.ReLU6()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.expand.weight.mul_(torch.logspace(-2, 0.5, 8).view(-1, 1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.act2(self.depthwise(self.act1(self.norm(self.expand(images)))))
        outputs: torch.Tensor = self.project(hidden).mean((2, 3))
        return outputs


def inverted() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Inverted().eval()


def test_equalisation_changes_no_answer_and_evens_out_channels(images: torch.Tensor) -> None:
    network = inverted()
    fold_batch_norm(network, images[:2])
    seen: list[torch.Tensor] = []
    network.depthwise.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    expected = network(images)
    assert equalize(network, [images]) == 2
    assert isinstance(network.act1, ChannelClip)
    assert torch.allclose(network(images), expected, atol=1e-5)
    ranges = [inputs.amax((0, 2, 3)) for inputs in (seen[0], seen[-1])]
    alive = ranges[0] > 0
    assert float(ranges[0][alive].max() / ranges[0][alive].min()) > 10
    assert torch.allclose(ranges[1][alive], ranges[1].max().expand(int(alive.sum())), rtol=1e-4)


class Forked(nn.Module):
    """Between its layers, someone else reads the tensor too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.act(self.first(images))
        outputs: torch.Tensor = (self.second(hidden) + hidden).mean((2, 3))
        return outputs


def test_equalisation_leaves_a_tensor_alone_that_others_read(images: torch.Tensor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # others leave channels dead, and then nobody reads anything
        network = Forked().eval().requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert equalize(network, [images]) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "fields", [{"recipe": "best"}, {"recipe": "best", "rounding": "adaround", "rounding_steps": 30}]
)
def test_the_recipe_is_nearer_to_float_than_the_plain_form(images: torch.Tensor, fields: dict[str, Any]) -> None:
    expected = deployed(inverted, images, FLOAT)(images)
    plain, best = (deployed(inverted, images, **given) for given in ({}, fields))
    errors = [float((network(images) - expected).square().mean()) for network in (plain, best)]
    assert errors[1] < errors[0] / 2
    for row in audit(best, images):
        assert row.weight_levels is not None
        assert row.weight_levels <= 15
        assert row.activation_levels is None or row.activation_levels <= 16


def test_first_and_last_layer_at_eight_bits_or_float(build: Build, images: torch.Tensor) -> None:
    for kind, bits in (("eight", 8), ("float", 32)):
        rows = audit(deployed(build, images, first_last=kind), images)
        assert [row.weight_bits for row in rows] == [bits, 4, bits]
        assert [row.activation_bits for row in rows] == [8, 4, bits]


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "mse"])
def test_asymmetric_activations_have_an_integer_zero_point(images: torch.Tensor, calibration: str) -> None:
    class Signed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.second(nn.functional.gelu(self.first(inputs) * 5)).mean((2, 3))
            return outputs

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = Signed().state_dict()

    def made() -> nn.Module:
        network = Signed()
        network.load_state_dict(state)
        return network

    network = deployed(made, images, calibration=calibration, asymmetric=True)
    quantizer = dict(frozen_layers(network))["second"].activation_quantizer
    assert quantizer.codes is not None
    assert quantizer.codes.qmax - quantizer.codes.qmin == 15
    assert 0 < -quantizer.codes.qmin < 8
    assert float(quantizer(torch.zeros(1))) == 0
