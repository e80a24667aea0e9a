"""What the command line runs; imported only when a command is called, so that --help is quick."""

import csv
import io
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from dear import audio, components
from dear.oracle import Oracle, OracleConfig
from dear.pipeline import SHIPPED, TextToAudio


def generate(prompts, out: Path, model: str, seed: int, iterations, guidance, count: int, picture) -> None:
    """Write one wav a clip; say of each what it is and, where the grammar knows the prompt, what the oracle hears."""
    from dear.evaluation import verdict

    several = len(prompts) * count > 1
    if not several and out.suffix not in (".wav", ".flac"):
        raise ValueError(f"--out must end in .wav or .flac, got {out}")
    pipe = TextToAudio.from_pretrained(model)
    made = pipe(
        prompts,
        num_inference_steps=iterations,
        guidance_scale=guidance,
        num_waveforms_per_prompt=count,
        generator=torch.Generator().manual_seed(seed),
    )
    heard = audio.log_mel(made.audios)
    if several:
        out = out.with_suffix("")
    (out if several else out.parent).mkdir(parents=True, exist_ok=True)
    for i, wave in enumerate(made.audios):
        prompt = prompts[i // count]
        path = out / f"{i + 1}.wav" if several else out
        audio.write(path, wave)
        print(f"{path}: {prompt!r}, {audio.features(wave)}")
        if model in SHIPPED:
            oracle = components.load(Oracle, OracleConfig, components.WEIGHTS / "oracle")
            try:
                print(f"  oracle {verdict(oracle.read(heard[i : i + 1])[0].tolist(), prompt)}")
            except ValueError as error:
                print(f"  no verdict: {error}")
    if picture:
        from dear import plots

        plots.save(plots.log_mel_grid([[mel] for mel in heard], [[p] for p in prompts for _ in range(count)]), picture)
        print(f"{picture}: log-mels")


def train(part: str, source: str, out: Path, runs: Path, steps, held_out, seed: int, **student) -> None:
    """Train one part, or all in their order."""
    from dear import recipes

    parts = {
        "oracle": recipes.ORACLE,
        "vae": recipes.VAE_RUN,
        "texture": recipes.TEXTURE,
        "text": recipes.TEXT,
        "teacher": recipes.TEACHER,
        "student": recipes.STUDENT,
    }
    if part not in (*parts, "all"):
        raise ValueError(f"the part to train must be one of {', '.join(parts)} or all, got {part!r}")
    if part == "all" and source == "soundworld" and steps is None:
        recipes.train_soundworld(out, runs, seed=seed)
        return
    shop = recipes.Workshop(_source(source, held_out), runs, out)
    for name in parts if part == "all" else [part]:
        config = replace(parts[name], seed=seed, **({"steps": steps} if steps else {}))
        if name == "oracle":
            if source != "soundworld":
                print("oracle: skipped, it reads SoundWorld's labels, which recordings do not have")
                continue
            recipes.train_oracle(shop, config)
        elif name == "student":
            recipes.train_student(shop, student.pop("name"), config, **student)
        else:
            getattr(recipes, f"train_{name}")(shop, config)
        print(f"{name}: finished; model in {out}, checkpoint and metrics.jsonl in {runs}")


def _source(source: str, held_out):
    from dear import recipes

    if source == "soundworld":
        return recipes.soundworld_clips()
    from dear.data.folder import AudioFolder
    from dear.recordings import CROPS, RecordedMels

    folder = AudioFolder(source, crops_per_clip=CROPS, progress=True)
    for problem in folder.problems:
        print(f"note: {problem}")
    if held_out is not None:
        folder, rest = folder.split("fold", held_out)
        print(f"held out: {len(rest)} crops whose fold is {held_out}")
    print(f"training on {len(folder)} crops of 2.56 s")
    return RecordedMels(folder)


def evaluate(models: list[str], captions: int, iterations, guidance, split: str, record) -> None:
    """Print one line a model, between the rendered clips (the floor), the VAE's reconstructions and the models."""
    from dear.evaluation import report

    here = [name for name, folder in SHIPPED.items() if (components.WEIGHTS / folder / "model.json").is_file()]
    rows = report(models or here, captions, split, num_inference_steps=iterations, guidance_scale=guidance)
    if record:
        components.write_json(record, rows)
        print(f"wrote {record}")


def write_data(out: Path, count: int, split: str, seed: int) -> None:
    """Write clips and their captions.csv (last, so that a half-written folder has none)."""
    from dear.data.soundworld import SoundWorld

    world, text = SoundWorld(split, count, seed), io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["filename", "caption", "relation"])
    (out / "audio").mkdir(parents=True, exist_ok=True)
    for i in range(count):
        clip = world[i]
        audio.write(out / "audio" / f"{i:05d}.wav", torch.from_numpy(clip.waveform))
        rows.writerow([f"{i:05d}.wav", clip.caption, clip.relation])
    components.write_text(out / "captions.csv", text.getvalue())
    print(f"wrote {count} clips and captions.csv into {out}")


def check_data(folder: Path) -> None:
    """Print every problem of a folder of recordings, and how many crops are usable."""
    from dear.data.folder import AudioFolder

    found = AudioFolder(folder, progress=True)
    for problem in found.problems:
        print(problem)
    print(f"{len(found)} usable recordings, {len(found.problems)} problem(s)")


def report_recordings(folder: Path, models: Path, runs: Path, held_out: str, label: str, steps, record) -> None:
    """Say what models trained on recordings have learned; the record keeps the command beside the figures."""
    from dear.recordings import report

    found = report(folder, models, runs, held_out, label=label, **({"steps": steps} if steps else {}))
    if record:
        components.write_json(record, {"command": shlex.join(["dear", *sys.argv[1:]]), **found})
        print(f"wrote {record}")
