"""What `dear train` runs: oracle, VAE, teacher and student, each resumable, on SoundWorld or on recordings."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dear import components
from dear.backbone import BackboneConfig
from dear.contrastive import Pair, contrastive_loss
from dear.data.cache import rendered
from dear.data.latents import Latents, prepare
from dear.generator import Generator, training_loss
from dear.head import HeadConfig
from dear.objectives.diffusion import Diffusion
from dear.objectives.energy import Energy
from dear.oracle import Oracle, OracleConfig, oracle_loss
from dear.pipeline import Settings, TextToAudio
from dear.text import TextConfig, TextEncoder, vocabulary_of
from dear.training import TrainConfig, train
from dear.vae import VAE, VAEConfig, texture_loss, vae_loss

TRAIN_CLIPS = 16_000
ORACLE = TrainConfig(steps=2500, batch_size=64, learning_rate=2e-3, weight_decay=0.05)
VAE_RUN = TrainConfig(steps=3000, batch_size=16, learning_rate=2e-3, ema=0.998)
TEXTURE = TrainConfig(steps=3000, batch_size=16, learning_rate=1e-3, ema=0.998)
TEXT = TrainConfig(steps=1000, batch_size=96, learning_rate=1e-3, ema=0.99)
TEACHER = TrainConfig(steps=14_000, batch_size=32, learning_rate=1.5e-3)
STUDENT = TrainConfig(steps=4000, batch_size=32, learning_rate=1e-3)
STORED = torch.float8_e4m3fn  # four significant bits a weight, so that what is shipped stays under 15 MB


@dataclass(frozen=True)
class Workshop:
    """Where a series of trainings reads and writes: data, `runs` (checkpoints and logs) and `out` (finished models).

    data: `len`, `captions` and `log_mels(indices)`, as RenderedSplit and RecordedMels have them.
    """

    data: object
    runs: Path
    out: Path
    progress: bool = True

    def train(self, module, loss, items: int, config: TrainConfig, name: str):
        """Run the training loop in a folder of its own."""
        return train(module, loss, items, config, self.runs / name, progress=self.progress)

    def latents(self) -> tuple[VAE, Latents]:
        """The finished VAE and the data in its latents."""
        vae = components.load(VAE, VAEConfig, self.out / "vae")
        return vae, prepare(vae, self.data, self.runs / "latents.safetensors", self.progress)


def train_oracle(shop: Workshop, config: TrainConfig = ORACLE) -> None:
    """Train the oracle on SoundWorld's split of its own, clips and twins."""
    data, twins = (
        rendered("oracle", TRAIN_CLIPS, twins=t, processes=os.cpu_count() or 1, progress=shop.progress)
        for t in (False, True)
    )
    labels, qualities = torch.from_numpy(data.labels), torch.from_numpy(data.qualities)

    def loss(oracle, indices, generator):
        return oracle_loss(
            oracle, data.log_mels(indices), twins.log_mels(indices), labels[indices], qualities[indices], generator
        )

    torch.manual_seed(config.seed)
    oracle = shop.train(Oracle(OracleConfig()), loss, len(data), config, "oracle")
    components.save(oracle, shop.out / "oracle", torch.float16)


def train_vae(shop: Workshop, config: TrainConfig = VAE_RUN) -> None:
    """Train the VAE, then fit the scale of its latent channels."""

    def loss(vae, indices, generator):
        return vae_loss(vae, shop.data.log_mels(indices), generator)

    torch.manual_seed(config.seed)
    vae = shop.train(VAE(VAEConfig()), loss, len(shop.data), config, "vae")
    vae.fit_scale(shop.data.log_mels(range(min(1024, len(shop.data)))))
    components.save(vae, shop.out / "vae", torch.float16)


def train_texture(shop: Workshop, config: TrainConfig = TEXTURE) -> None:
    """Train the part of the VAE's decoder that draws texture further; latents and all that was made with them stay."""
    vae = components.load(VAE, VAEConfig, shop.out / "vae").requires_grad_(False)
    vae.texture.requires_grad_(True)

    def loss(vae, indices, generator):
        return texture_loss(vae, shop.data.log_mels(indices), generator)

    vae = shop.train(vae, loss, len(shop.data), config, "texture")
    components.save(vae, shop.out / "vae", torch.float16)


def train_text(shop: Workshop, config: TrainConfig = TEXT) -> None:
    """Train a text encoder to know which caption belongs to which sound; the teacher's training goes on from there."""
    _, latents = shop.latents()
    torch.manual_seed(config.seed)
    pair = Pair(TextConfig(vocabulary_of(latents.captions)), *latents.mean.shape[1:])
    ids, words = pair.text.tokenize(latents.captions)

    def loss(pair, indices, generator):
        length = int(words[indices].sum(1).max())
        audio, text = pair(latents.draw(indices, generator), ids[indices, :length], words[indices, :length])
        found = (audio @ text.T).argmax(dim=1) == torch.arange(len(indices), device=audio.device)
        return contrastive_loss(audio, text, pair.log_scale.exp()), {"found": float(found.float().mean())}

    pair = shop.train(pair, loss, len(latents), config, "text")
    components.save(pair.text, shop.runs / "text" / "encoder")


def train_teacher(shop: Workshop, config: TrainConfig = TEACHER) -> None:
    """Train backbone and diffusion head, and the text encoder of `train_text` further with them."""
    vae, latents = shop.latents()
    torch.manual_seed(config.seed)
    tokens, width = latents.mean.shape[1:]
    text = components.load(TextEncoder, TextConfig, shop.runs / "text" / "encoder")
    model = Generator(
        text.config,
        BackboneConfig(tokens=tokens, token_dim=width),
        HeadConfig(token_dim=width, times=1),
        mean=True,
    )
    model.text.load_state_dict(text.state_dict())
    model = _fit(shop, model, Diffusion(repeats=1), latents, config, "teacher")
    settings = Settings("diffusion", "prediction", guidance_scale=2.0, sampling_steps=100)
    components.save(model.text, shop.out / "text", STORED)
    _save(shop, model, vae, settings, "teacher")


def train_student(
    shop: Workshop,
    name: str = "student",
    config: TrainConfig = STUDENT,
    *,
    distillation_weight: float = 1000.0,
    layers: str = "last",
    from_scratch: bool = False,
) -> None:
    """Train backbone and energy head; the text encoder is the teacher's, frozen, so that h can be compared.

    The backbone starts as the teacher's or from scratch. Weight 0 trains without distillation: same start, same data,
    same masks, same number of steps.
    """
    vae, latents = shop.latents()
    master = TextToAudio.from_pretrained(shop.out / "teacher")
    torch.manual_seed(config.seed)
    teacher = _generator(master, times=1)
    teacher.head.load_state_dict(master.head.state_dict())
    model = _generator(master, times=0)
    if from_scratch:
        model.backbone = type(model.backbone)(master.backbone.config)
    model.text.requires_grad_(False)
    model = _fit(
        shop,
        model,
        Energy(),
        latents,
        config,
        name,
        teacher=teacher.eval().requires_grad_(False),
        distillation_weight=distillation_weight,
        layers=layers,
    )
    _save(shop, model, vae, Settings(guidance_scale=5.0, guidance_schedule="linear"), name)


def _generator(master: TextToAudio, times: int) -> Generator:
    head = replace(master.head.config, times=times)
    model = Generator(master.text.config, master.backbone.config, head)
    model.text.load_state_dict(master.text.state_dict())
    model.backbone.load_state_dict(master.backbone.state_dict())
    return model


def _fit(shop: Workshop, model: Generator, objective, latents: Latents, config: TrainConfig, name: str, **distillation):
    ids, words = model.text.tokenize(latents.captions)

    def loss(module, indices, generator):
        length = int(words[indices].sum(1).max())
        return training_loss(
            module,
            objective,
            latents.draw(indices, generator),
            ids[indices, :length],
            words[indices, :length],
            generator,
            **distillation,
        )

    return shop.train(model, loss, len(latents), config, name)


def _save(shop: Workshop, model: Generator, vae: VAE, settings: Settings, name: str) -> None:
    pipe = TextToAudio(model.text, model.backbone, model.head, vae, settings)
    pipe.save_pretrained(shop.out / name, STORED, shared={"text": "../text", "vae": "../vae"})


def soundworld_clips():
    """The clips that everything shipped is trained on."""
    return rendered("train", TRAIN_CLIPS, processes=os.cpu_count() or 1)


def train_soundworld(out: Path, runs: Path, seed: int = 0) -> None:
    """Everything that is shipped, from nothing: data, oracle, VAE, teacher, student with and without distillation."""
    shop = Workshop(soundworld_clips(), runs, out)
    train_oracle(shop, replace(ORACLE, seed=seed))
    train_vae(shop, replace(VAE_RUN, seed=seed))
    train_texture(shop, replace(TEXTURE, seed=seed))
    train_text(shop, replace(TEXT, seed=seed))
    train_teacher(shop, replace(TEACHER, seed=seed))
    train_student(shop, config=replace(STUDENT, seed=seed))
    train_student(shop, "student_without_distillation", replace(STUDENT, seed=seed), distillation_weight=0.0)
