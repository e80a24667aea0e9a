"""Weights on disk: one folder a network, config.json beside model.safetensors."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

WEIGHTS = Path(__file__).parent / "weights"


@contextmanager
def beside(path: Path):
    """Name of a draft file or folder, renamed to `path` at the end of the block, or removed if the block failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        draft.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write text beside `path`, then rename, so that a reader never meets half a file."""
    with beside(path) as draft:
        draft.write_text(content, encoding="utf-8")


def write_json(path: Path, content) -> None:
    """Write json as `write_text` does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors beside `path`, then rename."""
    with beside(path) as draft:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, draft, metadata)


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
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        told = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}  # json knows no tuples
        module = network(config(**told))
        module.load_state_dict({k: v.float() if v.is_floating_point() else v
                                for k, v in load_file(folder / "model.safetensors").items()})
    except (TypeError, AttributeError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} does not hold a {network.__name__}: {error}") from error
    return module.eval()


def digest(texts: Iterable[str], *tensors: torch.Tensor) -> str:
    """First 12 hex digits of the hash of texts and tensors: whether something was made with these."""
    found = hashlib.sha256("\n".join(texts).encode())
    for tensor in tensors:
        found.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return found.hexdigest()[:12]
