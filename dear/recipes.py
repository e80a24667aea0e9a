"""What `dear train` runs: oracle, VAE, text encoder, teacher and student, resumable, on SoundWorld or recordings."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dear import components
from dear.backbone import BackboneConfig
from dear.blocks import seeded
from dear.contrastive import Pair, contrastive_loss
from dear.data.cache import rendered
from dear.data.captions import words as sentence_words
from dear.data.draws import Draws, teacher_draws
from dear.data.latents import Latents, data_fingerprint, prepare
from dear.generator import Generator, grown, training_loss
from dear.head import HeadConfig
from dear.objectives.diffusion import Diffusion
from dear.objectives.energy import Energy
from dear.oracle import Oracle, OracleConfig, oracle_loss
from dear.pipeline import Settings, TextToAudio, fingerprint
from dear.processes import main_first, on_main
from dear.text import TextConfig, TextEncoder, vocabulary_of
from dear.training import TrainConfig, train
from dear.vae import VAE, VAEConfig, texture_loss, vae_loss

TRAIN_CLIPS = 16_000
ORACLE = TrainConfig(steps=2500, batch_size=64, learning_rate=2e-3, weight_decay=0.05)
VAE_RUN = TrainConfig(steps=3000, batch_size=16, learning_rate=2e-3, ema=0.998)
TEXTURE = TrainConfig(steps=3000, batch_size=16, learning_rate=1e-3, ema=0.998)
TEXT = TrainConfig(steps=1000, batch_size=96, learning_rate=1e-3, ema=0.99)
TEACHER = TrainConfig(steps=26_000, restart=16_000, batch_size=32, learning_rate=1.5e-3, muon=3e-3)
# Of the teacher after its restart. The first tokens of a decoding decide, and CLASSROOM_LAW hides all tokens of a clip
# in one case of twelve only; this one in one of seven, and more than three quarters of them in 83 % instead of 60 %.
LATE_LAW = (0.0, 1.0, 0.18)
# What the teacher grows to after that, and how it is trained then. Its loss on clips it was trained on was no lower
# than on others (0.448 and 0.449), so that a larger network could learn more before it learned clips by heart.
GROWTH = {"decoder_layers": 4, "head_depth": 5}
GROWN = TrainConfig(steps=5000, batch_size=32, learning_rate=1.5e-3, muon=3e-3)
GROWN_RUN = "teacher_grown"  # folder of its checkpoint and log
STUDENT = TrainConfig(steps=2500, batch_size=32, learning_rate=1.5e-3, muon=3e-3)
HEAD = TrainConfig(steps=1500, batch_size=32, learning_rate=1.5e-3, muon=3e-3)  # of a student whose backbone is frozen
NOISE = {"noise_dim": 8}  # of the student: with the paper's full width of noise tokens are further from real ones
COOL = 0.7  # temperature of the teacher's draws that a student learns from
FIRST = 0.5  # temperature of the first tokens that the teacher draws by itself
SAMPLES = 4  # of the student's score, for each target
TARGET = {"prediction": "v", "schedule": "cosine", "repeats": 1}  # the teacher's Diffusion
STORED = torch.float8_e4m3fn  # four significant bits a weight, so that what is shipped stays under 15 MB


@dataclass(frozen=True)
class Workshop:
    """Where a series of trainings reads and writes: data, `runs` (checkpoints and logs) and `out` (finished models).

    data: `len`, `captions` and `log_mels(indices)` -> (B, 256, 64), as RenderedSplit and RecordedMels have them; None
    for the oracle, which has clips of its own. Trainings run where Accelerate puts them; data stay on the CPU, and the
    loss of a step moves its batch to the generator's device. Of several processes the main one makes every file first.
    """

    data: object
    runs: Path
    out: Path
    progress: bool = True

    def train(self, module, loss, items: int, config: TrainConfig, name: str, **options):
        """Run the training loop in a folder of its own; `options` as `train` has them."""
        return train(module, loss, items, config, self.runs / name, progress=self.progress, **options)

    def latents(self) -> tuple[VAE, Latents]:
        """The finished VAE and the data in its latents."""
        vae = components.load(VAE, VAEConfig, self.out / "vae")
        with main_first():
            return vae, prepare(vae, self.data, self.runs / "latents.safetensors", self.progress)

    def save(self, network, folder: Path, dtype: torch.dtype | None = None) -> Path:
        """Save a network by `components.save`, once it is finished; returns the folder."""
        on_main(lambda: components.save(network, folder, dtype))
        return folder


def train_oracle(shop: Workshop, config: TrainConfig = ORACLE) -> Path:
    """Train the oracle on SoundWorld's split of its own, clips and twins."""
    with main_first():
        data, twins = (
            rendered("oracle", TRAIN_CLIPS, twins=t, processes=os.cpu_count() or 1, progress=shop.progress)
            for t in (False, True)
        )
    labels, qualities = torch.from_numpy(data.labels), torch.from_numpy(data.qualities)

    def loss(oracle, indices, generator):
        batch = data.log_mels(indices), twins.log_mels(indices), labels[indices], qualities[indices]
        return oracle_loss(oracle, *_there(generator, *batch), generator)

    with seeded(config.seed):
        oracle = Oracle(OracleConfig())
    oracle = shop.train(oracle, loss, len(data), config, "oracle")
    return shop.save(oracle, shop.out / "oracle", torch.float16)


def train_vae(shop: Workshop, config: TrainConfig = VAE_RUN) -> Path:
    """Train the VAE, then fit the scale of its latent channels."""

    def loss(vae, indices, generator):
        return vae_loss(vae, *_there(generator, shop.data.log_mels(indices)), generator)

    with seeded(config.seed):
        vae = VAE(VAEConfig())
    vae = shop.train(vae, loss, len(shop.data), config, "vae", about={"data": data_fingerprint(shop.data)})
    vae.cpu().fit_scale(shop.data.log_mels(range(min(1024, len(shop.data)))))
    return shop.save(vae, shop.out / "vae", torch.float16)


def train_texture(shop: Workshop, config: TrainConfig = TEXTURE) -> Path:
    """Train the part of the VAE's decoder that draws texture further; latents and all that was made with them stay."""
    vae = components.load(VAE, VAEConfig, shop.out / "vae").requires_grad_(False)
    vae.texture.requires_grad_(True)

    def loss(vae, indices, generator):
        return texture_loss(vae, *_there(generator, shop.data.log_mels(indices)), generator)

    vae = shop.train(vae, loss, len(shop.data), config, "texture", about={"data": data_fingerprint(shop.data, vae)})
    return shop.save(vae, shop.out / "vae", torch.float16)


def train_text(shop: Workshop, config: TrainConfig = TEXT) -> Path:
    """Train a text encoder to know which caption belongs to which sound; the teacher's training goes on from there."""
    _, latents = shop.latents()
    with seeded(config.seed):
        longest = max(len(sentence_words(caption)) for caption in latents.captions)
        sizes = TextConfig(vocabulary_of(latents.captions), length=max(TextConfig.length, longest))
        pair = Pair(sizes, *latents.mean.shape[1:])
    ids, words = pair.text.tokenize(latents.captions)

    def loss(pair, indices, generator):
        length = int(words[indices].sum(1).max())
        batch = _there(generator, ids[indices, :length], words[indices, :length])
        audio, text = pair(latents.draw(indices, generator), *batch)
        found = (audio @ text.T).argmax(dim=1) == torch.arange(len(indices), device=audio.device)
        return contrastive_loss(audio, text, pair.log_scale.exp()), {"found": float(found.float().mean())}

    pair = shop.train(pair, loss, len(latents), config, "text", about={"data": latents.fingerprint})
    return shop.save(pair.text, shop.runs / "text" / "encoder")


def train_teacher(shop: Workshop, config: TrainConfig = TEACHER) -> Path:
    """Train backbone and diffusion head, and the text encoder of `train_text` further with them.

    After the restart of `config`, if it has one, masks are drawn by LATE_LAW, and at its end the network grows (GROWTH)
    and is trained on (GROWN).
    """
    vae, latents = shop.latents()
    tokens, width = latents.mean.shape[1:]
    with seeded(config.seed):
        text = components.load(TextEncoder, TextConfig, shop.runs / "text" / "encoder")
        backbone = BackboneConfig(
            tokens=tokens, token_dim=width, text_dim=text.config.width, text_length=text.config.length
        )
        head = HeadConfig(token_dim=width, cond_dim=backbone.width, times=1)
        model = Generator(text.config, backbone, head, mean=True)
    model.text.load_state_dict(text.state_dict())
    told = {"about": {"data": latents.fingerprint, "text": components.digest([], *text.state_dict().values())}}
    model = fit(shop, model, Diffusion(**TARGET), latents, config, "teacher", config.restart or None, **told)
    if config.restart:
        model = fit(shop, model, Diffusion(**TARGET), latents, config, "teacher", mask_law=LATE_LAW, **told)
        further = replace(GROWN, seed=config.seed + 1)
        with seeded(further.seed):
            model = grown(model, **GROWTH)
        model = fit(shop, model, Diffusion(**TARGET), latents, further, GROWN_RUN, mask_law=LATE_LAW, **told)
    settings = Settings("diffusion", "prediction", guidance_scale=2.5, sampling_steps=100, temperature=FIRST,
                        temperature_schedule="linear", objective_arguments=TARGET)
    shop.save(model.text, shop.out / "text", STORED)
    return _save(shop, model, vae, settings, "teacher")


def train_student(
    shop: Workshop,
    config: TrainConfig = STUDENT,
    *,
    name: str = "student",
    distillation_weight: float = 1000.0,
    layers: str = "last",
    from_scratch: bool = False,
    freeze: bool = False,
    guided: float | None = None,
) -> Path:
    """Train backbone and energy head; the text encoder is the teacher's, frozen, so that h can be compared.

    The backbone starts as the teacher's or, all but its last norm, from scratch: the gains of that norm set the size
    of h (0.3 of what a new norm gives), and AdamW would need hundreds of steps for that alone. Weight 0 trains without
    distillation: same start, same data, same masks, same number of steps. With `freeze` (the paper's ablation) the
    backbone stays the teacher's, is shared with it on disk, and the head alone learns. `guided` replaces the data as
    targets by what the teacher draws with that guidance (`teacher_draws`); less guidance of its own is then left to
    choose.
    """
    taken = [part for part in (*PARTS, GROWN_RUN) if part != "student"]
    check_student(name, distillation_weight, layers, from_scratch, freeze, taken)
    vae, latents = shop.latents()
    data = latents.fingerprint  # of what the targets were made from, also where draws take their place
    master, objective = TextToAudio.from_pretrained(shop.out / "teacher"), student_objective(vae, latents)
    with seeded(config.seed):
        teacher, model = begin_student(master, from_scratch, freeze, **NOISE)
    if guided is not None:
        with main_first():
            latents = teacher_draws(master, latents, shop.runs / "draws.safetensors", guidance_scale=guided,
                                    temperature=COOL, seed=config.seed, progress=shop.progress)
    distillation = {} if freeze else {
        "teacher": teacher, "distillation_weight": distillation_weight, "layers": layers,
    }  # fmt: skip
    about = {"distillation_weight": distillation_weight, "layers": layers, "from_scratch": from_scratch,
             "freeze": freeze, "guided": guided, "teacher": fingerprint(shop.out / "teacher"), "data": data}
    model = fit(shop, model, objective, latents, config, name, about=about, **distillation)
    shared = {"backbone": "../teacher/backbone"} if freeze else {}
    settings = Settings(guidance_scale=2.0 if guided is None else 1.5, objective_arguments=NOISE)
    return _save(shop, model, vae, settings, name, shared)


def check_student(name: str, distillation_weight: float, layers: str, from_scratch: bool, freeze: bool,
                  taken: Sequence[str]) -> None:
    """ValueError for options of a student that do not go together, or for a name that is another model's (`taken`)."""
    if freeze and from_scratch:
        raise ValueError("a backbone that starts from scratch must learn: choose freeze or from_scratch")
    if name in taken or Path(name).name != name or not name.strip("."):
        raise ValueError(f"a student's name must be a folder's name and none of {', '.join(taken)}, got {name!r}")
    if layers not in ("last", "all"):
        raise ValueError(f"layers must be 'last' or 'all', got {layers!r}")
    if not 0 <= distillation_weight < float("inf"):
        raise ValueError(f"the weight of the distillation must be a number >= 0, got {distillation_weight}")


def begin_student(master, from_scratch: bool, freeze: bool, **changes) -> tuple[Generator, Generator]:
    """The frozen teacher, and a student at its start, as `train_student` says; changes: of the student's head."""
    teacher, model = generator_like(master, times=1), generator_like(master, times=0, **changes)
    if from_scratch:
        model.backbone = type(model.backbone)(master.backbone.config)
        model.backbone.decoder_norm.load_state_dict(master.backbone.decoder_norm.state_dict())
    teacher.head.load_state_dict(master.head.state_dict())
    if model.text is not None:
        model.text.requires_grad_(False)
    model.backbone.requires_grad_(not freeze)
    return teacher.eval().requires_grad_(False), model


def student_objective(vae: VAE, latents: Latents) -> Energy:
    """The student's energy score: `SAMPLES` samples a target, each coordinate weighted by how much it is heard.

    A coordinate's weight is the root of its channel's effect on the decoded log-mel (`VAE.channel_effects`), their mean
    square 1. All channels have unit variance, but a few make most of what is heard: unweighted, the score spends most
    of its distance on the others.
    """
    effects = vae.channel_effects(latents.mean[:512].float())
    weights = effects.clamp(min=1e-4 * effects.max()).sqrt().repeat_interleave(vae.config.steps_per_token)
    return Energy(samples=SAMPLES, **NOISE, weights=weights / weights.square().mean().sqrt())


def generator_like(master: TextToAudio | Generator, times: int, **changes) -> Generator:
    """A Generator that starts as a model's backbone and, if any, text encoder, with a new head of so many times."""
    head = replace(master.head.config, times=times, **changes)
    model = Generator(None if master.text is None else master.text.config, master.backbone.config, head)
    if master.text is not None:
        model.text.load_state_dict(master.text.state_dict())
    model.backbone.load_state_dict(master.backbone.state_dict())
    return model


def _there(generator: torch.Generator, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A batch on the device where the step happens."""
    return tuple(tensor.to(generator.device) for tensor in batch)


def fit(
    shop: Workshop, model: Generator, objective, latents: Latents | Draws, config: TrainConfig, name: str,
    stop_after: int | None = None, about: dict | None = None, teacher: Generator | None = None,
    average: Generator | None = None, **options,
):  # fmt: skip
    """Train a Generator on latents or draws; `options` are those of `training_loss`."""
    ids, words = model.text.tokenize(latents.captions)

    def loss(module, indices, generator):
        length = int(words[indices].sum(1).max())
        batch = _there(generator, ids[indices, :length], words[indices, :length])
        if teacher is not None:
            teacher.to(generator.device)
        drawn = latents.draw(indices, generator)
        tokens, masked = drawn if isinstance(drawn, tuple) else (drawn, None)
        return training_loss(
            module, objective, tokens, *batch, generator, teacher=teacher, masked=masked, average=average, **options
        )

    return shop.train(model, loss, len(latents), config, name, stop_after=stop_after, about=about, average=average)


def _save(
    shop: Workshop, model: Generator, vae: VAE, settings: Settings, name: str, shared: dict[str, str] | None = None
) -> Path:
    pipe = TextToAudio(model.text, model.backbone, model.head, vae, settings)
    shared = {"text": "../text", "vae": "../vae"} | (shared or {})
    on_main(lambda: pipe.save_pretrained(shop.out / name, STORED, shared=shared))
    return shop.out / name


def soundworld_clips():
    """The clips that everything shipped is trained on."""
    with main_first():
        return rendered("train", TRAIN_CLIPS, processes=os.cpu_count() or 1)


# In this order, each reading what those before it have finished. A function returns the folder of what it made.
PARTS = {
    "oracle": (train_oracle, ORACLE),
    "vae": (train_vae, VAE_RUN),
    "texture": (train_texture, TEXTURE),
    "text": (train_text, TEXT),
    "teacher": (train_teacher, TEACHER),
    "student": (train_student, STUDENT),
}

# The students that are shipped: one learns from the teacher's guided draws, one on the teacher's frozen hidden states
# from the data alone.
STUDENTS = {
    "student": (STUDENT, {"guided": 2.0, "distillation_weight": 0.0}),
    "student_without_distillation": (HEAD, {"freeze": True}),
}
