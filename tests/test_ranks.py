"""Several processes against one: the same scores, plans, weights, losses and figures. Processes are real ones."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur as sc
import several_ranks
from secateur.core.ranks import Ranks, launched, launcher_ranks, ranks
from secateur.training.synchronised import synchronised_norms

HERE = Path(__file__).parent
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def started(*command: str, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SECATEUR_PROGRESS": "off"}
    return subprocess.Popen(
        [*LAUNCHER, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def launch(*command: str) -> tuple[int, str, str]:
    process = started(*command)
    out, error = process.communicate(timeout=400)
    return process.returncode, out, error


def compared(work: str, folder: Path) -> tuple[dict, list[dict]]:
    """What one process found, and what two ranks did at the same time."""
    process = started(str(HERE / "several_ranks.py"), work, str(folder / "found"))
    one = several_ranks.WORK[work]()
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    return one, [torch.load(folder / f"found.{rank}", weights_only=False) for rank in (0, 1)]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def secateur(*command: str) -> tuple[int, str, str]:
    return launch("-m", "secateur", *command)


def apart(found: dict, expected: dict) -> float:
    """Largest difference of any tensor, as a share of its norm."""
    assert found.keys() == expected.keys()
    sizes = {key: float(expected[key].double().norm()) or 1.0 for key in expected}
    return max(float((found[key].double() - expected[key].double()).norm()) / sizes[key] for key in expected)


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def losses(found: dict) -> list[float]:
    return [row[key] for row in found["rows"] for key in ("train_loss", "val_loss")]


def assert_alike(found: dict, one: dict) -> None:
    for key, values in one["scores"].items():
        difference = (found["scores"][key] - values).abs()
        assert (difference <= 1e-6 * values.abs().max()).all(), key
    for name, expected in one["repaired"].items():
        repaired = found["repaired"][name]
        assert repaired["plan"] == expected["plan"], name
        assert repaired.get("strengths") == expected.get("strengths"), name
        assert apart(repaired["weights"], expected["weights"]) <= 1e-5, name
    for name, expected in one["trained"].items():
        assert losses(found["trained"][name]) == pytest.approx(losses(expected), abs=1e-4), name
        assert apart(found["trained"][name]["weights"], expected["weights"]) <= 1e-3, name
    assert found["evaluated"] == one["evaluated"]


def assert_same_bits(first: dict, second: dict) -> None:
    assert equal(first["scores"], second["scores"])
    for kind in ("repaired", "trained"):
        for name in first[kind]:
            assert equal(first[kind][name]["weights"], second[kind][name]["weights"]), name


def test_scores_plans_repairs_losses_and_figures_are_those_of_one_process(tmp_path):
    one, both = compared("brief", tmp_path)
    assert any(strength is not None for strength in one["repaired"]["small"]["strengths"])
    for found in both:
        assert_alike(found, one)
    assert_same_bits(*both)


@pytest.mark.slow
def test_every_criterion_repair_and_loss_on_two_ranks(tmp_path):
    one, both = compared("thorough", tmp_path)
    for found in both:
        assert_alike(found, one)
    assert_same_bits(*both)


# one rank, and what is wrong


def test_without_a_launcher_there_is_one_rank_and_no_process_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with launched() as mine:
        assert mine == ranks() == Ranks()
        assert not torch.distributed.is_initialized()
        value = torch.ones(2)
        assert mine.total(value) is mine.joined(value) is mine.broadcast(value) is value


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR or MASTER_PORT is missing"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "no number"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK is 2"),
    ],
)
def test_a_launcher_that_contradicts_itself_is_refused(monkeypatch, changes, match):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(sc.RequestError, match=match):
        launcher_ranks()


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 43])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_are_all_items_once_and_even(count, size):
    shares = [Ranks(rank, size).share(count) for rank in range(size)]
    assert [index for share in shares for index in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batch_norms_of_other_code_are_refused_and_others_come_back():
    class Own(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x) + 1

    norm = nn.BatchNorm1d(3)
    with (
        pytest.raises(sc.RequestError, match="module '1' is a Own"),
        synchronised_norms(nn.Sequential(norm, Own(3)), Ranks(0, 2)),
    ):
        pass
    with synchronised_norms(nn.Sequential(norm), Ranks(0, 2)):
        assert "forward" in vars(norm)
    assert "forward" not in vars(norm)


@pytest.fixture
def group():
    """A process group of this process only."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(8), (9, 8)),
        (nn.BatchNorm1d(8, affine=False), (3, 8, 5)),
        (nn.BatchNorm2d(8), (5, 8, 7, 6)),
        (nn.BatchNorm2d(8, momentum=None), (1, 8, 2, 2)),
        (nn.BatchNorm3d(8, track_running_stats=False), (2, 8, 3, 4, 5)),
    ],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_batch_norms_over_ranks_are_batch_norms(norm, shape, channels_last):
    """Outputs, gradients and running statistics, also where gradients come in another layout than inputs."""
    torch.manual_seed(0)
    first = copy.deepcopy(norm).double()
    if first.affine:
        nn.init.uniform_(first.weight, 0.5, 2)
        nn.init.normal_(first.bias)
    second, x = copy.deepcopy(first), 3 * torch.randn(shape, dtype=torch.float64) + 2
    if channels_last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    gradient, found = torch.randn(shape, dtype=torch.float64), []
    for each in (first, second):
        inputs = x.clone(memory_format=torch.preserve_format).requires_grad_()
        with synchronised_norms(nn.Sequential(each), Ranks(0, 2 if each is second else 1)):
            outputs = each(inputs)
            outputs.backward(gradient if each is first else channels_innermost(gradient))
        gradients = [parameter.grad for parameter in each.parameters()]
        found.append([outputs.detach(), inputs.grad, *gradients, *each.buffers()])
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*found, strict=True))


def channels_innermost(values: torch.Tensor) -> torch.Tensor:
    """The same values in the layout of gradients from tokens; PyTorch's kernel is wrong for those of one sample."""
    inner = values.movedim(1, -1).contiguous().movedim(-1, 1)
    return inner.as_strided(inner.shape, (inner.shape[1], *inner.stride()[1:])) if len(values) == 1 else inner


def said(error: str) -> list[str]:
    """Lines that are ours, not the launcher's."""
    return [line for line in error.splitlines() if line.startswith(("said: ", "secateur: "))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "line"),
    [
        ("differing", r"said: the plan differs between rank 0 \(\w+\) and rank 1 \(\w+\)"),
        ("failing", "said: only this one has a reason to stop"),
        ("killed", "said: another rank has ended without an error message|$"),  # the launcher may be faster
    ],
)
def test_a_rank_that_fails_ends_all_with_one_line(work, line, tmp_path):
    code, _, error = launch(str(HERE / "several_ranks.py"), work, str(tmp_path / "found"))
    assert code != 0
    assert len(said(error)) <= 1
    assert re.match(line, "\n".join(said(error)))
    assert "never" not in error
    assert not list(tmp_path.iterdir())


# commands

SMALL = ["--data", "mnist5k", "--set", "data.limit=120", "--set", "reference.per_class=3", "--device", "cpu"]
NETWORK = ["--model", "resnet20", "--set", "model.arguments={width: 4}"]


def alone(*command: str) -> None:
    subprocess.run([sys.executable, "-m", "secateur", *command], check=True, capture_output=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network that two ranks trained."""
    out = tmp_path_factory.mktemp("train")
    code, printed, error = secateur("train", *NETWORK, *SMALL, "--epochs", "2", "--out", str(out))
    assert code == 0, error
    assert printed.count("weights: ") == 1
    return ["--weights", str(out / "resnet20.safetensors")]


def bundles(*folders: Path) -> list[nn.Module]:
    first, second = ([(folder / "bundle" / name).read_text() for name in FACTS] for folder in folders)
    assert first == second
    return [sc.load(folder / "bundle").state_dict() for folder in folders]


FACTS = ("plan.json", "architecture.json", "recipe.yaml")


@pytest.mark.slow
def test_commands_write_what_one_process_writes(weights, tmp_path):
    pruning = ["prune", *NETWORK, *weights, *SMALL, "--macs", "0.5", "--finetune", "1"]
    code, printed, error = secateur(*pruning, "--out", str(tmp_path / "two"))
    assert code == 0, error
    assert printed.count("bundle: ") == printed.count("report: ") == 1
    alone(*pruning, "--out", str(tmp_path / "one"))
    assert apart(*bundles(tmp_path / "two", tmp_path / "one")) <= 1e-4
    measuring = ["evaluate", *NETWORK, *weights, *SMALL]
    code, printed, error = secateur(*measuring, "--out", str(tmp_path / "two"))
    assert code == 0, error
    alone(*measuring, "--out", str(tmp_path / "one"))
    both = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    for found in both:
        assert found.pop("latency")["median_ms"] > 0
        assert found.pop("memory")["peak_bytes"] > 0
    assert both[0] == both[1]
    assert [entry.name for entry in (tmp_path / "two").glob(".*")] == []


@pytest.mark.slow
def test_two_launchers_write_one_bundle_as_on_two_machines(weights, tmp_path):
    pruning = ["prune", *NETWORK, *weights, *SMALL, "--macs", "0.5"]
    agent = [*LAUNCHER[:3], "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "localhost"]
    agent += ["--master-port", free_port()]
    agents = [
        subprocess.Popen(
            [*agent, "--node-rank", rank, "-m", "secateur", *pruning, "--out", str(tmp_path / rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "SECATEUR_PROGRESS": "off"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    (printed, error), (silent, _) = (process.communicate(timeout=400) for process in agents)
    assert [process.returncode for process in agents] == [0, 0], error
    assert printed.count("bundle: ") == printed.count("report: ") == 1
    assert silent == ""
    assert not (tmp_path / "1").exists()
    alone(*pruning, "--out", str(tmp_path / "one"))
    assert apart(*bundles(tmp_path / "0", tmp_path / "one")) <= 1e-4


@pytest.mark.slow
def test_pruning_that_is_killed_goes_on_where_it_was(weights, tmp_path):
    pruning = ["prune", *NETWORK, *weights, *SMALL, "--macs", "0.5", "--finetune", "12", "--out"]
    broken = started("-m", "secateur", *pruning, str(tmp_path / "broken"), start_new_session=True)
    deadline = time.monotonic() + 120
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
    assert not (tmp_path / "broken" / "bundle").exists()
    for name in ("broken", "whole"):
        code, _, error = secateur(*pruning, str(tmp_path / name))
        assert code == 0, error
    assert equal(*bundles(tmp_path / "broken", tmp_path / "whole"))
    assert not list(tmp_path.glob("*/*.state"))


def descendants(pid: int) -> list[int]:
    """A process and all that it has started, which launchers put into sessions of their own."""
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += descendants(int(child))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["toy", "show"], "secateur: secateur toy cannot be split over 2 processes; start it without a launcher"),
        (
            ["prune", *NETWORK, *SMALL, "--allow-untrained", "--latency", "0.5"],
            "secateur: pruning to a measured latency cannot be split over 2 proces",
        ),
    ],
)
def test_what_cannot_be_split_is_refused_in_one_line(command, line):
    code, printed, error = secateur(*command)
    assert code != 0
    assert [each[: len(line)] for each in said(error)] == [line]
    assert "exitcode  : 2" in error
    assert "exitcode  : 1" not in error


@pytest.mark.slow
def test_ranks_find_each_other_without_torchrun(tmp_path):
    there = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    base = {**os.environ, **there, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "several_ranks.py"), "failing", str(tmp_path / "found")]
    processes = [
        subprocess.Popen(command, env={**base, "RANK": rank}, stderr=subprocess.PIPE, text=True) for rank in "01"
    ]
    errors = [process.communicate(timeout=100)[1] for process in processes]
    assert [line for error in errors for line in said(error)] == ["said: only this one has a reason to stop"]
    assert [process.returncode for process in processes] == [1, 2]
