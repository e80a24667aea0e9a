"""Is SoundWorld rich enough to teach with? Four properties that it must have, measured.

1. Texture: a log-mel blurred over a few frames and bins is clearly worse in Frechet distance.
2. Coherence: the parts of an event agree in pitch and rhythm; pieces of a twin in their place are seen.
3. Iterations: decoding in one pass is clearly worse than in 16, and the coherence of what comes out says why.
4. Uncertainty: on the same hidden states a head that predicts the mean is at least 1.5 times worse than energy.
"""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dear import components
from dear.audio import HOP, SAMPLE_RATE, log_mel, mel_filters
from dear.data.cache import rendered
from dear.data.soundworld import KINDS, PITCHES, SoundWorld
from dear.evaluation import generate
from dear.head import AdaLNHead
from dear.metrics.frechet import frechet_distance
from dear.objectives.energy import Energy
from dear.oracle import Oracle, OracleConfig, blur, splice
from dear.pipeline import Settings, TextToAudio
from dear.training import TrainConfig, rate

RHYTHMS = {"knock": (3, 6.5), "bird": (4, 6.5), "siren": (2, 3.2)}  # kind: slowest and fastest rate in Hz


class Mean:
    """The control: a head without noise, trained with squared error, answers the mean of the token given h."""

    def loss(self, net, x: Tensor, cond: Tensor, generator, target=None) -> Tensor:
        """Squared error (B,) of net(0, h)."""
        return (net(torch.zeros_like(x), cond) - x).square().sum(-1)

    def sample(self, net, cond: Tensor, noise: Tensor, steps: int = 1, generator=None) -> Tensor:
        """net(0, h), like noise."""
        return net(torch.zeros_like(noise), cond)


def pitch_spread(mel: Tensor) -> Tensor:
    """Standard deviation over time, in semitones, of the strongest partial of log-mels (B, T, 64): (B,).

    The partial's place is the centre of the magnitudes around the strongest mel, median over 8 frames; quiet pieces
    (20 dB under the loudest) do not count.
    """
    centres = mel_filters().numpy()
    frequency = torch.from_numpy((centres * np.linspace(0, SAMPLE_RATE / 2, 513)).sum(1) / centres.sum(1)).float()
    peak = mel.argmax(2, keepdim=True).clamp(1, 62)
    near = peak + torch.tensor([-1, 0, 1])
    weight = mel.gather(2, near).exp() ** 2
    place = 12 * torch.log2((weight * frequency[near]).sum(2) / weight.sum(2))
    pieces = place.unflatten(1, (-1, 8)).median(2).values
    level = mel.amax(2).unflatten(1, (-1, 8)).mean(2)
    return torch.stack([p[e > e.max() - 2.3].std() for p, e in zip(pieces, level, strict=True)])


def rhythm_agreement(mel: Tensor, slowest_hz: float, fastest_hz: float) -> Tensor:
    """Highest autocorrelation (B,) of log-mels (B, T, 64) at the lags of a rhythm: 1 if every beat repeats the last."""
    x = mel - mel.mean(1, keepdim=True)
    frames = SAMPLE_RATE / HOP
    found = []
    for lag in range(int(frames / fastest_hz), int(frames / slowest_hz) + 2):
        a, b = x[:, :-lag].flatten(1), x[:, lag:].flatten(1)
        found.append((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)))
    return torch.stack(found).amax(0)


def coherence(mels: dict[str, Tensor]) -> dict[str, float]:
    """Median pitch spread of tones (semitones), and median rhythm agreement of knocks, birds and sirens."""
    found = {"pitch spread, semitones": float(pitch_spread(mels["tone"]).median())}
    for kind, (slowest, fastest) in RHYTHMS.items():
        found[f"rhythm of {kind}"] = float(rhythm_agreement(mels[kind], slowest, fastest).median())
    return found


def singles(kind: str, count: int, seed: int = 0) -> list[str]:
    """Captions of one loud event of a kind in all three registers."""
    name = {"rise": "rising chirp", "fall": "falling chirp"}.get(kind, kind)
    return [f"a loud {PITCHES[i % 3]} {name}" for i in range(seed, seed + count)]


def rendered_singles(kind: str, count: int, seed: int = 0) -> Tensor:
    """Log-mels (count, 256, 64) of clips with one loud event of a kind in all three registers."""
    from dear.data.soundworld import Event, Qualities, render

    clips = []
    for i in range(count):
        rng = np.random.default_rng([seed, KINDS.index(kind), i])
        clips.append(render("single", [Event(kind, PITCHES[i % 3], "loud", Qualities.draw(rng))], rng))
    return log_mel(torch.from_numpy(np.stack(clips)))


@torch.no_grad()
def texture_kept(vae, count: int = 24) -> dict[str, float]:
    """For each kind: frame-to-frame standard deviation of the VAE's reconstructions over that of the originals."""
    kept = {}
    for kind in KINDS:
        mel = rendered_singles(kind, count)
        rebuilt = vae.decode(vae.encode(mel, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1))
        kept[kind] = float(rebuilt.diff(dim=1).std() / mel.diff(dim=1).std())
    return kept


def train_heads(pipe: TextToAudio, tokens: Tensor, captions, steps: int = 1500, seed: int = 0) -> dict[str, AdaLNHead]:
    """An energy head and a mean head, trained side by side on the same hidden states of the frozen teacher."""
    from dear.masking import training_mask

    config = TrainConfig(steps=steps, batch_size=32, seed=seed)
    torch.manual_seed(seed)
    head = AdaLNHead(replace(pipe.head.config, times=0))
    heads = {"energy": (Energy(), head), "mean": (Mean(), copy.deepcopy(head))}
    optimizers = {
        name: torch.optim.AdamW(h.parameters(), weight_decay=0.02, betas=config.betas) for name, (_, h) in heads.items()
    }
    averages = {name: copy.deepcopy(h) for name, (_, h) in heads.items()}
    ids, words = pipe.text.tokenize(captions)
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pick = torch.randint(len(tokens), (config.batch_size,), generator=generator)
        masked = training_mask(config.batch_size, tokens.shape[1], generator)
        drop = torch.rand(config.batch_size, generator=generator) < 0.1
        with torch.no_grad():
            h = pipe.backbone(tokens[pick], masked, pipe.text(ids[pick], words[pick]), words[pick], drop)[masked]
        for name, (objective, net) in heads.items():
            optimizers[name].param_groups[0]["lr"] = rate(step, config)
            optimizers[name].zero_grad()
            objective.loss(net, tokens[pick][masked], h, generator).mean().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip)
            optimizers[name].step()
            with torch.no_grad():
                for slow, fast in zip(averages[name].parameters(), net.parameters(), strict=True):
                    slow.lerp_(fast, max(1 - config.ema, 9 / (10 + step)))
    return averages


def run(models: Path, record: Path | None = None, clips: int = 300) -> dict:
    """Measure all four properties with trained models and print them; returns what is written to `record`."""
    oracle = components.load(Oracle, OracleConfig, models / "oracle")
    teacher = TextToAudio.from_pretrained(models / "teacher")
    student = TextToAudio.from_pretrained(models / "student")
    test, other = rendered("test", clips), rendered("test", 2000, seed=1)
    floor, reference = test.log_mels(range(clips)), other.log_mels(range(len(other)))

    @torch.no_grad()
    def distance(mels: Tensor) -> float:
        return frechet_distance(oracle.features(mels), torch.cat([oracle.features(x) for x in reference.split(200)]))

    def tell(name: str, value: float) -> float:
        print(f"{name:58}{value:8.3f}", flush=True)
        return value

    world, generator = SoundWorld("test", clips), torch.Generator().manual_seed(0)
    twins = log_mel(torch.from_numpy(np.stack([world.twin(i).waveform for i in range(clips)])))
    found = {"Frechet distance": {"rendered clips": tell("Frechet distance of fresh rendered clips", distance(floor))}}
    frechet = found["Frechet distance"]
    frechet["blurred"] = tell("... blurred over 5 frames x 3 bins", distance(blur(floor, torch.ones(clips))))
    for share in (0.25, 0.5):
        spliced = splice(floor, twins, torch.full((clips,), share), generator)
        frechet[f"spliced {share}"] = tell(f"... with {share:.0%} of the pieces from a twin", distance(spliced))
    found["texture kept by the VAE"] = {
        k: tell(f"texture kept by the VAE: {k}", v) for k, v in texture_kept(teacher.vae).items()
    }
    kinds = ("tone", *RHYTHMS)
    found["coherence"] = {"rendered": coherence({k: rendered_singles(k, 60) for k in kinds})}
    for model, pipe in (("student", student), ("teacher", teacher)):
        for n in (1, 2, 4, 8, 16):
            options = {"num_inference_steps": n} | ({"sampling_steps": 25} if model == "teacher" else {})
            mels = generate(pipe, test.captions, progress=False, **options)
            frechet[f"{model}, {n} iterations"] = tell(f"... {model}, {n} iterations", distance(mels))
            drawn = {k: generate(pipe, singles(k, 60), progress=False, **options) for k in kinds}
            found["coherence"][f"{model}, {n} iterations"] = coherence(drawn)
    for name, row in found["coherence"].items():
        print(f"coherence, {name:24}", "  ".join(f"{k} {v:.2f}" for k, v in row.items()))
    data = rendered("train", 16_000)
    with torch.no_grad():
        tokens = torch.cat(
            [teacher.vae.encode(data.log_mels(range(i, i + 200)), generator) for i in range(0, 8000, 200)]
        )
    for name, head in train_heads(teacher, tokens, data.captions[:8000]).items():
        pipe = TextToAudio(teacher.text, teacher.backbone, head, teacher.vae, Settings())
        pipe.objective = Mean() if name == "mean" else Energy()
        frechet[f"{name} head, frozen teacher"] = tell(
            f"... {name} head on the frozen teacher's hidden states",
            distance(generate(pipe, test.captions, progress=False)),
        )
    if record:
        components.write_json(record, found)
    return found
