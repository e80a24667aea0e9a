"""Real recordings as the trainings want them: log-mels and captions of all crops of a folder."""

import torch

from dear.audio import log_mel
from dear.data.folder import AudioFolder


class RecordedMels:
    """Log-mels (size, 256, 64) and captions of an AudioFolder, with `log_mels(indices)` as RenderedSplit has it."""

    def __init__(self, folder: AudioFolder):
        clips = [folder[i] for i in range(len(folder))]
        self.mels = torch.cat([log_mel(torch.stack([c.waveform for c in clips[i : i + 64]]))
                               for i in range(0, len(clips), 64)])
        self.captions = [c.caption for c in clips]
        self.meta = [c.meta for c in clips]

    def __len__(self) -> int:
        return len(self.captions)

    def log_mels(self, indices) -> torch.Tensor:
        """Log-mels (B, 256, 64) float32 of the given crops."""
        return self.mels[torch.as_tensor(indices)]
