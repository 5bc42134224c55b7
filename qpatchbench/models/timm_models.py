"""Architectures of PyTorch Image Models (Wightman, timm), with the preprocessing of timm's own configuration."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator

from qpatchbench.errors import QPatchBenchError, UnknownNameError, WeightsError
from qpatchbench.models.base import ModelSource, Preprocessing

PREFIX = "timm/"
ALIASES: Mapping[str, str] = {
    "swin_s": "swin_small_patch4_window7_224",
    "deit_b": "deit_base_patch16_224",
}
NEAREST = 5  # names shown for an unknown one; timm has over a thousand
CHANNELS = 3
# What timm.data.resolve_data_config takes where a configuration says nothing.
TIMM_CROP, TIMM_INTERPOLATION, TIMM_CROP_MODE = 0.875, "bicubic", "center"
CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


class TimmModel(ModelSource):
    """One timm architecture: a catalogue name, or `timm/` and any name or name.tag that timm lists."""

    image_model: ClassVar[bool] = True

    input_size: int | None = Field(
        default=None,
        gt=0,
        description="side that an architecture of fixed size, such as a transformer, is built for; none = timm's",
        json_schema_extra={"unit": "pixels"},
    )
    patch_size: int | None = Field(
        default=None,
        gt=0,
        description="side of the patches that a transformer cuts an image into; none = timm's",
        json_schema_extra={"unit": "pixels"},
    )

    def identity(self) -> dict[str, Any]:
        """Without sizes that are timm's own, so that keys of before they could be chosen stay."""
        own = super().identity()
        return {name: value for name, value in own.items() if name not in ("input_size", "patch_size") or value}

    @property
    def sizes(self) -> dict[str, Any]:
        """What timm's constructor is told beyond its defaults."""
        told = {"img_size": self.input_size, "patch_size": self.patch_size}
        return {name: value for name, value in told.items() if value is not None}

    @field_validator("name")
    @classmethod
    def _listed(cls, name: str) -> str:
        # Catalogue names are right by construction: only the open family needs timm, which is slow to import.
        if name.startswith(PREFIX):
            _preprocessing(_configuration(_without_prefix(name)), name, None)
        return name

    @property
    def architecture(self) -> str:
        """The name that timm knows."""
        return _without_prefix(self.name)

    def preprocessing(self, image_size: int) -> Preprocessing:
        """As timm configures it; an architecture of fixed size keeps that, any other works at `image_size`.

        Raises:
            QPatchBenchError: timm configures something that is not done here.
        """
        found = _preprocessing(_configuration(self.architecture), self.name, image_size)
        return replace(found, image_size=self.input_size or found.image_size)

    def build(self, num_classes: int, image_size: int) -> torch.nn.Module:
        """A fresh float network: images (B, 3, image_size, image_size) in [0, 1] -> logits (B, num_classes).

        Initial weights come from torch's global generator.

        Raises:
            UnknownNameError: timm has no such architecture.
            QPatchBenchError: the architecture cannot work on images this small.
        """
        from qpatchbench.models.classifier import ImageClassifier

        wanted = self.preprocessing(image_size)
        backbone = self._created(num_classes)
        plain_attention(backbone)
        own_size = int(_configuration(self.architecture).input_size[-1])
        if wanted.image_size < own_size and self.input_size is None:
            _check_size(backbone, self.name, wanted.image_size, own_size)
        return ImageClassifier(backbone, wanted.mean, wanted.std, wanted.image_size)

    def pretrained_release(self) -> str:
        """The version of timm, the name and tag that it resolves the architecture to, and where it takes them from."""
        import timm

        config = _configuration(self.architecture)
        place = config.hf_hub_id or config.url or config.file or "nowhere"
        return f"timm {timm.__version__} {config.architecture}.{config.tag} from {place}"

    def _created(self, num_classes: int) -> torch.nn.Module:
        """The architecture, in timm's sizes or the given ones."""
        import timm

        try:
            network: torch.nn.Module = timm.create_model(
                self.architecture, pretrained=False, num_classes=num_classes, **self.sizes
            )
        except (TypeError, ValueError, AssertionError) as error:
            if not self.sizes:
                raise
            raise QPatchBenchError(
                f"model {self.name!r} cannot be built with {self.sizes} ({error}); expected sizes that timm's "
                f"{self.architecture} takes: input_size and patch_size are for transformers"
            ) from error
        return network

    def require_published(self, num_classes: int) -> None:
        """Refuse published weights that answer another number of classes; fetches nothing.

        Raises:
            WeightsError: they do.
        """
        published = _configuration(self.architecture).num_classes
        if num_classes != published:
            raise WeightsError(
                f"model {self.name!r}, weights pretrained: timm's weights answer {published} classes, the "
                f"dataset has {num_classes}. Use weights: train, or a file that answers {num_classes} classes."
            )

    def pretrained_tensors(self, num_classes: int) -> Mapping[str, torch.Tensor]:
        """Weights that timm publishes, from its cache or downloaded.

        Raises:
            WeightsError: they answer another number of classes, do not exist or cannot be fetched.
        """
        import timm

        self.require_published(num_classes)
        try:
            tensors: Mapping[str, torch.Tensor] = timm.create_model(self.architecture, pretrained=True).state_dict()
        except Exception as error:
            raise WeightsError(
                f"model {self.name!r}, weights pretrained: timm could not load {self.architecture} "
                f"({type(error).__name__}: {error}). Without a network connection, use a file or "
                "package:NAME/FILE."
            ) from error
        return tensors


def plain_attention(network: torch.nn.Module) -> None:
    """Switch every attention module to matrix products: fused kernels have no second derivative."""
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]  # torch types attributes as tensors or modules


def _without_prefix(name: str) -> str:
    architecture = name.removeprefix(PREFIX)
    return ALIASES.get(architecture, architecture)


def _check_listed(architecture: str) -> None:
    import timm

    listed = timm.list_models()
    # timm would fetch or read names such as hf-hub:owner/model; only what it lists is an architecture.
    if architecture not in listed and architecture not in timm.list_models(include_tags=True):
        family = [name for name in listed if name.split("_")[0] == architecture.split("_")[0]]
        nearest = difflib.get_close_matches(architecture, family or listed, n=NEAREST, cutoff=0)
        raise UnknownNameError(f"timm architecture ({len(listed)} exist, {NEAREST} named)", architecture, nearest)


def _configuration(architecture: str) -> Any:  # noqa: ANN401 (timm's PretrainedCfg; timm is imported on use)
    import timm

    _check_listed(architecture)
    return timm.get_pretrained_cfg(architecture)


def _preprocessing(config: Any, name: str, image_size: int | None) -> Preprocessing:  # noqa: ANN401 (as above)
    """What a configuration asks for, read as timm's own evaluation reads it; None: at the network's own size."""
    channels, *own = config.input_size
    if channels != CHANNELS or len(set(own)) != 1:
        size = "x".join(map(str, config.input_size))
        raise QPatchBenchError(f"model {name!r}: expected a network for square RGB images, found one for {size}")
    smallest = config.min_input_size[-1] if config.min_input_size else 0
    asked = own[0] if image_size is None else image_size
    resized = config.fixed_input_size or asked < smallest
    tested = config.test_input_size is not None and tuple(config.test_input_size) == (CHANNELS, asked, asked)
    # The larger size at which timm evaluates some networks has a crop of its own.
    fraction = config.test_crop_pct if tested and asked != own[0] and config.test_crop_pct else config.crop_pct
    made = Preprocessing(
        image_size=own[0] if resized else asked,
        crop_fraction=float(fraction or TIMM_CROP),
        interpolation=str(config.interpolation or TIMM_INTERPOLATION),
        mean=_per_channel(config.mean, name, "mean"),
        std=_per_channel(config.std, name, "std"),
        crop_mode=str(config.crop_mode or TIMM_CROP_MODE),
    )
    for field, found, known in (
        ("interpolation", made.interpolation, INTERPOLATIONS),
        ("crop_mode", made.crop_mode, CROP_MODES),
    ):
        if found not in known:
            raise QPatchBenchError(
                f"model {name!r}: timm evaluates it with {field} {found!r}, which is not done here: expected one of "
                f"{', '.join(known)}"
            )
    if not 0 < made.crop_fraction <= 1:
        raise QPatchBenchError(f"model {name!r}: expected a crop_pct in (0, 1], found {made.crop_fraction}")
    return made


def _per_channel(values: Sequence[float], name: str, field: str) -> tuple[float, ...]:
    """One value per channel; timm lets a single one stand for all."""
    found = tuple(map(float, values))
    if len(found) not in (1, CHANNELS) or not all(map(math.isfinite, found)) or (field == "std" and min(found) <= 0):
        raise QPatchBenchError(f"model {name!r}: expected {CHANNELS} finite values as {field}, found {found}")
    return found * CHANNELS if len(found) == 1 else found


def _check_size(backbone: torch.nn.Module, name: str, image_size: int, own_size: int) -> None:
    # timm does not say how small an image may be, so one black image is tried.
    backbone.eval()
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, 3, image_size, image_size))
    except RuntimeError as error:
        raise QPatchBenchError(
            f"model {name!r} cannot work on images of {image_size} pixels ({error}); its own size is "
            f"{own_size}. Use a dataset with larger images or another model."
        ) from error
    backbone.train()
