"""Weights on disk: one folder a network, config.json beside model.safetensors."""

import dataclasses
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

WEIGHTS = Path(__file__).parent / "weights"


def write_json(path: Path, content) -> None:
    """Write json beside `path`, then rename, so that a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(beside, path)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors beside `path`, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, beside, metadata)
    os.replace(beside, path)


def save(module: nn.Module, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Save a network with its frozen-dataclass `config`; `dtype` (for example float16) halves what is stored."""
    state = {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in module.state_dict().items()}
    write_tensors(Path(folder) / "model.safetensors", state)
    write_json(Path(folder) / "config.json", dataclasses.asdict(module.config))


def load(network: type, config: type, folder: str | Path) -> nn.Module:
    """Network of the class `network` from a folder written by `save`, in float32, in evaluation mode.

    Raises FileNotFoundError if a file is missing and ValueError if the config or the weights do not fit the class.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: wanted a folder with config.json and model.safetensors")
    try:
        module = network(config(**json.loads((folder / "config.json").read_text())))
        module.load_state_dict({k: v.float() if v.is_floating_point() else v
                                for k, v in load_file(folder / "model.safetensors").items()})
    except (TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} does not hold a {network.__name__}: {error}") from error
    return module.eval()
