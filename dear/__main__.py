"""The command line: dear generate | train | evaluate | listen | study | bench | budget | data | demo."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="One-step text-to-audio: AudioDEAR at classroom size.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
data = typer.Typer(help="Look at data and write it.", no_args_is_help=True)
app.add_typer(data, name="data")
listen = typer.Typer(help="Let people judge clips blindly: a listening test.", no_args_is_help=True)
app.add_typer(listen, name="listen")

Model = Annotated[
    str,
    typer.Option(
        help="A shipped model (soundworld, soundworld-teacher, "
        "soundworld-without-distillation), a folder, or a hub name."
    ),
]

# What the commands that read a published corpus share.
Kind = Annotated[str, typer.Argument(help="audiocaps, wavcaps, audioset, or folder for one with a "
                                        "metadata.csv, metadata.jsonl or captions.csv.")]
CorpusFolder = Annotated[Path, typer.Argument(help="Folder with the tables as published, and the audio below it.")]
Split = Annotated[
    str | None,
    typer.Option(help="audiocaps: train, val or test; audioset: balanced_train, unbalanced_train or eval."),
]
Excluded = Annotated[
    list[Path] | None,
    typer.Option(help="A csv of AudioCaps whose clips to leave out, as its test.csv; may be given several times."),
]
CaptionColumn = Annotated[str | None, typer.Option(help="folder: the column of the captions.")]


@app.command()
def generate(
    prompts: Annotated[
        list[str],
        typer.Argument(
            metavar="PROMPT...",
            help="What to hear, for example 'a low bell then a high bird'. Several prompts make several clips.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The wav file to write; with several clips, a folder.")
    ] = Path("out.wav"),
    model: Model = "soundworld",
    seed: Annotated[int, typer.Option(help="The same seed gives the same sound on the same machine.")] = 0,
    iterations: Annotated[
        int | None, typer.Option(help="Iterations of parallel decoding; more is slower and better.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt; 1 is no guidance.")] = None,
    count: Annotated[int, typer.Option(help="Clips a prompt.")] = 1,
    picture: Annotated[Path | None, typer.Option(help="Also draw the log-mels into this PNG.")] = None,
):
    """Turn prompts into sound: 16 kHz, mono, and as long as what the model learned from, 2.56 s if it is shipped."""
    from dear.commands import generate as run

    _tell(run, prompts, out, model, seed, iterations, guidance, count, picture)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the wav files and the picture.")] = Path("demo"),
):
    """Six sentences to sound: the one-step student beside its 100-step teacher."""
    from dear.demo import run

    _tell(run, out)


@app.command()
def train(
    part: Annotated[
        str,
        typer.Argument(help="oracle, vae, texture, text, teacher, student, or all that is shipped; of shards pretrain "
                       "(the teacher's first stage, without texts), teacher, student, or all three."),
    ],
    source: Annotated[
        str,
        typer.Option("--data", help="soundworld (synthetic, made on the spot), a folder of recordings with a "
                     "captions.csv, a folder of shards that `dear data prepare` wrote, or one with several such "
                     "folders."),
    ] = "soundworld",
    out: Annotated[Path, typer.Option(help="Folder for the finished models.")] = Path("models"),
    runs: Annotated[Path, typer.Option(help="Folder for checkpoints and metrics.jsonl.")] = Path("runs"),
    steps: Annotated[int | None, typer.Option(
        help="Length of the training; none: the part's own. With a length a teacher neither restarts nor grows."
    )] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Leave out the recordings whose column `fold` says this.")
    ] = None,
    name: Annotated[str, typer.Option(help="Student: name of the finished model.")] = "student",
    distillation: Annotated[
        float, typer.Option(help="Student: weight lambda of the distillation; 0 is none.")
    ] = 1000.0,
    layers: Annotated[str, typer.Option(help="Student: hidden states to distil, last or all.")] = "last",
    from_scratch: Annotated[bool, typer.Option(help="Student: do not start from the teacher's backbone.")] = False,
    freeze: Annotated[bool, typer.Option(help="Student: train the head alone, on the teacher's backbone.")] = False,
    guided: Annotated[
        float | None,
        typer.Option(help="Student, not of shards: learn what the teacher draws with this guidance, not the data."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    config: Annotated[
        str, typer.Option(help="Shards: small (takes any sizes, for a CPU) or paper (the published system).")
    ] = "small",
    batch_size: Annotated[
        int | None,
        typer.Option(help="Shards: clips that a process takes at once; the batch of a step stays the configuration's."),
    ] = None,
    vae: Annotated[
        str | None, typer.Option(help="Shards: where their VAE is, if their manifest does not say it or it has moved.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Shards: where their text encoder is, likewise, as `dear data prepare` takes it."),
    ] = None,
    vocoder: Annotated[
        str | None,
        typer.Option(help="Shards: vocoder of the finished models, a folder or hub name with a HiFi-GAN, as "
                     "cvssp/audioldm-s-full-v2; none: Griffin-Lim."),
    ] = None,
):
    """Train a part. Stop it at any moment (ctrl-C); the same command continues it.

    Under torchrun (torchrun --nproc-per-node 8 -m dear train ...) several processes share the work.
    """
    from dear.commands import train as run

    _tell(
        run,
        part,
        source,
        out,
        runs,
        steps,
        held_out,
        seed,
        name=name,
        distillation_weight=distillation,
        layers=layers,
        from_scratch=from_scratch,
        freeze=freeze,
        guided=guided,
        shards={"config": config, "batch_size": batch_size, "vae": vae, "text": tuple(text or ()), "vocoder": vocoder},
    )


@app.command()
def evaluate(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Models; none: all that are shipped.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="One more model; repeatable.")] = None,
    captions: Annotated[int, typer.Option(help="Number of test captions.")] = 500,
    iterations: Annotated[int | None, typer.Option(help="Iterations of parallel decoding.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    split: Annotated[str, typer.Option(help="validation (to tune on) or test.")] = "test",
    record: Annotated[Path | None, typer.Option(help="Also write the figures to this json file.")] = None,
    source: Annotated[
        str, typer.Option("--data", help="soundworld, or a folder of recordings with a captions.csv (with --out).")
    ] = "soundworld",
    out: Annotated[
        Path | None,
        typer.Option(help="Write a folder of wav files a model here, measure those, and write metrics.json, table.md."),
    ] = None,
    embedder: Annotated[
        list[str] | None,
        typer.Option(help="With --out: oracle, clap:NAME or ast:NAME (a folder or hub name); may be repeated."),
    ] = None,
    clips_per_caption: Annotated[
        int | None, typer.Option(help="With --out: more than 1 also measures how clips of a caption differ.")
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="With --out: only recordings whose column `fold` says this.")
    ] = None,
    convention: Annotated[
        str | None, typer.Option(help="With --out: of KL and inception score, audioldm_eval (default) or textbook.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="With --out: seed of captions and clips, default 0.")] = None,
):
    """Measure models: what the oracle hears, and distances to other clips of SoundWorld or to recordings.

    With --out, stop it at any moment (ctrl-C); the same command continues it.
    """
    from dear.commands import evaluate as run

    told = {"embedders": embedder or None, "copies": clips_per_caption, "held_out": held_out, "convention": convention,
            "seed": seed}
    folders = {name: value for name, value in told.items() if value is not None}
    named = [*(models or []), *(model or [])]
    _tell(run, named, captions, iterations, guidance, split, record, source, out, **folders)


@app.command()
def study(
    what: Annotated[
        str,
        typer.Argument(
            help="lambda, initialisation, layers: short students that differ in this.  guidance: shipped student and "
            "teacher drawn from with other iterations, scales and temperatures.  rivals: heads of every objective on "
            "the teacher's frozen hidden states.  heads: energy heads that differ in one thing.  whole: whole models "
            "of other objectives.  text, masks: students that differ in these.  ablations: heads, text and masks.  "
            "latency: quality against seconds."
        ),
    ],
    models: Annotated[Path, typer.Option(help="Folder with oracle, vae, text, teacher and student.")] = Path(
        "dear/weights"
    ),
    runs: Annotated[Path, typer.Option(help="Folder for checkpoints and students.")] = Path("runs/study"),
    record: Annotated[
        Path | None, typer.Option(help="The record; none: in records/, the one that holds this study.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Length of each training.")] = 1000,
    seeds: Annotated[int, typer.Option(help="Trainings of each setting.")] = 2,
    captions: Annotated[int, typer.Option(help="Validation captions that each is scored on.")] = 200,
):
    """Make the records that notebooks read, one line a run. Stop it at any moment; the same command does the rest.

    Started several times side by side, the processes share the work; where there is a GPU, it is used.
    """
    from dear.commands import study as run

    _tell(run, what, models, runs, record, steps, seeds, captions)


@app.command()
def bench(
    what: Annotated[
        str,
        typer.Option(help="decode (student and teacher), rivals (published systems at full size), all of these, or "
                     "training (steps of teacher and student, and the preparation of their data)."),
    ] = "all",
    size: Annotated[
        list[str] | None,
        typer.Option(help="Size of decodings or trainings, classroom or paper; may be given several times."),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Clips at once; may be given several times; rivals make as many as the first says."),
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="Times that each call is timed, after one to warm up; slow ones fewer, quick ones more.")
    ] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help="Rivals whose name holds this; may be given several times; none: all.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; without it a GPU if there is one.")] = None,
    seconds: Annotated[float, typer.Option(help="Begin nothing after so many, and say what is left out.")] = 3600,
    record: Annotated[Path | None, typer.Option(help="Also write the figures to this json file.")] = None,
):
    """Time student, teacher and rivals, with random weights, on one device in one run, and explain their cost."""
    from dear.commands import bench as run

    _tell(run, what, size or [], batch or [], repeats, only or [], device, seconds, record)


@app.command()
def budget(
    record: Annotated[
        Path | None, typer.Option(help="What `dear bench --what training --size paper` wrote on your device.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of a machine.")] = 8,
    machines: Annotated[int, typer.Option(help="Number of machines.")] = 1,
    inside: Annotated[
        str, typer.Option(help="Link of the GPUs of a machine: NVLink 4, NVLink 3, PCIe 5 or PCIe 4.")
    ] = "NVLink 4",
    network: Annotated[
        str, typer.Option(help="Network between machines: 100 Gb/s, 200 Gb/s, 400 Gb/s or 8 x 400 Gb/s.")
    ] = "400 Gb/s",
    batch: Annotated[int, typer.Option(help="Clips of a step, over all GPUs.")] = 2048,
    pretrain_steps: Annotated[int, typer.Option(help="Steps of the teacher without texts (not published).")] = 60_000,
    teacher_steps: Annotated[int, typer.Option(help="Steps of the teacher with texts (not published).")] = 120_000,
    student_steps: Annotated[int, typer.Option(help="Steps of the student (not published).")] = 60_000,
):
    """Say what training the paper's system takes: GPU hours, hours, disk, traffic, and what more GPUs bring.

    From the speed that a record holds; all else is arithmetic, and what is assumed is said.
    """
    from dear.commands import budget as run

    _tell(run, record, gpus=gpus, machines=machines, inside=inside, between=network, batch=batch,
          steps=(pretrain_steps, teacher_steps, student_steps))


@data.command("write")
def write_data(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    count: Annotated[int, typer.Option(help="Number of clips.")] = 20,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 0,
):
    """Write clips of SoundWorld as wav files with a captions.csv: a folder that `dear train --data` can read."""
    from dear.commands import write_data as run

    _tell(run, out, count, split, seed)


@data.command("check")
def check_data(folder: Annotated[Path, typer.Argument(help="Folder of recordings with a captions.csv.")]):
    """Read a folder of recordings and say what is wrong with it, one line a file; exit code 1 if anything is."""
    from dear.commands import check_data as run

    _tell(run, folder)


@data.command("corpus")
def list_corpus(
    kind: Kind,
    folder: CorpusFolder,
    split: Split = None,
    hours: Annotated[float | None, typer.Option(help="Only a random part this long, 10.24 s a clip at most.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of that part; more hours of a seed hold its fewer.")] = 0,
    exclude_audiocaps: Excluded = None,
    caption: CaptionColumn = None,
    limit: Annotated[
        float | None,
        typer.Option(help="Share that may be skipped; none: 0.25 of audiocaps and audioset, 0.05 of the others."),
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every file to its end, which is slow.")] = False,
):
    """List what a published corpus on disk holds, leaves out and lacks; exit code 1 if more is skipped than the limit.

    Names the first 20 findings of each sort, and counts all.
    """
    from dear.commands import list_corpus as run

    options = {} if limit is None else {"limit": limit}
    _tell(run, kind, folder, hours, seed, decode, split=split, caption=caption,
          exclude_audiocaps=exclude_audiocaps or [], **options)


@data.command("prepare")
def prepare_data(
    kind: Kind,
    folder: CorpusFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder for the shards and their manifest.json.")],
    vae: Annotated[
        str,
        typer.Option(help="soundworld (shipped), a folder that `dear train` wrote, or a folder or hub name with a "
                     "VAE of diffusers, as cvssp/audioldm-s-full-v2."),
    ] = "soundworld",
    text: Annotated[
        list[str] | None,
        typer.Option(help="soundworld (shipped, the default), a folder that `dear train` wrote, t5:NAME or clap:NAME "
                     "with a folder or hub name; give both of the last for Flan-T5 and CLAP together."),
    ] = None,
    processes: Annotated[int, typer.Option(help="Processes, each with its own encoders and one thread.")] = 1,
    shard_clips: Annotated[int, typer.Option(help="Clips a shard.")] = 256,
    seconds: Annotated[float, typer.Option(help="Length of a clip: longer ones are cropped, shorter padded.")] = 10.24,
    peak: Annotated[
        float | None,
        typer.Option(help="Remove each clip's offset and scale it to this peak; AudioLDM's VAE was trained with 0.5."),
    ] = None,
    hours: Annotated[float | None, typer.Option(help="Only a random part of this length.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the crops, and of that part.")] = 0,
    split: Split = None,
    exclude_audiocaps: Excluded = None,
    caption: CaptionColumn = None,
    limit: Annotated[
        float | None,
        typer.Option(help="Share that may be skipped, of what is listed and again of what is encoded; none: 0.25 of "
                     "audiocaps and audioset as listed, else 0.05."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the encoders run: cpu, cuda or cuda:1.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Start although the disk is too small.")] = False,
):
    """Encode a corpus once: latents and text vectors in webdataset shards, which training reads.

    Says first what the disk must hold. Stop it at any moment (ctrl-C, or kill it); the same command continues it and
    ends with the same shards.
    """
    from dear.commands import prepare_data as run

    settings = {"processes": processes, "shard_clips": shard_clips, "peak": peak, "force": force}
    options = {"seconds": seconds} | ({} if limit is None else {"limit": limit})
    _tell(run, kind, folder, out, vae, text or ["soundworld"], hours, seed, device, settings, split=split,
          caption=caption, exclude_audiocaps=exclude_audiocaps or [], **options)


@data.command("report")
def report_recordings(
    folder: Annotated[
        Path, typer.Argument(help="Folder of recordings whose captions.csv has the columns fold and label.")
    ],
    held_out: Annotated[str, typer.Option(help="The fold that `dear train` left out.")],
    models: Annotated[Path, typer.Option(help="Folder of the models that `dear train` finished.")] = Path("models"),
    runs: Annotated[
        Path, typer.Option(help="Folder with metrics.jsonl of each training; the classifiers train here too.")
    ] = Path("runs"),
    label: Annotated[str, typer.Option(help="The column that names a recording's class.")] = "label",
    steps: Annotated[int | None, typer.Option(help="Length of the classifiers' training.")] = None,
    record: Annotated[Path | None, typer.Option(help="Also write the figures to this json file.")] = None,
):
    """Measure models of recordings: Frechet distance to the held-out fold, and what a small classifier hears."""
    from dear.commands import report_recordings as run

    _tell(run, folder, models, runs, held_out, label, steps, record)


@data.command("measure-world")
def measure_world(
    models: Annotated[Path, typer.Option(help="Folder with oracle, vae, teacher and student.")] = Path("dear/weights"),
    record: Annotated[Path | None, typer.Option(help="Also write the figures to this json file.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw teacher, energy head and mean head here.")] = None,
):
    """Measure what SoundWorld must have: texture, coherence, iterations that matter, tokens that stay uncertain."""
    from dear.worldcheck import run

    _tell(run, models, record, picture)


@listen.command("prepare")
def prepare_listening(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...",
            help="Two systems or more, each a folder of wav files with a captions.csv (filename,caption).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page to write.")],
    captions: Annotated[int, typer.Option(help="Captions, drawn from those that all systems share.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the captions and the blind names.")] = 0,
    listeners: Annotated[
        int | None, typer.Option(help="Listeners are called 1 to this number; none: they type a name.")
    ] = None,
):
    """Write a page that plays the clips of several systems blindly and asks for ratings and preferences.

    Beside the page comes OUT.key.json, which says which clip is whose: keep it until the answers are in.
    """
    from dear.commands import prepare_listening as run

    _tell(run, folders, out, captions, seed, listeners)


@listen.command("results")
def listening_results(
    key: Annotated[Path, typer.Argument(help="The .key.json that `dear listen prepare` wrote.")],
    answers: Annotated[
        list[Path], typer.Argument(metavar="ANSWERS...", help="The files that listeners downloaded.")
    ],
    record: Annotated[Path | None, typer.Option(help="Also write the figures to this json file.")] = None,
):
    """Say what listeners answered: ratings, preferences, their intervals, and how far listeners agree."""
    from dear.commands import listening_results as run

    _tell(run, key, answers, record)


def _tell(run, *arguments, **options) -> None:
    """Run a command; what a user can mend is told in one line, without a trace."""
    import os
    import warnings

    warnings.showwarning = lambda message, *rest, **kwargs: typer.secho(f"note: {message}", fg="yellow", err=True)
    try:
        run(*arguments, **options)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun the first one speaks
            typer.secho("stopped; the same command continues", err=True)
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
