"""AudioLDM's HiFi-GAN behind the interface of `dear.vocoder.griffin_lim`: log-mel -> waveform."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from dear.audio import HOP, N_MELS, SAMPLE_RATE
from dear.pretrained import load_pretrained, reference


class HifiGan(nn.Module):
    """A frozen SpeechT5HifiGan of transformers for log-mels as `dear.audio.log_mel` makes them, which are AudioLDM's.

    name, subfolder, revision: of a folder or the hub.  dtype: of the weights; waveforms are float32 whatever it is.
    The class normalises log-mels by its `mean` and `scale` if its config has `normalize_before`; AudioLDM's has not.
    """

    def __init__(self, name: str | Path = "cvssp/audioldm-s-full-v2", subfolder: str = "vocoder", *,
                 revision: str | None = None, dtype: torch.dtype = torch.float32):
        super().__init__()
        told = {"name": name, "subfolder": subfolder, "revision": revision, "dtype": dtype}
        self.reference = reference(self, **told)
        self.model = load_pretrained("SpeechT5HifiGan", reader=None, **told)[1]
        c = self.model.config
        got, wanted = (c.model_in_dim, math.prod(c.upsample_rates), c.sampling_rate), (N_MELS, HOP, SAMPLE_RATE)
        if got != wanted:
            raise ValueError(f"{Path(name, subfolder)} does not fit these log-mels: wanted a vocoder of (bins, samples "
                             f"a frame, Hz) {wanted}, got {got}")

    @torch.no_grad()
    def forward(self, log_mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Waveforms (B, 160 T) float32 in [-1, 1] of log-mels (B, T, 64); nothing is drawn.

        The first convolution that raises the rate, of 16 at stride 5, makes 5 T + 1 of T, and all of them 160 T + 32:
        the end is cut off, as AudioLDM's pipeline does. ValueError for another shape, no frame, NaN or infinity.
        """
        if log_mel.ndim != 3 or log_mel.shape[2] != N_MELS or not log_mel.shape[1]:
            raise ValueError(f"HifiGan wants log_mel (B, T, {N_MELS}) with T >= 1, got {tuple(log_mel.shape)}")
        if not log_mel.isfinite().all():
            raise ValueError("HifiGan wants a finite log_mel, got NaN or infinity")
        return self.model(log_mel.to(self.model.dtype))[:, : HOP * log_mel.shape[1]].float()
