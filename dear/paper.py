"""The paper's system, trained from prepared shards: a teacher first without texts and then with them, then a student.

IMPACT (arXiv 2506.00736) trains the teacher in these two stages, AudioDEAR (arXiv 2605.00329) the student from it. The
papers' transformer begins with weights of MAR's ImageNet model; here it begins from random ones.
"""

import dataclasses
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from dear import components, processes
from dear.backbone import BackboneConfig, MaskedTransformer
from dear.blocks import seeded
from dear.data.sharded import ShardedLatents, in_sequence
from dear.generator import Generator, training_loss
from dear.head import AdaLNHead, HeadConfig
from dear.masking import CLASSROOM_LAW
from dear.objectives.diffusion import Diffusion
from dear.objectives.energy import Energy
from dear.pipeline import Settings, TextToAudio, fingerprint
from dear.recipes import FIRST, NOISE, SAMPLES, STUDENT, TARGET, begin_student, check_student
from dear.shop import Shop
from dear.training import TrainConfig

STAGES = ("pretrain", "teacher", "student")
TEXT_PARTS = ("text_in", "pooled_in", "text_positions")  # of a backbone: what a dropped text is not seen through


@dataclass(frozen=True)
class Recipe:
    """All that decides what is trained, but data and seed.

    backbone; head: the teacher's, the student's has no time and the energy's noise_dim.  diffusion, energy: arguments
    of the objectives.  mask_law: see `training_mask`.  mean: see `Generator`.  pretrain, teacher, student: how each
    stage is trained; batch_size is that of a step, over all processes.  at_once: the clips of it that a process takes
    at a time, unless it is told.  mixed: shards whose clips are mixed.  drawn: how teacher and student are drawn from.
    follows: whether the backbone takes the sizes of tokens and texts from the shards.
    """

    backbone: BackboneConfig
    head: HeadConfig
    diffusion: dict
    energy: dict
    mask_law: tuple[float, float, float]
    mean: bool
    pretrain: TrainConfig
    teacher: TrainConfig
    student: TrainConfig
    at_once: int
    mixed: int
    drawn: dict[str, Settings]
    follows: bool = False

    def fitted(self, sizes: dict[str, int]) -> "Recipe":
        """This recipe for shards of such sizes (`Shop`); ValueError if it has other ones and does not follow."""
        own = {name: getattr(self.backbone, name) for name in sizes}
        if not self.follows and own != sizes:
            held, wanted = (", ".join(f"{name} {told[name]}" for name in sizes if own[name] != sizes[name])
                            for told in (sizes, own))
            raise ValueError(f"the shards hold {held}, this configuration wants {wanted}; prepare shards with the "
                             "encoders that it is made for, or train with --config small, which takes any")
        drawn = {name: replace(one, num_inference_steps=min(one.num_inference_steps, sizes["tokens"]))
                 for name, one in self.drawn.items()}
        head = replace(self.head, token_dim=sizes["token_dim"], cond_dim=self.backbone.width)
        return replace(self, backbone=replace(self.backbone, **sizes), head=head, drawn=drawn)


# Published: the sizes, both objectives, batch, learning rate, betas, decay, clipping, average and mask law, and how
# models are drawn from, but for how guidance is scheduled. Not published, and chosen here: the numbers of steps (293
# are one epoch of 1700 hours; MAR's 400 epochs for the teacher), warm-up and the fall of the learning rate, clips at
# once, mixing, the precision, and the student's constant guidance. The teacher's rises in a line, as MAR's does, where
# IMPACT has a cosine.
_LONG = TrainConfig(steps=60_000, batch_size=2048, learning_rate=1e-3, warmup=5000, weight_decay=0.02,
                    betas=(0.9, 0.95), clip=3.0, ema=0.9999, checkpoint_every=1000, log_every=50, precision="bfloat16")
_EPSILON = {"prediction": "epsilon", "schedule": "cosine", "train_steps": 1000, "repeats": 4}
PAPER = Recipe(
    backbone=BackboneConfig.paper(), head=HeadConfig(token_dim=128, cond_dim=768, width=1024, depth=3, times=1),
    diffusion=_EPSILON, energy={"samples": 2, "exponent": 1.0}, mask_law=(0.7, 1.0, 0.25), mean=False,
    pretrain=_LONG, teacher=replace(_LONG, steps=120_000), student=_LONG, at_once=32, mixed=64,
    drawn={"teacher": Settings("diffusion", "prediction", 5.0, "linear", 64, 100),
           "student": Settings("energy", "hidden", 4.0, "constant", 64)},
)  # fmt: skip

# What the classroom's teacher and student learn with (`dear.recipes`), but for the weights of the student's score.
_SHORT = replace(STUDENT, steps=2000)
SMALL = Recipe(
    backbone=BackboneConfig(), head=HeadConfig(times=1), diffusion=TARGET, energy={"samples": SAMPLES, **NOISE},
    mask_law=CLASSROOM_LAW, mean=True, pretrain=_SHORT, teacher=replace(_SHORT, steps=6000), student=STUDENT,
    at_once=16, mixed=8, follows=True,
    drawn={"teacher": Settings("diffusion", "prediction", 2.5, sampling_steps=100, temperature=FIRST,
                               temperature_schedule="linear"),
           "student": Settings(guidance_scale=2.0)},
)  # fmt: skip
RECIPES = {"small": SMALL, "paper": PAPER}


def share(config: TrainConfig, at_once: int, ranks: int) -> TrainConfig:
    """The config of each of so many processes, where batch_size is that of a step: at_once clips, accumulated.

    Equal parts take the same steps on any number of processes. ValueError if the batch does not fall into such parts.
    """
    batch = config.batch_size
    if batch % ranks:
        raise ValueError(f"a step takes {batch} clips, which {ranks} processes cannot share evenly; start a number of "
                         f"processes that divides {batch}")
    each = batch // ranks
    if at_once < 1 or each % at_once:
        fits = ", ".join(str(n) for n in range(1, each + 1) if each % n == 0)
        raise ValueError(f"a step takes {batch} clips, {each} on each of {ranks} process(es), which do not fall into "
                         f"parts of {at_once}; --batch-size may be {fits}")
    return replace(config, batch_size=at_once, accumulate=each // at_once)


def train_stage(shop: Shop, recipe: Recipe, stage: str, *, seed: int = 0, steps: int | None = None,
                at_once: int | None = None, name: str = "student", **student) -> Path:
    """Train a stage, or what is left of it, and save its model in `shop.out`; returns the model's folder.

    The teacher starts from the averaged weights of "pretrain" if that model is there. steps, at_once: in place of the
    recipe's.  name, student: distillation_weight, layers, from_scratch and freeze, as `train_student` has them.
    """
    recipe, ranks, name = recipe.fitted(shop.sizes), processes.count(), name if stage == "student" else stage
    config = getattr(recipe, stage)
    if at_once is None:
        at_once = math.gcd(recipe.at_once, config.batch_size // ranks)
    config = share(replace(config, seed=seed, steps=steps or config.steps), at_once, ranks)
    reader = ShardedLatents(shop.data.folder, config.batch_size, seed=seed, mixed=recipe.mixed)
    with seeded(seed):
        begun = _student(shop, recipe, name, **student) if stage == "student" else _teacher(shop, recipe, stage)
    about = begun.about | {
        "data": shop.data.fingerprint, "mixed": recipe.mixed, "mask_law": recipe.mask_law,
        "objective": begun.settings.objective_arguments, "head": dataclasses.asdict(begun.model.head.config),
        "backbone": dataclasses.asdict(recipe.backbone)}  # fmt: skip

    def loss(module, batch, generator):
        tokens, text, words, pooled = (batch[key].to(generator.device) if key in batch else None
                                       for key in ("tokens", "vectors", "mask", "pooled"))
        if begun.teacher is not None:
            begun.teacher.to(generator.device)
        return training_loss(module, begun.objective, tokens, text, words, generator, pooled=pooled,
                             teacher=begun.teacher, mask_law=recipe.mask_law, **begun.options)

    model = shop.train(begun.model, loss, reader.clips, config, name, about=about, order=in_sequence,
                       read=reader.reader())
    processes.on_main(lambda: TextToAudio(backbone=model.backbone, head=model.head, settings=begun.settings,
                                          **shop.parts).save_pretrained(shop.out / name, shared=begun.shared))
    return shop.out / name


@dataclass(frozen=True)
class _Begun:
    """A stage before its first step; options: of `training_loss`.  about, shared: of `train` and `save_pretrained`."""

    model: Generator
    objective: Diffusion | Energy
    settings: Settings
    options: dict
    about: dict
    teacher: Generator | None = None
    shared: dict = field(default_factory=dict)


def _teacher(shop: Shop, recipe: Recipe, stage: str) -> _Begun:
    model, start, drop = Generator(None, recipe.backbone, recipe.head, recipe.mean), None, 0.1
    settings, before = replace(recipe.drawn["teacher"], objective_arguments=recipe.diffusion), shop.out / "pretrain"
    if stage == "pretrain":
        drop = 1.0
        for name, parameter in model.backbone.named_parameters():
            # No gradient reaches these, and weight decay alone would shrink what the next stage begins with.
            parameter.requires_grad_(name.partition(".")[0] not in TEXT_PARTS)
        settings = replace(settings, guidance_scale=0.0, guidance_schedule="constant")  # all is drawn without a text
    elif processes.from_main((before / "model.json").is_file):  # the others' view of a shared disk may be older
        master, start = _stored(before, recipe), fingerprint(before)
        model.backbone, model.head = master.backbone, master.head
        shop.say(f"teacher: starts from the averaged weights of {before}")
    else:
        shop.say(f"teacher: starts from random weights, as there is no {before}")
    return _Begun(model, Diffusion(**recipe.diffusion), settings, {"text_drop": drop},
                  {"text_drop": drop, "start": start})


def _student(shop: Shop, recipe: Recipe, name: str, *, distillation_weight: float = 1000.0, layers: str = "last",
             from_scratch: bool = False, freeze: bool = False) -> _Begun:
    check_student(name, distillation_weight, layers, from_scratch, freeze, STAGES[:2])
    before = shop.out / "teacher"
    if not processes.from_main((before / "model.json").is_file):
        raise FileNotFoundError(f"there is no {before} for the student to learn from: `dear train teacher` makes it")
    teacher, model = begin_student(_stored(before, recipe), from_scratch, freeze,
                                   noise_dim=recipe.energy.get("noise_dim"))
    options = {"distillation_weight": distillation_weight, "layers": layers}
    about = options | {"from_scratch": from_scratch, "freeze": freeze, "start": fingerprint(before)}
    settings = replace(recipe.drawn["student"], objective_arguments=recipe.energy)
    if freeze:
        return _Begun(model, Energy(**recipe.energy), settings, {}, about, shared={"backbone": "../teacher/backbone"})
    return _Begun(model, Energy(**recipe.energy), settings, options, about, teacher)


def _stored(folder: Path, recipe: Recipe) -> Generator:
    """Backbone and diffusion head of a finished stage; ValueError if they are of another recipe."""
    backbone = components.load(MaskedTransformer, BackboneConfig, folder / "backbone")
    head = components.load(AdaLNHead, HeadConfig, folder / "head")
    if (backbone.config, head.config) != (recipe.backbone, recipe.head):
        raise ValueError(f"{folder} holds a model of other sizes, {backbone.config} and {head.config}, this "
                         f"configuration wants {recipe.backbone} and {recipe.head}; use another folder for --out")
    master = Generator(None, backbone.config, head.config)
    master.backbone, master.head = backbone, head
    return master
