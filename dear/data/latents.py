"""Latents of a data set, encoded once: mean and spread of every clip's posterior."""

import hashlib
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from dear.components import write_tensors
from dear.vae import VAE, patchify


class Latents:
    """Posterior means and standard deviations of all clips as tokens (size, N, D), in float16, with their captions."""

    def __init__(self, mean: Tensor, std: Tensor, captions: list[str]):
        self.mean, self.std, self.captions = mean, std, captions

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Tokens (B, N, D) float32 drawn from the posteriors of the given clips, on the generator's device."""
        mean, std = (x[indices].to(generator.device).float() for x in (self.mean, self.std))
        return mean + std * torch.randn(mean.shape, generator=generator, device=mean.device)


@torch.no_grad()
def prepare(vae: VAE, data, path: Path, progress: bool = True) -> Latents:
    """Encode all clips of `data` (`len`, `captions`, `log_mels(indices)`), or read them from `path` if they are there.

    The file carries a fingerprint of the weights that encode, of all captions and of some 16 clips; another encoder or
    other data are encoded anew. The decoder may train on.
    """
    digest = hashlib.sha256("\n".join(data.captions).encode())
    some = data.log_mels(range(0, len(data), max(1, len(data) // 16)))
    encoding = [v for k, v in vae.state_dict().items() if k.split(".")[0] not in ("mean", "texture", "loudest")]
    for value in (some, *encoding):
        digest.update(value.cpu().numpy().tobytes())
    if path.exists():
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("fingerprint") == digest.hexdigest():
                return Latents(file.get_tensor("mean"), file.get_tensor("std"), list(data.captions))
    means, stds = [], []
    for start in tqdm(range(0, len(data), 64), f"encoding latents into {path}", disable=not progress):
        both = vae.scaled_posterior(data.log_mels(range(start, min(start + 64, len(data)))))
        mean, std = (patchify(part, vae.config.steps_per_token).half() for part in both)
        means.append(mean)
        stds.append(std)
    latents = Latents(torch.cat(means), torch.cat(stds), list(data.captions))
    write_tensors(path, {"mean": latents.mean, "std": latents.std}, {"fingerprint": digest.hexdigest()})
    return latents
