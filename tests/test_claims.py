"""The table of claims: the rule, and that every figure in it is that of the records."""

import json
from pathlib import Path
from statistics import mean

import pytest

from dear import claims, components, grid
from dear.pipeline import fingerprint
from dear.rivals import METHODS, Try

RECORDS = Path(__file__).parents[1] / "records"


def test_the_rule_wants_more_than_seeds_differ():
    assert claims.verdict([10, 12], [14, 15]) == claims.HOLDS  # 3.5 apart, ranges 2 and 1
    assert claims.verdict([14, 15], [10, 12]) == claims.FAILS
    assert claims.verdict([10, 12], [12, 15]) == claims.OPEN  # 2.5 apart, a range of 3
    assert claims.verdict([10], [20, 21]) == claims.OPEN  # one seed decides nothing
    assert claims.all_of(claims.HOLDS, claims.HOLDS) == claims.HOLDS
    assert claims.all_of(claims.HOLDS, claims.OPEN) == claims.OPEN
    assert claims.all_of(claims.HOLDS, claims.OPEN, claims.FAILS) == claims.FAILS


def test_distances_are_at_the_guidance_whose_mean_is_least():
    lines = [{"guidance 1": {"frechet": a}, "guidance 2": {"frechet": b}} for a, b in ((1, 4), (9, 4))]
    assert claims.distances(lines) == [4, 4] and claims.distances([]) == []
    assert claims.distances([*lines, {"guidance 1": {"frechet": 0}}]) == [1, 9, 0]  # all seeds need the guidance
    assert claims.distances([*lines, {"failed": "loss is not finite"}]) == []
    assert claims.verdict([], [1, 2]) == claims.OPEN
    assert claims.told([4.4, 6]) == "5 (4 to 6)" and claims.told([4.4]) == "4" and claims.told([]) == "diverged"


def line(method, setting: Try, seed, frechet, steps=grid.LONG.steps, **changes):
    key = grid.Job(method, setting, seed, steps, **changes).key()
    told = {"teacher": fingerprint(components.WEIGHTS / "teacher"), "captions": claims.CAPTIONS}
    return key | told | {"guidance 2": {"frechet": frechet, "kind": 0.9}}


@pytest.fixture
def records(tmp_path):
    """Made-up heads: every method near 200 but energy, whose last try was best, near 100."""
    rows = []
    short = grid.LONG.steps // grid.TRY_SHARE
    for m in METHODS:
        best = 3 if m.name == "energy" else 1
        for k, setting in enumerate(m.tries):
            rows.append(line(m.name, setting, grid.TRY_SEED, 150 + 10 * abs(k - best), steps=short))
        far = 100 if m.name == "energy" else 200
        rows += [line(m.name, m.tries[best], seed, far + seed) for seed in (0, 1)]
    for settings in grid.ablations().values():
        for k, (setting, changes) in enumerate(settings):
            if (setting, changes) != (grid.ENERGY, {}):
                rows += [line("energy", setting, seed, 120 + 10 * k + seed, **changes) for seed in (0, 1)]
    rows.append({"method": "noise", "guidance 1": {"frechet": 5000.0}})
    # What must not count: another teacher, fewer captions, a shorter run, the same run twice.
    stray = line("flow", METHODS[1].tries[1], 2, 1.0)
    rows += [stray | {"teacher": "other"}, stray | {"captions": 16}, stray | {"steps": 10}, rows[4], rows[-2]]
    (tmp_path / "heads.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("guidance.jsonl", "students.jsonl"):
        (tmp_path / name).write_text((RECORDS / name).read_text())
    return claims.Records(tmp_path)


def test_heads_are_found_by_setting_and_compared_by_the_rule(records):
    assert records.tuned("shortcut")["arguments"] == METHODS[2].tries[1].arguments
    assert [grid.best(x)["frechet"] for x in records.tries("flow")] == [160, 150, 160, 170]
    assert [x["seed"] for x in records.rivals("energy")] == [0, 1]
    found = claims.best_head(records)
    assert found.verdict == claims.HOLDS and "energy 100 (100 to 101), flow 200 (200 to 201)" in found.here
    assert found.seeds == "2" and "tokens of noise 5000" in found.yardstick
    found = claims.best_distilled(records)
    assert found.verdict.startswith(claims.HOLDS) and "consistency (ConsistencyTTA) 200" in found.here
    # The ablations' usual setting is energy's last try, which the made-up record has at full length too.
    assert claims.samples(records).here.startswith("m = 1: 120 (120 to 121), m = 2: 100 (100 to 101)")
    assert claims.samples(records).verdict == claims.HOLDS
    mixed = claims._each([100, 101], {"far": [120, 121], "near": [101, 102]})
    assert mixed == f"{claims.OPEN}; holds against far" and claims._each([1, 2], {"far": [9, 9]}) == claims.HOLDS
    assert claims.noise_main(records).here == "noise main 100 (100 to 101), hidden main 130 (130 to 131)"
    assert claims.exponent(records).here.startswith("0.5: 120 (120 to 121), 1: 100 (100 to 101), 1.5: 140")


def test_claims_of_finished_records_hold_their_figures():
    r = claims.Records(RECORDS)
    found = claims.distillation(r)
    lines = [x for x in r.lines("students") if not x["from_scratch"] and x["layers"] == "last" and not x["freeze"]]
    for weight in (0.0, 1000.0):
        values = [x["guidance 2"]["frechet"] for x in lines if x["distillation_weight"] == weight]
        assert f"{mean(values):.0f} ({min(values):.0f} to {max(values):.0f})" in found.here
    assert f"rendered clips {r.floor():.0f}" == found.yardstick
    assert claims.peak(r).verdict == claims.OPEN
    scale = claims.guidance_scale(r)
    assert "w = 1.5: 96" in scale.here and scale.verdict == claims.FAILS + claims.ONE
    place = claims.guidance_place(r)
    assert place.verdict == claims.OPEN + claims.ONE and "none 82; w = 1.5, 2, 3 on h 75, 86, 158" in place.here
    assert claims.iterations(r).verdict == claims.HOLDS + claims.ONE
    assert claims.near_teacher(r).verdict == claims.HOLDS + claims.ONE
    plane = claims.plane_nearest(r)
    assert "energy 0.20, shortcut 0.17, meanflow 0.53" in plane.here and plane.verdict == claims.FAILS
    assert claims.plane_covers(r).seeds == "3"


def changed(folder, name, change):
    """The records with every line of one of them changed by a function."""
    lines = [change(json.loads(row)) for row in (RECORDS / f"{name}.jsonl").read_text().splitlines()]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return claims.Records(folder)


def test_a_verdict_turns_with_the_records(records, tmp_path):
    def twisted(row):  # without distillation everything is twice as near
        for w in (1, 2, 3):
            row[f"guidance {w}"]["frechet"] *= 0.5 if row["distillation_weight"] == 0 else 1
        return row

    assert claims.distillation(changed(tmp_path, "students", twisted)).verdict == claims.FAILS
    flat = changed(tmp_path, "guidance", lambda row: row | {"frechet": 90.0})
    assert claims.iterations(flat).verdict == claims.FAILS + claims.ONE
    assert claims.guidance_place(flat).verdict == claims.OPEN + claims.ONE
    four = changed(tmp_path, "guidance", lambda row: row | {"frechet": abs(row.get("guidance_scale", 0) - 3) + 50})
    assert claims.guidance_scale(four).verdict == claims.HOLDS + claims.ONE
    even = changed(tmp_path, "plane", lambda row: row | {"w2": row["seed"], "mmd2": row["seed"], "coverage": 1.0})
    assert claims.plane_nearest(even).verdict == claims.OPEN and claims.plane_covers(even).verdict == claims.FAILS
    table = json.loads((RECORDS / "soundworld.json").read_text())
    for row in table["rows"]:
        if row["model"] == "soundworld":
            row["all"]["kind"] -= 0.1
    (tmp_path / "soundworld.json").write_text(json.dumps(table))
    assert claims.near_teacher(claims.Records(tmp_path)).verdict == claims.FAILS + claims.ONE


def test_two_runs_of_a_seed_that_differ_are_refused(records):
    path = records.folder / "heads.jsonl"
    path.write_text(path.read_text() + json.dumps(line("energy", grid.ENERGY, 0, 1.0)) + "\n")
    with pytest.raises(ValueError, match="two runs of seed 0 that differ"):
        claims.samples(records)
    path.write_text("")
    with pytest.raises(ValueError, match="no try 1 of flow"):
        records.rivals("flow")
