"""What the full checks find on honest attacks and networks, and on dishonest ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import pytest
import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.attacks.dpr import Dpr
from qpatchbench.attacks.gap import Gap
from qpatchbench.attacks.lavan import Lavan, LavanPerImage
from qpatchbench.attacks.patch_apgd import PatchApgd
from qpatchbench.attacks.pixel.pgd import Pgd
from qpatchbench.errors import AttackError
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.dynamic import Dynamic
from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.runs.records import Check
from qpatchbench.suite.file.load import load_with_source
from qpatchbench.suite.jobs.audit import AUDITED_IMAGES, AuditJob
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.plan.fingerprints import weights_keys
from qpatchbench.suite.plan.plan import Plan, make_plan
from qpatchbench.suite.store.store import Store
from qpatchbench.suite.work.audit import audit_check
from qpatchbench.suite.work.workbench import Workbench, loaded_data_keys
from qpatchbench.suite.work.worker import BenchWorker
from qpatchbench.types import Bits, CraftTask, Patch, Size, silent

SUITE = """\
suite: audits
dataset: {name: fake, image_size: 8, classes: 4, noise: 0.3, train_pool: 320, test_pool: 72,
          calibration_images: 16, craft_images: 64}
models: [resnet20]
training: {epochs: 3, batch_size: 32, learning_rate: 0.05, augmentation: none}
defenses: [none]
quantizers: [{name: dynamic, bits: [4]}]
attacks: [{name: lavan, size: 2, targets: [1, 2], steps: 40, batch_size: 16}]
transfer: {sources: [same]}
evaluation: {images: 72, checks: full}
"""
Audit = Callable[..., Check]


class IgnoresSteps(Lavan):
    """Stops after two steps, whatever it is told."""

    def craft(self, task: CraftTask) -> Patch:
        return Lavan(**{**self.model_dump(), "steps": 2}).craft(task)


class WorseWhenLarger(LavanPerImage):
    """Shows nothing of a patch of six pixels, and a grey one in place of the whole image."""

    def craft(self, task: CraftTask) -> Patch:
        patch = super().craft(task)
        if patch.height == 6:
            return dataclasses.replace(patch, masks=torch.zeros_like(patch.masks))
        grey = torch.full_like(patch.textures, 0.5)
        return dataclasses.replace(patch, textures=grey) if patch.height == 8 else patch


class HatesLargePatches(LavanPerImage):
    """Refuses what is larger than two pixels."""

    def craft(self, task: CraftTask) -> Patch:
        if self.size.side(task.images.side) > 2:
            raise AttackError("expected a patch of at most 2 pixels")
        return super().craft(task)


class KillsGradients(Dynamic):
    """Answers as `dynamic` does; no gradient passes its activations."""

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> torch.nn.Module:
        network = super().deploy(checkpoint, bits, calibration)
        for part in network.modules():
            if isinstance(part, FrozenActivation):
                part.register_forward_hook(lambda module, inputs, output: output.detach() + 0 * inputs[0])
        return network


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench whose store holds a network trained for a moment."""
    folder = tmp_path_factory.mktemp("audits")
    (folder / "audits.yaml").write_text(SUITE)
    suite, _ = load_with_source(folder / "audits.yaml")
    return Workbench(suite, Store(folder / "cache"), folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def plan(bench: Workbench) -> Plan:
    _, source = load_with_source(bench.store.root.parent / "audits.yaml")
    return make_plan(bench.suite, loaded_data_keys(bench, source), weights_keys(bench.suite, source))


def work(bench: Workbench, job: Job) -> None:
    """Do a job after all that it needs."""
    if not bench.store.has(job.kind, job.key):
        for earlier in job.upstream:
            work(bench, earlier)
        bench.store.write(job.kind, job.key, BenchWorker(bench).work(job, silent))


@pytest.fixture(scope="module")
def audit(bench: Workbench, plan: Plan) -> Audit:
    """V11, V12 or V14 of an attack on the small network, as deployed by `quantizer`."""
    cell = plan.audits[0].cell

    def audited(
        attack: Attack, kind: Literal["ladder", "gradients", "second"], quantizer: type[Dynamic] = Dynamic
    ) -> Check:
        target = dataclasses.replace(cell.target, quantizer=quantizer(name="dynamic", bits=(Bits(4, 4),)))
        patch = dataclasses.replace(cell.patch, attack=attack, goals=attack.goals(4), sources=(target,))
        job = AuditJob(dataclasses.replace(cell, patch=patch, target=target), kind)
        work(bench, job)
        return audit_check(job, bench.store.read(job.kind, job.key))

    return audited


def per_image(kind: type[Attack], **fields: object) -> Attack:
    return kind.model_validate({"name": "per_image", "size": 2, "targets": "untargeted", **fields})


@pytest.mark.numerical
@pytest.mark.parametrize(
    "attack",
    [
        Lavan(name="lavan", size=Size(2), targets=(1, 2), steps=40, batch_size=16),
        per_image(PatchApgd, steps=8, restarts=2),
        per_image(LavanPerImage, steps=8),
        per_image(Dpr, steps=4, texture_steps=4, restarts=2),
        Pgd(name="pgd", steps=4),
    ],
)
def test_honest_attacks_use_their_budget(audit: Audit, attack: Attack) -> None:
    check = audit(attack, "ladder")
    assert (check.id, check.verdict) == ("V11", "pass"), check
    assert check.figures["eligible"] >= 50, "else the network learned nothing, and nothing was tested"
    assert ("whole image" in check.figures) == (attack.covers == "square")


def test_an_attack_that_ignores_its_steps_is_caught(audit: Audit) -> None:
    check = audit(IgnoresSteps(name="decoy", size=Size(2), targets=(1, 2), steps=40, batch_size=16), "ladder")
    assert check.verdict == "fail"
    assert "10 of 40 steps give the very same patch" in check.message


@pytest.mark.numerical
def test_a_larger_patch_that_is_weaker_is_caught(audit: Audit) -> None:
    """Over six seeds the smaller patch fooled 24 images or more, the larger none; 6 and none are not told apart."""
    check = audit(per_image(WorseWhenLarger, size=3, steps=8), "ladder")
    assert check.verdict == "fail"
    assert "6x6 pixels instead of 3x3 fool fewer" in check.message
    assert "a patch of the whole image fools" in check.message


def test_an_attack_that_refuses_a_size_is_told(audit: Audit) -> None:
    check = audit(per_image(HatesLargePatches, steps=8), "ladder")
    assert check.verdict == "warn"
    assert "4x4 pixels instead of 2x2: expected a patch of at most 2 pixels" in check.message


def test_honest_networks_have_no_better_gradient(audit: Audit) -> None:
    for attack in (per_image(PatchApgd, steps=8, restarts=1), per_image(LavanPerImage, steps=8)):
        check = audit(attack, "gradients")
        assert (check.id, check.verdict) == ("V12", "pass"), check
        assert set(check.figures) == {"network", "float", "scales", "identity", "eligible"}


@pytest.mark.numerical
def test_a_network_that_kills_gradients_is_caught(audit: Audit) -> None:
    attack = per_image(LavanPerImage, size=4, steps=8)
    check = audit(attack, "gradients", KillsGradients)
    assert check.verdict == "warn"
    assert "following network, as here" in check.message
    assert max(check.figures["float"], check.figures["identity"]) > 2 * check.figures["network"]
    ladder = audit(attack, "ladder", KillsGradients)
    assert ladder.verdict == "fail"
    assert "the gradient is zero" in ladder.message
    follows = audit(attack.model_copy(update={"backward": "float"}), "gradients", KillsGradients)
    assert follows.figures["network"] == check.figures["network"]


class Backwards(Lavan):
    """Steers away from the target: a sign error."""

    second: ClassVar[str] = Lavan.second

    def objective(self, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -super().objective(logits, labels, targets)


class NamesWeakSecond(Lavan):
    """Compares itself with a class that has a sign error."""

    second: ClassVar[str] = f"{__name__}:Backwards"


def universal(kind: type[Attack], **fields: object) -> Attack:
    named = {"name": "lavan", "size": 6, "targets": [1, 2], "steps": 60, "batch_size": 16}
    return kind.model_validate({**named, **fields})


@pytest.mark.parametrize("kind", [Lavan, Gap])
def test_second_implementations_agree_with_honest_attacks(audit: Audit, kind: type[Attack]) -> None:
    check = audit(universal(kind), "second")
    assert (check.id, check.verdict) == ("V14", "pass"), check
    assert check.figures["eligible"] >= 50
    assert min(check.figures["own"], check.figures["second"]) > 0.5 * check.figures["eligible"], "else all is noise"


def test_a_sign_error_is_caught_by_the_second_implementation(audit: Audit) -> None:
    check = audit(universal(Backwards), "second")
    assert check.verdict == "fail"
    assert "a second implementation reaches the goal on" in check.message
    assert audit(universal(NamesWeakSecond), "second").verdict == "warn", "nothing confirms the row"


def test_a_rotated_patch_has_no_second_implementation(audit: Audit) -> None:
    check = audit(universal(Gap, rotation=10, steps=2), "second")
    assert check.verdict == "not-run"
    assert "expected rotation 0" in check.message


def test_an_attack_may_follow_the_scales_of_dynamic_quantization(audit: Audit) -> None:
    attack = per_image(LavanPerImage, steps=8, backward="scales")
    check = audit(attack, "gradients")
    assert set(check.figures) == {"scales", "float", "network", "identity", "eligible"}


def test_an_audit_leaves_the_network_as_it_was(bench: Workbench, plan: Plan, audit: Audit) -> None:
    network, images = bench.network(plan.audits[0].cell.target), torch.rand(2, 3, 8, 8, requires_grad=True)
    before = torch.autograd.grad(network(images).sum(), images)[0]
    audit(per_image(PatchApgd, steps=2, restarts=1), "gradients")
    assert torch.equal(torch.autograd.grad(network(images).sum(), images)[0], before)
    assert not any(part._forward_hooks for part in network.modules())


def test_the_cells_own_patch_counts_as_in_its_cell(bench: Workbench, plan: Plan, audit: Audit) -> None:
    job = next(job for job in plan.audits if job.question == "ladder")
    work(bench, job)
    kept = bench.store.read(job.kind, job.key).arrays
    assert (kept["own"] == bench.store.read("evaluate", job.cell.key).arrays["predictions"][:, :AUDITED_IMAGES]).all()
    assert kept["own"].shape == (2, 72)
    assert kept["labels"].shape == kept["clean"].shape == (72,)
