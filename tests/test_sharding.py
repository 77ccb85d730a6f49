"""Networks held in parts (FSDP2) against whole ones: the same weights, losses and states. Processes are real ones."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import secateur as sc
import sharded
from secateur.core.ranks import Ranks
from secateur.training import TrainSettings, fit
from secateur.training.parallel import LEAST_PARAMETERS, Replicated, Sharded, blocks
from several_ranks import images, plain
from test_ranks import HERE, apart, descendants, equal, launch, losses, said, secateur, started

OPTIMISERS = ("sgd", "adam", "adamw")


def on_two_ranks(work: str, folder: Path, *more: str) -> list[dict]:
    code, _, error = launch(str(HERE / "sharded.py"), work, str(folder / work), *more)
    assert code == 0, error
    return [torch.load(folder / f"{work}.{rank}", weights_only=False) for rank in (0, 1)]


def assert_alike(both: list[dict], one: dict) -> None:
    """To 1e-10 in double precision, but for losses, which are always computed in single precision."""
    for name, expected in one.items():
        first, second = (found[name] for found in both)
        assert equal(first["weights"], second["weights"]), name
        assert first["rows"] == second["rows"], name
        assert losses(first) == pytest.approx(losses(expected), abs=1e-4 if "single" in name else 1e-6), name
        if "single" not in name:
            assert all(tensor.dtype != torch.float32 for tensor in expected["weights"].values())
            # the teacher's part of the loss is computed in single precision
            assert apart(first["weights"], expected["weights"]) <= (1e-6 if name == "distilled" else 1e-10), name


def test_weights_and_losses_are_those_of_one_process(tmp_path):
    one = sharded.brief()
    both = on_two_ranks("brief", tmp_path)
    assert len(one["norms"]["rows"]) * 6 >= 20  # steps
    assert_alike(both, one)


@pytest.mark.slow
def test_every_network_and_loss_in_parts(tmp_path):
    one = sharded.thorough()
    both = on_two_ranks("thorough", tmp_path)
    assert_alike(both, one)


@pytest.mark.slow
def test_bfloat16_is_that_of_whole_networks(tmp_path):
    for found in on_two_ranks("half", tmp_path):
        assert losses(found["full"]) == pytest.approx(losses(found["none"]), abs=0.01)
        assert apart(found["full"]["weights"], found["none"]["weights"]) <= 0.05


@pytest.mark.slow
def test_states_of_whole_networks_and_of_parts_go_on_as_each_other(tmp_path):
    whole = on_two_ranks("interrupted", tmp_path, str(tmp_path))
    resumed = on_two_ranks("resumed", tmp_path, str(tmp_path))
    for first, second in (whole, resumed):
        assert all(equal(first[key]["weights"], second[key]["weights"]) for key in first)
    for (optimiser, before, after), found in resumed[0].items():
        expected = whole[0][optimiser, after]
        assert len(found["rows"]) == 4
        assert found["rows"][:2] == whole[0][optimiser, before]["rows"][:2]
        assert losses(found) == pytest.approx(losses(expected), abs=1e-6)
        assert apart(found["weights"], expected["weights"]) <= (0 if before == after else 1e-12)
    for optimiser in OPTIMISERS:  # by another number of ranks: one
        how = {"learning_rate": 0.02 if optimiser == "sgd" else 0.003, "gradient_clip": None, "optimiser": optimiser}
        state = sharded.state_after_two_epochs(tmp_path, optimiser, "full")
        assert torch.load(state, weights_only=True)["epoch"] == 2
        alone = sharded.trained(sharded.Auxiliary().double(), state, **how)
        assert apart(alone["weights"], whole[0][optimiser, "none"]["weights"]) <= 1e-12


@pytest.mark.slow
def test_each_rank_keeps_its_half_and_moves_and_gathers_blocks_alone(tmp_path):
    first, second = on_two_ranks("held", tmp_path)
    whole = first["whole"]
    for name, times in (("parameters", 1), ("gradients", 1), ("optimiser", 2)):
        assert first[name] + second[name] == times * whole
        assert max(first[name], second[name]) <= 0.51 * times * whole
    for found in (first, second):
        assert found["blocks"] > 5
        assert sum(found["moved"]) == whole  # each block is moved to the device when those within it are in parts
        assert max(found["moved"]) < 0.15 * whole
        assert 0 < found["gathered"] < 0.25 * whole


@pytest.mark.slow
def test_an_overflow_in_one_rank_s_part_skips_the_step_of_all(tmp_path):
    first, second = on_two_ranks("scaled", tmp_path)
    start, skipped, stepped = first["weights"]
    assert equal(start, skipped)
    assert not equal(start, stepped)
    assert all(tensor.isfinite().all() for tensor in stepped.values())
    assert first["scale"] == second["scale"] == 4.0
    assert second["weights"] == [{}, {}, {}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "line"),
    [
        ("failing", "said: an image that cannot be read"),  # it checks the model that is left
        ("outside", "said: the network uses weights of a block without calling the block"),
    ],
)
def test_what_fails_on_a_rank_ends_all_with_one_line(work, line, tmp_path):
    code, _, error = launch(str(HERE / "sharded.py"), work, str(tmp_path / "found"))
    assert code != 0
    assert [each[: len(line)] for each in said(error)] == [line]
    assert "AssertionError" not in error


# blocks


def large(name: str, **arguments: object) -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **arguments)


def gathered_alone(network: nn.Module, least: int) -> list[int]:
    """Parameters of each block beside those of blocks within it; last, those that are in no block."""
    sizes, seen = [], set()
    for block in (*blocks(network, least), network):
        own = {id(p): p.numel() for p in block.parameters() if id(p) not in seen}
        seen |= own.keys()
        sizes.append(sum(own.values()))
    assert sum(sizes) == sum(p.numel() for p in network.parameters())
    return sizes


@pytest.mark.parametrize(
    "name",
    ["resnet152", "vit_l_16", "convnext_large", "swin_v2_b", "efficientnet_v2_l", "vgg16_bn",
     "densenet201", "inception_v3", "maxvit_t"],
)  # fmt: skip
def test_blocks_are_found_in_any_architecture(name):
    network = large(name, **({"init_weights": False} if name == "inception_v3" else {}))
    sizes = gathered_alone(network, LEAST_PARAMETERS)
    assert all(size >= LEAST_PARAMETERS for size in sizes[:-1])
    # the largest layer of VGG is most of it; whatever is not gathered by itself is less than a third
    assert sizes[-1] < sum(sizes) / 3
    biggest = max(sum(p.numel() for p in layer.parameters(recurse=False)) for layer in network.modules())
    assert max(sizes) <= max(4 * biggest, 16 * LEAST_PARAMETERS)


def test_layers_whose_weights_are_used_without_a_call_are_in_no_block_of_their_own():
    network = nn.Sequential(nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    assert list(blocks(network, 50)) == [*network]


def test_a_block_holds_no_weight_that_is_used_outside():
    network = sharded.Tied()
    found = list(blocks(network, 30))
    assert network.inner not in found
    assert network.inner[2] not in found
    assert network.inner[0] in found
    assert network.twice[0][0] in found
    both = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    both[1].weight = both[0].weight
    assert list(blocks(nn.Sequential(both), 5)) == [both]


# one rank, and what is refused


def test_one_rank_trains_as_without(tmp_path):
    settings = TrainSettings(epochs=2, batch_size=8, learning_rate=0.02, device="cpu")
    models = [plain(), plain()]
    fit(models[0], images(), None, settings)
    history = fit(models[1], images(), None, settings.model_copy(update={"sharding": "full"}), tmp_path / "state")
    assert equal(models[0].state_dict(), models[1].state_dict())
    again = plain()
    assert fit(again, images(), None, settings, tmp_path / "state") == history
    assert equal(again.state_dict(), models[1].state_dict())


def test_what_cannot_be_sharded_is_refused():
    model = plain()
    model.scale = nn.Parameter(torch.tensor(2.0))
    with pytest.raises(sc.RequestError, match=r"parameter 'scale' is a single number .* shape \[1\]"):
        Sharded(model, torch.device("cpu"), Ranks(0, 2))
    with pytest.raises(sc.RequestError, match="needs CUDA GPUs or CPUs, got mps"):
        Sharded(plain(), torch.device("mps"), Ranks(0, 2))


def test_whole_networks_give_states_as_they_are():
    model = plain()
    whole = Replicated(model, torch.device("cpu"), Ranks())
    optimiser = torch.optim.Adam(model.parameters())
    state = optimiser.state_dict()
    assert whole.network is whole.called is model
    assert whole.sent(state) is whole.whole(state) is state
    weights = whole.weights()
    weights["0.weight"] += 1
    assert not equal(weights, whole.weights())
    whole.load(weights, optimiser, state)
    assert equal(weights, whole.weights())


# commands

SMALL = ["--data", "mnist5k", "--set", "data.limit=120", "--set", "reference.per_class=3", "--device", "cpu"]
NETWORK = ["--model", "resnet20", "--set", "model.arguments={width: 4}"]


@pytest.mark.slow
def test_commands_that_are_killed_go_on_where_they_were(tmp_path):
    training = ["train", *NETWORK, *SMALL, "--epochs", "2", "--set", "train.sharding=full"]
    code, _, error = secateur(*training, "--out", str(tmp_path / "train"))
    assert code == 0, error
    weights = ["--weights", str(tmp_path / "train" / "resnet20.safetensors")]
    pruning = ["prune", *NETWORK, *weights, *SMALL, "--macs", "0.5", "--finetune", "12", "--out"]
    in_parts = ["--set", "finetune.sharding=full"]
    broken = started("-m", "secateur", *pruning, str(tmp_path / "broken"), *in_parts, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "broken").glob("finetune-*.state")):
        assert broken.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for pid in descendants(broken.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    broken.communicate()
    (state,) = (tmp_path / "broken").glob("finetune-*.state")
    assert 0 < torch.load(state, weights_only=True)["epoch"] < 12
    for name in ("broken", "whole"):
        code, _, error = secateur(*pruning, str(tmp_path / name), *in_parts)
        assert code == 0, error
    in_parts_twice = [sc.load(tmp_path / name / "bundle").state_dict() for name in ("broken", "whole")]
    assert equal(*in_parts_twice)
    assert not list(tmp_path.glob("*/finetune-*.state"))
