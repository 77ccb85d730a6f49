"""Peak memory against networks whose peak can be worked out by hand."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from comparisons import compare_settings
from networks import zoo
from secateur.cli.main import run
from secateur.core.errors import RequestError
from secateur.core.files import read_json
from secateur.core.memory import Memory
from secateur.evaluation import measure_memory
from secateur.exporting import OnnxSession, export, measure_onnx_memory
from secateur.pipeline import PruneSettings
from secateur.pipeline.pages import measurement
from secateur.studies.compare import compare, timing

FLOAT = 4


def chain(*widths: int, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(read, made, bias) for read, made in itertools.pairwise(widths)))


def weights(*widths: int) -> int:
    return FLOAT * sum(read * made + made for read, made in itertools.pairwise(widths))


@pytest.mark.parametrize("widths", [(50, 400, 30, 7), (20, 300, 300, 300, 5), (700, 2)])
@pytest.mark.parametrize("batch", [1, 64])
def test_a_chain_of_layers_holds_the_two_largest_neighbours(widths, batch):
    found = measure_memory(chain(*widths), torch.randn(batch, widths[0]))
    inner = widths[1:]  # the batch itself is there all the time
    together = max([inner[0], *(a + b for a, b in itertools.pairwise(inner))])
    assert found.network_bytes == weights(*widths)
    assert found.working_bytes == FLOAT * batch * (widths[0] + together)
    assert (found.peak_bytes, found.batch_size) == (found.network_bytes + found.working_bytes, batch)


def test_what_is_kept_for_later_counts_as_long_as_it_is_needed():
    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow, self.last = nn.Linear(10, 500), nn.Linear(10, 20), nn.Linear(20, 500)

        def forward(self, x):
            skip = self.wide(x)  # [N, 500] until the sum
            y = torch.relu_(self.narrow(x))  # in place
            y = self.last(y)
            return skip.add_(y)

    found = measure_memory(Kept(), torch.randn(32, 10))
    assert found.working_bytes == FLOAT * 32 * (10 + 500 + 20 + 500)


def test_shared_weights_and_views_count_once_and_buffers_count():
    tied = chain(30, 30, 30, bias=False)
    tied[1].weight = tied[0].weight
    tied.register_buffer("table", torch.zeros(100, dtype=torch.float64))
    tied.register_buffer("part", tied.table[:10])
    assert measure_memory(tied, torch.randn(2, 30)).network_bytes == FLOAT * 900 + 800


def test_convolutions_of_images():
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 1), nn.ReLU(inplace=True))
    side, batch = 32, 8
    found = measure_memory(net, torch.randn(batch, 3, side, side))
    place = FLOAT * batch * side * side
    live = place * (3 + 16 + 32)  # the batch, the ReLU's output and the last convolution's
    assert live <= found.working_bytes <= 1.05 * live  # buffers that convolutions ask for


def test_the_same_every_time_and_the_network_comes_back():
    model, x = zoo("resnet20")
    model.train()
    before = {name: (value.clone(), value.stride()) for name, value in model.state_dict().items()}
    first, again = measure_memory(model, x), measure_memory(model, x)
    assert first == again
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.stride() == before[name][1]


def test_pruned_networks_take_less_as_their_layers_say():
    model = nn.Sequential(nn.Linear(40, 200), nn.ReLU(), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 3))
    structure = sc.trace(model, torch.randn(2, 40))
    slim = sc.prune(model, sc.Plan.from_indices(structure, {"0": range(100), "2": range(60)}))
    found = measure_memory(slim, torch.randn(16, 40))
    assert found.network_bytes == weights(40, 100, 40, 3)
    assert found.working_bytes == FLOAT * 16 * (40 + 100 + 100)


def test_the_profiler_is_quiet():
    code = (
        "import torch; from secateur.evaluation import measure_memory; "
        "print(measure_memory(torch.nn.Linear(3, 2), torch.zeros(1, 3)).peak_bytes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{FLOAT * (8 + 3 + 2)}\n", "")


@pytest.mark.parametrize("bad", [torch.zeros(0, 3), torch.tensor(1.0), [1.0]])
def test_no_batch(bad):
    with pytest.raises(sc.RequestError, match="one batch: a tensor of at least one sample"):
        measure_memory(nn.Linear(3, 2), bad)


def test_evaluations_hold_it_and_show_it():
    model = chain(6, 40, 3)
    data = DataLoader(TensorDataset(torch.randn(12, 6), torch.arange(12) % 3), batch_size=4)
    assert sc.evaluate(model, data).memory is None
    found = sc.evaluate(model, data, memory=True, latency_batch=10)
    assert found.memory == Memory(weights(6, 40, 3) + FLOAT * 10 * (6 + 40 + 3), weights(6, 40, 3), 10)
    assert found.to_json()["memory"] == {"peak_bytes": 3572, "network_bytes": 1612, "batch_size": 10}
    assert "3.57 kB for a batch of 10" in repr(found)
    assert "peak memory" in found._repr_html_()
    assert found.memory.columns() == {"memory_bytes": 3572}
    assert measurement(found, units=40).memory_bytes == 3572


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from Linux's /proc")
MEGA = 1_000_000


@linux
@pytest.mark.slow
def test_onnx_memory_follows_what_can_be_worked_out(tmp_path):
    pytest.importorskip("onnxruntime")
    widths = (256, 4096, 1024, 8)
    path = export(chain(*widths), tmp_path / "chain.onnx", torch.randn(4, 256)).path
    found = {rows: measure_onnx_memory(path, torch.randn(rows, 256), threads=1) for rows in (512, 1024)}
    for rows, memory in found.items():
        assert memory.batch_size == rows
        # weights are held once, in the layout that products want
        assert memory.network_bytes == pytest.approx(weights(*widths), rel=0.02, abs=0.5 * MEGA)
        # the two largest neighbours, once in pieces and at most once more as planned
        live = FLOAT * rows * (4096 + 1024)
        assert live <= memory.working_bytes - FLOAT * rows * 256 <= 2.2 * live + MEGA
    # twice as many samples: what grows is what belongs to samples
    assert found[1024].working_bytes == pytest.approx(2 * found[512].working_bytes, rel=0.1)


@linux
def test_onnx_memory_of_sessions_and_what_it_refuses(tmp_path):
    pytest.importorskip("onnxruntime")
    path = export(nn.Linear(1500, 1000), tmp_path / "net.onnx", torch.randn(2, 1500)).path
    session = OnnxSession(path, threads=1)
    found = measure_onnx_memory(session, torch.randn(4, 1500))
    assert found.network_bytes == pytest.approx(weights(1500, 1000), rel=0.05, abs=0.3 * MEGA)
    with pytest.raises(sc.RequestError, match="ONNX Runtime fails on these inputs"):
        measure_onnx_memory(session, torch.randn(4, 3))
    with pytest.raises(sc.RequestError, match="takes .*; got 2"):
        measure_onnx_memory(session, (torch.randn(4, 1500), torch.randn(4)))
    with pytest.raises(sc.RequestError, match="does not exist"):
        measure_onnx_memory(tmp_path / "no.onnx", torch.randn(4, 3))
    path.unlink()
    with pytest.raises(sc.RequestError, match="is gone; measure memory while the session's file is there"):
        measure_onnx_memory(session, torch.randn(4, 1500))


def test_commands_print_and_keep_it(tmp_path, capsys):
    small = ["--model", "resnet20", "--set", "model.arguments={width: 4}", "--data", "mnist5k", "--device", "cpu"]
    assert run(["evaluate", *small, "--set", "data.limit=120", "--out", str(tmp_path)]) == 0
    assert "peak memory" in capsys.readouterr().out
    kept = read_json(tmp_path / "metrics.json")["memory"]
    assert 0 < kept["network_bytes"] < kept["peak_bytes"]


@pytest.mark.slow
def test_a_comparison_has_the_memory_of_exported_networks(tiny_data, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    timed = {"criteria": ("weight",), "budgets": (0.8, 0.5), "onnx_budgets": (0.5,), "repeats": 1, "batch": 16}
    asked = compare_settings(**timed, seeds=(0,), per_class=2, published=False, limit=30)

    def rows():
        return compare(net, tiny_data, asked, PruneSettings(schedule="one-shot", strategy="per-layer"))

    whole, other, half = rows()
    assert (other["onnx_memory_bytes"], other["onnx_ms"]) == (None, None)
    assert min(whole["onnx_memory_bytes"], half["onnx_memory_bytes"]) > 16 * 28 * 28 * FLOAT

    def refuse(*arguments):
        raise RequestError("peak memory in ONNX Runtime is read from Linux's /proc; measure it on Linux")

    monkeypatch.setattr(timing, "measure_onnx_memory", refuse)
    elsewhere = rows()
    assert [row["onnx_memory_bytes"] for row in elsewhere] == [None, None, None]
    assert elsewhere[-1]["onnx_ms"] is not None
    assert elsewhere[-1]["latency_note"] == ""
