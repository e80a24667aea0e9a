"""Latents of a data set, encoded once: mean and spread of every clip's posterior."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from dear.components import digest, write_tensors
from dear.vae import DECODING, VAE, patchify


class Latents:
    """Posterior means and standard deviations of all clips as tokens (size, N, D), in float16, with their captions.

    fingerprint: of the data and the encoder they were made with, if `prepare` made them.
    """

    def __init__(self, mean: Tensor, std: Tensor, captions: list[str], fingerprint: str | None = None):
        self.mean, self.std, self.captions, self.fingerprint = mean, std, captions, fingerprint

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Tokens (B, N, D) float32 drawn from the posteriors of the given clips, on the generator's device."""
        mean, std = (x[indices].to(generator.device).float() for x in (self.mean, self.std))
        return mean + std * torch.randn(mean.shape, generator=generator, device=mean.device)


@torch.no_grad()
def prepare(vae: VAE, data, path: Path, progress: bool = True) -> Latents:
    """Encode all clips of `data` (`len`, `captions`, `log_mels(indices)`), or read them from `path` if they are there.

    The file carries a `data_fingerprint`; another encoder or other data are encoded anew. The decoder may train on.
    """
    mark = data_fingerprint(data, vae)
    if found := stored(path, mark):
        return Latents(found["mean"], found["std"], list(data.captions), mark)
    means, stds = [], []
    for start in tqdm(range(0, len(data), 64), f"encoding latents into {path}", disable=not progress):
        both = vae.scaled_posterior(data.log_mels(range(start, min(start + 64, len(data)))))
        mean, std = (patchify(part, vae.config.steps_per_token).half() for part in both)
        means.append(mean)
        stds.append(std)
    latents = Latents(torch.cat(means), torch.cat(stds), list(data.captions), mark)
    write_tensors(path, {"mean": latents.mean, "std": latents.std}, {"fingerprint": mark})
    return latents


def data_fingerprint(data, vae: VAE | None = None) -> str:
    """Hash of all captions and some 16 clips of `data`, and of the weights of a VAE that encode; tells runs apart."""
    some = data.log_mels(range(0, len(data), max(1, len(data) // 16)))
    weights = {} if vae is None else vae.state_dict()
    encoding = [v for k, v in weights.items() if k.split(".")[0] not in DECODING]
    return digest(data.captions, some, *encoding)


def stored(path: Path, mark: str) -> dict[str, Tensor] | None:
    """All tensors of a file that carries this fingerprint; None if it does not, is damaged, or is not there."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("fingerprint") == mark:
                return {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError:
        pass
    return None
