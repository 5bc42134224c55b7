"""The work of a `CraftJob`: patches from their source networks, vetted, in the form in which they are stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from qpatchbench.errors import AttackError
from qpatchbench.evaluation.checks import artifacts
from qpatchbench.ops.crafting.bpda import with_gradient_of
from qpatchbench.ops.crafting.score_access import Scores
from qpatchbench.ops.passes import Passes, counted_passes
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import to_float, to_uint8
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.quantizers.frozen.surrogate_gradients import with_scale_gradients
from qpatchbench.runs.patch_file import StoredPatch
from qpatchbench.runs.records import Check
from qpatchbench.suite.guards.returned_patch import require_patch
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob, float_deployment
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.work.workbench import Workbench
from qpatchbench.types import CraftTask, ImageSet, Network, Patch, Progress, Randomized, Stage, parse_goal

CHECKED_IMAGES = 64  # images on which a patch is vetted
ROUNDED_IMAGES = 256  # images on which 8-bit rounding is tried


def crafted(bench: Workbench, job: CraftJob, progress: Progress) -> Artifact:
    """The patches of a job, and what the checks found.

    Raises:
        AttackError: the attack gave up, or its patches are not finite.
    """
    if not job.sources:
        return _control(bench, job)
    model = job.sources[0].checkpoint.model
    # One that draws at random starts from the job alone, whatever it answered before.
    modules = [bench.answering(source, "craft", job.key) for source in (*job.sources, *job.siblings)]
    before = [artifacts.state_hash(module.state_dict()) for module in modules]
    attacked = bench.evaluation_images(model) if job.attack.kind == "per_image" else None
    with counted_passes(_asked(bench, job)) as passes:
        patch = patch_of(bench, job, attacked, progress)
    found: list[Check] = []
    if bench.suite.evaluation.checks != "off":
        after = [artifacts.state_hash(module.state_dict()) for module in modules]
        found.append(artifacts.state_is_unchanged("".join(before), "".join(after)))
        learnt = bench.splits(model).craft.to(bench.device)
        found += vetted(bench, job, attacked if attacked is not None else learnt, patch)
        found.append(artifacts.storage_is_faithful(patch.textures, to_uint8(patch.textures)))
    facts = {"history": list(patch.history), "checks": [check.model_dump() for check in artifacts.merged(found)]}
    return _artifact(patch, facts, passes)


def patch_of(bench: Workbench, job: CraftJob, attacked: ImageSet | None, progress: Progress) -> Patch:
    """What the attack of a job returns, on the CPU.

    Args:
        bench: where images and networks are.
        job: one with sources.
        attacked: the first evaluation images, for a per-image attack; else None.
        progress: told how far it is.

    Raises:
        AttackError: the attack gave up, or its patches are not finite.
    """
    patch = job.attack.craft(craft_task(bench, job, attacked, progress))
    whole = bench.suite.dataset.side
    count = len(job.goals) * (1 if attacked is None else len(attacked))
    require_patch(job.title, patch, job.goals, count, job.side, whole)
    return _on_cpu(patch)


def craft_task(bench: Workbench, job: CraftJob, attacked: ImageSet | None, progress: Progress) -> CraftTask:
    """What the attack of a job is given; see `patch_of`."""
    model = job.sources[0].checkpoint.model
    seen = [_as_seen(bench, job, source) for source in (*job.sources, *job.siblings)]
    crafting = bench.splits(model).craft.to(bench.device)
    placement = None
    if attacked is not None:
        placement = bench.placement(bench.evaluation_images(model), job.side)[: len(attacked)]
    return CraftTask(
        networks=tuple(seen[: len(job.sources)]),
        goals=job.goals,
        crafting=crafting if job.attack.learns else crafting[:0],
        generator=derive_generator(job.seed, "craft", job.attack.name),
        siblings=tuple(seen[len(job.sources) :]),
        attacked=attacked,
        placement=placement,
        progress=progress,
    )


def _as_seen(bench: Workbench, job: CraftJob, source: DeployJob) -> Network:
    """The network as the attack may see it: with its own gradient, its float sibling's, or none."""
    network = bench.network(source)
    if job.attack.access == "scores":
        return Scores(network)
    shadow = _float_sibling(bench, source) if job.attack.follows_float else None
    # A vote or a random draw has no useful gradient; its expectation has.
    followed: Network = getattr(network, "expected", network)
    if job.attack.follows_scales:
        return with_scale_gradients(network, followed)
    return with_gradient_of(followed, shadow) if shadow is not None else followed


def _asked(bench: Workbench, job: CraftJob) -> Iterator[torch.nn.Module]:
    """The modules that answer while a job's patch is crafted."""
    for source in (*job.sources, *job.siblings):
        network = bench.network(source)
        followed = getattr(network, "expected", network) if job.attack.access != "scores" else network
        yield followed if isinstance(followed, torch.nn.Module) else network
        shadow = _float_sibling(bench, source) if job.attack.follows_float else None
        if isinstance(shadow, torch.nn.Module):
            yield shadow


def _control(bench: Workbench, job: CraftJob) -> Artifact:
    side = bench.suite.dataset.side
    nothing = ImageSet(torch.empty(0, 3, side, side, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), ())
    generator = derive_generator(job.seed, "craft", job.attack.name)
    patch = job.attack.craft(CraftTask((_no_network,), job.goals, nothing, generator))
    require_patch(job.title, patch, job.goals, len(job.goals), job.side, side)
    checked = bench.suite.evaluation.checks != "off"
    found = [artifacts.patch_is_valid(patch, job.side, 0, 0)] if checked else []
    return _artifact(patch, {"history": [], "checks": [check.model_dump() for check in found]}, Passes())


def vetted(bench: Workbench, job: CraftJob, images: ImageSet, patch: Patch) -> list[Check]:
    """V1 and V3 on a few images, with the first goal's patch at the suite's placements, on the first source."""
    images, network = images[:ROUNDED_IMAGES], _steady(bench.network(job.sources[0]))
    own = patch.for_goal(0)
    placement = bench.placement(images, job.side) if own.placement is None else own.placement[: len(images)]
    few, places = images[:CHECKED_IMAGES], placement[:CHECKED_IMAGES]
    found = [
        artifacts.patch_is_valid(patch, job.side, *artifacts.rounding_flips(network, images, own, placement)),
        artifacts.outside_is_untouched(to_float(few.pixels).cpu(), own, places),
    ]
    if job.attack.access == "gradient":
        reference = None
        if not job.sources[0].bits.is_float:
            float_path = _float_sibling(bench, job.sources[0])
            reference = artifacts.patch_gradients(float_path, few, own, places) if float_path else None
        # Of the gradient that the attack followed: one that a stand-in replaced is known to be useless.
        followed = _as_seen(bench, job, job.sources[0])
        found.append(artifacts.gradients_are_useful(artifacts.patch_gradients(followed, few, own, places), reference))
    model = job.sources[0].checkpoint.model
    if model.ready is not None:
        found += artifacts.nothing_to_follow(model.title)
    elif patch.stages:
        found.append(artifacts.scores_find_nothing_more(patch.stages))
    return found


def _steady(network: torch.nn.Module) -> Network:
    """The network, or what it answers on average: else its draws would change predictions, not only the patch."""
    return network.expected if isinstance(network, Randomized) else network


def _float_sibling(bench: Workbench, job: DeployJob) -> torch.nn.Module | None:
    """The 32-bit path of the same weights, where there is one."""
    sibling = float_deployment(job)
    if sibling is None:
        return None
    network = bench.network(sibling)
    return getattr(network, "expected", network)


def patch_from(artifact: Artifact) -> Patch:
    """Textures exactly as they were stored, in 8 bits."""
    stored = {name: torch.from_numpy(array) for name, array in artifact.arrays.items()}
    placement = None
    if "rows" in stored:
        placement = upright(stored["rows"], stored["columns"])
    return Patch(
        to_float(stored["textures"]),
        stored["masks"].float(),
        tuple(parse_goal(goal) for goal in json.loads(str(artifact.facts["goals"]))),
        tuple(artifact.facts["history"]),
        placement=placement,
        queries=stored.get("queries"),
        attacked=stored["attacked"].bool() if "attacked" in stored else None,
        stages=tuple(Stage(**stage) for stage in artifact.facts["stages"]),
    )


def stored_patch(stored: StoredPatch) -> Patch:
    """The patch of a run folder's file; what its stages did stands in the store only."""
    places = {} if stored.places is None else dict(zip(("rows", "columns"), stored.places, strict=True))
    others = {name: getattr(stored, name) for name in ("queries", "attacked") if getattr(stored, name) is not None}
    arrays = {"textures": stored.textures, "masks": stored.masks, **places, **others}
    facts = {"goals": json.dumps(stored.goals), "history": stored.history.tolist(), "stages": []}
    return patch_from(Artifact(arrays, facts))


def _artifact(patch: Patch, facts: dict[str, Any], passes: Passes) -> Artifact:
    arrays = {"textures": to_uint8(patch.textures).numpy(), "masks": patch.masks.to(torch.uint8).numpy()}
    if patch.placement is not None:
        arrays |= {"rows": patch.placement.rows.numpy(), "columns": patch.placement.columns.numpy()}
    if patch.queries is not None:
        arrays["queries"] = patch.queries.numpy()
    if patch.attacked is not None:
        arrays["attacked"] = patch.attacked.to(torch.uint8).numpy()
    goals = json.dumps([str(goal) for goal in patch.goals])
    stages = [asdict(stage) for stage in patch.stages]
    return Artifact(arrays, {**facts, "goals": goals, "stages": stages, "passes": asdict(passes)})


def _on_cpu(patch: Patch) -> Patch:
    return Patch(
        patch.textures.detach().cpu(),
        patch.masks.cpu(),
        patch.goals,
        patch.history,
        placement=None if patch.placement is None else patch.placement.to(torch.device("cpu")),
        queries=None if patch.queries is None else patch.queries.cpu(),
        attacked=None if patch.attacked is None else patch.attacked.cpu(),
        stages=patch.stages,
    )


def _no_network(images: torch.Tensor) -> torch.Tensor:
    raise AttackError("a control asked the network, expected it to look at nothing")
