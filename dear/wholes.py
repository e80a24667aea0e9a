"""dear study whole | text | masks: backbone and head trained together, short runs that differ in one thing.

whole: other objectives than energy, from the teacher's backbone and without distillation, as the paper compares them;
the energy students of that start are those of `dear study lambda` with lambda 0.  text: what the backbone sees of a
caption.  masks: how many tokens are unknown in training. All on the validation split.
"""

import copy
import dataclasses
import json
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

from dear.backbone import MaskedTransformer
from dear.blocks import seeded
from dear.components import digest
from dear.generator import Generator
from dear.log import Record
from dear.masking import CLASSROOM_LAW
from dear.pipeline import Settings, TextToAudio, fingerprint
from dear.recipes import LATE_LAW, NOISE, SAMPLES, STORED, Workshop, fit, generator_like, student_objective
from dear.rivals import Try, build, method
from dear.study import GUIDANCES, SHORT, Judge, judged_by, score_name, workshop

RIVALS = ("flow", "shortcut", "meanflow")
IMPACT_LAW = (0.7, 1.0, 0.25)
ENERGY = Try({"samples": SAMPLES, **NOISE}, heard=True)  # the shipped student's
_DISTILLED = {"method": "energy", "setting": ENERGY, "from_scratch": True, "distillation_weight": 1000.0}


def settings_of(study: str, chosen: dict[str, Try]) -> list[dict]:
    """What the models of a study are; chosen: for each of RIVALS the setting that its heads were tuned to."""
    plain = {"from_scratch": False, "distillation_weight": 0.0, "pool": "no", "mask_law": CLASSROOM_LAW}
    if study == "whole":
        return [plain | {"method": name, "setting": chosen[name]} for name in RIVALS]
    if study == "text":
        return [plain | _DISTILLED | {"pool": pool, "learns_text": True} for pool in ("no", "only", "also")]
    if study == "masks":
        return [plain | _DISTILLED | {"mask_law": law} for law in (CLASSROOM_LAW, LATE_LAW, IMPACT_LAW)]
    raise ValueError(f"the study must be whole, text or masks, got {study!r}")


def study_wholes(study: str, models: Path, runs: Path, record: Path, *, steps: int, seeds: int, captions: int,
                 chosen: dict[str, Try] | None = None, data=None, progress: bool = True) -> Iterator[dict]:
    """Lines of all models of a study, seed by seed; those that the record lacks are trained and scored now."""
    lines, teacher = Record(record), fingerprint(models / "teacher")
    told = {"steps": steps, "batch_size": SHORT.batch_size, "captions": captions, "teacher": teacher,
            "judge": judged_by(models)}
    @cache
    def tools() -> tuple[Workshop, Judge]:
        return workshop(models, runs / teacher, data, progress), Judge(models, captions)

    def made(key: dict, setting: dict, seed: int) -> dict:
        if progress:
            print(f"{study}: {key}", flush=True)
        return _scored(*tools(), setting, steps, seed, digest([json.dumps(key)]))

    tasks = []
    for seed in range(seeds):
        for setting in settings_of(study, chosen or {}):
            setting = {"learns_text": False} | setting | {"setting": dataclasses.asdict(setting["setting"])}
            key = json.loads(json.dumps(setting | told | {"seed": seed}))
            tasks.append((key, partial(made, key, setting, seed)))
    yield from lines.make_all(tasks)


def _scored(shop: Workshop, judge: Judge, setting: dict, steps: int, seed: int, mark: str) -> dict:
    """Train one model and score it at each guidance, with each number of calls of the head that is usual for it."""
    began = time.monotonic()
    try:
        pipe = _trained(shop, setting, steps, seed, f"whole-{mark}")
    except FloatingPointError as error:
        return {"failed": str(error), "seconds": round(time.monotonic() - began, 1)}
    spent = round(time.monotonic() - began, 1)
    found = {score_name(w, n): judge(pipe, guidance_scale=w, sampling_steps=n)
             for w in GUIDANCES for n in method(setting["method"]).steps}
    return found | {"train_seconds": spent, "seconds": round(time.monotonic() - began, 1)}


def _trained(shop: Workshop, setting: dict, steps: int, seed: int, name: str) -> TextToAudio:
    vae, latents = shop.latents()
    master = TextToAudio.from_pretrained(shop.out / "teacher")
    own, weights = Try(**setting["setting"]), student_objective(vae, latents).weights
    objective, head = build(method(setting["method"]), own, master, weights, seed)
    with seeded(seed):
        teacher, model = generator_like(master, times=1), generator_like(master, times=0)
        if setting["from_scratch"]:
            model.backbone = _backbone(master, setting["pool"])
    teacher.head.load_state_dict(master.head.state_dict())
    model.head = head
    model.text.requires_grad_(setting["learns_text"])
    average = copy.deepcopy(model) if objective.needs_target and own.target == "average" else None
    options = {}
    if setting["distillation_weight"]:
        options = {"teacher": teacher.eval().requires_grad_(False),
                   "distillation_weight": setting["distillation_weight"]}
    rate = own.learning_rate / SHORT.learning_rate
    config = dataclasses.replace(SHORT, steps=steps, seed=seed, learning_rate=own.learning_rate,
                                 muon=rate * SHORT.muon)
    model: Generator = fit(shop, model, objective, latents, config, name, about=setting, average=average,
                           mask_law=tuple(setting["mask_law"]), **options).cpu()
    for parameter in (*model.backbone.parameters(), *model.head.parameters()):  # as the students' are stored
        parameter.data = parameter.data.to(STORED).float()
    return TextToAudio(model.text, model.backbone, model.head, vae, Settings(), objective=objective)


def _backbone(master: TextToAudio, pool: str) -> MaskedTransformer:
    """A new backbone of the teacher's size and size of h, with room for one vector more where the mean comes along."""
    config = master.backbone.config
    new = MaskedTransformer(dataclasses.replace(config, pool=pool, text_length=config.text_length + (pool == "also")))
    new.decoder_norm.load_state_dict(master.backbone.decoder_norm.state_dict())
    return new
