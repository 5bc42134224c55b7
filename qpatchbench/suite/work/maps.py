"""The work of a `MapsJob`: pictures of a few images, and agreement between bit-widths on many, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qpatchbench.evaluation.maps.agreement import Agreement, Content
from qpatchbench.evaluation.maps.feature_maps import channel_means, first_convolutions
from qpatchbench.evaluation.maps.grad_cam import cam_agreements, cam_layer, cam_values, grad_cams, require_library
from qpatchbench.evaluation.maps.input_gradients import (
    gradient_agreements,
    gradient_values,
    input_gradients,
    pgd_images,
)
from qpatchbench.ops.patches.pasting import to_float, to_uint8
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.suite.jobs.maps import MapsJob
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.work.similarity import patched_images, titles
from qpatchbench.suite.work.workbench import Workbench
from qpatchbench.types import Bits, Progress

Arrays = dict[str, np.ndarray[Any, Any]]
_SHARE_OF_PGD = 0.6  # of the work, for the progress shown


def mapped(bench: Workbench, job: MapsJob, progress: Progress) -> Artifact:
    """What the bit-widths see.

    The arrays, of E drawn images, by content ("clean", "patched", "perturbed") and bits:

    - pixels/CONTENT (E, 3, H, W) uint8, labels (E,) int64, predictions/CONTENT/BITS (E,) int64;
    - features/CONTENT/BITS/LAYER (E, h, w) float16, means over channels;
    - gradients/CONTENT/BITS (E, 3, H, W) float16, each image's divided by its largest absolute value;
    - cams/CONTENT/BITS (E, h, w) float32 in [0, 1];
    - cosine and mse of the gradients, cosine and iou of the CAMs, to the widest network's: MAPS/METRIC/CONTENT/BITS.
    """
    require_library()
    images = bench.evaluation_images(job.networks[0].checkpoint.model)[: job.images]
    networks = {network.bits: bench.network(network) for network in job.networks}
    widest = networks[max(networks)]
    size = min(bench.suite.evaluation.batch_size, 64)
    generator = derive_generator(bench.suite.evaluation.placement_seed, "maps", "perturbed")

    contents: dict[Content, torch.Tensor] = {"clean": to_float(images.pixels)}
    example = contents["clean"][:1]
    layers, explained = first_convolutions(widest, example), cam_layer(widest, example)
    if job.patch is not None:
        contents["patched"] = patched_images(bench, job.patch, images)
    contents["perturbed"] = pgd_images(
        widest, images, generator, lambda done, figures: progress(_SHARE_OF_PGD * done, figures)
    )
    drawn = {name: pixels[: job.drawn] for name, pixels in contents.items()}
    arrays: Arrays = {"labels": images.labels[: job.drawn].cpu().numpy()}
    arrays |= {f"pixels/{name}": to_uint8(pixels).cpu().numpy() for name, pixels in drawn.items()}
    gradient_rows: list[Agreement] = []
    cam_rows: list[Agreement] = []
    for number, (name, pixels) in enumerate(contents.items()):
        arrays |= _predictions(name, networks, drawn[name])
        gradients = {bits: input_gradients(each, pixels, images.labels, size) for bits, each in networks.items()}
        gradient_rows += gradient_agreements(name, gradients)
        for bits, found in gradients.items():
            kept = {f"gradients/{name}/{bits}": found.direction[: job.drawn].half()}
            values = gradient_values(gradients[max(gradients)], found)
            kept |= {f"gradients/{metric}/{name}/{bits}": each[: job.drawn] for metric, each in values.items()}
            arrays |= {key: value.cpu().numpy() for key, value in kept.items()}
        if name != "perturbed":
            arrays |= _features(name, networks, layers, drawn[name])
            cams = {bits: grad_cams(each, explained, pixels, images.labels, size) for bits, each in networks.items()}
            cam_rows += cam_agreements(name, explained, cams)
            arrays |= _cams(name, cams, job.drawn)
        progress(_SHARE_OF_PGD + (1 - _SHARE_OF_PGD) * (number + 1) / len(contents), {})
    shared = titles(job.networks)
    facts = {
        **shared,
        "bits": [str(bits) for bits in sorted(networks, reverse=True)],
        "contents": [*contents],
        "layers": layers,
        "cam_layer": explained,
        "patch": patch_facts(job),
        "images": list(images.ids[: job.drawn]),
        "gradients": _rows(shared, gradient_rows),
        "gradcam": _rows(shared, cam_rows),
    }
    return Artifact(arrays, facts)


def _rows(shared: Mapping[str, Any], found: Sequence[Agreement]) -> list[dict[str, Any]]:
    return [{**shared, **row.model_dump(mode="json")} for row in found]


def patch_facts(job: MapsJob) -> dict[str, Any] | None:
    """What results call the patch that the maps were taken under; None where there is none."""
    if job.patch is None:
        return None
    source = job.patch.source
    assert source is not None, "the pool and maps_jobs have patches of one source only"
    return {
        "attack": job.patch.attack.title,
        "side": job.patch.side,
        "goal": str(job.patch.goals[0]),
        "source_defense": source.checkpoint.defense.title,
        "source_bits": str(source.bits),
    }


@torch.no_grad()
def _predictions(name: Content, networks: Mapping[Bits, torch.nn.Module], pixels: torch.Tensor) -> Arrays:
    return {
        f"predictions/{name}/{bits}": network(pixels).argmax(dim=1).cpu().numpy() for bits, network in networks.items()
    }


def _features(
    name: Content, networks: Mapping[Bits, torch.nn.Module], layers: tuple[str, ...], pixels: torch.Tensor
) -> Arrays:
    return {
        f"features/{name}/{bits}/{layer}": maps.half().cpu().numpy()
        for bits, network in networks.items()
        for layer, maps in channel_means(network, layers, pixels).items()
    }


def _cams(name: Content, cams: Mapping[Bits, torch.Tensor], drawn: int) -> Arrays:
    reference = cams[max(cams)][:drawn]
    kept: dict[str, torch.Tensor] = {}
    for bits, maps in cams.items():
        own = maps[:drawn]
        kept[f"cams/{name}/{bits}"] = own
        kept |= {f"cams/{metric}/{name}/{bits}": each for metric, each in cam_values(reference, own).items()}
    return {key: value.cpu().numpy() for key, value in kept.items()}
