"""The training loop: every step by itself, and a run that is killed again and again ends where the whole one ends."""

import json
import math
import multiprocessing
import os
import random
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from dear.training import TrainConfig, batch_indices, held_back_interrupt, optimizers, rate, train

CONFIG = TrainConfig(steps=40, batch_size=4, learning_rate=1e-2, warmup=5, checkpoint_every=3, log_every=4)
MUON = replace(CONFIG, muon=5e-3)  # the two weight matrices by Muon, the two biases by AdamW
INPUTS = torch.randn(10, 8, generator=torch.Generator().manual_seed(1))


def network(seed: int = 0, width: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, width), nn.SiLU(), nn.Linear(width, 8))


def loss(module, indices, generator):
    x = INPUTS[indices]
    noise = torch.randn(x.shape, generator=generator)
    value = (module(x + 0.1 * noise) - x.flip(1)).square().mean()
    return value, {"noise": float(noise[0, 0]), "dear": lambda: float(value.detach()) + 1}


def fit(out, config=CONFIG, module=None, function=loss, **options):
    return train(module or network(), function, len(INPUTS), config, out, progress=False, **options)


def rows(out) -> list[dict]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def weights(module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder and final weights of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    return out, weights(fit(out))


def test_batches_are_pieces_of_one_permutation_an_epoch():
    # 4 x 5 = 2 x 10: five batches are two epochs, and the third lies across the border.
    batches = [batch_indices(step, 4, 10, seed=3) for step in range(5)]
    first, second = torch.cat(batches).split(10)
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(10))
    assert first.tolist() != second.tolist() and first.tolist() != list(range(10))
    assert batch_indices(2, 4, 10, seed=3).tolist() == batches[2].tolist()  # any step by itself
    assert batch_indices(0, 10, 10, seed=4).tolist() != first.tolist()
    # A batch larger than the data holds every item equally often.
    assert batch_indices(0, 30, 10, seed=0).bincount().tolist() == [3] * 10


def test_learning_rate_rises_in_a_line_and_falls_along_a_cosine():
    config = TrainConfig(steps=110, learning_rate=2.0, warmup=10)
    assert [rate(s, config) for s in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert rate(10, config) == pytest.approx(2.0) and rate(110, config) == pytest.approx(0.02)  # 1 % of the peak
    assert rate(60, config) == pytest.approx(2.0 * (0.01 + 0.99 / 2))  # half way down
    assert rate(35, config) == pytest.approx(2.0 * (0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2))
    assert rate(0, replace(config, warmup=0)) == pytest.approx(2.0)


def test_a_restart_begins_the_schedule_anew():
    once = TrainConfig(steps=110, learning_rate=2.0, warmup=10)
    twice = replace(once, steps=170, restart=110)
    assert [rate(s, twice) for s in range(110)] == [rate(s, once) for s in range(110)]
    assert [rate(s, twice) for s in range(110, 171)] == [rate(s, replace(once, steps=60)) for s in range(61)]
    for wrong in (-1, 170):
        with pytest.raises(ValueError, match=f"restart must be 0 .none. or a step before the last, got {wrong} of 170"):
            replace(twice, restart=wrong)


def reference(config: TrainConfig):
    """The loop again in plain torch: weights, their average and the gradient norms of every step."""
    module, norms = network(), []
    optimizer = torch.optim.AdamW(module.parameters(), config.learning_rate, config.betas,
                                  weight_decay=config.weight_decay)
    average = weights(module)
    for step in range(config.steps):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        optimizer.param_groups[0]["lr"] = rate(step, config)
        value, _ = loss(module, batch_indices(step, config.batch_size, len(INPUTS), config.seed), generator)
        optimizer.zero_grad()
        value.backward()
        norm = torch.cat([p.grad.flatten() for p in module.parameters()]).norm().item()
        norms.append(norm)
        for p in module.parameters():
            p.grad *= min(1.0, config.clip / norm)
        optimizer.step()
        decay = min(config.ema, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, module.parameters(), strict=True)]
    return weights(module), average, norms


@pytest.mark.parametrize("clip", [100.0, 0.05])
def test_the_loop_is_adamw_with_clipping_and_a_moving_average(tmp_path, clip):
    config = replace(CONFIG, steps=12, clip=clip, log_every=1, ema=0.5)
    last, average, norms = reference(config)
    assert min(norms) > 0.05  # so that the second case does clip
    module = fit(tmp_path, config)
    for got, wanted in zip(weights(module), average, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    stored = load_file(tmp_path / "checkpoint.safetensors")
    names = [name for name, _ in module.named_parameters()]
    for name, wanted in zip(names, last, strict=True):
        torch.testing.assert_close(stored[f"model.{name}"], wanted, rtol=1e-4, atol=1e-5)
    assert not module.training
    assert [row["gradient_norm"] for row in rows(tmp_path)] == pytest.approx(norms, rel=1e-3)


def test_muon_moves_a_matrix_along_the_singular_vectors_of_its_gradient(tmp_path):
    """First step, against an SVD: every singular value of the gradient becomes about 1 (0.6 to 1.25, by bfloat16)."""
    config = replace(MUON, steps=1, batch_size=10, warmup=0, weight_decay=0.1, clip=1e9, ema=0.0)
    start, module = network(width=20), network(width=20)
    value, _ = loss(start, batch_indices(0, 10, len(INPUTS), 0), torch.Generator().manual_seed(0))
    value.backward()
    fit(tmp_path, config, module)
    for layer in (0, 2):
        weight, grad = start[layer].weight.detach(), start[layer].weight.grad
        moved = load_file(tmp_path / "checkpoint.safetensors")[f"model.{layer}.weight"] - weight
        u, _, vh = torch.linalg.svd(grad, full_matrices=False)
        step = -(moved + config.muon * config.weight_decay * weight) / (config.muon * 0.2 * 20**0.5)
        values = u.T @ step @ vh.T
        assert 0.6 < values.diag().min() and values.diag().max() < 1.25
        assert (values - values.diag().diag()).abs().max() < 0.1
        assert (step - u @ values @ vh).abs().max() < 0.05


def test_muon_takes_the_matrices_of_blocks_and_adamw_the_rest():
    module = nn.ModuleDict({"first": nn.Linear(3, 4), "blocks": nn.ModuleList([nn.Linear(4, 4), nn.Conv1d(4, 4, 3)])})
    module["blocks"][0].bias.requires_grad_(False)
    names = {id(p): n for n, p in module.named_parameters()}
    adamw, muon = optimizers(module, MUON)
    assert [names[id(p)] for p in muon.param_groups[0]["params"]] == ["blocks.0.weight"]
    assert [names[id(p)] for p in adamw.param_groups[0]["params"]] == [
        "first.weight", "first.bias", "blocks.1.weight", "blocks.1.bias"]
    assert len(optimizers(module, CONFIG)) == 1


def test_both_learning_rates_follow_the_schedule(tmp_path):
    """After the first of five steps of warm-up a weight has moved by a fifth of what it moves without one."""
    for config in (CONFIG, MUON):
        moves = []
        for warmup in (0, 5):
            start, out = weights(network()), tmp_path / f"{config.muon}-{warmup}"
            fit(out, replace(config, warmup=warmup, weight_decay=0), stop_after=1)
            stored = load_file(out / "checkpoint.safetensors")
            names = [name for name, _ in network().named_parameters()]
            moves.append([stored[f"model.{name}"] - before for name, before in zip(names, start, strict=True)])
        for without, with_warmup in zip(*moves, strict=True):
            torch.testing.assert_close(with_warmup, without / 5, rtol=1e-3, atol=1e-6)


def test_training_lowers_the_loss_and_logs_what_it_was_told(whole):
    logged = rows(whole[0])
    assert [row["step"] for row in logged] == list(range(4, 41, 4))
    assert logged[-1]["loss"] < 0.7 * logged[0]["loss"]
    for row in logged:  # a figure that is a function is called on the steps that are logged
        assert row["dear"] == pytest.approx(row["loss"] + 1, rel=1e-4)


def test_a_costly_figure_is_computed_on_logged_steps_only(tmp_path):
    calls = []

    def costly(module, indices, generator):
        return module(INPUTS[indices]).square().mean(), {"costly": lambda: calls.append(1) or 1.0}

    fit(tmp_path, replace(CONFIG, steps=10), function=costly)
    assert len(calls) == 3 and [row["step"] for row in rows(tmp_path)] == [4, 8, 10]  # and the last


def test_a_run_with_muon_goes_on_to_the_same_bits(tmp_path):
    expected = weights(fit(tmp_path / "whole", MUON))
    fit(tmp_path / "parts", MUON, stop_after=7)
    assert same(weights(fit(tmp_path / "parts", MUON, module=network(seed=9))), expected)


def test_stopping_and_going_on_equals_the_whole(whole, tmp_path):
    fit(tmp_path, stop_after=7)
    assert same(weights(fit(tmp_path, module=network(seed=9))), whole[1])
    assert rows(tmp_path) == rows(whole[0])
    # Again with nothing left to do: the finished model comes back.
    assert same(weights(fit(tmp_path, module=network(seed=9))), whole[1])


def silent_loss(module, indices, generator):
    """A mean over items that draws nothing."""
    x = INPUTS[indices]
    value = (module(x) - x.flip(1)).square().mean()
    return value, {"index": float(indices.float().mean()), "dear": lambda: float(value.detach())}


def test_accumulated_batches_are_one_larger_batch(tmp_path):
    large, small = replace(CONFIG, batch_size=6), replace(CONFIG, batch_size=2, accumulate=3)
    wanted = weights(fit(tmp_path / "large", large, function=silent_loss))
    for a, b in zip(weights(fit(tmp_path / "small", small, function=silent_loss)), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    for row, other in zip(rows(tmp_path / "small"), rows(tmp_path / "large"), strict=True):
        assert row == pytest.approx(other, rel=1e-4)  # figures are means over the parts
    # What counts in going on is the batch of a step, however it is split.
    fit(tmp_path / "mixed", large, function=silent_loss, stop_after=7)
    for a, b in zip(weights(fit(tmp_path / "mixed", small, function=silent_loss)), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"batch_size 6 -> 4\)"):
        fit(tmp_path / "mixed", replace(small, accumulate=2))


def test_no_two_parts_draw_the_same_noise(tmp_path):
    seeds = []

    def function(module, indices, generator):
        seeds.append(generator.initial_seed())
        return loss(module, indices, generator)

    fit(tmp_path, replace(CONFIG, batch_size=2, accumulate=3), function=function)
    assert len(set(seeds)) == len(seeds) == 3 * CONFIG.steps


def test_bfloat16_is_the_precision_of_products_and_of_nothing_that_stays(tmp_path):
    kinds = set()

    def function(module, indices, generator):
        kinds.add(module(INPUTS[indices]).dtype)
        return loss(module, indices, generator)

    exact = fit(tmp_path / "exact")
    short = fit(tmp_path / "short", replace(CONFIG, precision="bfloat16"), function=function)
    assert kinds == {torch.bfloat16} and short(INPUTS).dtype == exact(INPUTS).dtype == torch.float32
    stored = load_file(tmp_path / "short" / "checkpoint.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    found, wanted = ([row["loss"] for row in rows(tmp_path / name)] for name in ("short", "exact"))
    assert found == pytest.approx(wanted, rel=0.02) and found != wanted
    assert not same(weights(short), weights(exact))
    with pytest.raises(ValueError, match="precision bfloat16 -> float32"):
        fit(tmp_path / "short")


def test_a_run_begun_before_there_were_accumulation_and_precisions_goes_on(whole, tmp_path):
    fit(tmp_path, stop_after=7)
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        told = file.metadata()
    settings = json.loads(told["config"])
    assert "accumulate" not in settings and settings.pop("precision") == "float32"
    save_file(load_file(path), path, told | {"config": json.dumps(settings)})
    with pytest.raises(ValueError, match="precision float32 -> bfloat16"):
        fit(tmp_path, replace(CONFIG, precision="bfloat16"))
    assert same(weights(fit(tmp_path, module=network(seed=9))), whole[1])


@pytest.fixture
def heard_interrupts():
    """Python's own handler: a shell starts what runs in the background with ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_finishes_the_step_and_loses_nothing(whole, tmp_path, heard_interrupts):
    config, calls = replace(CONFIG, checkpoint_every=1000), []

    def interrupted(module, indices, generator):
        calls.append(1)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        return loss(module, indices, generator)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, config, function=interrupted)
    assert len(calls) == 7 and signal.getsignal(signal.SIGINT) is before
    assert same(weights(fit(tmp_path, config, module=network(seed=9), function=interrupted)), whole[1])
    assert len(calls) == 40  # no step was taken twice


def test_a_second_ctrl_c_stops_at_once(tmp_path, heard_interrupts):
    def stuck(module, indices, generator):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second ctrl-C was held back")

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, function=stuck)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def child(out, progress):
    def counted(module, indices, generator):
        progress.value += 1
        return loss(module, indices, generator)

    torch.set_num_threads(1)
    fit(out, MUON, function=counted, module=network(width=2048))


def killed_run(out, chance) -> int:
    """Train in children that are killed some steps after their start, until one gets through; the number of kills."""
    context, kills = multiprocessing.get_context("fork"), 0
    while True:
        progress = context.Value("i", 0, lock=False)
        process = context.Process(target=child, args=(out, progress))
        process.start()
        steps, wait = chance.randint(1, 12), chance.uniform(0, 0.005)
        while process.is_alive() and progress.value < steps:
            time.sleep(0.0005)
        time.sleep(wait)
        if kills < 8:
            process.kill()  # SIGKILL, unless it ended before
        process.join()
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0
            return kills
        kills += 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to start a process in milliseconds")
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path):
    """SIGKILL at random moments: within a step, a checkpoint (34 k numbers x 4) or a line of the log."""
    expected = weights(fit(tmp_path / "whole", MUON, module=network(width=2048)))
    seed = time.time_ns()
    chance = random.Random(seed)
    for attempt in range(10):  # on a busy machine a child may get through before its killer is woken
        out = tmp_path / f"killed{attempt}"
        kills = killed_run(out, chance)
        # The finished run gives back its model without a further step.
        found = weights(fit(out, MUON, module=network(seed=5, width=2048)))
        assert same(found, expected), f"seed {seed}"
        assert rows(out) == rows(tmp_path / "whole"), f"seed {seed}"
        first, second = (load_file(folder / "checkpoint.safetensors") for folder in (out, tmp_path / "whole"))
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first), f"seed {seed}"
        if kills >= 3:
            return
    pytest.fail("no child was killed three times: the machine is too busy to tell")


def test_a_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    fit(tmp_path, stop_after=3)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def half(tensors, path, metadata):
        path.write_bytes(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr("dear.components.save_file", half)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stop_after=6)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors", "metrics.jsonl"]


def test_what_a_killed_run_had_begun_to_write_is_removed(tmp_path):
    (tmp_path / ".checkpoint.safetensors.12345").write_bytes(b"half a file")
    fit(tmp_path, stop_after=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors"]


def test_the_log_drops_a_torn_line_and_what_lies_past_the_checkpoint(whole, tmp_path):
    fit(tmp_path, stop_after=6)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "loss": 0.5}\n{"step": 12, "lo')
    fit(tmp_path)
    assert rows(tmp_path) == rows(whole[0])


def test_nothing_is_pickled(whole):
    assert sorted(p.name for p in whole[0].iterdir()) == ["checkpoint.safetensors", "metrics.jsonl"]
    keys = load_file(whole[0] / "checkpoint.safetensors").keys()
    assert {key.split(".")[0] for key in keys} == {"model", "ema", "optimizer"}


def test_other_settings_or_another_model_are_refused(tmp_path):
    fit(tmp_path, stop_after=3)
    with pytest.raises(ValueError, match=r"learning_rate 0.01 -> 0.02.*another output folder"):
        fit(tmp_path, replace(CONFIG, learning_rate=0.02))
    with pytest.raises(ValueError, match="holds another model"):
        fit(tmp_path, module=network(width=9))
    with pytest.raises(ValueError, match=r"other settings \(layers None -> \[1, 2\]\)"):
        fit(tmp_path, about={"layers": (1, 2)})


def test_a_damaged_checkpoint_is_named(tmp_path):
    fit(tmp_path, stop_after=3)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="checkpoint.safetensors is damaged .*delete it"):
        fit(tmp_path)


def test_what_a_run_is_about_belongs_to_it(tmp_path):
    about = {"weight": 10.0, "layers": (1, 2)}  # json makes a list of the pair, which is no other setting
    fit(tmp_path, stop_after=3, about=about)
    fit(tmp_path, stop_after=5, about=about)
    for other in ({"weight": 20.0, "layers": (1, 2)}, None):
        with pytest.raises(ValueError, match="weight 10.0 -> (20.0|None)"):
            fit(tmp_path, about=other)


def test_another_order_and_what_is_read_of_it_reach_the_loss(tmp_path):
    asked, seen = [], []

    def order(step, batch_size):
        asked.append(batch_size)
        return torch.arange(step * batch_size, (step + 1) * batch_size)

    def watched(module, batch, generator):
        seen.append(batch)
        return loss(module, torch.tensor(batch) % len(INPUTS), generator)

    config = replace(CONFIG, steps=3, batch_size=2, accumulate=2)
    read = fit(tmp_path / "read", config, function=watched, order=order, read=torch.Tensor.tolist)
    assert asked == [4, 4, 4] and seen == [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11]]
    plain = fit(tmp_path / "plain", config, order=lambda *told: order(*told) % len(INPUTS))
    assert same(weights(read), weights(plain)) and rows(tmp_path / "read") == rows(tmp_path / "plain")
    assert not same(weights(read), weights(fit(tmp_path / "permuted", config)))


def test_the_next_part_is_read_while_the_loss_has_this_one(tmp_path):
    begun = [threading.Event() for _ in range(6)]

    def read(indices):
        next(event for event in begun if not event.is_set()).set()
        return indices, sum(event.is_set() for event in begun) - 1

    def watched(module, batch, generator):
        assert begun[min(batch[1] + 1, 5)].wait(20), f"part {batch[1] + 1} is not read while part {batch[1]} is used"
        return loss(module, batch[0], generator)

    fit(tmp_path, replace(CONFIG, steps=6), function=watched, read=read)
    assert all(event.is_set() for event in begun)


def test_an_error_of_reading_comes_where_its_part_would_and_the_thread_ends(tmp_path):
    read_parts = []

    def read(indices):
        read_parts.append(indices)
        if len(read_parts) == 4:
            raise OSError("the disk is gone")
        return indices

    with pytest.raises(OSError, match="the disk is gone"):
        fit(tmp_path, replace(CONFIG, log_every=1), read=read)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    with pytest.raises(RuntimeError, match="no loss"):
        fit(tmp_path / "other", function=lambda *told: (_ for _ in ()).throw(RuntimeError("no loss")), read=read)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reading")]


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_it_spoils_the_weights(tmp_path, broken):
    module = network()
    start = weights(module)

    def bad(module, indices, generator):
        value = module(INPUTS[indices]).square().mean()
        return (value * math.nan if broken == "loss" else (value - value.detach()).sqrt()), {}  # d sqrt(0) is infinite

    with pytest.raises(FloatingPointError, match=r"step 0 .*lower learning_rate \(0.01\)"):
        fit(tmp_path, module=module, function=bad)
    assert same(weights(module), start) and not (tmp_path / "checkpoint.safetensors").exists()


def test_frozen_and_unused_parameters_come_through_a_resume(tmp_path):
    def partly():
        module = network()
        module.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        module.unused = nn.Parameter(torch.ones(3))
        module.forward = lambda x: module[2](module[1](module[0](x)))
        return module

    expected = weights(fit(tmp_path / "a", module=partly()))
    fit(tmp_path / "b", module=partly(), stop_after=10)
    found = fit(tmp_path / "b", module=partly())
    assert same(weights(found), expected)
    assert found.frozen.tolist() == [1, 1] and found.unused.tolist() == [1, 1, 1]
    assert "model.frozen" not in load_file(tmp_path / "b" / "checkpoint.safetensors")


def test_progress_is_shown_when_wanted(tmp_path, capsys):
    train(network(), loss, len(INPUTS), replace(CONFIG, steps=4), tmp_path / "bird")
    assert "training bird" in capsys.readouterr().err
    fit(tmp_path / "quiet", replace(CONFIG, steps=4))
    assert capsys.readouterr().err == ""


def test_bad_settings():
    for name in ("steps", "batch_size", "learning_rate", "clip", "checkpoint_every", "log_every", "accumulate"):
        with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
            TrainConfig(**{name: 0})
    for wrong in ({"ema": 1.0}, {"ema": -0.1}, {"warmup": -1}):
        with pytest.raises(ValueError, match="ema must lie"):
            TrainConfig(**wrong)
    with pytest.raises(ValueError, match="muon must be a learning rate or 0 .none., got -1"):
        TrainConfig(muon=-1)
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, got 'half'"):
        TrainConfig(precision="half")
    with pytest.raises(ValueError, match="items must be at least 1, got 0"):
        train(network(), loss, 0, CONFIG, "nowhere")


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back_interrupt() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert not interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
