"""Latency budgets: tables, predictions, corrections by measurement; with made-up clocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import secateur as sc
from networks import user_net, zoo
from secateur.cli.main import run
from secateur.core.files import read_json, write_json
from secateur.evaluation import Latency, LatencyShare, compare_latency, count_macs
from secateur.pipeline import latency as pipeline
from secateur.selection import LatencyModel, LatencyTable, UnreachableBudgetError
from secateur.selection.timing import for_batch, output_elements, shared_table
from secateur.structure.groups import Call

STRUCTURE = sc.trace(*(lambda m, x: (m, x[:1]))(*zoo("resnet20")))


def macs(call: Call) -> int:
    """Multiply-accumulates of a call in the table's layout."""
    return output_elements(call) * math.prod(call.weight_shape[1:2] if call.op == "product" else call.weight_shape[1:])


def stairs(call: Call) -> float:
    """Work in blocks of 16 channels, as matrix units do it."""
    return (
        macs(call) / math.prod(call.weight_shape[:2]) * math.prod(math.ceil(n / 16) * 16 for n in call.weight_shape[:2])
    )


def conv(read: int, made: int, side: int = 8, **options) -> Call:
    plain = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "transposed": False}
    plain |= {"output_padding": (0, 0)} | options
    return Call("conv", "convolution", (2, read, side, side), (made, read // plain["groups"], 3, 3), plain)


def scores(structure, seed=0):
    return sc.Scores(structure, np.random.default_rng(seed).random(structure.num_units), "by hand")


@pytest.fixture
def made_up(monkeypatch):
    """Layers take as long as they have MACs, a network 40 % of the original's MACs longer; noise can be added."""
    shared_table.cache_clear()
    monkeypatch.setattr(LatencyTable, "_measure", lambda self, call: 1e-3 * macs(call))
    noise = {"overhead": 0.4, "spread": 0.0, "generator": np.random.default_rng(0), "measured": 0}

    def share(before, after, inputs, **_):
        noise["measured"] += 1
        whole = count_macs(before, inputs)
        value = (count_macs(after, inputs) / whole + noise["overhead"]) / (1 + noise["overhead"])
        value *= math.exp(noise["spread"] * noise["generator"].normal())
        found = LatencyShare(value, (0.99 * value, 1.01 * value), 11, 1e-3 * whole)
        ms = (found.before_ms, found.after_ms)
        return Latency(ms[0], (ms[0], ms[0]), 8, 11, 1), Latency(ms[1], (ms[1], ms[1]), 8, 11, 1, found)

    monkeypatch.setattr(pipeline, "compare_latency", share)
    yield noise
    shared_table.cache_clear()


def test_shapes_are_measured_once_and_products_of_sizes_interpolated_exactly():
    asked = []
    table = LatencyTable(timer=lambda call: asked.append(call) or float(macs(call)))
    for read, made in ((16, 32), (20, 45), (33, 100), (7, 200), (160, 1000)):
        assert table.time(conv(read, made)) == pytest.approx(macs(conv(read, made)))
    count = len(asked)
    assert len(set(map(str, asked))) == count
    table.time(conv(33, 100))
    table.time(conv(34, 100))
    assert len(asked) == count


def test_steps_of_sixteen_are_met_on_them_and_halved_between():
    table = LatencyTable(timer=stairs)
    assert table.time(conv(48, 64)) == stairs(conv(48, 64))
    per_count = [table.time(conv(64, made)) / stairs(conv(64, made)) for made in range(33, 48)]
    assert np.mean(per_count) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Call("a", "linear", (3, 7, 10), (10, 4), {"transposed": False}), ("linear", (84, 10), (4, 10))),
        (Call("a", "linear", (21, 10), (4, 10), {"transposed": True}), ("linear", (84, 10), (4, 10))),
        (Call("a", "linear", (10, 21), (4, 10), {"left": True}), ("linear", (84, 10), (4, 10))),
        (Call("", "product", (6, 5, 8), (6, 8, 5), {"transposed": False}), ("product", (24, 5, 8), (24, 8, 5))),
        (Call("", "product", (6, 5, 8), (6, 3, 8), {"transposed": True}), ("product", (24, 5, 8), (24, 8, 3))),
    ],
)
def test_all_spellings_of_a_product_come_to_one(call, expected):
    found = for_batch(call, 3, 12)
    assert (found.op, found.input_shape, found.weight_shape) == expected
    assert LatencyTable().time(found) > 0


@pytest.mark.parametrize(
    "call",
    [conv(4, 6), conv(8, 8, groups=8), conv(6, 6, stride=(2, 2), transposed=True, output_padding=(1, 1))],
)
def test_convolutions_run_as_they_are_described(call):
    options = call.options
    names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    result = torch.convolution(
        torch.zeros(call.input_shape), torch.zeros(call.weight_shape), None, *(options[name] for name in names)
    )
    assert output_elements(call) == result.numel()
    assert LatencyTable().time(call) > 0


def test_tables_survive_and_refuse_other_machines(tmp_path):
    path = tmp_path / "times.json"
    table = LatencyTable(path=path, timer=macs)
    wanted = table.time(conv(20, 40))
    table.save()
    again = LatencyTable(path=path, timer=lambda call: pytest.fail("it is known"))
    assert again.time(conv(20, 40)) == wanted
    write_json(path, {**read_json(path), "machine": "abacus, torch 0.1"})
    with pytest.raises(sc.RequestError, match="another machine or version"):
        LatencyTable(path=path)
    path.write_text("[]")
    with pytest.raises(sc.RequestError, match="not a latency table"):
        LatencyTable(path=path)


def test_predictions_follow_the_layers_and_shrink_the_rest():
    table = LatencyTable(timer=lambda call: float(macs(call)))
    model = LatencyModel(STRUCTURE, table)
    whole = model.milliseconds()
    assert whole == pytest.approx(8 * STRUCTURE.cost().macs)
    assert model.calibrated(0.5 * whole).rest_ms == 0
    keep = np.ones(STRUCTURE.num_units, bool)
    keep[::2] = False
    assert model.share(keep) == pytest.approx(STRUCTURE.cost(keep).macs / STRUCTURE.cost().macs, rel=1e-6)
    # layer outputs are halved, the ten logits stay
    assert model.calibrated(2 * whole).milliseconds(keep) - model.milliseconds(keep) == pytest.approx(
        whole / 2, rel=1e-3
    )
    costs = model.unit_costs(np.ones(STRUCTURE.num_units, bool))
    true = 8 * STRUCTURE.unit_costs("macs")
    assert np.corrcoef(costs, true)[0, 1] > 0.99


@pytest.mark.parametrize("strategy", ["global", "per-layer", "per-cost"])
def test_selection_without_a_network_meets_the_prediction(made_up, strategy):
    plan = sc.select(scores(STRUCTURE), sc.Budget(latency=0.5), strategy)
    assert 0.45 <= plan.achieved["latency_predicted"] <= 0.5
    assert "latency" not in plan.achieved
    assert plan.requested == {"kind": "latency", "share": 0.5}


def test_unreachable_predictions_say_what_can_be_reached_and_what_binds(made_up):
    with pytest.raises(UnreachableBudgetError, match=r"at least [0-9.]+% stays; layer '.*' binds") as caught:
        sc.select(scores(STRUCTURE), sc.Budget(latency=0.05), min_keep=8)
    plan = sc.select(scores(STRUCTURE), sc.Budget(latency=caught.value.least), min_keep=8)
    assert plan.achieved["latency_predicted"] == pytest.approx(caught.value.least)


def test_rounding_follows_the_machine():
    net = nn.Sequential(nn.Conv2d(3, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3), nn.ReLU(), nn.Conv2d(128, 8, 3))
    structure = sc.trace(net, torch.zeros(1, 3, 16, 16))
    by_steps = LatencyModel(structure, LatencyTable(timer=stairs))
    assert by_steps.round_to() == 16
    assert LatencyModel(structure, LatencyTable(timer=macs)).round_to() == 1
    plan = sc.select(scores(structure), sc.Budget(macs=0.5), round_to="auto", latency=by_steps)
    keep = plan.keep(structure)
    assert [int(keep[g.units].sum()) % 16 for g in structure.groups] == [0, 0]


@pytest.mark.parametrize(
    "schedule",
    ["one-shot", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rescored", "iterative"))],
)
def test_measured_latency_is_what_was_asked_for(made_up, schedule):
    model, _ = user_net()
    data = TensorDataset(torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3)
    reference = sc.ReferenceSet.sample(data, 5)
    settings = sc.PruneSettings(schedule=schedule, step=0.1, latency_batch=2)
    tune = sc.TrainSettings(epochs=1, batch_size=20, learning_rate=0.01, device="cpu")
    budgets = [sc.Budget(latency=s) for s in (0.6, 0.8)]
    results = list(
        sc.prune_to_budgets(model, reference, budgets, "weight", settings, train=data, val=data, finetune=tune)
    )
    for share, result in zip((0.8, 0.6), results, strict=True):
        # the layers alone would have said less: the correction is at work
        true = (count_macs(result.model, reference.inputs) / count_macs(model, reference.inputs) + 0.4) / 1.4
        assert result.plan.achieved["latency"] == pytest.approx(share, rel=0.1)
        assert true == pytest.approx(share, rel=0.1)
        assert result.plan.achieved["latency_predicted"] < share
        assert result.plan.requested == {"kind": "latency", "share": share}
        assert result.history[-1].achieved["latency"] == result.plan.achieved["latency"]
        assert result.latency[1].relative.share == result.plan.achieved["latency"]
        assert result.history[-1].note == "" or "steps" in result.history[-1].note
    on_the_way = [step for step in results[-1].history if step.requested not in (0.8, 0.6)]
    assert all("latency" not in step.achieved and "latency_predicted" in step.achieved for step in on_the_way)
    assert bool(on_the_way) == (schedule != "one-shot")


def test_latency_that_cannot_be_reached_is_refused_as_measured(made_up):
    made_up["overhead"] = 3.0
    model, _ = user_net()
    reference = sc.ReferenceSet.sample(TensorDataset(torch.randn(9, 3, 8, 8), torch.arange(9) % 3), 3)
    with pytest.raises(sc.RequestError, match=r"50\.0% of latency cannot be reached: at least 7\d\.\d% stays; layer '"):
        sc.compress(model, reference, sc.Budget(latency=0.5), "weight", sc.PruneSettings.published())


@pytest.mark.slow
def test_noise_ends_and_is_reported(made_up):
    made_up["spread"] = 0.5
    model, x = zoo("resnet20")
    reference = sc.ReferenceSet.sample(TensorDataset(x[:1].repeat(4, 1, 1, 1), torch.arange(4) % 2), 2)
    notes = []
    for seed in range(4):
        made_up["generator"] = np.random.default_rng(seed)
        best = sc.compress(model, reference, sc.Budget(latency=0.7), "weight", sc.PruneSettings.published())
        off = abs(best.plan.achieved["latency"] / 0.7 - 1)
        notes.append((off, best.history[-1].note))
    assert all((off > 0.1) == ("too noisy" in note or "steps" in note) for off, note in notes)
    assert made_up["measured"] <= 4 * 2 * 6 * 5


def test_shares_are_measured_in_turn_and_networks_come_back():
    model, x = zoo("resnet20")
    model.train()
    small = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    order = []
    model.register_forward_hook(lambda *_: order.append("a"))
    small.register_forward_hook(lambda *_: order.append("b"))
    _, after = compare_latency(model, small, x, repeats=(8, 8), seconds=(0.0, 0.0))
    found = after.relative
    assert "".join(order).replace("abba", "").replace("baab", "") in ("", "ab", "ba")
    assert found.interval[0] <= found.share <= found.interval[1]
    assert found.share < 1
    assert model.training


def test_the_command_line_asks_for_one_budget(capsys):
    assert run(["prune", "--latency", "0.5", "--print-config"]) == 0
    assert "kind: latency" in capsys.readouterr().out
    assert run(["prune", "--latency", "0.5", "--macs", "0.5", "--print-config"]) == 2
    with pytest.raises(sc.RequestError, match="known: units, params, macs, latency"):
        sc.Budget.of("speed", 0.5)
