"""The playground: one clip from plain arguments, and a button that does the same and never shows a traceback."""

import subprocess
import sys

import matplotlib
import pytest
import torch

from dear import playground
from dear.pipeline import TextToAudio

matplotlib.use("Agg")
PROMPT = "a loud low hiss"
QUICK = {"iterations": 2}  # a clip in a quarter of a second


def test_equal_arguments_give_equal_clips():
    first, again, other = (playground.play(PROMPT, seed=seed, **QUICK) for seed in (1, 1, 2))
    assert first.waveform.shape == (40_960,) and first.log_mel.shape == (256, 64)
    assert torch.equal(first.waveform, again.waveform) and not torch.equal(first.waveform, other.waveform)
    assert str(first) == str(again)


@pytest.mark.filterwarnings("ignore:peak")
def test_it_is_what_the_pipeline_draws():
    pipe = TextToAudio.from_pretrained("soundworld")
    wanted = pipe(PROMPT, num_inference_steps=3, guidance_scale=2.5, generator=torch.Generator().manual_seed(4))
    found = playground.play(PROMPT, seed=4, iterations=3, guidance=2.5)
    assert torch.equal(found.waveform, wanted.audios[0])
    own = playground.play(PROMPT, guidance=pipe.settings.guidance_scale, **QUICK)
    assert torch.equal(playground.play(PROMPT, **QUICK).waveform, own.waveform)


def test_a_model_is_read_once():
    assert playground.loaded("soundworld") is playground.loaded("soundworld")


def test_it_says_what_was_found():
    played = playground.play(PROMPT, **QUICK)
    assert played.verdict.heard.endswith("hiss") and "RMS" in str(played) and "oracle: heard" in str(played)
    (axes,) = [axes for axes in played.figure().axes if axes.get_title()]
    assert axes.get_title() == ("right: " if played.verdict.agrees else "WRONG: ") + PROMPT
    assert "<audio" in played.player()._repr_html_()


def test_a_word_that_is_not_known_is_named():
    played = playground.play("a loud low hisss and a hiss", **QUICK)
    assert any("'hisss' (did you mean hiss?)" in remark for remark in played.remarks)
    with pytest.raises(ValueError, match="no word that this model knows"):
        playground.play("zebra", **QUICK)


def test_a_sentence_outside_the_grammar_plays_without_a_verdict():
    played = playground.play("loud and low", **QUICK)
    assert played.verdict is None and "no verdict: wanted one or two kinds of sound" in str(played)
    (axes,) = [axes for axes in played.figure().axes if axes.get_title()]
    assert axes.get_title() == "loud and low"


def test_a_folder_has_no_verdict(tmp_path):
    TextToAudio.from_pretrained("soundworld").save_pretrained(tmp_path)
    assert playground.play(PROMPT, model=str(tmp_path), **QUICK).verdict is None


class Box:
    """The widgets of a playground by name, and what stands under its button."""

    def __init__(self):
        *fields, self.button, self.shown = playground.playground().children
        self.fields = {field.description: field for field in fields}

    def click(self, **values):
        for name, value in values.items():
            self.fields[name].value = value
        self.button.click()
        return self.shown.outputs

    @property
    def text(self):
        return "".join(output.get("text", "") for output in self.shown.outputs)


def test_the_button_gives_what_the_function_gives():
    box = Box()
    image, player, text = box.click(prompt=PROMPT, seed=3, iterations=2)
    wanted = playground.play(PROMPT, seed=3, iterations=2)
    assert "image/png" in image["data"] and text["text"] == f"{wanted}\n"
    assert player["data"]["text/html"] == wanted.player()._repr_html_()
    assert len(box.click(seed=4)) == 3  # the next clip takes the place of the last


def test_every_widget_reaches_the_function(monkeypatch):
    asked, box = {}, Box()

    def play(prompt, **settings):
        asked.update(settings, prompt=prompt)
        raise ValueError("seen")

    monkeypatch.setattr(playground, "play", play)
    box.click(model="soundworld-teacher", prompt="a bell", seed=7, iterations=5, guidance=3.5)
    wanted = {"model": "soundworld-teacher", "prompt": "a bell", "seed": 7, "iterations": 5, "guidance": 3.5}
    assert asked == wanted and box.text == "seen\n"


def test_the_guidance_stands_at_the_models_own():
    box = Box()
    for model in ("soundworld", "soundworld-teacher"):
        box.fields["model"].value = model
        assert box.fields["guidance"].value == playground.loaded(model).settings.guidance_scale


@pytest.mark.parametrize("error", [ValueError("no such word"), FileNotFoundError("no model"), RuntimeError("odd")])
def test_errors_are_shown_and_the_button_works_again(error, monkeypatch):
    box = Box()
    with monkeypatch.context() as patched:

        def play(*args, **settings):
            raise error

        patched.setattr(playground, "play", play)
        box.click()
    assert box.text == f"{error}\n" and not box.button.disabled
    assert len(box.click(prompt=PROMPT, iterations=2)) == 3
    box.click(prompt="zebra")
    assert "no word that this model knows" in box.text and "Traceback" not in box.text


def test_the_function_needs_no_widgets():
    code = "import sys; sys.modules['ipywidgets'] = None; import dear.playground"
    subprocess.run([sys.executable, "-c", code], check=True)
