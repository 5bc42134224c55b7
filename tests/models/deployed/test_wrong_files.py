"""A file that cannot be what its fields say is met by what was expected, what was found, and what to do."""

from __future__ import annotations

import builtins
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from qpatchbench.errors import QPatchBenchError, WeightsError
from qpatchbench.models.deployed.deployed_model import DeployedModel
from tests.models.deployed.made_files import CLASSES, SIDE, Around, images, onnx_file, tiny


def refused(path: Path | str, **fields: Any) -> str:  # noqa: ANN401 (any field)
    model = DeployedModel(**{"name": "deployed", "file": str(path), "bits": 8, **fields})
    with pytest.raises(WeightsError) as caught:
        model.build(CLASSES, SIDE)
    return str(caught.value)


class Twice(torch.nn.Module):
    """Takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny()

    def forward(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Of their sum."""
        logits: torch.Tensor = self.network(images + others)
        return logits


def test_two_inputs(tmp_path: Path) -> None:
    text = refused(onnx_file(tmp_path / "two.onnx", Twice(), images(2), images(2)))
    assert "expected one input, the images, found 2: images " in text
    assert "Export it with the images alone" in text


def test_channels_last(tmp_path: Path) -> None:
    path = onnx_file(
        tmp_path / "last.onnx", Around(tiny(), lambda x: x.permute(0, 3, 1, 2)), images(2).permute(0, 2, 3, 1)
    )
    assert "which is nhwc, found layout: nchw. Write layout: nhwc, or leave it out" in refused(path, layout="nchw")


def test_softmax(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "soft.onnx", Around(tiny(), after=lambda z: z.softmax(1)))
    text = refused(path)
    assert "answers with probabilities (every row sums to one), expected logits" in text
    assert "Write answers: probabilities" in text
    plain = onnx_file(tmp_path / "plain.onnx", tiny())
    assert "expected probabilities, rows that sum to one" in refused(plain, answers="probabilities")


def test_other_classes(tmp_path: Path) -> None:
    text = refused(onnx_file(tmp_path / "five.onnx", tiny(classes=5)))
    assert "expected logits of 3 classes, as the dataset has, found 5" in text


def test_two_outputs(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "both.onnx", Around(tiny(), after=lambda z: (z, z + 1)))
    text = refused(path)
    assert "expected one output, the logits, found 2" in text
    wanted = text.rpartition("output: ")[2]
    network = DeployedModel(name="deployed", file=str(path), bits=32, output=wanted).build(CLASSES, SIDE)
    torch.testing.assert_close(network(images()), tiny()(images()), rtol=1e-4, atol=1e-4)
    assert "no output 'logit'" in refused(path, output="logit")


def test_another_size(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "fixed.onnx", tiny())
    assert "expected square images of one size" in refused(path, size=SIDE + 1)
    network = DeployedModel(name="deployed", file=str(path), bits=32, resize="none").build(CLASSES, SIDE)
    with pytest.raises(QPatchBenchError, match="expected images of 16x16 pixels.*found 9x9; give the dataset"):
        network(torch.rand(1, 3, 9, 9))


@pytest.mark.parametrize("name", ["model.onnx", "model.pt", "model.pt2"])
@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
def test_a_pickle_in_disguise(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "pickle":
        path.write_bytes(pickle.dumps(print))
    else:
        torch.save(tiny(), path)
    text = refused(path)
    assert "found a pickle" in text
    assert "may run code and is not read" in text


def test_a_program_that_would_be_unpickled(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "sample.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sample/archive_format", "pt2")
        archive.writestr("sample/data/sample_inputs/model.pt", pickle.dumps(print))
    assert "found a pickle, which may run code and is not read: sample/data/sample_inputs/model.pt" in refused(path)


def test_one_kind_under_the_name_of_another(tmp_path: Path) -> None:
    script = tmp_path / "script.pt2"
    torch.jit.script(tiny()).save(script)  # type: ignore[no-untyped-call]  # torch's own
    assert "expected a torch.export program, as its name says, found TorchScript: name it .pt" in refused(script)
    nothing = tmp_path / "nothing.pt"
    nothing.write_bytes(b"no archive")
    assert "expected TorchScript, as its name says, found something else: export it again" in refused(nothing)
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    assert "expected an ONNX model, found a file that onnx cannot read" in refused(text)


def test_weights_in_another_file(tmp_path: Path) -> None:
    import onnx

    path = onnx_file(tmp_path / "one.onnx", tiny())
    onnx.save(onnx.load(path), tmp_path / "two.onnx", save_as_external_data=True, size_threshold=0)
    assert "its weights lie in a file beside it" in refused(tmp_path / "two.onnx")


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_library_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    path = onnx_file(tmp_path / "tiny.onnx", tiny())
    original: Callable[..., Any] = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 (of __import__)
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    text = refused(path)
    assert f"needs the library {library}, which is not installed: pip install 'qpatchbench[deploy]'" in text


def test_files_and_functions_that_are_not_there(tmp_path: Path) -> None:
    onnx_file(tmp_path / "model-int8.onnx", tiny())
    text = refused(tmp_path / "model-int9.onnx")
    assert "no file" in text
    assert "Did you mean: model-int8.onnx?" in text
    script = tmp_path / "my_answering.py"
    script.write_text("def answer(images):\n    return images\n")
    assert "Did you mean: answer?" in refused(f"{script}:answers")
    with pytest.raises(QPatchBenchError, match="expected logits BxK for a batch of images, found 4x3x16x16"):
        DeployedModel(name="deployed", file=f"{script}:answer", bits=32).build(CLASSES, SIDE)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"file": "model.h5"}, "expected a file that ends in .onnx, .pt2, .pt"),
        ({"file": "model.py"}, "expected the function behind the file, model.py:FUNCTION"),
        ({"file": "_.onnx"}, "expected a label beside a file of that name"),
        ({"std": (0.0, 1.0, 1.0)}, "expected std above 0"),
        ({"range": (1.0, 1.0)}, "a range of two values"),
    ],
)
def test_fields_that_cannot_be(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        DeployedModel(**{"name": "deployed", "file": "model.onnx", "bits": 8, **fields})
