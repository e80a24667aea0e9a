"""What the command line runs; imported only when a command is called, so that --help is quick."""

import csv
import io
import time
from dataclasses import replace
from pathlib import Path

import torch

from dear import audio, components
from dear.log import origin, write_record
from dear.oracle import Oracle, OracleConfig
from dear.pipeline import SHIPPED, TextToAudio

STUDENT = {"name": "student", "distillation_weight": 1000.0, "layers": "last", "from_scratch": False, "freeze": False,
           "guided": None}
SHARDS = {"config": "small", "batch_size": None, "vae": None, "text": (), "vocoder": None}


def generate(prompts, out: Path, model: str, seed: int, iterations, guidance, count: int, picture) -> None:
    """Write one wav a clip; say of each what it is and, where the grammar knows the prompt, what the oracle hears."""
    from dear.evaluation import verdict
    from dear.fast import optimise

    several = len(prompts) * count > 1
    if not several and out.suffix.lower() not in (".wav", ".flac"):
        raise ValueError(f"--out must end in .wav or .flac, got {out}")
    pipe = optimise(TextToAudio.from_pretrained(model))
    made = pipe(
        prompts,
        num_inference_steps=iterations,
        guidance_scale=guidance,
        num_waveforms_per_prompt=count,
        generator=torch.Generator().manual_seed(seed),
    )
    heard = audio.log_mel(made.audios)
    oracle = components.load(Oracle, OracleConfig, components.WEIGHTS / "oracle") if model in SHIPPED else None
    if several:
        out = out.with_suffix("") if out.suffix.lower() in (".wav", ".flac") else out
    (out if several else out.parent).mkdir(parents=True, exist_ok=True)
    for i, wave in enumerate(made.audios):
        prompt = prompts[i // count]
        path = out / f"{i + 1}.wav" if several else out
        audio.write(path, wave)
        print(f"{path}: {prompt!r}, {audio.features(wave)}")
        if oracle:
            try:
                print(f"  oracle {verdict(oracle.read(heard[i : i + 1])[0].tolist(), prompt)}")
            except ValueError as error:
                print(f"  no verdict: {error}")
    if picture:
        from dear import plots

        plots.save(plots.log_mel_grid([[mel] for mel in heard], [[p] for p in prompts for _ in range(count)]), picture)
        print(f"{picture}: log-mels")


def train(part: str, source: str, out: Path, runs: Path, steps, held_out, seed: int, shards: dict, **student) -> None:
    """Train one part, or all in their order; of SoundWorld, all makes the students that are shipped."""
    from dear import processes, recipes
    from dear.data.manifest import shard_folders

    every, synthetic = part == "all", source == "soundworld"
    if steps is not None and steps < 1:
        raise ValueError(f"--steps must be at least 1, got {steps}")
    shards_there = [] if synthetic else shard_folders(Path(source))
    # Recordings may have the shards that were made of them in a folder among them.
    if shards_there == [Path(source)] or shards_there and not (Path(source) / "captions.csv").is_file():
        _train_shards(part, Path(source), out, runs, steps, held_out, seed, shards, student)
        return
    if part not in (*recipes.PARTS, "all"):
        raise ValueError(f"the part to train must be one of {', '.join(recipes.PARTS)} or all, got {part!r}; pretrain "
                         "is for --data with shards")
    if shards != SHARDS:
        raise ValueError("--config, --batch-size, --vae, --text, --vocoder: only for --data with shards, which `dear "
                         f"data prepare` writes; {source} has no manifest.json")
    if held_out is not None and synthetic:
        raise ValueError("--held-out is for recordings: SoundWorld's test clips are never trained on")
    if part != "student" and student != STUDENT:
        options = "--name, --distillation, --layers, --from-scratch, --freeze, --guided"
        raise ValueError(f"{options}: only for `dear train student`")
    if part == "oracle" and not synthetic:
        raise ValueError("the oracle reads SoundWorld's labels, which recordings do not have")
    speaks = processes.is_main()
    shop = recipes.Workshop(None if part == "oracle" else _source(source, held_out, speaks), runs, out, speaks)
    names = [part]
    if every:
        names = [name for name in recipes.PARTS if synthetic or name != "oracle"]
    jobs = [(name, recipes.PARTS[name][1], {}) for name in names]
    if every and synthetic:
        jobs[-1:] = [("student", config, {"name": name} | more) for name, (config, more) in recipes.STUDENTS.items()]
    elif every and speaks:
        print("oracle: skipped, it reads SoundWorld's labels, which recordings do not have")
    for name, config, options in jobs:
        run = recipes.PARTS[name][0]
        config = replace(config, seed=seed, **({} if steps is None else {"steps": steps, "restart": 0}))
        folder = run(shop, config, **({**student, **options} if name == "student" else {}))
        log = runs / ({**student, **options}["name"] if name == "student" else name)
        if speaks:
            print(f"{name}: finished; model in {folder}, checkpoint and metrics.jsonl in {log}")


def _train_shards(part: str, folder: Path, out: Path, runs: Path, steps, held_out, seed: int, shards: dict,
                  student: dict) -> None:
    """Train a stage of the paper's system, or all three in their order."""
    from dear import paper
    from dear.recipes import check_student
    from dear.shop import open_shop

    if part not in (*paper.STAGES, "all"):
        raise ValueError(f"the part to train from shards must be one of {', '.join(paper.STAGES)} or all, got {part!r}")
    if held_out is not None or student["guided"] is not None:
        raise ValueError("--held-out and --guided are not for shards: a clip is left out when they are made, and a "
                         "student learns from the data")
    if part in ("pretrain", "teacher") and student != STUDENT:
        raise ValueError("--name, --distillation, --layers, --from-scratch, --freeze: only for a student")
    if shards["config"] not in paper.RECIPES:
        raise ValueError(f"--config must be one of {', '.join(paper.RECIPES)}, got {shards['config']!r}")
    recipe, options = paper.RECIPES[shards["config"]], {k: v for k, v in student.items() if k != "guided"}
    check_student(**options, taken=paper.STAGES[:2])  # before its teacher is trained for days
    shop = open_shop(folder, runs, out, **{key: shards[key] for key in ("vae", "text", "vocoder")})
    shop.say(f"training on {shop.data.totals['clips']:,} clips of {shop.data.corpus}")
    for stage in paper.STAGES if part == "all" else (part,):
        made = paper.train_stage(shop, recipe, stage, seed=seed, steps=steps, at_once=shards["batch_size"],
                                 **(options if stage == "student" else {}))
        shop.say(f"{stage}: finished; model in {made}, checkpoint and metrics.jsonl in {runs / made.name}")


def _source(source: str, held_out, speaks: bool):
    from dear import recipes

    if source == "soundworld":
        return recipes.soundworld_clips()
    from dear.data.folder import AudioFolder
    from dear.recordings import CROPS, RecordedMels

    folder = AudioFolder(source, crops_per_clip=CROPS, progress=speaks)
    said = [f"note: {problem}" for problem in folder.problems]
    if held_out is not None:
        folder, rest = folder.split("fold", held_out)
        said.append(f"held out: {len(rest)} crops whose fold is {held_out}")
    if speaks:
        print(*said, f"training on {len(folder)} crops of 2.56 s", sep="\n")
    return RecordedMels(folder)


def evaluate(models: list[str], captions: int, iterations, guidance, split: str, record, source: str = "soundworld",
             out: Path | None = None, **folders) -> None:
    """Print one line a model, between the rendered clips (the floor), the VAE's reconstructions and the models.

    With `out`, write folders of wav files instead and print tables of figures with intervals.
    """
    settings = {"num_inference_steps": iterations, "guidance_scale": guidance}
    here = [name for name, folder in SHIPPED.items() if (components.WEIGHTS / folder / "model.json").is_file()]
    if out is None:
        from dear.evaluation import report

        if source != "soundworld" or folders:
            options = "--data, --embedder, --clips-per-caption, --held-out, --convention and --seed"
            raise ValueError(f"{options} are for folders of wav files: name one with --out")
        found = {"rows": report(models or here, captions, split, **settings)}
    else:
        found = _evaluate_folders(models, here, captions, split, source, out, folders | settings)
    if record:
        write_record(record, found)


def _evaluate_folders(models, here, captions: int, split: str, source: str, out: Path, options: dict) -> dict:
    from dear import wavfolders

    held_out, seed = options.pop("held_out", None), options.get("seed", 0)
    if captions < 1:
        raise ValueError(f"--captions must be at least 1, got {captions}")
    if source != "soundworld" and not models:
        raise ValueError("name the models to evaluate on recordings: those that are shipped know SoundWorld alone")
    if source == "soundworld" and held_out is not None:
        raise ValueError("--held-out is for recordings: SoundWorld's test clips are never trained on")
    clips = (wavfolders.World(split, captions, seed) if source == "soundworld"
             else wavfolders.Recordings(Path(source), captions, held_out))
    return wavfolders.run(models or here, clips, out, options.pop("embedders", ["oracle"]), **options)


def study(what: str, models: Path, runs: Path, record, steps: int, seeds: int, captions: int) -> None:
    """Do what a study's record lacks, then print a line for each of its runs."""
    from dear import study as studies

    names = {"guidance": "guidance", "rivals": "heads", "heads": "heads", "latency": "latency"}
    names |= dict.fromkeys(studies.STUDENTS, "students") | dict.fromkeys(("whole", "text", "masks"), "wholes")
    if what == "ablations":
        for part in ("heads", "text", "masks"):
            study(part, models, runs, record, steps, seeds, captions)
        return
    if what not in names:
        raise ValueError(f"the study must be one of {', '.join(names)}, ablations, got {what!r}")
    if min(steps, seeds, captions) < 1:
        raise ValueError(f"--steps, --seeds and --captions must be at least 1, got {steps}, {seeds} and {captions}")
    record = record or Path("records") / f"{names[what]}.jsonl"
    options = {"steps": steps, "seeds": seeds, "captions": captions}
    run = {"guidance": _study_guidance, "students": _study_students, "heads": _study_heads, "wholes": _study_wholes,
           "latency": _study_latency}
    run[names[what]](what, models, runs, record, **options)
    print(f"record: {record}")


def _study_guidance(what: str, models: Path, runs: Path, record: Path, *, captions: int, **unused) -> None:
    from dear.study import study_guidance

    names = ("model", "num_inference_steps", "guidance_scale", "place", "guidance_schedule", "temperature",
             "kind", "loudness", "frechet", "spread")
    for line in study_guidance(models, record, captions=captions):
        told = {k: line[k] for k in names if k in line}  # rendered clips were not drawn in any way
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in told.items()))


def _study_students(what: str, models: Path, runs: Path, record: Path, **options: int) -> None:
    from dear.study import study_students

    for line in study_students(what, models, runs, record, **options):
        start = "frozen" if line["freeze"] else "from scratch" if line["from_scratch"] else "from the teacher"
        _tell_best(f"lambda {line['distillation_weight']:<6g} layers {line['layers']:5} {start:17}", line)


def _study_heads(what: str, models: Path, runs: Path, record: Path, *, steps: int, seeds: int, captions: int) -> None:
    from dear import grid

    frame = grid.Frame(models, runs, record, steps=steps, captions=captions)
    for line in {"rivals": grid.study_rivals, "heads": grid.study_heads}[what](frame, seeds=seeds):
        if "setting" not in line:  # a control
            print(f"{line['method']:18} Frechet distance {line['guidance 1']['frechet']:.0f}")
            continue
        changes = line["sizes"] | ({"targets": line["targets"]} if line["targets"] > 1 else {})
        told = line["setting"]["arguments"] | {"heard": line["setting"]["heard"]} | changes
        _tell_best(f"{line['method']:18} {line['steps']} steps  {told}", line)


def _study_wholes(what: str, models: Path, runs: Path, record: Path, *, steps: int, seeds: int, captions: int) -> None:
    from dear import grid, wholes

    chosen = {}
    if what == "whole":
        heads = grid.Frame(models, runs, record.with_name("heads.jsonl"), steps=grid.LONG.steps, captions=captions)
        chosen = {name: grid.tuned(heads, grid.method(name)) for name in wholes.RIVALS}
    options = {"steps": steps, "seeds": seeds, "captions": captions, "chosen": chosen}
    for line in wholes.study_wholes(what, models, runs, record, **options):
        _tell_best(f"{line['method']:10} text {line['pool']:5} masks {line['mask_law']}", line)


def _study_latency(what: str, models: Path, runs: Path, record: Path, *, steps: int, captions: int, **unused) -> None:
    from dear.latency import study_latency

    for line in study_latency(models, runs, record, captions=captions, steps=steps):
        print(f"{line['model']:20} {line['num_inference_steps']:3} iterations, {line['sampling_steps']:3} calls  "
              f"{line['seconds_per_clip']:.3f} s a clip  kind {line['kind']:.3f}  Frechet {line['frechet']:.0f}")


def _tell_best(name: str, line: dict) -> None:
    """Print a line of a record with the scores of its best guidance."""
    from dear.grid import best as best_of

    best = best_of(line)
    if best is None:
        print(f"{name} seed {line['seed']}  {line['failed']}")
        return
    print(f"{name} seed {line['seed']}  kind {best['kind']:.3f}  loudness {best['loudness']:.3f}  "
          f"Frechet distance {best['frechet']:.0f}")


def bench(what: str, sizes: list[str], batches: list[int], repeats: int, only: list[str], device: str | None,
          seconds: float, record: Path | None) -> None:
    """Print what decodings and rivals, or trainings, cost; the record, rewritten after every row, keeps all of them."""
    from dear import bench as benches
    from dear import cost, speed, targets, train_cost
    from dear.blocks import fastest_device
    from dear.fullsize import systems

    if what not in ("all", "decode", "rivals", "training") or set(sizes) - set(cost.SIZES):
        raise ValueError(f"--what must be training, all, decode or rivals and --size one of {', '.join(cost.SIZES)}, "
                         f"got {what} and {', '.join(sizes) or 'none'}")
    if min([repeats, *batches]) < 1:
        raise ValueError(f"--batch and --repeats must be at least 1, got {batches} and {repeats}")
    device, began = device or str(fastest_device()), time.monotonic()
    gpu = device.startswith("cuda")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"--device {device} cannot be used ({why}); there is always cpu") from None
    figures = {"ran_on": device, "threads": torch.get_num_threads(), "dtype": "bfloat16" if gpu else "float32",
               "batch": batches[0] if batches else 8 if gpu else 1, "missing": [],
               "left_out": "of the rows of systems: text encoder, VAE, vocoder"}
    rivals, came = benches.choose(systems(), only) if what in ("all", "rivals") else [], origin()
    sizes = sizes or sorted(cost.SIZES, reverse=gpu)  # on a GPU the paper's is what matters, on a CPU it takes long

    def keep() -> None:
        if record:
            components.write_json(record, came | figures)

    if what == "training":
        train_cost.survey(figures, sizes, batches, repeats, seconds, keep)
    elif what != "rivals":
        speed.survey(figures, sizes, batches, repeats, seconds, keep)
    if rivals:
        benches.survey(figures, rivals, repeats, seconds - (time.monotonic() - began), keep)
        print(benches.table(figures["rows"]))
    if what == "training":
        print(train_cost.report(figures))
    else:
        print(targets.report(figures) if "decodings" in figures else "\n".join(figures["missing"]))
    if record:
        print(f"wrote {record}")


def budget(record: Path | None, **plan) -> None:
    """Print what training the paper's system takes."""
    from dear.budget import read, report
    from dear.scaling import Plan

    print(report(read(record), Plan(**plan)))


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
    """Print every problem of a folder of recordings, and how many crops are usable; any problem is an error."""
    from dear.data.folder import AudioFolder

    found = AudioFolder(folder, progress=True)
    for problem in found.problems:
        print(problem)
    print(f"{len(found)} usable recordings, {len(found.problems)} problem(s)")
    if found.problems:
        raise ValueError(f"{folder} has problems; training would leave these files out")


def list_corpus(kind: str, folder: Path, hours, seed: int, decode: bool, **options) -> None:
    """Print what a corpus on disk holds, leaves out and lacks; more problems than the limit are an error."""
    _corpus(kind, folder, hours, seed, decode, **options)


def _corpus(kind: str, folder: Path, hours, seed: int, decode: bool, **options):
    from dear.data.corpora import open_corpus
    from dear.data.corpus import TooManyProblems

    try:
        found = open_corpus(kind, folder, progress=True, **options)
        if decode:
            found = found.decoded(progress=True)
        if hours is not None:
            found = found.subset(hours, seed)
    except TooManyProblems as error:
        print(*error.corpus.report(), sep="\n")
        raise
    print(*found.report(), sep="\n")
    if kind in ("audioset", "wavcaps") and not found.excluded:
        print("note: nothing is left out; clips of AudioCaps' test set may be among these (--exclude-audiocaps)")
    return found


def prepare_data(kind: str, folder: Path, out: Path, vae: str, text: list[str], hours, seed: int, device: str,
                 settings: dict, **options) -> None:
    """Encode a corpus into shards, or do what is left of it, and say what there is."""
    from functools import partial

    from dear.data.corpus import LIMIT
    from dear.data.encoding import load_encoders
    from dear.data.shards import prepare

    corpus = _corpus(kind, folder, hours, seed, False, **options)
    encoders = partial(load_encoders, vae, tuple(text), device)
    named = {"vae": _from_anywhere(vae), "text": [_from_anywhere(name) for name in text]}
    try:
        made = prepare(corpus, out, encoders, seed=seed, limit=options.get("limit", LIMIT), named=named, **settings)
    except KeyboardInterrupt as stopped:
        print(stopped)
        raise
    total = made.totals
    print(f"{out}: {total['clips']} clips with {total['captions']} captions in {len(made.shards)} shards, "
          f"{total['hours']:.2f} hours, {total['bytes'] / 1e9:.3g} GB, {total['skipped']} skipped (manifest.json)")


def _from_anywhere(name: str) -> str:
    """Name of an encoder that means the same in any working folder: a folder is named by its whole path."""
    kind = next((kind for kind in ("t5:", "clap:") if name.startswith(kind)), "")
    place = Path(name.removeprefix(kind))
    return f"{kind}{place.absolute()}" if name != "soundworld" and place.is_dir() else name


def report_recordings(folder: Path, models: Path, runs: Path, held_out: str, label: str, steps, record) -> None:
    """Say what models trained on recordings have learned; the record keeps the command beside the figures."""
    from dear.recordings import report

    found = report(folder, models, runs, held_out, label=label, **({"steps": steps} if steps else {}))
    if record:
        write_record(record, found)


def prepare_listening(folders: list[Path], out: Path, captions: int, seed: int, listeners) -> None:
    """Write a listening test, and say how much it asks of a listener and what to hand out."""
    from dear.listening import prepare

    key = prepare(folders, out, captions, seed, listeners)
    found = len(key.captions)
    if found < captions:
        print(f"note: only {found} captions are shared, {captions} were wanted")
    print(f"{out}: hand out this folder; listeners open index.html, rate {len(key.clips)} clips and compare "
          f"{len(key.trials) - len(key.clips)} pairs ({found} captions, {len(key.systems)} systems)")
    print(f"{out}.key.json: keep this to yourself, it says which system made which clip")


def listening_results(key: Path, answers: list[Path], record) -> None:
    """Print what the answers to a listening test say."""
    from dear.listening import read_answers, read_key, results, tell

    known = read_key(key)
    found = results(known, read_answers(known, answers))
    tell(found)
    if record:
        write_record(record, found)
