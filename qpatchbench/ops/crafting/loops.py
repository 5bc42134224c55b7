"""The two loops that gradient attacks share: one patch for all images, and one patch per image.

Both keep the best iterate, never simply the last. For one image that is success first and loss second. A universal
patch is judged by its mean loss on crafting images held out for that: on so few images a success rate is too coarse,
and while a patch hardly ever succeeds it would pick by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.compilation import compiled
from qpatchbench.ops.crafting.losses import goal_classes, succeeded
from qpatchbench.ops.finiteness import FiniteSteps
from qpatchbench.ops.patches.pasting import paste, to_float
from qpatchbench.ops.randomness import forked
from qpatchbench.types import CraftTask, ImageSet, Network, Patch, Placement, Stage

# (logits (B, K), labels (B,), targets (B,) with -1 for untargeted) -> (B,), minimised by the attacker.
Objective: TypeAlias = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]
# (count, generator) -> that many placements; the distribution a universal patch is optimised over.
Placer: TypeAlias = Callable[[int, "torch.Generator"], Placement]
# (textures, gradient) -> new textures, before clamping to [0, 1].
Update: TypeAlias = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
# Mean losses of every network and goal (networks, G) -> (G,), what each goal's patch is to minimise.
Weighting: TypeAlias = Callable[["torch.Tensor"], "torch.Tensor"]

CHECKPOINTS = 10  # how often a universal patch is judged on held-out crafting images, and progress is read
GREY = 0.5  # from noise on, few steps reach less: much of it is still there at the end
STEADY = 0.75  # share of the steps before their size falls
HELD_OUT = 8  # one crafting image in so many is held out for that, at most MOST_HELD_OUT
MOST_HELD_OUT = 128
PER_IMAGE_BATCH = 256
PER_IMAGE_PIXELS = 2**21  # of larger images fewer, 41 of 224 pixels: what the network remembers of them takes memory


class Crafted(NamedTuple):
    """Textures (P, 3, h, w) in [0, 1] and the mean loss of each recorded step."""

    textures: torch.Tensor
    history: tuple[float, ...]


def mean_of_networks(losses: torch.Tensor) -> torch.Tensor:
    """The mean over networks: (networks, G) -> (G,)."""
    return losses.mean(dim=0)


class _Score(NamedTuple):
    """Rates of success and of wrong predictions, and mean loss, per texture; (P,) each."""

    success: torch.Tensor
    loss: torch.Tensor
    fooled: torch.Tensor

    def better_than(self, other: _Score) -> torch.Tensor:
        return (self.success > other.success) | ((self.success == other.success) & (self.loss < other.loss))


def universal_patches(
    task: CraftTask,
    *,
    side: int,
    objective: Objective,
    placer: Placer,
    steps: int,
    step_size: float,
    batch_size: int,
    half: bool = False,
    fused: bool = False,
    weighting: Weighting = mean_of_networks,
) -> Crafted:
    """Adam over random images and placements, from grey on; the patches of all goals in one batch.

    Each step draws `batch_size` images, pastes every goal's patch on all of them at fresh placements and takes
    one step per patch. A goal's gradient depends on its own patch only, so crafting ten goals together gives
    what ten separate runs with these draws would. With `half`, steps (not the judging) run under bfloat16 autocast;
    with `fused`, on compiled networks.

    Raises:
        AttackError: a network's output is not finite.
    """
    images, generator = task.crafting, task.generator
    device = images.pixels.device
    count, goal_count = len(images), len(task.goals)
    held_out = min(MOST_HELD_OUT, count // HELD_OUT)
    judge = HeldOutJudge(task, images[count - held_out :] if held_out else images, objective, placer, weighting)
    pool = images[: count - held_out]
    networks = tuple(map(compiled, task.networks)) if fused else task.networks
    targets = goal_classes(task.goals).to(device).repeat_interleave(batch_size)
    textures = torch.full((goal_count, 3, side, side), GREY, device=device, requires_grad=True)
    masks = torch.ones(1, 1, side, side, device=device)
    optimizer = torch.optim.Adam([textures], lr=step_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step_share(step, steps))
    best, best_score = textures.detach().clone(), judge(textures.detach())
    draws = _drawn_steps(steps, len(pool), batch_size, goal_count, placer, generator, device)
    totals, finite, figures = list[torch.Tensor](), FiniteSteps(), dict[str, float]()
    for step, (chosen, placement) in enumerate(draws):
        batch = to_float(pool.pixels[chosen]).repeat(goal_count, 1, 1, 1)
        labels = pool.labels[chosen].repeat(goal_count)
        pasted = paste(batch, textures.repeat_interleave(batch_size, 0), masks, placement)
        losses = []
        for network in networks:
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                logits = network(pasted)
            loss = objective(logits.float(), labels, targets)
            losses.append(loss.view(goal_count, batch_size).mean(dim=1))
        total = weighting(torch.stack(losses)).sum()
        totals.append(total.detach())
        finite.note(total, step)
        (textures.grad,) = torch.autograd.grad(total, textures)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            textures.clamp_(0, 1)
        if (step + 1) % max(1, steps // CHECKPOINTS) == 0 or step + 1 == steps:
            if (failed := finite.first_failure()) is not None:
                raise AttackError(f"the loss became {float(totals[failed])} at step {failed} of {steps}: not finite")
            score = judge(textures.detach())
            keep = score.loss < best_score.loss
            best = torch.where(keep.view(-1, 1, 1, 1), textures.detach(), best)
            best_score = _Score(*(torch.where(keep, new, old) for new, old in zip(score, best_score, strict=True)))
            figures = {"loss": float(total.detach()) / goal_count, **_rates(task, best_score)}
        task.progress((step + 1) / steps, figures)
    return Crafted(best, tuple(total / goal_count for total in torch.stack(totals).tolist()))


def _drawn_steps(
    steps: int,
    images: int,
    batch_size: int,
    goals: int,
    placer: Placer,
    generator: torch.Generator,
    device: torch.device,
) -> Iterator[tuple[torch.Tensor, Placement]]:
    """Images and places of every step, drawn step after step, but moved to the device all at once."""
    order = _endless_order(images, generator)
    drawn = [
        (torch.tensor([next(order) for _ in range(batch_size)]), placer(goals * batch_size, generator))
        for _ in range(steps)
    ]
    chosen = torch.stack([own for own, _ in drawn]).to(device)
    places = Placement.concatenated([own for _, own in drawn]).to(device)
    for step in range(steps):
        yield chosen[step], places[step * goals * batch_size : (step + 1) * goals * batch_size]


def step_share(step: int, steps: int) -> float:
    """Share of the step size after some steps: all of it for three quarters of them, then falling to a tenth.

    In few steps a patch must go a long way. With 4,096 images for each of ten target classes, from noise on, a cosine
    from the first step on came to 92 % of a plain loop of constant size from grey on, this to 96 %, and from grey on to
    103 % (mean ASR over three seeds).
    """
    return 1.0 if step < STEADY * steps else 1 - 0.9 * (step - STEADY * steps) / ((1 - STEADY) * steps)


def _rates(task: CraftTask, score: _Score) -> dict[str, float]:
    """For displays: `asr`, of all images judged, and the rate at which the goals are reached."""
    return {"asr": 100 * float(score.fooled.mean()), task.success_name: 100 * float(score.success.mean())}


class HeldOutJudge:
    """Scores patches on held-out crafting images at placements drawn once."""

    def __init__(
        self, task: CraftTask, images: ImageSet, objective: Objective, placer: Placer, weighting: Weighting
    ) -> None:
        self.networks, self.objective, self.weighting = task.networks, objective, weighting
        self.pixels, self.labels = images.pixels, images.labels
        self.targets = goal_classes(task.goals).to(images.pixels.device)
        self.placement = placer(len(images), task.generator)

    def __call__(self, textures: torch.Tensor) -> _Score:
        """Success and loss of one texture for every goal, (G, 3, h, w) in [0, 1]."""
        scores = [self._on(network, textures) for network in self.networks]
        loss = self.weighting(torch.stack([score.loss for score in scores]))
        success, fooled = (torch.stack([score[place] for score in scores]).mean(dim=0) for place in (0, 2))
        return _Score(success, loss, fooled)

    def _on(self, network: Network, textures: torch.Tensor) -> _Score:
        rates, loss = [], []
        images, masks = to_float(self.pixels), torch.ones_like(textures[:1, :1])
        for texture, target in zip(textures, self.targets, strict=True):
            targets = target.expand(len(images))
            with torch.no_grad():
                logits = network(paste(images, texture[None], masks, self.placement))
            # An image of the target class is no evidence for a targeted patch.
            counted = (self.labels != target).float()
            won = torch.stack([succeeded(logits, self.labels, targets), logits.argmax(dim=1) != self.labels])
            rates.append((won * counted).sum(dim=1) / counted.sum().clamp(min=1))
            loss.append(self.objective(logits, self.labels, targets).mean())
        losses = torch.stack(loss)
        odd = losses[~torch.isfinite(losses)]
        if len(odd):  # no comparison with NaN holds, so the first iterate would silently remain the best
            raise AttackError(f"the loss is {float(odd[0])} on held-out crafting images: not finite")
        return _Score(torch.stack(rates)[:, 0], losses, torch.stack(rates)[:, 1])


def _endless_order(count: int, generator: torch.Generator) -> Iterator[int]:
    """Every index once in random order, then again."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def goal_by_goal(task: CraftTask, craft_one: Callable[[CraftTask], Patch]) -> Patch:
    """One patch from a per-image attack that works on one goal at a time; `craft_one` gets one goal per task."""
    count = len(task.goals)
    # A generator per goal, so that what one goal draws does not depend on how many images another drew for.
    generators = [forked(task.generator) for _ in task.goals]
    return joined(
        [
            craft_one(task.part(index, count, goals=(goal,), generator=generator))
            for index, (goal, generator) in enumerate(zip(task.goals, generators, strict=True))
        ]
    )


def joined(parts: Sequence[Patch]) -> Patch:
    """Patches of one goal each as one patch of all goals; `history` is the mean over goals."""
    stages = [
        Stage(same[0].attack, same[0].access, sum(s.attacked for s in same), sum(s.broken for s in same))
        for same in zip(*(part.stages for part in parts), strict=True)
    ]
    places, queries = [part.placement for part in parts], [part.queries for part in parts]
    attacked = [part.attacked for part in parts]
    return Patch(
        torch.cat([part.textures for part in parts]),
        torch.cat([part.masks for part in parts]),
        tuple(goal for part in parts for goal in part.goals),
        tuple(sum(losses) / len(parts) for losses in zip(*(part.history for part in parts), strict=True)),
        placement=Placement.concatenated([place for place in places if place is not None]) if places[0] else None,
        queries=torch.cat([each for each in queries if each is not None]) if queries[0] is not None else None,
        stages=tuple(stages),
        attacked=torch.cat([each for each in attacked if each is not None]) if attacked[0] is not None else None,
    )


def per_image_patches(task: CraftTask, *, side: int, objective: Objective, update: Update, steps: int) -> Patch:
    """One patch for each attacked image at its given placement, goal after goal.

    The gradient of an image's loss is taken by itself (sum, not mean), so results do not depend on how images
    are batched.

    Raises:
        AttackError: the network's output is not finite.
    """
    return goal_by_goal(task, lambda one: _for_one_goal(one, side, objective, update, steps))


def images_at_once(side: int) -> int:
    """How many images of `side` pixels a per-image attack shows to the network at once; does not change results."""
    return max(1, min(PER_IMAGE_BATCH, PER_IMAGE_PIXELS // side**2))


def image_parts(count: int, side: int) -> Iterator[slice]:
    """`count` images of `side` pixels, as many at a time as `images_at_once` says."""
    size = images_at_once(side)
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def _for_one_goal(task: CraftTask, side: int, objective: Objective, update: Update, steps: int) -> Patch:
    images, placement = task.require_places()
    start = torch.rand(len(images), 3, side, side, generator=task.generator).to(images.pixels.device)
    targets = goal_classes(task.goals).to(images.pixels.device)
    parts: list[torch.Tensor] = []
    history = [0.0] * steps
    for part in image_parts(len(images), images.side):
        pixels, labels = to_float(images.pixels[part]), images.labels[part]
        textures, masks = start[part], torch.ones_like(start[:1, :1])
        none = torch.zeros(len(labels), device=labels.device)
        best, best_score = textures, _Score(none, none + torch.inf, none)
        finite, figures, places = FiniteSteps(), dict[str, float](), placement[part].to(labels.device)
        sums = list[torch.Tensor]()
        for step in range(steps + 1):
            current = textures.clone().requires_grad_()
            logits = task.network(paste(pixels, current, masks, places))
            loss = objective(logits, labels, targets.expand(len(labels)))
            finite.note(loss, step)
            hits = succeeded(logits, labels, targets.expand(len(labels)))
            score = _Score(hits.float(), loss.detach(), (logits.argmax(dim=1) != labels).float())
            keep = score.better_than(best_score)
            best = torch.where(keep.view(-1, 1, 1, 1), textures, best)
            best_score = _Score(*(torch.where(keep, new, old) for new, old in zip(score, best_score, strict=True)))
            if step == steps:
                break
            (gradient,) = torch.autograd.grad(loss.sum(), current)
            textures = update(textures, gradient).clamp(0, 1)
            sums.append(loss.detach().sum())
            if step % max(1, steps // CHECKPOINTS) == 0 or step + 1 == steps:
                figures = {"loss": float(loss.detach().mean()), **_rates(task, best_score)}
            task.progress((part.start + (step + 1) / steps * len(labels)) / len(images), figures)
        if (failed := finite.first_failure()) is not None:
            raise AttackError(f"the loss is not finite at step {failed} of {steps}")
        means = (torch.stack(sums) if sums else torch.empty(0)).tolist()
        history = [known + of_part / len(images) for known, of_part in zip(history, means, strict=True)]
        parts.append(best)
    textures = torch.cat(parts)
    return Patch(textures, torch.ones_like(textures[:, :1]), task.goals, tuple(history))
