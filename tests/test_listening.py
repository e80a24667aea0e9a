"""A listening test: what the page shows and hides, what is read back, and whether known opinions are found."""

import csv
import json
import re
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from dear import listening
from dear.__main__ import app
from dear.listening import COLUMNS, SCALES, Key, alpha, blind, prepare, read_answers, read_key, results, simulate

CAPTIONS = ["a bell", "rain, </script> and wind", "a bell", "Vögel & “cats”"]  # one comes twice
NOISY = {"noise": 100, "taste": 0, "clips": 0}  # answers at random


def dear(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.output


def write_system(folder: Path, captions: list[str] = CAPTIONS, level: float = 0.1, rate: int = 16_000) -> Path:
    """Clips of 0.1 s that differ in level, every second one in audio/."""
    (folder / "audio").mkdir(parents=True)
    rows = [("filename", "caption")]
    for i, caption in enumerate(captions):
        name = f"{folder.name}_{i}.wav"
        soundfile.write(folder / ("audio" if i % 2 else "") / name, np.full(rate // 10, level + i / 100), rate)
        rows.append((name, caption))
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture
def systems(tmp_path) -> list[Path]:
    """Three systems with shared captions; the second has them in another order, the third has one more."""
    return [write_system(tmp_path / "quetzal", CAPTIONS, 0.1), write_system(tmp_path / "wombat", CAPTIONS[::-1], 0.3),
            write_system(tmp_path / "zebra", [*CAPTIONS, "alone"], 0.5)]


def write_answers(path: Path, answers: list[dict]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(answers)
    return path


def plan_of(page: Path) -> dict:
    """What the page knows."""
    html = (page / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="plan">(.*?)</script>', html)[1])


@pytest.fixture
def key() -> Key:
    return blind(["one", "two"], [f"caption {i}" for i in range(12)])


def test_clips_are_matched_by_caption_and_copied_byte_by_byte(systems, tmp_path):
    key = prepare(systems, tmp_path / "out" / "page")
    assert read_key(tmp_path / "out" / "page.key.json") == key
    assert key.systems == ("quetzal", "wombat", "zebra") and sorted(key.captions) == sorted(CAPTIONS)
    wanted, seen = {}, Counter()
    for folder in systems:
        with open(folder / "captions.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                file = next(folder.rglob(row["filename"]))
                wanted[folder.name, row["caption"], seen[folder, row["caption"]]] = file.read_bytes()
                seen[folder, row["caption"]] += 1
    times = [key.captions[:i].count(caption) for i, caption in enumerate(key.captions)]
    for name, (system, i) in key.clips.items():
        content = (tmp_path / "out" / "page" / "audio" / f"{name}.wav").read_bytes()
        assert content == wanted[system, key.captions[i], times[i]]
    assert len(list((tmp_path / "out" / "page" / "audio").iterdir())) == len(key.clips) == 12


def test_the_page_asks_for_every_clip_and_every_pair_once(systems, tmp_path):
    key = prepare(systems, tmp_path / "page", captions=3, listeners=5)
    plan = plan_of(tmp_path / "page")
    assert plan["listeners"] == key.listeners == 5
    assert {trial["id"]: tuple(trial["clips"]) for trial in plan["trials"]} == key.trials
    ratings, pairs = ([t for t in plan["trials"] if t["kind"] == kind] for kind in ("rating", "pair"))
    assert sorted(t["clips"][0] for t in ratings) == sorted(key.clips) and len(pairs) == 3 * 3
    asked = {(*sorted(key.clips[name][0] for name in t["clips"]), key.clips[t["clips"][0]][1]) for t in pairs}
    assert asked == {(*pair, i) for pair in combinations(key.systems, 2) for i in range(3)}
    for trial in plan["trials"]:
        assert {key.captions[key.clips[name][1]] for name in trial["clips"]} == {trial["caption"]}


def test_the_page_knows_no_system_and_needs_no_network(systems, tmp_path):
    key = prepare(systems, tmp_path / "page")
    html = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    for path in (tmp_path / "page").rglob("*"):
        text = path.relative_to(tmp_path).as_posix() + path.read_text(encoding="latin-1") if path.is_file() else ""
        assert not any(folder.name in text or "captions.csv" in text for folder in systems)
    assert "://" not in html and "{{" not in html and html.count("</script>") == 2
    assert all(set(trial) == {"id", "kind", "caption", "clips"} for trial in plan_of(tmp_path / "page")["trials"])
    # Numbers of trials, order of names and times of files follow the names, which are drawn at random: no system
    # is first more often than by chance. 400 tests of 3 systems: 1/3 within four standard errors, 0.094.
    first = [blind(["a", "b", "c"], ["x", "y"], seed) for seed in range(400)]
    counts = Counter(key.clips[key.trials["r1"][0]][0] for key in first)
    assert all(abs(counts[system] / 400 - 1 / 3) < 0.094 for system in "abc")
    assert all(re.fullmatch("[a-z2-9]{8}", name) for name in key.clips)


def test_who_knows_the_seed_but_not_the_sounds_cannot_name_the_systems(systems, tmp_path):
    key = prepare(systems[:2], tmp_path / "page")
    assert prepare(systems[:2], tmp_path / "again") == key
    assert set(blind(key.systems, key.captions, 0).clips).isdisjoint(key.clips)
    write_system(tmp_path / "other" / "quetzal", CAPTIONS, 0.2)
    assert set(prepare([tmp_path / "other" / "quetzal", systems[1]], tmp_path / "third").clips).isdisjoint(key.clips)


def test_the_csv_of_the_page_has_the_columns_that_are_read(systems, tmp_path):
    prepare(systems, tmp_path / "page")
    assert plan_of(tmp_path / "page")["columns"] == list(COLUMNS)
    html = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "const lines = [plan.columns, " in html
    row = re.search(r"answers\[trial\.id\] = \{(.*?)\};", html, re.DOTALL)[1]
    asked = {*SCALES, "preferred"}  # "...said" in the row
    assert {part.partition(":")[0].strip() for part in row.split(",")} == {*COLUMNS, "...said"} - asked
    assert all(f'id="ask_{name}"' in html for name in asked)


def test_an_interrupted_run_leaves_nothing_half(systems, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(listening, "_page", lambda key: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(systems, out / "page")
    assert list(out.iterdir()) == []


def test_nothing_is_overwritten(systems, tmp_path):
    prepare(systems, tmp_path / "page")
    with pytest.raises(FileExistsError, match="page exists, and answers may belong to it: choose another --out"):
        prepare(systems, tmp_path / "page")
    shutil.rmtree(tmp_path / "page")
    with pytest.raises(FileExistsError, match="page.key.json exists"):
        prepare(systems, tmp_path / "page")


def spoil(what: str, systems: list[Path]) -> list[Path]:
    one, two, _ = systems
    if what == "one":
        return [one]
    if what == "twins":
        return [one, write_system(two / "quetzal")]
    if what == "nothing shared":
        return [one, write_system(two / "new", ["x", "y"])]
    if what == "one shared":
        return [one, write_system(two / "new", ["x", "a bell"])]
    if what == "rate":
        return [one, write_system(two / "new", rate=44_100)]
    if what == "no folder":
        return [one, two / "new"]
    if what == "no wav":
        (two / "wombat_2.wav").unlink()
    elif what == "no sound":
        (two / "wombat_2.wav").write_bytes(b"RIFF")
    elif what == "named twice":
        with open(two / "captions.csv", "a", encoding="utf-8") as file:
            file.write("wombat_2.wav,again\n")
    elif what == "flac":
        (two / "captions.csv").write_text("filename,caption\nx.flac,a bell\n", encoding="utf-8")
        (two / "x.flac").touch()
    return [one, two]


@pytest.mark.parametrize(("what", "said"), [
    ("one", "wants at least 2 folders, got quetzal"),
    ("twins", "called after their folders, got quetzal, quetzal: rename one"),
    ("nothing shared", r"no caption is in all captions.csv: quetzal has \['a bell', .*\]; new has \['x', 'y'\]"),
    ("one shared", r"at least 2 captions .* got 1 caption\(s\)"),
    ("rate", r"must have the same; .*quetzal.* has 16000 Hz, .*new.* has 44100 Hz: resample"),
    ("no folder", "new: not found"),
    ("no wav", r"captions.csv line 4: wanted a wav file that is there, .* got 'wombat_2.wav', .*: mend or remove"),
    ("no sound", "wombat_2.wav cannot be read as a wav file"),
    ("named twice", "captions.csv line 6: .* that no row before has, .* got 'wombat_2.wav', 'again'"),
    ("flac", "captions.csv line 2: wanted a wav file"),
])
def test_systems_that_do_not_fit_together_are_refused(systems, tmp_path, what, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        prepare(spoil(what, systems), tmp_path / "page")
    assert not (tmp_path / "page").exists() and not list(tmp_path.glob("*.key.json"))


def test_listeners_and_captions_must_be_some():
    for captions, listeners in ((["x"], None), (["x", "y"], 0)):
        with pytest.raises(ValueError, match="wants at least 2 captions and, if they are counted, 1 listener"):
            blind(["a", "b"], captions, listeners=listeners)


def test_simulated_answers_are_read_back_as_they_were(key, tmp_path):
    answers = simulate(key, {"one": 3, "two": (4, 2)}, listeners=2)
    assert len(answers) == 2 * len(key.trials) == 2 * (24 + 12) and all(tuple(row) == COLUMNS for row in answers)
    assert read_answers(key, [write_answers(tmp_path / "all.csv", answers)]) == answers
    text = (tmp_path / "all.csv").read_text(encoding="utf-8")
    (tmp_path / "spreadsheet.csv").write_text("\ufeff" + text.replace(",5.0", ", 5 "), encoding="utf-8")
    assert read_answers(key, [tmp_path / "spreadsheet.csv"]) == answers
    found = results(key, answers)["systems"]
    means = [[found[system][scale][0] for scale in SCALES] for system in key.systems]
    np.testing.assert_allclose(means, [[3, 3], [4, 2]], atol=0.6)
    with pytest.raises(ValueError, match=r"must name the systems one, two; not in both: \['three', 'two'\]"):
        simulate(key, {"one": 3, "three": 3})


def test_of_double_answers_the_last_counts_and_is_told(key, tmp_path):
    first, second = (simulate(key, {"one": 3, "two": 3}, listeners=1, seed=seed) for seed in (0, 1))
    paths = [write_answers(tmp_path / "a.csv", first), write_answers(tmp_path / "b.csv", second[:10])]
    with pytest.warns(UserWarning, match=r"listener 1 has 10 double answer\(s\), of which the last counts"):
        found = read_answers(key, paths)
    assert found == second[:10] + first[10:]


@pytest.mark.parametrize(("change", "said"), [
    ({"listener": " "}, "wanted the name of a listener, got ''"),
    ({"trial": "r99"}, "no rating r99 with .*: are key and answers of the same page"),
    ({"kind": "pair"}, "no pair r1 with"),
    ({"clip_a": "abcdefgh"}, "no rating r1 with abcdefgh"),
    ({"clip_a": ""}, "no rating r1 with no clip"),
    ({"relevance": 6}, "relevance must be one of 1, 2, 3, 4, 5, got '6'"),
    ({"quality": ""}, "quality must be one of 1, 2, 3, 4, 5, got ''"),
    ({"seconds": "long"}, "seconds must be a number, got 'long'"),
    ({"trial": "p1", "kind": "pair", "preferred": "one"}, "preferred must be one of a, b, none, got 'one'"),
])
def test_a_row_that_does_not_fit_is_named_with_file_and_line(key, tmp_path, change, said):
    answers = simulate(key, {"one": 3, "two": 3}, listeners=1)
    if change.get("trial") == "p1":
        change = change | dict(zip(("clip_a", "clip_b"), key.trials["p1"], strict=True))
    bad = write_answers(tmp_path / "bad.csv", [answers[5], answers[0] | change])
    with pytest.raises(ValueError, match=rf"bad.csv line 3: .*{said}"):
        read_answers(key, [bad])


def test_a_file_that_is_no_table_of_answers_is_named(key, tmp_path):
    bad = tmp_path / "bad.csv"
    row = ",".join(str(cell) for cell in simulate(key, {"one": 3, "two": 3}, listeners=1)[0].values())
    for text, said in (("", "line 0: wanted the columns listener,"), ("a;b\n", "line 1: wanted the columns .* got a;b"),
                       (f"{','.join(COLUMNS)}\n1,r1\n", "line 2: wanted 9 cells"),
                       (f"{','.join(COLUMNS)}\n{row},1\n", "line 2: wanted 9 cells")):
        bad.write_text(text)
        with pytest.raises(ValueError, match=f"bad.csv {said}"):
            read_answers(key, [bad])
    bad.write_text(f"{','.join(COLUMNS)}\n{row}\n")
    counted = Key(key.systems, key.captions, key.clips, listeners=3)
    assert read_answers(counted, [bad])[0]["listener"] == "1"
    bad.write_text(f"{','.join(COLUMNS)}\n4{row[1:]}\n")
    with pytest.raises(ValueError, match="wanted a listener from 1 to 3, got '4'"):
        read_answers(counted, [bad])
    for text in ("no json", "[]", '{"clips": {}}', '{"clips": {"x": 1}}'):
        bad.write_text(text)
        with pytest.raises(ValueError, match="bad.csv: wanted the .key.json"):
            read_key(bad)


def test_figures_are_means_and_shares_with_half_an_answer_for_no_difference(key):
    """One listener; system one has 4 and 2, system two 3 and 5; one wins 6 of 12 pairs, 4 are undecided."""
    answers, verdicts = [], iter(["one"] * 6 + ["none"] * 4 + ["two"] * 2)
    for trial, names in key.trials.items():
        row = dict.fromkeys(COLUMNS, "") | {"listener": "ana", "trial": trial, "clip_a": names[0], "seconds": 1.0}
        if len(names) == 1:
            marks = {"one": (4, 2), "two": (3, 5)}[key.clips[names[0]][0]]
            answers.append(row | {"kind": "rating"} | dict(zip(SCALES, marks, strict=True)))
        else:
            wanted = next(verdicts)
            side = {key.clips[name][0]: side for name, side in zip(names, "ab", strict=True)} | {"none": "none"}
            answers.append(row | {"kind": "pair", "clip_b": names[1], "preferred": side[wanted]})
    found = results(key, answers)
    assert found["systems"] == {"one": {"relevance": [4, 4, 4], "quality": [2, 2, 2]},
                                "two": {"relevance": [3, 3, 3], "quality": [5, 5, 5]}}
    (pair,) = found["pairs"]
    assert pair["systems"] == ["one", "two"] and pair["answers"] == 12 and pair["no difference"] == 4
    share, low, high = pair["first preferred"]
    assert share == round(8 / 12, 3)
    # Captions alone are resampled: half-widths near 1.96 sd / sqrt(12), where sd^2 = (6 + 4 / 4) / 12 - (8 / 12)^2.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt((7 / 12 - 4 / 9) / 12), rel=0.15)
    assert found["resampled"] == "captions alone" and found["listeners"] == 1
    assert found["answers"] == found["asked"] == 36 and found["agreement"] == {"relevance": None, "quality": None}
    only = results(key, [row for row in answers if row["kind"] == "rating"])
    assert only["pairs"][0]["first preferred"] is None and only["pairs"][0]["agreement"] is None
    for few in ([], answers[:1]):
        with pytest.raises(ValueError, match=f"at least 2 captions, got {len(few)}"):
            results(key, few)


@pytest.mark.parametrize("by", ["listener", "caption"])
def test_intervals_have_the_width_of_what_varies(key, by):
    """Ratings that depend on their listener or on their caption alone have the standard error of 16 or 12 numbers."""
    people = [str(i) for i in range(16)]
    answers = [row for row in simulate(key, {"one": 3, "two": 3}, listeners=16) if row["kind"] == "rating"]
    for row in answers:
        number = people.index(str(int(row["listener"]) - 1)) if by == "listener" else key.clips[row["clip_a"]][1]
        row["relevance"] = 2 + number % 2 * 2  # 2 or 4: standard deviation 1
    mean, low, high = results(key, answers)["systems"]["one"]["relevance"]
    assert mean == 3 and high - low == pytest.approx(2 * 1.96 / np.sqrt({"listener": 16, "caption": 12}[by]), rel=0.15)


def test_a_known_preference_is_found(key):
    found = results(key, simulate(key, {"one": 4, "two": 3}, listeners=8, seed=1))
    assert found["pairs"][0]["first preferred"][1] > 0.5
    one, two = (found["systems"][system]["relevance"] for system in key.systems)
    assert one[1] > two[2]
    found = results(key, simulate(key, {"one": 3, "two": 4}, listeners=8, seed=1))
    assert found["pairs"][0]["first preferred"][2] < 0.5


def test_intervals_of_equal_systems_hold_equality_about_as_often_as_they_say(key):
    """With 10 listeners, 12 captions and effects of both: 100 tests, 0.95 less three standard errors is 0.885.

    Above there is no bound but 1: where single answers are noise, intervals are too wide, as `results` says.
    """
    held = [low <= 0.5 <= high for _, low, high in (
        results(key, simulate(key, {"one": 3, "two": 3}, listeners=10, seed=seed), draws=200, seed=seed)["pairs"][0]
        ["first preferred"] for seed in range(100))]
    assert np.mean(held) > 0.885


def test_alpha_of_krippendorffs_example():
    """Four observers, twelve units, values missing (Krippendorff 2011, section D): 0.743 nominal, 0.849 interval."""
    observers = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[int(value) for value in unit if value != "."] for unit in zip(*observers, strict=True)]
    assert Counter(sum((unit for unit in units if len(unit) > 1), [])) == {1: 9, 2: 13, 3: 10, 4: 5, 5: 3}
    assert alpha(units, nominal=True) == pytest.approx(0.743, abs=5e-4)
    assert alpha(units) == pytest.approx(0.849, abs=5e-4)


def test_alpha_by_hand():
    # Two units, (1, 1) and (1, 2). Observed: (0 + 2) / 4. Expected: 2 * 3 ordered pairs of 4 * 3 differ by 1.
    assert alpha([(1, 1), (1, 2), (3,)]) == pytest.approx(1 - (2 / 4) / (6 / 12))
    assert alpha([(1, 1), (5, 5)]) == 1 and alpha([(1, 5), (5, 1)]) == pytest.approx(1 - 1 / (8 / 12))
    assert alpha([(1, 3), (3, 3)]) == alpha([(1, 2), (2, 2)], nominal=True)  # two values: one distance
    assert alpha([(3, 3), (3, 3)]) is None and alpha([(1,), (2,)]) is None and alpha([]) is None


def test_agreement_is_1_of_listeners_without_noise_and_0_of_random_ones(key):
    same = results(key, simulate(key, {"one": 3, "two": 3}, listeners=5, noise=0, taste=0, clips=1))
    assert same["agreement"] == {"relevance": 1, "quality": 1} and same["pairs"][0]["agreement"] == 1
    wild = results(key, simulate(key, {"one": 3, "two": 3}, listeners=10, **NOISY))
    # The standard error for chance is about sqrt(2 / (9 * 10 * units)): 0.03 for 24 ratings, 0.04 for 12 pairs.
    assert all(abs(value) < 0.12 for value in (*wild["agreement"].values(), wild["pairs"][0]["agreement"]))


@pytest.mark.filterwarnings("always:listener 1 has")  # as outside of these tests, where a warning is told
def test_commands_from_folders_to_a_record(systems, tmp_path):
    page, record = tmp_path / "page", tmp_path / "record.json"
    code, said = dear("listen", "prepare", *systems, "--out", page, "--captions", 9)
    assert code == 0, said
    assert "only 4 captions are shared, 9 were wanted" in said and "rate 12 clips and compare 12 pairs" in said
    assert "page.key.json: keep this to yourself" in said
    key = read_key(tmp_path / "page.key.json")
    answers = simulate(key, {"quetzal": 4, "wombat": 3, "zebra": 2}, listeners=2)
    halves = [write_answers(tmp_path / f"{i}.csv", [row for row in answers if row["listener"] == i]) for i in "12"]
    code, said = dear("listen", "results", tmp_path / "page.key.json", *halves, "--record", record)
    assert code == 0, said
    assert "2 listener(s), 48 of 48 answers; 95 % intervals by resampling listeners and captions" in said
    assert "quetzal / zebra" in said and "Krippendorff's alpha" in said
    kept = json.loads(record.read_text())
    assert {k: v for k, v in kept.items() if k in results(key, answers)} == results(key, answers) and kept["command"]
    code, said = dear("listen", "results", tmp_path / "page.key.json", halves[0], halves[0])
    assert code == 0 and "double answer(s)" in said and "one listener: the intervals say nothing of other" in said
    code, said = dear("listen", "prepare", systems[0], "--out", tmp_path / "new")
    assert code == 1 and "error: a listening test compares systems" in said
    for command in ([], ["prepare"], ["results"]):
        code, said = dear("listen", *command, "--help")
        assert code == 0 and "Usage" in said
