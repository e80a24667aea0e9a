"""Weights on disk: what is saved comes back, nothing is pickled, and what is broken is named."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dear import components


@dataclass(frozen=True)
class Config:
    width: int = 3
    names: tuple[str, ...] = ("low", "high")


class Network(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.layer = nn.Linear(config.width, config.width)
        self.register_buffer("count", torch.tensor([7]))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network(Config())


def load(folder):
    return components.load(Network, Config, folder)


def test_a_network_comes_back_as_it_was(network, tmp_path):
    components.save(network.train(), tmp_path / "new" / "folder")
    got = load(str(tmp_path / "new" / "folder"))
    assert got.config == network.config and isinstance(got.config.names, tuple) and not got.training
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in got.state_dict().items())
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "new" / "folder" / "config.json").read_text()) == {
        **asdict(network.config), "names": ["low", "high"]}


def test_half_precision_halves_the_numbers_and_comes_back_as_float32(network, tmp_path):
    components.save(network, tmp_path, torch.float16)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["layer.weight"].dtype == torch.float16 and stored["count"].dtype == torch.int64
    got = load(tmp_path)
    assert got.layer.weight.dtype == torch.float32 and got.count.tolist() == [7]
    torch.testing.assert_close(got.layer.weight, network.layer.weight, rtol=2**-10, atol=1e-6)
    assert not torch.equal(got.layer.weight, network.layer.weight)
    assert network.layer.weight.dtype == torch.float32  # what is saved stays as it is


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(network, tmp_path, name):
    components.save(network, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}: wanted a folder with"):
        load(tmp_path)


@pytest.mark.parametrize(("name", "content"), [
    ("config.json", b"{"),
    ("config.json", b"[3]"),
    ("config.json", b'{"width": 3, "depth": 2}'),
    ("config.json", b'{"width": 4}'),
    ("config.json", b'{"width": "wide"}'),
    ("model.safetensors", b"\x80\x04K\x01."),  # a pickle
])
def test_what_does_not_fit_is_refused_with_the_folder(network, tmp_path, name, content):
    components.save(network, tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path.name} does not hold a Network"):
        load(tmp_path)


def test_weights_of_another_network_are_refused(network, tmp_path):
    components.save(network, tmp_path / "three")
    components.save(Network(replace(network.config, width=4)), tmp_path / "four")
    os.replace(tmp_path / "four" / "model.safetensors", tmp_path / "three" / "model.safetensors")
    with pytest.raises(ValueError, match="size mismatch"):
        load(tmp_path / "three")


def test_a_reader_never_meets_half_a_file(tmp_path):
    path = tmp_path / "there.json"
    components.write_json(path, {"old": 1})
    with pytest.raises(KeyboardInterrupt), components.beside(path) as draft:
        draft.write_text('{"ne')
        assert draft.parent == path.parent and json.loads(path.read_text()) == {"old": 1}
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"old": 1} and os.listdir(tmp_path) == ["there.json"]
    components.write_json(path, {"new": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"new": "é"} and path.read_text().endswith("}\n")
    with pytest.raises(TypeError):
        components.write_json(path, {"new": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"new": "é"}


def test_tensors_are_stored_detached_and_whole(tmp_path):
    view = torch.arange(6.0, requires_grad=True).view(2, 3).T
    components.write_tensors(tmp_path / "deep" / "x.safetensors", {"view": view}, {"seed": "7"})
    assert torch.equal(load_file(tmp_path / "deep" / "x.safetensors")["view"], view)


def test_a_draft_folder_is_removed_when_its_block_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), components.beside(tmp_path / "folder") as draft:
        draft.mkdir()
        (draft / "half").write_text("x")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_the_digest_is_of_bits_whatever_the_type():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    known = hashlib.sha256(b"a\nb" + x.numpy().tobytes()).hexdigest()[:12]
    assert components.digest(["a", "b"], x) == known == components.digest(["a", "b"], x.T.contiguous().T)
    half = components.digest([], x.bfloat16())
    assert half != components.digest([], x.bfloat16() + 1) and components.digest([], torch.tensor(3)) != half
