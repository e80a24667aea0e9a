"""What is shipped: the tuned nets of the roll in 8-bit floats, which still draw the same, and points of every run."""

import pytest
import torch
from safetensors.torch import load_file

from toy import compare, ship
from toy.compare import METHODS, Comparison, Record, Run
from toy.distances import sliced_wasserstein
from toy.nets import MLP, NetConfig, load_net, save_net
from toy.tables import pick


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """A record with a distilled method, and its nets."""
    monkeypatch.setattr(compare, "SAMPLES", 60)
    config = compare.TrainConfig
    monkeypatch.setattr(compare, "TrainConfig", lambda **settings: config(batch_size=32, **settings))
    comparison = Comparison(Record(tmp_path / "record.jsonl"), tmp_path / "nets", steps=4)
    for method in [m for m in METHODS if m.name in ("flow", "energy", "consistency")]:
        tuned = Run("steps", method, "tuned", method.tries[1], "swiss_roll", 0, 4)
        published = Run("steps", method, "published", method.tries[0], "eight_gaussians", 0, 4)
        same = Run("steps", method, "published", method.tries[0], "swiss_roll", 0, 4)  # its net is not shipped
        for run in (tuned, published, same, Run("steps", method, "tuned", method.tries[1], "swiss_roll", 1, 4)):
            comparison.do(run)
    return tmp_path


def test_nets_and_samples(compared):
    lost = pick(Record(compared / "record.jsonl").lines, method="energy", data="eight_gaussians")[0]
    (compared / "nets" / ship.run_of(lost).file()).unlink()  # not every net is kept
    written = ship.ship(compared / "record.jsonl", compared / "nets", compared / "plane")
    assert sorted(path.name for path in written) == sorted(path.name for path in (compared / "plane").iterdir())
    assert [path.stem for path in written] == ["flow", "energy", "consistency", "samples"]
    points = load_file(written[-1])
    assert points.keys() == {f"{name}/{place}" for name in ("flow", "energy", "consistency")
                             for place in ("tuned/swiss_roll", "published/swiss_roll", "published/eight_gaussians")} - {
                                 "energy/published/eight_gaussians"}
    assert {(x.shape, x.dtype) for x in points.values()} == {((ship.POINTS, 2), torch.float16)}
    for path in written[:-1]:
        line = pick(Record(compared / "record.jsonl").lines, method=path.stem, setting="tuned", seed=0)[0]
        net = load_net(compared / "nets" / ship.run_of(line).file())
        assert path.stat().st_size < 0.52 * (compared / "nets" / ship.run_of(line).file()).stat().st_size
        for name, weights in load_net(path).state_dict().items():  # 3 bits of mantissa, 2^-9 the least step
            torch.testing.assert_close(weights, net.state_dict()[name], rtol=2**-4, atol=2**-10)


def test_a_shorter_trial_is_not_shipped(compared):
    before = [path.read_bytes() for path in ship.ship(compared / "record.jsonl", compared / "nets", compared / "a")]
    comparison = Comparison(Record(compared / "record.jsonl"), compared / "nets", steps=4)
    comparison.do(Run("steps", METHODS[0], "tuned", METHODS[0].tries[1], "swiss_roll", 0, 2))
    after = [path.read_bytes() for path in ship.ship(compared / "record.jsonl", compared / "nets", compared / "b")]
    assert before == after


def test_eight_bits_draw_nearly_the_same(tmp_path):
    net, noise = MLP(NetConfig(), torch.Generator().manual_seed(0)), torch.randn(
        1000, 2, generator=torch.Generator().manual_seed(1))
    save_net(net, tmp_path / "net.safetensors", torch.float8_e4m3fn)
    exact, short = (n(noise, noise[:, :0]) for n in (net, load_net(tmp_path / "net.safetensors")))
    assert sliced_wasserstein(exact, short) < 0.05 * exact.std()
