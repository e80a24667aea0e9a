"""Networks that hear clips: features, probabilities of classes, and a space that sound shares with text.

An embedder has a `name`, its `sampling_rate` in Hz, the `model` it hears with, and

    hear(waves, progress=False) -> (features (n, F), probabilities (n, C) or None)

for waves (n, S) at 16 kHz, in one pass; one whose features lie in a space shared with text has `text(captions)` too.
Nothing is inherited: whatever has these can be measured with. Axes: n clips, S samples, F features, C classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dear import components
from dear.audio import SAMPLE_RATE, log_mel, resample
from dear.oracle import Oracle, OracleConfig
from dear.text_pretrained import load_pretrained, tokenize


class OracleEmbedder:
    """The shipped oracle: 64 features, and 253 classes, which are SoundWorld's combinations of relation and kinds.

    It knows nothing but SoundWorld: of real recordings its figures mean little.
    """

    def __init__(self):
        self.name, self.sampling_rate = "oracle", SAMPLE_RATE
        self.model = components.load(Oracle, OracleConfig, components.WEIGHTS / "oracle")

    def hear(self, waves: Tensor, progress: bool = False) -> tuple[Tensor, Tensor]:
        """Features (n, 64) and probabilities (n, 253) of waves (n, 40960) at 16 kHz."""
        return _in_batches(lambda batch: self.hear_mels(log_mel(batch)), waves, 128, self.name, progress)

    @torch.no_grad()
    def hear_mels(self, log_mels: Tensor) -> tuple[Tensor, Tensor]:
        """The same of log-mels (n, 256, 64), which a VAE gives without a vocoder."""
        return self.model.features(log_mels), scene_probabilities(self.model(log_mels)[0])


class ClapEmbedder:
    """A CLAP model of transformers: features are unit vectors in the space that it shares with text; no classes.

    name: a folder or a hub name; laion/clap-htsat-fused has F = 512.  Clips are resampled to the model's 48 kHz,
    repeated to its 10 s and never "longer" than that: transformers would mark one clip of every batch so at random, and
    cut long clips at random, so that a clip's features depended on its company. A longer clip is an error instead.
    """

    def __init__(self, name: str | Path = "laion/clap-htsat-fused"):
        self.name = f"clap:{name}"
        self.processor, self.model = load_pretrained("ClapModel", name, "ClapProcessor")
        self.sampling_rate = self.processor.feature_extractor.sampling_rate

    def hear(self, waves: Tensor, progress: bool = False) -> tuple[Tensor, None]:
        """Features (n, F), of length 1, of waves (n, S) at 16 kHz."""
        _check_length(waves, self.processor.feature_extractor.max_length_s)
        return _in_batches(self._hear, waves, 16, self.name, progress)

    @torch.no_grad()
    def _hear(self, waves: Tensor) -> tuple[Tensor, None]:
        waves = resample(waves, SAMPLE_RATE, self.sampling_rate)
        made = self.processor.feature_extractor(
            list(waves.cpu().numpy()), sampling_rate=self.sampling_rate, return_tensors="pt"
        )
        features = made["input_features"].to(self.model.device, self.model.dtype)
        longer = torch.zeros(len(waves), 1, dtype=torch.bool, device=self.model.device)
        return self.model.get_audio_features(input_features=features, is_longer=longer).pooler_output, None

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (n, F) of captions, in the features' space; more than 77 tokens are cut."""
        ids, mask = tokenize(self.processor.tokenizer, captions, 77, self.model.device)
        return self.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output


class AstEmbedder:
    """An audio spectrogram transformer: features are the vector before its classifier, classes those of AudioSet.

    name: a folder or a hub name; MIT/ast-finetuned-audioset-10-10-0.4593 has F = 768 and C = 527.  Probabilities are
    the softmax of the logits, as audioldm_eval takes them from PANNs for its (softmax) KL and for IS, although
    AudioSet's classifiers were trained with a sigmoid a class, since a clip may hold several.
    """

    def __init__(self, name: str | Path = "MIT/ast-finetuned-audioset-10-10-0.4593"):
        self.name = f"ast:{name}"
        self.extractor, self.model = load_pretrained("ASTForAudioClassification", name, "AutoFeatureExtractor")
        self.sampling_rate = self.extractor.sampling_rate

    def hear(self, waves: Tensor, progress: bool = False) -> tuple[Tensor, Tensor]:
        """Features (n, F) and probabilities (n, C) of waves (n, S) at 16 kHz."""
        _check_length(waves, self.extractor.max_length / 100)  # its frames are 10 ms apart
        return _in_batches(self._hear, waves, 8, self.name, progress)

    @torch.no_grad()
    def _hear(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        waves = resample(waves, SAMPLE_RATE, self.sampling_rate)
        made = self.extractor(list(waves.cpu().numpy()), sampling_rate=self.sampling_rate, return_tensors="pt")
        values = made["input_values"].to(self.model.device, self.model.dtype)
        features = self.model.audio_spectrogram_transformer(values).pooler_output
        return features, self.model.classifier(features).double().softmax(dim=1)


def load_embedder(spec: str) -> OracleEmbedder | ClapEmbedder | AstEmbedder:
    """The embedder that "oracle", "clap:NAME" or "ast:NAME" names, NAME being a folder or a hub name."""
    kind, _, name = spec.partition(":")
    if spec == "oracle":
        return OracleEmbedder()
    if kind not in ("clap", "ast") or not name:
        raise ValueError(f"an embedder is oracle, clap:NAME or ast:NAME (a folder or a hub name), got {spec!r}")
    return (ClapEmbedder if kind == "clap" else AstEmbedder)(name)


def scene_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """Probabilities (n, 253) of what a clip holds, in float64, from the logits of the oracle's 7 attributes.

        p(single, a) = p(single) p_1(a),   p(r, a, b) = p(r) p_1(a) p_2(b)   for r in then, while

    with p_1 and p_2 those of the kinds in the first and second slot, which the oracle's heads state independently.
    """
    relation, first, second = (logits[i].double().softmax(dim=1) for i in (0, 1, 4))
    pairs = (first[:, :, None] * second[:, None, :]).flatten(1)
    return torch.cat([relation[:, :1] * first, relation[:, 1:2] * pairs, relation[:, 2:] * pairs], dim=1)


def _check_length(waves: Tensor, limit_s: float) -> None:
    if waves.shape[-1] > limit_s * SAMPLE_RATE:
        raise ValueError(f"clips may last {limit_s:g} s, got {waves.shape[-1] / SAMPLE_RATE:g} s: crop them first")


def _in_batches(hear: Callable, waves: Tensor, size: int, name: str, progress: bool) -> tuple[Tensor, Tensor | None]:
    """What `hear` gives for waves, `size` at a time, joined."""
    if waves.ndim != 2 or not waves.is_floating_point() or not len(waves):
        raise ValueError(f"waves must be floating point (n, S) at 16 kHz, got {waves.dtype} {tuple(waves.shape)}")
    if not waves.isfinite().all():
        raise ValueError("waves holds samples that are NaN or infinite")
    heard = [hear(batch) for batch in tqdm(waves.split(size), f"hearing with {name}", disable=not progress)]
    features, probabilities = zip(*heard, strict=True)
    return torch.cat(features), None if probabilities[0] is None else torch.cat(probabilities)
