"""A playground: one sentence to one clip, as a plain function, and the same as a widget for a notebook."""

import io
import textwrap
import warnings
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dear import audio, components, plots
from dear.evaluation import Verdict, verdict
from dear.oracle import Oracle, OracleConfig
from dear.pipeline import SHIPPED, TextToAudio


@dataclass(frozen=True)
class Played:
    """One clip: waveform (S,) at 16 kHz, its log-mel (T, 64), the oracle's verdict, and what has to be said of it.

    verdict: None if the sentence, or the model, is not SoundWorld's.  remarks: why there is none; words left out.
    """

    prompt: str
    waveform: Tensor
    log_mel: Tensor
    verdict: Verdict | None
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        judged = [f"oracle: {self.verdict}"] if self.verdict else []
        return "\n".join([str(audio.features(self.waveform)), *judged, *self.remarks])

    def figure(self):
        """Figure of the log-mel, its title says whether the oracle agrees."""
        judged = "" if self.verdict is None else "right: " if self.verdict.agrees else "WRONG: "
        return plots.log_mel_grid([[self.log_mel]], [[textwrap.fill(judged + self.prompt, 40)]])

    def player(self):
        """IPython's player of the waveform."""
        return audio.player(self.waveform)


def play(
    prompt: str, *, seed: int = 0, iterations: int = 16, guidance: float | None = None, model: str = "soundworld"
) -> Played:
    """Draw one clip; equal arguments give equal clips on the same machine.

    iterations: 1 to the model's number of tokens.  guidance: None is the model's own, 1 is none.  model: a name or
    folder as `TextToAudio.from_pretrained` takes it.  Raises ValueError if the model knows no word of the prompt.
    """
    pipe = loaded(model)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = pipe(prompt, num_inference_steps=iterations, guidance_scale=guidance,
                    generator=torch.Generator().manual_seed(seed))  # fmt: skip
    remarks, found, heard = [str(warning.message) for warning in told], None, audio.log_mel(made.audios)
    if model in SHIPPED:
        try:
            found = verdict(_oracle().read(heard)[0].tolist(), prompt)
        except ValueError as error:
            remarks.append(f"no verdict: {error}")
    return Played(prompt, made.audios[0], heard[0], found, tuple(remarks))


@lru_cache(maxsize=4)
def loaded(model: str) -> TextToAudio:
    """The model of a name, read from disk once."""
    return TextToAudio.from_pretrained(model)


@lru_cache(maxsize=1)
def _oracle() -> Oracle:
    return components.load(Oracle, OracleConfig, components.WEIGHTS / "oracle")


def playground():
    """A box of widgets (ipywidgets): prompt, seed, iterations, guidance, model, and a button that calls `play`.

    The guidance stands at the chosen model's own. Whatever goes wrong is said under the button.
    """
    import ipywidgets as widgets  # here, since only notebooks have it
    import matplotlib.pyplot as plt
    from IPython.display import Image

    wide = {"style": {"description_width": "80px"}, "layout": widgets.Layout(width="480px")}
    asked = {
        "prompt": widgets.Text("a loud middle siren then a loud low rain", description="prompt", **wide),
        "seed": widgets.IntSlider(0, 0, 99, description="seed", **wide),
        "iterations": widgets.IntSlider(16, 1, 32, description="iterations", **wide),
        "guidance": widgets.FloatSlider(1, min=1, max=6, step=0.1, description="guidance", **wide),
        "model": widgets.Dropdown(options=[("student", "soundworld"), ("teacher", "soundworld-teacher")],
                                  description="model", **wide),
    }  # fmt: skip
    button, shown = widgets.Button(description="play", button_style="primary"), widgets.Output()

    def own_guidance(_=None):
        asked["guidance"].value = loaded(asked["model"].value).settings.guidance_scale

    def on_click(_):
        button.disabled, shown.outputs = True, ()
        try:
            made = play(**{name: widget.value for name, widget in asked.items()})
            made.figure().savefig(drawn := io.BytesIO(), dpi=90)
            plt.close()  # so that no notebook shows it a second time
            shown.append_display_data(Image(drawn.getvalue()))
            shown.append_display_data(made.player())
            shown.append_stdout(f"{made}\n")
        except Exception as error:  # a callback's traceback goes to a log that nobody reads
            shown.append_stdout(f"{error}\n")
        finally:
            button.disabled = False

    own_guidance()
    asked["model"].observe(own_guidance, "value")
    button.on_click(on_click)
    return widgets.VBox([*asked.values(), button, shown])
