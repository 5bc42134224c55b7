"""The images of a run folder that its galleries and pages show, and every patch in 8 bits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from safetensors.numpy import save as serialize_tensors

from qpatchbench.runs.example_images import FIRST, DecidingImages, deciding_images, images_to_keep
from qpatchbench.runs.outcomes import Outcomes
from qpatchbench.suite.execution.executor import Execution
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.work.workbench import Workbench


def serialized_examples(execution: Execution, bench: Workbench, artifacts: Mapping[str, Artifact | None]) -> bytes:
    """The first evaluation images, and those by which every cell can be shown.

    Models that crop the same images in another way have their own pixels of them. Patches with one texture per image
    keep those of the first images only: files of patches have all.

    Args:
        execution: the finished execution.
        bench: gives the images.
        artifacts: of every cell, by the key of its job; None for one that failed.
    """
    models = bench.suite.models
    whole = bench.evaluation_images(models[0])
    places = places_to_keep(whole.ids, _deciding(execution, bench, artifacts))
    images = whole.chosen(torch.tensor(places))
    arrays = {"pixels": images.pixels.cpu().numpy(), "labels": images.labels.cpu().numpy(), "places": np.array(places)}
    for model in models[1:]:
        own = bench.evaluation_images(model)
        if own is not whole:
            arrays[f"pixels/{model.title}"] = own.chosen(torch.tensor(places)).pixels.cpu().numpy()
    for patch in dict.fromkeys(job.patch for job in execution.plan.cells):
        artifact = execution.artifact(patch)
        if artifact is None:
            continue
        textures, masks = artifact.arrays["textures"], artifact.arrays["masks"]
        if patch.attack.kind == "per_image":
            keep = [*first_of_each_goal(len(textures), len(patch.goals))]
            textures, masks = textures[keep], masks[keep]
        arrays[f"patch/{patch.short_key}/textures"] = np.ascontiguousarray(textures)
        arrays[f"patch/{patch.short_key}/masks"] = np.ascontiguousarray(masks)
    return serialize_tensors(arrays, metadata={"ids": json.dumps(images.ids)})


def places_to_keep(ids: Sequence[str], found: Iterable[DecidingImages]) -> list[int]:
    """Places among the evaluation images, those of the first ones first.

    Args:
        ids: of all evaluation images, in their own order.
        found: of every cell, as places in the order of the ids.
    """
    by_id = sorted(range(len(ids)), key=ids.__getitem__)
    first = [place for place, own in enumerate(by_id) if own < FIRST]
    return [*range(min(FIRST, len(ids))), *sorted(by_id[place] for place in images_to_keep(found, first, len(ids)))]


def first_of_each_goal(textures: int, goals: int) -> Iterator[int]:
    """Places of the textures that are kept of a patch with one texture for every goal and image."""
    each = textures // goals
    for goal in range(goals):
        yield from range(goal * each, goal * each + min(FIRST, each))


def _deciding(
    execution: Execution, bench: Workbench, artifacts: Mapping[str, Artifact | None]
) -> Iterator[DecidingImages]:
    """Of the attacks' cells of the first seed: a row that several seeds share is shown by it."""
    cells = [job for job in execution.plan.cells if not job.control and artifacts[job.key] is not None]
    seed = min((job.target.checkpoint.seed for job in cells), default=0)
    for job in cells:
        artifact, target = artifacts[job.key], execution.artifact(job.target)
        if job.target.checkpoint.seed != seed or artifact is None or target is None:
            continue
        images = bench.evaluation_images(job.target.checkpoint.model)
        by_id = sorted(range(len(images)), key=images.ids.__getitem__)
        attacked = artifact.arrays.get("attacked")
        yield deciding_images(
            Outcomes(
                images.labels.cpu().numpy()[by_id],
                target.arrays["predictions"][by_id],
                artifact.arrays["predictions"][:1, by_id],
                (str(job.patch.goals[0]),),
                None if attacked is None else attacked[:1, by_id].astype(bool),
            )
        )
