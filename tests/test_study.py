"""Studies: which students are trained, that nothing is done twice, and what is asked of a model."""

import shutil

import pytest
import torch
from typer.testing import CliRunner

from dear import components, study
from dear.__main__ import app
from dear.data.cache import rendered
from dear.log import Record
from dear.metrics.similarity import mean_distance
from dear.pipeline import TextToAudio, fingerprint
from tests.test_recipes import Data

MODELS = components.WEIGHTS
RealJudge = study.Judge
SCORES = {"kind": 0.5, "loudness": 0.25, "frechet": 7.0}


class FakeJudge:
    """Scores nothing, and keeps what it was asked."""

    asked, spreads = [], []

    def __init__(self, models, captions):
        assert models == MODELS and captions == 16

    def __call__(self, pipe, **settings):
        self.asked.append((pipe, settings))
        return dict(SCORES)

    def floor(self):
        return {"kind": 1.0, "frechet": 2.0}

    def spread(self, pipe, captions, **settings):
        self.spreads.append((captions, settings))
        return 3.0


@pytest.fixture(autouse=True)
def judge(monkeypatch):
    monkeypatch.setattr(study, "Judge", FakeJudge)
    FakeJudge.asked, FakeJudge.spreads = [], []


def students(tmp_path, name="lambda", seeds=1):
    return study.study_students(name, MODELS, tmp_path / "runs", tmp_path / "record.jsonl", steps=1, seeds=seeds,
                                captions=16, data=Data(), progress=False)


def test_the_students_of_a_study_differ_in_what_it_is_about():
    keys = study.settings_of("lambda", steps=1000, seeds=2, captions=16)
    assert [k["distillation_weight"] for k in keys] == [w for w in (0, 10, 100, 1000, 5000) for _ in range(2)]
    assert [k["seed"] for k in keys] == [0, 1] * 5
    rest = [{n: v for n, v in k.items() if n not in ("distillation_weight", "seed")} for k in keys]
    assert all(r == rest[0] for r in rest)
    usual = {"distillation_weight": 1000.0, "layers": "last", "from_scratch": False, "freeze": False}
    for name in study.STUDENTS:  # all have the paper's setting in common
        assert usual | {"steps": 5, "batch_size": 16, "captions": 8, "seed": 0} in study.settings_of(name, 5, 1, 8)
    for key in study.settings_of("initialisation", 5, 1, 8):  # a frozen backbone has no hidden state to move
        assert not key["freeze"] or key["distillation_weight"] == 0


def test_a_study_trains_what_its_record_lacks_and_shares_runs(tmp_path, monkeypatch):
    lines = students(tmp_path, "layers")
    assert len(lines) == 2 and len(FakeJudge.asked) == 2 * len(study.GUIDANCES)
    for line in lines:
        assert line["teacher"] == fingerprint(MODELS / "teacher") and line["guidance 2"] == SCORES
        assert line["log"].keys() >= {"loss", "objective", "distill"} and line["seconds"] > 0 and line["device"]
    trained, real = [], study.train_student
    monkeypatch.setattr(study, "train_student", lambda *a, **k: trained.append(k["name"]) or real(*a, **k))
    assert students(tmp_path, "layers") == lines and not trained
    more = students(tmp_path, "initialisation")
    assert len(trained) == 4 and more[0] == lines[0]  # one of the five was there
    assert len(Record(tmp_path / "record.jsonl").lines) == 6
    # The students differ: from scratch is not from the teacher, seed and weight reach the training.
    frozen = more[4]
    assert "distill" not in frozen["log"] and frozen["freeze"]


def test_a_study_that_was_stopped_goes_on(tmp_path, monkeypatch):
    real, calls = study.train_student, []

    def stopped(*given, **named):
        calls.append(named["name"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(study, "train_student", stopped)
    with pytest.raises(KeyboardInterrupt):
        students(tmp_path)
    assert len(Record(tmp_path / "record.jsonl").lines) == 1
    assert len(students(tmp_path)) == 5 and len(calls) == 6 and calls[1] == calls[2]


def test_another_teacher_is_another_study(tmp_path):
    for part in ("text", "vae", "teacher"):
        shutil.copytree(MODELS / part, tmp_path / part)
    assert fingerprint(tmp_path / "teacher") == fingerprint(MODELS / "teacher")
    pipe = TextToAudio.from_pretrained(tmp_path / "teacher")
    with torch.no_grad():
        pipe.head.out.bias[0] += 1
    components.save(pipe.head, tmp_path / "teacher" / "head")
    assert fingerprint(tmp_path / "teacher") != fingerprint(MODELS / "teacher")


def test_every_way_to_draw_is_another_and_changes_one_thing_from_the_grid():
    ways = study.ways_to_draw()
    assert len({tuple(sorted(way.items())) for way in ways}) == len(ways) == 30 + 8 + 3 + 3 + 3 + 2
    usual = {"decoding_schedule": "cosine", "guidance": "own", "guidance_schedule": "constant", "temperature": 1.0,
             "temperature_schedule": "constant", "seed": 0}
    for way in ways[30:]:
        changed = [name for name, value in usual.items() if way[name] != value]
        assert changed in ([name] for name in usual) or changed == ["temperature", "temperature_schedule"]
        assert (way["num_inference_steps"] == 16 or changed == ["decoding_schedule"])
        assert usual | {n: way[n] for n in ("num_inference_steps", "guidance_scale")} in ways[:30]


def test_guidance_is_studied_where_it_acts_and_where_it_does_not(tmp_path, monkeypatch):
    way = {"num_inference_steps": 16, "guidance_scale": 2.0, "guidance_schedule": "constant", "temperature": 1.0}
    monkeypatch.setattr(study, "ways_to_draw", lambda: [way | {"guidance": g} for g in ("own", "other")])
    record = tmp_path / "guidance.jsonl"
    lines = study.study_guidance(MODELS, record, captions=16, progress=False)
    assert lines[0]["model"] == "rendered clips" and lines[0]["frechet"] == 2.0 and lines[0]["captions"] == 16
    assert [(line["model"], line["guidance"], line["place"]) for line in lines[1:]] == [
        ("student", "own", "hidden"), ("student", "other", "prediction"),
        ("teacher", "own", "prediction"), ("teacher", "other", "hidden")]
    assert [settings["guidance"] for _, settings in FakeJudge.asked] == [line["place"] for line in lines[1:]]
    assert [settings.get("sampling_steps") for _, settings in FakeJudge.asked] == [None, None, 25, 25]
    assert FakeJudge.spreads[0] == (2, way | {"guidance": "hidden"}) and lines[1]["spread"] == 3.0
    again = study.study_guidance(MODELS, record, captions=16, progress=False)
    assert again == lines and len(FakeJudge.asked) == 4


def test_the_judge_scores_on_validation_captions_and_sees_spread(monkeypatch):
    asked = []

    def few(split, size, seed=0):
        asked.append((split, size, seed))
        return rendered(split, min(size, 80), seed)

    monkeypatch.setattr(study, "rendered", few)
    judge, pipe = RealJudge(MODELS, 8), TextToAudio.from_pretrained(MODELS / "student")
    assert asked == [("validation", 8, 0), ("validation", 2000, 1)]
    with pytest.warns(UserWarning, match="8 samples for 64 dimensions"):
        found = judge(pipe, num_inference_steps=4)
    assert found["captions"] == 8 and 0 <= found["kind"] <= 1 and found["frechet"] > 0 and found["draw_seconds"] > 0
    with pytest.warns(UserWarning, match="8 samples for 64 dimensions"):
        floor = judge.floor()
    assert floor["everything"] == 1 and floor["frechet"] < found["frechet"]
    # Clips of one caption lie closer together than clips of different captions.
    with torch.no_grad():
        features = judge.oracle.features(study.generate(pipe, judge.captions, progress=False, num_inference_steps=4))
    spread = judge.spread(pipe, 4, num_inference_steps=4)
    assert 0 < spread < mean_distance(features[None])
    assert judge.spread(pipe, 4, num_inference_steps=4, seed=0) == spread  # the seed of a way reaches its spread
    assert judge.spread(pipe, 4, num_inference_steps=4, seed=1) != spread


def test_the_command_trains_and_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "soundworld_clips", Data)
    options = ["--runs", tmp_path / "runs", "--record", tmp_path / "r.jsonl", "--steps", 1, "--seeds", 1,
               "--captions", 16, "--models", MODELS]
    found = CliRunner().invoke(app, [str(a) for a in ("study", "layers", *options)])
    assert found.exit_code == 0 and found.output.count("Frechet distance 7") == 2
    assert "lambda 1000   layers all   from the teacher" in found.output
    for arguments in (("study", "nothing"), ("study", "layers", "--seeds", "0")):
        found = CliRunner().invoke(app, list(arguments))
        assert found.exit_code != 0 and ("must be one of guidance, rivals" in found.output
                                         or "--seeds" in found.output)
