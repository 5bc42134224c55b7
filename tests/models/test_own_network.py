"""A network of one's own: its file, its modules beside it, its checkpoint, and what is said where one is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from qpatchbench.errors import PluginError, QPatchBenchError
from qpatchbench.models.module import ModuleModel
from qpatchbench.quantizers.inspection.reach import require_reachable
from qpatchbench.testing import run_checks
from tests.cli.own_networks import own_network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own_network(tmp_path, 10)
    return tmp_path


def model_in(folder: Path, function: str = "build", **fields: object) -> ModuleModel:
    return ModuleModel.model_validate({"source": f"{folder}/my_net.py:{function}", **fields})


def test_the_checkpoint_of_a_wrapped_network_is_read(folder: Path) -> None:
    network = model_in(folder, weights=str(folder / "my.pt"), image_size=32).load(10, 32).eval()
    stored = torch.load(folder / "my.pt", weights_only=True)["net"]
    assert torch.equal(network.state_dict()["backbone.head.weight"], stored["module.head.weight"])
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_it_keeps_every_promise_of_a_model(folder: Path) -> None:
    wrong = [result for result in run_checks(model_in(folder, std=(0.5, 0.5, 0.5))) if result.verdict == "failed"]
    assert wrong == []


def test_the_place_is_no_part_of_the_identity_and_every_source_is(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    own_network(other, 10)
    first = model_in(folder, weights=str(folder / "my.pt")).identity()
    assert first == model_in(other, weights=str(other / "my.pt")).identity()
    (other / "blocks.py").write_text((other / "blocks.py").read_text() + "# a comment\n")
    assert model_in(other).identity()["source hash"] != first["source hash"]
    (other / "unrelated.py").write_text("x = 1\n")
    again = model_in(other).identity()
    (other / "unrelated.py").write_text("x = 2\n")
    assert model_in(other).identity() == again


def test_an_edited_file_is_imported_again_and_modules_beside_it_hide_nothing(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "wider"
    own_network(other, 10)
    (other / "blocks.py").write_text((other / "blocks.py").read_text().replace("bias=False", "bias=True"))
    names = [set(model_in(each).build(10, 32).state_dict()) for each in (folder, other, folder)]
    assert names[0] == names[2]
    assert names[1] - names[0] == {"backbone.body.0.conv.bias", "backbone.body.2.conv.bias"}
    assert "blocks" not in sys.modules
    assert str(folder) not in sys.path


def test_a_module_that_is_imported_late_is_found(folder: Path) -> None:
    text = (folder / "my_net.py").read_text().replace("from blocks import Block\n", "")
    late = text.replace(
        "        super().__init__()\n", "        super().__init__()\n        from blocks import Block\n", 1
    )
    (folder / "my_net.py").write_text(late)
    assert model_in(folder).build(3, 32)(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_what_is_wrong_is_said_with_its_place(folder: Path) -> None:
    with pytest.raises(ValidationError, match=r"expected file.py:function, such as my_net.py:build, found 'my_net.py'"):
        ModuleModel(source="my_net.py")
    with pytest.raises(PluginError) as caught:
        model_in(folder / "nowhere").build(10, 32)
    assert str(caught.value).endswith(f"expected a Python file, found none at {folder}/nowhere/my_net.py.")
    with pytest.raises(PluginError) as caught:
        ModuleModel(source=f"{folder}/mynet.py:build").identity()
    assert str(caught.value).endswith(f"found none at {folder}/mynet.py. Python files there: blocks.py, my_net.py.")
    with pytest.raises(
        PluginError, match=r"expected a function bild in .*my_net.py, found none. Did you mean: build\?"
    ):
        model_in(folder, "bild").build(10, 32)
    (folder / "my_net.py").write_text("def build():\n    return 1 / 0\n")
    with pytest.raises(PluginError, match=r"my_net.py:2: ZeroDivisionError: division by zero"):
        model_in(folder).build(10, 32)
    (folder / "my_net.py").write_text("def build():\n    return 'a network'\n")
    with pytest.raises(PluginError, match="expected a torch.nn.Module, found str"):
        model_in(folder).build(10, 32)


def test_a_module_beside_it_whose_name_is_taken_is_refused(folder: Path) -> None:
    (folder / "json.py").write_text("x = 1\n")
    (folder / "my_net.py").write_text(f"import json\n{(folder / 'my_net.py').read_text()}")
    with pytest.raises(PluginError, match=r"expected the module json beside it, found its name taken by .*json"):
        model_in(folder).build(10, 32)


def test_what_cannot_be_quantized_is_said_layer_by_layer(folder: Path) -> None:
    free = "        return self.head(torch.nn.functional.conv2d(x, self.kernel).mean(dim=(2, 3)))"
    text = (folder / "my_net.py").read_text()
    text = text.replace("        return self.head(self.body(x).mean(dim=(2, 3)))", free)
    text = text.replace(
        "        self.body =", "        self.kernel = torch.nn.Parameter(torch.rand(16, 3, 9, 9))\n        body ="
    )
    (folder / "my_net.py").write_text(text)
    network = model_in(folder).build(10, 32).eval()
    with pytest.raises(QPatchBenchError, match=r"of its multiply-accumulates would stay in float: .*conv"):
        require_reachable(network, torch.rand(1, 3, 32, 32), "model 'module'")
