"""Files that are not what their name says, told apart by their first bytes before any library reads them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from qpatchbench.errors import WeightsError

PICKLE_PROTOCOLS = (2, 3, 4, 5)
_SCRIPT, _PROGRAM, _TENSORS = "TorchScript", "a torch.export program", "a pickle of torch.save"
_ADVICE = {
    _SCRIPT: "name it .pt",
    _PROGRAM: "name it .pt2",
    _TENSORS: "a pickle may run code and is not read. Weights alone go into weights: of a model; a whole network is "
    "saved with torch.export.save, torch.jit.save or torch.onnx.export",
    "a pickle": "a pickle may run code and is not read. Save the network with torch.export.save, torch.jit.save or "
    "torch.onnx.export",
}


def require_kind(path: Path, wanted: str) -> None:
    """Refuse a file whose content is of another kind.

    Args:
        path: an existing file.
        wanted: "ONNX", "TorchScript" or "a torch.export program".

    Raises:
        WeightsError: says what it is, and what to do.
    """
    found = kind_of_file(path)
    if found == wanted or (found == "unknown" and wanted == "ONNX"):
        return
    advice = _ADVICE.get(found, "export it again, or name it by what it is: .onnx, .pt2, .pt")
    raise WeightsError(f"{path}: expected {wanted}, as its name says, found {_named(found)}: {advice}")


def kind_of_file(path: Path) -> str:
    """What a file is, by its bytes: one of the kinds above, "a pickle" or "unknown"."""
    with path.open("rb") as file:
        start = file.read(2)
    if len(start) == 2 and start[0] == 0x80 and start[1] in PICKLE_PROTOCOLS:
        return "a pickle"
    if not zipfile.is_zipfile(path):
        return "unknown"
    with zipfile.ZipFile(path) as archive:
        inside = {"/".join(name.split("/")[1:]) for name in archive.namelist()}
    if any(name.startswith("code/") for name in inside):
        return _SCRIPT
    if "archive_format" in inside or any(name.startswith("models/") for name in inside):
        return _PROGRAM
    return _TENSORS if "data.pkl" in inside else "unknown"


def _named(found: str) -> str:
    return "something else" if found == "unknown" else found
