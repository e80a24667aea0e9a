"""What the figures of `dear.speed` say: errors of the cost model, growth, and the targets of speed, met or not."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict

from dear import cost
from dear.bench import aligned

PATHS = ("plain", "optimised")
CARD = {path: cost.MACHINES["H200, bfloat16" + (", graphs" if path == "optimised" else "")] for path in PATHS}


def conclude(figures: dict, machine: cost.Machine) -> None:
    """Set "models", "growth" and "targets" of a record from its "decodings" and "stages"; machine: as probed."""
    rows, clock, gpu = figures["decodings"], figures["clock"], figures["ran_on"].startswith("cuda")
    figures["models"], figures["growth"] = models(rows, machine, clock), growths(rows, clock)
    figures["targets"] = targets(rows, figures["stages"], machine, clock, gpu)


def models(rows: Sequence[dict], start: cost.Machine, clock: str) -> list[dict]:
    """The cost model of each size and path: fitted on a few rows, and its errors on all others.

    A machine of its own for each size, as small networks stay in a cache that large ones do not fit.
    """
    found = []
    for size in cost.SIZES:
        for path in PATHS:
            mine = [row for row in rows if (row["size"], row["path"]) == (size, path)]
            chosen = corners(mine)
            others = [row for row in mine if row not in chosen]
            if len(chosen) < 3 or not others:
                continue
            machine = cost.fit(chosen, start, clock)
            off = cost.errors(machine, others, clock)
            found.append({"size": size, "path": path, "clock": clock, "machine": asdict(machine),
                          "fitted_on": len(chosen), "predicted": len(off),
                          "median_error": statistics.median(map(abs, off)), "worst_error": max(off, key=abs),
                          "within_15_percent": sum(abs(e) <= 0.15 for e in off)})
    return found


def corners(rows: Sequence[dict]) -> list[dict]:
    """Of each size and model the row of least and that of most operations, and that of most kernels."""
    found = []
    for key in dict.fromkeys((row["size"], row["model"]) for row in rows):
        mine = sorted((row for row in rows if (row["size"], row["model"]) == key), key=lambda row: row["flop"])
        busiest = max(mine, key=lambda row: cost.total(cost.of_row(row)).kernels)
        for row in (mine[0], busiest, mine[-1]):
            if row not in found:
                found.append(row)
    return found


def growths(rows: Sequence[dict], clock: str) -> list[dict]:
    """Exponents in batch, tokens and iterations, all else equal, of seconds and of memory beyond that before."""
    found, names = [], ("size", "model", "path", "batch", "tokens", "iterations", "steps", "how")
    for axis in ("batch", "tokens", "iterations"):
        rest, groups = [name for name in names if name != axis], {}
        for row in rows:
            groups.setdefault(tuple(row[name] for name in rest), []).append(row)
        for key, group in groups.items():
            if len(group) < 3:
                continue
            xs = [row[axis] for row in group]
            memory = [(row["peak_bytes"] or 0) - (row["before_bytes"] or 0) for row in group]
            found.append({
                "of": axis, **dict(zip(rest, key, strict=True)), "from": min(xs), "to": max(xs),
                "seconds": cost.growth(xs, [row["seconds"][clock] for row in group]),
                "memory": cost.growth(xs, memory) if min(memory) > 0 else None})
    return found


def targets(rows: Sequence[dict], stages: Sequence[dict], machine: cost.Machine, clock: str, gpu: bool) -> list[dict]:
    """Each target with what was found, and what the cost model expects of a card.

    machine: that of `dear.speed.probe`, whose rate is the floor's.  clock: that of the targets on a CPU.
    """
    student, quick, teacher, quick_teacher = (
        _seconds(rows if gpu else [], model, path, 8, 64, steps)
        for model, steps in (("student", 1), ("teacher", 100)) for path in PATHS)
    one = _seconds(rows if gpu else [], "student", "optimised", 1, 16)
    many = _seconds(rows if gpu else [], "student", "optimised", 32, 64)
    texts = [s["seconds"]["median"] for s in stages
             if (s["size"], s["batch"]) == ("paper", 1) and s["stage"].endswith("text, optimised")]
    floor = [_floor(rate) for rate in (machine.rate, CARD["optimised"].rate)]
    return [
        _target("teacher over student, both plain", ">=", 8.5, "x", *_ratio(teacher, student)),
        _target("teacher over student, both optimised", ">=", None, "x", *_ratio(quick_teacher, quick)),
        _target("plain teacher over optimised student", ">=", 25, "x", *_ratio(teacher, quick)),
        _target("10 s of sound, batch 1, 16 iterations, optimised, from the texts' vectors to tokens", "<=", 0.025, "s",
                *one),
        _target("the same with the passes of both text encoders, optimised", "<=", 0.025, "s",
                one[0] and one[0] + sum(texts) if texts else None),
        _target("batch 32, 64 iterations, optimised, over its operations at the matrix rate", "<=", 3, "x",
                *_ratio(many, floor)),
        *([] if gpu else _classroom(stages, clock)),
    ]


def _classroom(stages: Sequence[dict], clock: str) -> list[dict]:
    """The targets of the shipped student on a CPU."""
    seconds = {s["stage"]: s["seconds"][clock] for s in stages if (s["size"], s["batch"]) == ("classroom", 1)}
    plain, fast = (seconds.get(f"text to tokens, {path}") for path in PATHS)
    return [
        _target("classroom, text to waveform, optimised, this CPU", "<=", 0.5, "s",
                seconds.get("text to waveform, optimised")),
        _target("classroom, text to tokens, plain over optimised, this CPU", ">=", 2, "x",
                plain and fast and plain / fast),
    ]


def _seconds(rows, model: str, path: str, batch: int, iterations: int, steps: int = 1) -> tuple[float | None, float]:
    """Seconds of a decoding at paper size, measured (None: not), and expected of a card."""
    told = {"size": "paper", "model": model, "path": path, "batch": batch, "iterations": iterations, "steps": steps,
            "tokens": cost.SIZES["paper"].backbone.tokens}
    row = next((r for r in rows if r["how"] == "measured" and told == {name: r[name] for name in told}), None)
    expected = cost.predict(CARD[path], told | {"dtype": "bfloat16", "fused": path == "optimised"})["all"]
    return row and row["seconds"]["median"], expected


def _floor(rate: float) -> float:
    """Seconds of the operations alone, 32 clips of the optimised student in 64 iterations, at a rate."""
    return cost.flop({"size": "paper", "model": "student", "path": "optimised", "batch": 32, "iterations": 64,
                      "steps": 1}) / rate


def _ratio(slow: Sequence[float | None], fast: Sequence[float | None]) -> list[float | None]:
    return [a / b if a and b else None for a, b in zip(slow, fast, strict=True)]


def _target(name: str, sign: str, wanted: float | None, unit: str, found: float | None,
            expected: float | None = None) -> dict:
    met = None if found is None or wanted is None else found >= wanted if sign == ">=" else found <= wanted
    return {"target": name, "sign": sign, "wanted": wanted, "unit": unit, "found": found, "met": met,
            "predicted_for_an_H200": expected}


def told(target: dict) -> str:
    """A target in a line."""
    t, wanted = target, "" if target["wanted"] is None else f" (wanted {target['sign']} {target['wanted']:g})"
    found = "not measured here" if t["found"] is None else f"{t['found']:.3g} {t['unit']}"
    verdict = {True: ", met", False: ", missed", None: ""}[t["met"]]
    expected = t["predicted_for_an_H200"]
    return f"{t['target']}: {found}{verdict}{wanted}" + (
        "" if expected is None else f"; the cost model expects {expected:.3g} {t['unit']} of an H200")


def report(figures: dict) -> str:
    """The record of decodings as text: a line a decoding, a stage, a fit, an exponent and a target."""
    names = ("size", "model", "path", "batch", "iterations", "steps", "tokens")
    lines = [(*names, "s [min, max]", "CPU s", "s a clip", "x real time", "MB", "how")]
    for r in figures["decodings"]:
        s = r["seconds"]
        lines.append((*(str(r[name]) for name in names), "{median:.4g} [{minimum:.4g}, {maximum:.4g}]".format(**s),
                      f"{s['processor']:.3g}", f"{r['seconds_per_clip']:.3g}", f"{r['real_time_factor']:.3g}",
                      f"{r['peak_bytes'] / 1e6:.0f}" if r["peak_bytes"] else "", r["how"]))
    text = aligned(lines)
    text += [f"{s['size']}, batch {s['batch']}: {s['stage']}: {s['seconds']['median']:.4g} s"
             for s in figures["stages"]]
    for g in figures["growth"]:
        memory = "" if g["memory"] is None else f", memory ^ {g['memory']:.2f}"
        others = ", ".join(f"{g[name]} {name}" for name in ("batch", "tokens", "iterations", "steps") if name in g)
        text.append(f"growth in {g['of']}, {g['from']} to {g['to']}: {g['size']} {g['model']} {g['path']}, {others}: "
                    f"seconds ^ {g['seconds']:.2f}{memory}")
    text += [*map(_fitted, figures["models"]), *map(told, figures["targets"])]
    return "\n".join([*text, *(f"left out: {name}" for name in figures["missing"])])


def _fitted(model: dict) -> str:
    machine = model["machine"]
    return (f"cost model, {model['size']}, {model['path']}: {1e6 * machine['launch']:.2f} us a kernel, "
            f"{machine['rate'] * machine['efficiency'] / 1e12:.3g} TFLOP/s ({machine['efficiency']:.0%} of a large "
            f"product's, half of it with {machine['half']:.0f} rows); fitted on {model['fitted_on']} rows, off by "
            f"{model['median_error']:.0%} (median) and {model['worst_error']:+.0%} (worst) on {model['predicted']} "
            f"others, {model['within_15_percent']} within 15 %")
