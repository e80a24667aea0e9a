"""Is SoundWorld rich enough to teach with? Four properties that it must have, measured.

1. Texture: a log-mel blurred over a few frames and bins is clearly worse in Frechet distance.
2. Coherence: the parts of an event agree in pitch and rhythm; pieces of a twin in their place are seen.
3. Iterations: decoding in one pass is clearly worse than in 16, and the coherence of what comes out says why.
4. Uncertainty: on the same hidden states a head that predicts the mean is at least 1.5 times worse than energy. Both
   draw without guidance: it sharpens the law of a token until little is left to draw, so the heads are also compared
   with guidance, but that says what guidance does, not what the world is like.
"""

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dear import components, plots
from dear.audio import HOP, SAMPLE_RATE, log_mel, mel_filters
from dear.blocks import seeded
from dear.data import captions as phrases
from dear.data.cache import rendered
from dear.data.latents import Latents, prepare
from dear.data.soundworld import KINDS, PITCHES, Event, Qualities, SoundWorld, render
from dear.evaluation import generate
from dear.head import AdaLNHead
from dear.log import write_record
from dear.masking import training_mask
from dear.metrics.features import features_of
from dear.metrics.frechet import frechet_distance
from dear.oracle import Oracle, OracleConfig, blur, splice
from dear.pipeline import Settings, TextToAudio
from dear.recipes import HEAD, NOISE, soundworld_clips, student_objective
from dear.training import TrainConfig, train

PROMPTS = ["a loud high tone", "a loud middle siren", "a loud high bird", "a loud low hiss", "a loud low engine"]
RHYTHMS = {"knock": (3, 6.5), "bird": (4, 6.5), "siren": (2, 3.2)}  # kind: slowest and fastest rate in Hz


class Mean:
    """The control: a head without noise, trained with squared error, answers the mean of the token given h.

    noise_dim: size of the zeros that the net gets in the place of noise, None: as x.
    """

    def __init__(self, noise_dim: int | None = None):
        self.noise_dim = noise_dim

    def loss(self, net, x: Tensor, cond: Tensor, generator, target=None) -> Tensor:
        """Squared error (B,) of net(0, h)."""
        return (net(x.new_zeros(len(x), self.noise_dim or x.shape[1]), cond) - x).square().sum(-1)

    def sample(self, net, cond: Tensor, noise: Tensor, steps: int = 1, generator=None) -> Tensor:
        """net(0, h), like noise."""
        return net(torch.zeros_like(noise), cond)


def pitch_spread(mel: Tensor) -> Tensor:
    """Standard deviation over time, in semitones, of the strongest partial of log-mels (B, T, 64): (B,).

    The partial's place is the centre of the power around the strongest mel, median over 8 frames; quiet pieces
    (20 dB under the loudest) do not count. NaN for a clip with fewer than two loud pieces.
    """
    filters = mel_filters().numpy()
    frequency = torch.from_numpy((filters * np.linspace(0, SAMPLE_RATE / 2, 513)).sum(1) / filters.sum(1)).float()
    peak = mel.argmax(2, keepdim=True).clamp(1, 62)
    near = peak + torch.tensor([-1, 0, 1])
    weight = mel.gather(2, near).exp() ** 2
    place = 12 * torch.log2((weight * frequency[near]).sum(2) / weight.sum(2))
    pieces = place.unflatten(1, (-1, 8)).median(2).values
    level = mel.amax(2).unflatten(1, (-1, 8)).mean(2)
    loud = [p[e > e.max() - 2.3] for p, e in zip(pieces, level, strict=True)]
    return torch.stack([p.std() if len(p) > 1 else p.new_tensor(torch.nan) for p in loud])


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
    found = {"pitch spread, semitones": float(pitch_spread(mels["tone"]).nanmedian())}
    for kind, (slowest, fastest) in RHYTHMS.items():
        found[f"rhythm of {kind}"] = float(rhythm_agreement(mels[kind], slowest, fastest).median())
    return found


def singles(kind: str, count: int) -> list[str]:
    """Captions of one loud event of a kind, in the three registers by turns."""
    return [f"a loud {PITCHES[i % 3]} {phrases.KINDS[kind][0]}" for i in range(count)]


def rendered_singles(kind: str, count: int, seed: int = 0) -> Tensor:
    """Log-mels (count, 256, 64) of clips with one loud event of a kind in all three registers."""
    clips = []
    for i in range(count):
        rng = np.random.default_rng([seed, KINDS.index(kind), i])
        clips.append(render("single", [Event(kind, PITCHES[i % 3], "loud", Qualities.draw(rng))], rng))
    return log_mel(torch.from_numpy(np.stack(clips)))


GUIDANCES = (1, 2, 3)


@torch.no_grad()
def texture_kept(vae, count: int = 24) -> dict[str, float]:
    """For each kind: frame-to-frame standard deviation of the VAE's reconstructions over that of the originals."""
    kept = {}
    for kind in KINDS:
        mel = rendered_singles(kind, count)
        rebuilt = vae.decode(vae.encode(mel, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1))
        kept[kind] = float(rebuilt.diff(dim=1).std() / mel.diff(dim=1).std())
    return kept


def train_heads(pipe: TextToAudio, latents: Latents, objectives: dict, config: TrainConfig = HEAD) -> nn.ModuleDict:
    """One head an objective, trained side by side from one start on the same hidden states of the frozen teacher."""
    with seeded(config.seed):
        head = AdaLNHead(replace(pipe.head.config, times=0, **NOISE))
    heads = nn.ModuleDict({name: copy.deepcopy(head) for name in objectives})
    ids, words = pipe.text.tokenize(latents.captions)

    def loss(heads, indices, generator):
        pipe.to(generator.device)
        tokens, read = latents.draw(indices, generator), words[indices].to(generator.device)
        masked = training_mask(*tokens.shape[:2], generator)
        drop = torch.rand(len(tokens), generator=generator, device=tokens.device) < 0.1
        with torch.no_grad():
            text = pipe.text(ids[indices].to(tokens.device), read)
            h = pipe.backbone(tokens, masked, text, read, drop)[masked]
        parts = {k: objectives[k].loss(net, tokens[masked], h, generator).mean() for k, net in heads.items()}
        return sum(parts.values()), {k: float(part.detach()) for k, part in parts.items()}

    with tempfile.TemporaryDirectory() as folder:
        heads = train(heads, loss, len(latents), config, folder)
    pipe.to("cpu")  # where the clips are that come next
    return heads.cpu()


def run(models: Path, record: Path | None = None, picture: Path | None = None, clips: int = 300) -> dict:
    """Measure all four properties with trained models and print them; returns what is written to `record`.

    picture: also draw what teacher, energy head and mean head make of PROMPTS, a row each, into this png.
    """
    oracle = components.load(Oracle, OracleConfig, models / "oracle")
    teacher = TextToAudio.from_pretrained(models / "teacher")
    test, other = rendered("test", clips), rendered("test", 2000, seed=1)
    floor, reference = test.log_mels(range(clips)), features_of(oracle, other.log_mels(range(len(other))))

    def distance(mels: Tensor) -> float:
        return frechet_distance(features_of(oracle, mels), reference)

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
    with tempfile.TemporaryDirectory() as folder:
        latents = prepare(teacher.vae, soundworld_clips(), Path(folder) / "latents.safetensors")
    drawn = {"teacher": generate(teacher, PROMPTS, progress=False)}
    objectives = {"energy": student_objective(teacher.vae, latents), "mean": Mean(**NOISE)}
    for name, head in train_heads(teacher, latents, objectives).items():
        pipe = TextToAudio(teacher.text, teacher.backbone, head, teacher.vae, Settings())
        pipe.objective = objectives[name]
        for w in GUIDANCES:
            mels = generate(pipe, test.captions, progress=False, guidance_scale=w)
            title = f"{name} head, guidance {w}"
            frechet[title] = tell(f"... {title}, the teacher's hidden states", distance(mels))
        drawn[f"{name} head"] = generate(pipe, PROMPTS, progress=False, guidance_scale=1)
    for model in ("teacher", "student"):
        pipe = TextToAudio.from_pretrained(models / model)
        for n in (1, 2, 4, 8, 16):
            options = {"num_inference_steps": n} | ({"sampling_steps": 25} if model == "teacher" else {})
            mels = generate(pipe, test.captions, progress=False, **options)
            frechet[f"{model}, {n} iterations"] = tell(f"... {model}, {n} iterations", distance(mels))
            single = {k: generate(pipe, singles(k, 60), progress=False, **options) for k in kinds}
            found["coherence"][f"{model}, {n} iterations"] = coherence(single)
    for name, row in found["coherence"].items():
        print(f"coherence, {name:24}", "  ".join(f"{k} {v:.2f}" for k, v in row.items()))
    if picture:
        plots.save(plots.log_mel_grid(list(drawn.values()), [PROMPTS] * len(drawn), list(drawn)), picture)
    found["holds"] = holds(frechet)
    for name, held in found["holds"].items():
        print(f"{name}: {'holds' if held else 'DOES NOT HOLD'}")
    if record:
        write_record(record, found)
    return found


def holds(frechet: dict[str, float]) -> dict[str, bool]:
    """The properties that are a ratio of Frechet distances, by the least ratio that teaches."""
    return {
        "blurred texture is at least twice as far as fresh clips": frechet["blurred"] >= 2 * frechet["rendered clips"],
        "pieces of a twin are at least twice as far": frechet["spliced 0.25"] >= 2 * frechet["rendered clips"],
        "one iteration is at least 1.5 times as far as 16":
            frechet["teacher, 1 iterations"] >= 1.5 * frechet["teacher, 16 iterations"],
        "without guidance a mean head is at least 1.5 times as far as an energy head":
            frechet["mean head, guidance 1"] >= 1.5 * frechet["energy head, guidance 1"],
    }
