"""What a training step of each defense costs, beside plain quantization-aware training and beside its bare parts."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from qpatchbench.component import create
from qpatchbench.defenses.base import Batch, Defense, Step, SwitchableNetwork
from qpatchbench.models.cifar import CifarModel
from qpatchbench.quantizers.qat import Qat
from qpatchbench.registry import DEFENSES
from qpatchbench.training.cost import Cost, measure_costs
from qpatchbench.training.loop import TrainingTask
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT, Bits, Losses, Patch, Targeted
from tests.bench.subject import CPU, Subject
from tests.bench.timing import Row

BATCH, SIDE, SIZE, CLASSES = 64, 32, 6, 10
FOUR = Bits.parse(4)
WIDTHS = tuple(map(Bits.parse, (32, 8, 5, 4, 2)))
# Guesmi, Ouni, Shafique 2026, TriQDef, table 17, CIFAR-10 and ResNet-56: time and memory relative to plain QAT.
PUBLISHED = {"dwq": (1.05, 1.02), "pbat": (1.52, 1.45), "triqdef": (1.47, 1.17)}


def costs(subject: Subject) -> list[Row]:
    """TriQDef beside its cross-entropies, QADT-R beside its bare passes, and every defense beside one-width `qat`."""
    return [*_triqdef(subject), *_qadtr(subject), *_registered(subject)]


def _triqdef(subject: Subject) -> list[Row]:
    """All five widths are active in both."""
    found = _measured(
        subject,
        {
            "all": _task(_defense("triqdef", bact=False)),
            "cross-entropies": _task(_defense("triqdef", bact=False, lambda_fdp=0, lambda_gpdp=0)),
        },
        "cross-entropies",
    )["all"]
    meaning = "full step / clean and patched cross-entropy at the same five widths"
    # Not like for like: with penalties the clean graphs are freed one by one, without them they wait for the end.
    freed = "only the full step frees its clean graphs early"
    return [
        Row("triqdef: time of its penalties", f"{found.relative_time:.2f} x", f"{meaning}; aim: at most 2.3"),
        Row(
            "triqdef: memory of its penalties", f"{found.relative_memory:.2f} x", f"the same; aim: at most 1.5; {freed}"
        ),
    ]


class _BarePasses(Defense):
    """The passes that QADT-R cannot avoid: input gradients of half a batch, in eval mode, and a training step.

    Without `update` the training step is as small as one can be.
    """

    steps: int
    update: bool

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """One term."""
        _, attacked = batch.halves()
        forward = network.at(step.bits[0])
        with network.evaluating():
            for _ in range(self.steps):
                inputs = attacked.images.detach().requires_grad_()
                torch.autograd.grad(functional.cross_entropy(forward(inputs), attacked.labels), inputs)
        size = BATCH if self.update else 1
        return {"clean": functional.cross_entropy(forward(batch.images[:size]), batch.labels[:size])}


def _qadtr(subject: Subject) -> list[Row]:
    """At one width, so that no step is cheaper than another by chance."""
    defense = _defense("qadtr")
    steps = defense.model_dump()["steps"]
    found = _measured(
        subject,
        {
            "qadtr": _task(defense, (FOUR,)),
            "passes": _task(_BarePasses(name="passes", steps=steps, update=True), (FOUR,)),
            "inner": _task(_BarePasses(name="inner", steps=steps, update=False), (FOUR,)),
        },
        "qadtr",
    )
    of_all, of_inner = (1 / found[name].relative_time for name in ("passes", "inner"))
    return [
        Row("qadtr / its bare passes", f"{of_all:.2f} x", f"{steps} inner steps and the update; aim: at most 1.10"),
        Row("qadtr / its inner steps alone", f"{of_inner:.2f} x", "the rest is the update, pasting and noise"),
    ]


def _registered(subject: Subject) -> list[Row]:
    """Defaults, five widths; where each width is a network of its own, the one of four bits."""
    defenses = {name: _defense(name) for name in DEFENSES.entries}
    tasks = {name: _task(defense) for name, defense in defenses.items()}
    reference = "qat at 4 bits"
    tasks = {reference: _task(_defense("qat", joint=False)), **tasks}
    found = _measured(subject, tasks, reference)
    return [
        Row(f"cost of {name}", f"{cost.relative_time:.2f} x", _read(name, tasks[name], cost))
        for name, cost in found.items()
    ]


def _read(name: str, task: TrainingTask, cost: Cost) -> str:
    parts = [
        f"memory {cost.relative_memory:.2f} x",
        f"{1000 * cost.step_seconds:.0f} ms, {cost.peak_bytes / 2**20:.0f} MiB per step of {BATCH}",
        f"at {cost.active_bits}",
        f"passes by its own account {task.defense.passes(task.bits) / 3:.1f} x",
    ]
    if name in PUBLISHED:
        parts.append("published: time {} x, memory {} x".format(*PUBLISHED[name]))
    return "; ".join(parts)


def _measured(subject: Subject, tasks: dict[str, TrainingTask], reference: str) -> dict[str, Cost]:
    splits = subject.splits
    return measure_costs(tasks, reference, splits.train, splits.calibration, device=CPU, steps=1, repeats=2)


def _task(defense: Defense, bits: tuple[Bits, ...] = WIDTHS) -> TrainingTask:
    if not defense.quantization_aware:
        bits = (FLOAT,)
    group = next((group for group in defense.bit_groups(bits) if FOUR in group), bits)
    return TrainingTask(
        build=lambda: CifarModel(name="resnet20").load(CLASSES, SIDE),
        defense=defense,
        quantizer=Qat(name="qat", bits=group) if defense.quantization_aware else None,
        bits=group,
        settings=TrainingSettings(batch_size=BATCH),
        initial=None,
        seed=0,
        pool=_noise() if defense.wants_pool else (),
    )


def _defense(name: str, **fields: Any) -> Defense:  # noqa: ANN401 (fields of a component)
    known = DEFENSES.get(name).model_fields
    size = {"size": SIZE} if "size" in known and known["size"].is_required() else {}
    made: Defense = create(DEFENSES, {"name": name, **size, **fields})
    return made


def _noise() -> tuple[Patch, ...]:
    """A pool of random textures: what they show does not change what they cost."""
    textures = torch.rand(CLASSES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return (Patch(textures, torch.ones(CLASSES, 1, SIZE, SIZE), tuple(map(Targeted, range(CLASSES)))),)
