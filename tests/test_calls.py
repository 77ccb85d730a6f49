"""Calls of a pruned network that were traced, and that were not: exact, or one line."""

from __future__ import annotations

import copy
import enum
import linecache
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import secateur as sc
from secateur.structure.provenance import Size
from secateur.surgery import edits_of


class Attention(nn.Module):
    """Sizes by attribute, by arithmetic and in a literal; optional arguments."""

    def __init__(self):
        super().__init__()
        self.embed, self.heads = nn.Linear(5, 16), 4
        self.qkv, self.out, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x, mask=None, weights=False, temperature=1.0):
        x = self.embed(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT * (16 // 4) ** -0.5 / temperature
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None], float("-inf"))
        scores = F.dropout(scores.softmax(-1), 0.5, self.training)
        y = self.head(x + self.out((scores @ v).transpose(1, 2).reshape(b, n, 16)))
        return (y, scores) if weights else y


def halved(model, x, seed=0, share=0.5, **options):
    structure = sc.trace(model, x, **options)
    values = np.random.default_rng(seed).random(structure.num_units)
    plan = sc.select(sc.Scores(structure, values, "by hand"), sc.Budget(units=share))
    return sc.prune(model, plan), sc.mask(model, plan), plan


@pytest.fixture
def pruned():
    torch.manual_seed(0)
    model = Attention().double().eval()
    slim, masked, plan = halved(model, torch.randn(2, 6, 5).double())
    assert plan.edits.corrections.keys() == {""}
    assert not plan.edits.code
    return model, slim, masked, plan


def same(slim, masked, *args, **kwargs):
    torch.testing.assert_close(slim(*args, **kwargs), masked(*args, **kwargs), rtol=1e-10, atol=1e-12)


def test_arguments_that_the_example_did_not_give_are_used(pruned):
    _, slim, masked, _ = pruned
    x, mask = torch.randn(3, 9, 5).double(), torch.rand(3, 9) < 0.3
    same(slim, masked, x)
    same(slim, masked, x, mask)
    same(slim, masked, x, mask=mask, temperature=0.5)
    assert not torch.allclose(slim(x, mask), slim(x))


def test_what_the_removed_units_matter_in_is_refused_in_one_line(pruned):
    _, slim, _, _ = pruned
    x = torch.randn(2, 6, 5).double()
    with pytest.raises(sc.RequestError, match=r"not traced.*is an output of the network.*variants=\[") as error:
        slim(x, weights=True)
    assert "\n" not in str(error.value)
    slim(x)  # and goes on


def test_variants_keep_what_they_need():
    torch.manual_seed(0)
    model, x = Attention().double().eval(), torch.randn(2, 6, 5).double()
    slim, masked, plan = halved(model, x, variants=[{"x": x, "weights": True}])
    assert slim.heads == 4
    assert slim.qkv.out_features < 48
    same(slim, masked, torch.randn(3, 4, 5).double(), weights=True)
    with pytest.raises(sc.RequestError, match="list of further example inputs"):
        sc.trace(model, x, variants=x)


def test_training_and_its_dropout_live_on(pruned):
    _, slim, masked, _ = pruned
    x = torch.randn(2, 6, 5).double()
    outputs = []
    for network in (slim.train(), masked.train()):
        torch.manual_seed(1)
        outputs.append(network(x))
    assert not torch.allclose(outputs[0], slim.eval()(x))
    slim.train()(x).sum().backward()
    assert all(p.grad is not None for p in slim.parameters())


def test_corrections_outlive_copies_bundles_and_a_second_pruning(pruned, tmp_path):
    _, slim, masked, _ = pruned
    x, mask = torch.randn(2, 7, 5).double(), torch.rand(2, 7) < 0.3
    again = sc.load(sc.save(slim, tmp_path / "bundle"), model=Attention().double())
    for network in (copy.deepcopy(slim), again):
        same(network, masked, x, mask)
        with pytest.raises(sc.RequestError, match="not traced"):
            network(x, weights=True)
    twice, masked_twice, _ = halved(again, torch.randn(2, 6, 5).double(), seed=1, share=0.7)
    same(twice, masked_twice, x, mask)
    assert edits_of(twice).calls


def test_a_bundle_of_code_that_has_changed_is_refused(pruned, tmp_path):
    _, slim, _, _ = pruned
    folder = sc.save(slim, tmp_path / "bundle")

    class Other(Attention):
        def forward(self, x):
            return super().forward(x) * 2

    with pytest.raises(sc.RequestError, match="is not the one that was pruned"):
        sc.load(folder, model=Other().double())


def module_from(text, name):
    lines = text.splitlines(keepends=True)
    linecache.cache[name] = (len(text), None, lines, name)
    space = {"nn": nn, "torch": torch, "__name__": name}
    exec(compile(text, name, "exec"), space)
    return space["Net"]


TEXT = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 16), nn.Linear(16, 3)
    def forward(self, x, boost=False):
        h = torch.relu(self.a(x))
        if boost:
            h = h * 2.0
        return self.b(h.view(-1, 4, 4)
                       .reshape(-1, 16))
"""


def test_source_that_was_edited_since_is_not_run():
    torch.manual_seed(0)
    kind = module_from(TEXT, "<written first>")
    linecache.cache["<written first>"] = (len(TEXT), None, TEXT.replace("2.0", "3.0").splitlines(keepends=True), "")
    model, x = kind().double(), torch.randn(4, 5).double()
    slim, masked, plan = halved(model, x)
    assert not plan.edits.corrections
    same(slim, masked, x)
    with pytest.raises(sc.RequestError, match="not traced"):
        slim(x, boost=True)


class Mode(enum.Enum):
    PLAIN = 1
    CENTRED = 2


class ByMode(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x, mode=Mode.PLAIN, scales=()):
        h = torch.tanh(self.a(x))
        for scale in scales:
            h = h * scale
        if mode is Mode.CENTRED or x.shape[1] > 6:
            h = h - h.mean(-1, keepdim=True)
        return self.b(h)


def test_values_and_lengths_tell_kinds_of_calls_apart():
    torch.manual_seed(0)
    slim, masked, _ = halved(ByMode().double(), torch.randn(2, 3, 5).double())
    x = torch.randn(2, 4, 5).double()
    same(slim, masked, x)
    same(slim, masked, x, scales=[2.0, 3.0])
    for call in ((x, Mode.CENTRED), (torch.randn(2, 9, 5).double(),)):
        with pytest.raises(sc.RequestError, match="not traced.*is reduced across units by mean"):
            slim(*call)
    with pytest.raises(sc.RequestError, match="'scales' is an iterator"):
        slim(x, scales=(s for s in [2.0, 3.0]))


class Counted(nn.Module):
    """The number of channels decides beside the length of the input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(h) * (2 if x.shape[1] >= h.shape[-1] else 1)


def test_comparisons_come_out_as_they_did():
    torch.manual_seed(0)
    slim, masked, _ = halved(Counted().double(), torch.randn(2, 3, 5).double())
    assert slim.a.out_features == 4
    for length in (1, 3, 4, 5, 7, 8, 9):
        same(slim, masked, torch.randn(2, length, 5).double())


def test_verify_reports_each_output_of_each_call(pruned):
    model, slim, _, plan = pruned
    x = torch.randn(2, 6, 5).double()
    found = sc.verify(slim, model, plan, [x, {"x": x, "weights": True}])
    assert found.ok
    assert [row.call for row in found.refused] == ["call 2"]
    assert "random inputs in training mode" in [row.call for row in found.outputs]
    with torch.no_grad():
        slim.head.bias[1] += 1e-3
    wrong = sc.verify(slim, model, plan, [x])
    assert not wrong.ok
    assert {row.call for row in wrong.wrong} >= {"call 1", "random inputs"}
    assert "difference 0.001" in str(wrong)


class TwoOutputs(nn.Module):
    """The second output is wrong in training only, by what is no parameter."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return {"y": self.b(h), "more": (h.sum(-1) * 0 if not self.training else self.count(h), x)}

    def count(self, h):
        return h.new_tensor(float(h.shape[-1])).expand(len(h))


def test_prune_looks_at_every_output_in_training_as_well():
    structure = sc.trace(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 5))
    assert structure.num_units == 8
    with pytest.raises(sc.RequestError):
        halved(TwoOutputs().double(), torch.randn(2, 5).double(), training=True)


def test_passes_of_two_threads_do_not_mix():
    before = nn.Module.__call__
    networks = [Attention().double().eval() for _ in range(2)]
    x = torch.randn(2, 6, 5).double()
    slims = [halved(model, x)[:2] for model in networks]
    problems = []

    def call(slim, masked, seed):
        try:
            mask = torch.rand(2, 6, generator=torch.Generator().manual_seed(seed)) < 0.3
            same(slim, masked, x, mask)
        except Exception as error:  # noqa: BLE001 - told to the test's own thread
            problems.append(error)

    threads = [threading.Thread(target=call, args=(*pair, seed)) for seed, pair in enumerate(slims)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert nn.Module.__call__ is before
    assert (Size.on_factor, Size.on_comparison) == (None, None)


def test_checks_leave_random_numbers_alone(pruned):
    model, slim, _, _ = pruned
    state = torch.get_rng_state()
    sc.trace(model, torch.zeros(2, 6, 5).double())
    slim(torch.zeros(2, 6, 5).double(), torch.zeros(2, 6) > 0)
    assert torch.equal(state, torch.get_rng_state())


class Core(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.o = nn.Linear(5, 24), nn.Linear(8, 8)

    def split(self, y):
        return y.reshape(*y.shape[:2], 3, 4, 2)

    def split_too(self, y):
        return y.reshape(y.shape[0], -1, 3, 4, 2)

    def attend(self, q, k, v):
        return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2)

    def forward(self, x):
        b, n, _ = x.shape
        return self.o(self.attend(*self.split(self.q(x)).permute(2, 0, 3, 1, 4)).reshape(b, n, 8))


class CalledTwice(nn.Module):
    """Once as a module, once by its forward."""

    def __init__(self):
        super().__init__()
        self.core, self.head = Core(), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.core(x) + self.core.forward(x))


class InALoop(Core):
    def forward(self, x):
        return sum(
            self.o(self.attend(*split(self.q(x)).permute(2, 0, 3, 1, 4)).flatten(2))
            for split in (self.split, self.split_too)
        )


class WithLock(CalledTwice):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "lock"}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.lock = threading.Lock()

    def forward(self, x):
        with self.lock:
            return super().forward(x)


@pytest.mark.parametrize("kind", [CalledTwice, InALoop, WithLock])
def test_call_paths_through_the_network_s_own_functions(kind):
    torch.manual_seed(0)
    slim, masked, plan = halved(kind().double(), torch.randn(2, 5, 5).double())
    assert plan.edits.corrections
    assert not plan.edits.code
    x = torch.randn(3, 7, 5).double()
    same(slim, masked, x)
    same(copy.deepcopy(slim), masked, x)
    same(*halved(slim, torch.randn(2, 5, 5).double(), seed=1, share=0.7)[:2], x)


def test_compiled_and_exported_networks_keep_their_corrections(pruned):
    _, slim, masked, _ = pruned
    x = torch.randn(2, 6, 5).double()
    expected = masked(x)
    torch.testing.assert_close(torch.compile(slim, backend="eager", fullgraph=True)(x), expected)
    torch.testing.assert_close(torch.export.export(slim, (x,)).module()(x), expected)
