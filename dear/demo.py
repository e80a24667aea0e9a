"""`dear demo`: six sentences to sound, the one-step student beside its diffusion teacher."""

import textwrap
import time
from pathlib import Path

import torch

from dear import audio, components, plots
from dear.evaluation import verdict
from dear.oracle import Oracle, OracleConfig
from dear.pipeline import TextToAudio

PROMPTS = (
    "a low bell then a high bird",
    "a loud middle siren",
    "a quiet high rain together with a loud low engine",
    "a loud deep knock followed by a loud high hiss",
    "a loud high rising chirp then a quiet low wind",
    "a loud medium bell while a quiet low engine",
)
MODELS = {"student": "soundworld", "teacher": "soundworld-teacher"}


def run(out: Path, seed: int = 0) -> None:
    """Write wav files of both models and one picture into `out`; print the oracle's verdicts and the times."""
    out.mkdir(parents=True, exist_ok=True)
    oracle = components.load(Oracle, OracleConfig, components.WEIGHTS / "oracle")
    pipes = {name: TextToAudio.from_pretrained(model) for name, model in MODELS.items()}
    mels, titles, seconds = {}, {}, {}
    for name, pipe in pipes.items():
        calls = f"{pipe.settings.num_inference_steps} iterations, {pipe.settings.sampling_steps} head call(s) a token"
        print(f"{name}: drawing {len(PROMPTS)} clips ({calls}) ...", flush=True)
        pipe(
            PROMPTS[0], generator=torch.Generator().manual_seed(0), sampling_steps=1
        )  # so that no timing pays for a first call
        generator = torch.Generator().manual_seed(seed)
        start = time.perf_counter()
        tokens = pipe.tokens(PROMPTS, generator)
        seconds[name] = (time.perf_counter() - start) / len(PROMPTS)
        made = pipe.waveforms(tokens, generator)
        heard = audio.log_mel(made.audios)
        mels[name], titles[name] = heard, []
        for i, (prompt, wave, labels) in enumerate(
            zip(PROMPTS, made.audios, oracle.read(heard).tolist(), strict=True), 1
        ):
            audio.write(out / f"{i}_{name}.wav", wave)
            found = verdict(labels, prompt)
            titles[name].append(textwrap.fill(("right: " if found.agrees else "WRONG: ") + prompt, 30))
            print(f"  {i}_{name}.wav  {prompt!r}: {found}", flush=True)
    plots.save(plots.log_mel_grid(list(mels.values()), list(titles.values()), list(mels)), out / "demo.png")
    print(f"wrote {2 * len(PROMPTS)} wav files and demo.png into {out}")
    print(
        f"text to tokens, seconds a clip, batch of {len(PROMPTS)}, CPU with {torch.get_num_threads()} thread(s): "
        f"student {seconds['student']:.3f}, teacher {seconds['teacher']:.3f}, "
        f"ratio {seconds['teacher'] / seconds['student']:.1f}"
    )
