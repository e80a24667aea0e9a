"""The table of claims: the rule, and that every figure in it is that of the records."""

import json
from pathlib import Path
from statistics import mean

import pytest

from dear import claims, grid
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
    assert claims.told([4.4, 6]) == "5 (4 to 6)" and claims.told([4.4]) == "4"


def line(method, setting: Try, seed, frechet, steps=grid.LONG.steps, **changes):
    key = grid.Job(method, setting, seed, steps, **changes).key()
    return key | {"guidance 2": {"frechet": frechet, "kind": 0.9}}


@pytest.fixture
def records(tmp_path):
    """Made-up heads: every method near 200 but energy, whose second try was best, near 100."""
    rows = []
    for m in METHODS:
        for k, setting in enumerate(m.tries):
            rows.append(line(m.name, setting, grid.TRY_SEED, 150 + 10 * abs(k - 1), steps=300))
        rows += [line(m.name, m.tries[1], seed, (100 if m.name == "energy" else 200) + seed) for seed in (0, 1)]
    for settings in grid.ablations().values():
        for k, (setting, changes) in enumerate(settings):
            if (setting, changes) != (grid.ENERGY, {}):
                rows += [line("energy", setting, seed, 120 + 10 * k + seed, **changes) for seed in (0, 1)]
    (tmp_path / "heads.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("guidance.jsonl", "students.jsonl"):
        (tmp_path / name).write_text((RECORDS / name).read_text())
    return claims.Records(tmp_path)


def test_heads_are_found_by_setting_and_compared_by_the_rule(records):
    assert claims.tuned(records.lines("heads"), "shortcut")["arguments"] == METHODS[2].tries[1].arguments
    assert [x["seed"] for x in records.rivals("energy")] == [0, 1]
    found = claims.best_head(records)
    assert found.verdict == claims.HOLDS and "energy 100 (100 to 101), flow 200 (200 to 201)" in found.here
    assert found.seeds == "2"
    found = claims.best_distilled(records)
    assert found.verdict.startswith(claims.HOLDS) and "consistency (ConsistencyTTA) 200" in found.here
    # grid.ENERGY is energy's second try, so the ablations share its lines.
    assert claims.samples(records).here.startswith("m = 1: 120 (120 to 121), m = 2: 100 (100 to 101)")
    assert claims.samples(records).verdict == claims.HOLDS
    assert claims.noise_main(records).here == "noise main 100 (100 to 101), h main 130 (130 to 131)"
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
    assert "w = 1.5: 96" in claims.guidance_scale(r).here and claims.guidance_scale(r).verdict == claims.FAILS
    assert claims.guidance_place(r).verdict == claims.FAILS
    assert claims.iterations(r).verdict == claims.HOLDS
    plane = claims.plane_nearest(r)
    assert "energy 0.20, shortcut 0.17, meanflow 0.53" in plane.here and plane.verdict == claims.FAILS
    assert claims.plane_covers(r).seeds == "3"
