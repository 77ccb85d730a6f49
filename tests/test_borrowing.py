"""A borrowed network always comes back: from exceptions, nested loans, threads, and from networks with a will."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.core.borrowing import borrowed
from secateur.criteria import known
from secateur.data import ReferenceSet


class Counting(nn.Module):
    """Its forward updates one buffer in place, replaces another, writes past autograd to a third, and adds a hook."""

    def __init__(self, fail=False):
        super().__init__()
        self.inner = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.fail = fail
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        self.seen += len(x)
        self.last = self.last + 1
        h = self.inner(x).relu()
        self.mean.data.lerp_(h.detach().mean(0), 0.1)
        self.inner.register_forward_hook(lambda *_: None)
        if self.fail:
            raise ValueError("as asked")
        return self.head(h)


def state_of(model):
    return (
        [m.training for m in model.modules()],
        [(id(p), p.requires_grad) for p in model.parameters()],
        [(id(b), b.tolist()) for b in model.buffers()],
        [list(m._forward_hooks.items()) for m in model.modules()],
        [p.tolist() for p in model.parameters()],
    )


def counting(fail=False):
    torch.manual_seed(0)
    model = Counting(fail)
    model.head.eval()
    model.inner.bias.requires_grad_(False)
    model.inner.register_forward_hook(lambda *_: None)
    return model, ReferenceSet(torch.randn(6, 4), torch.arange(6) % 3, tuple(range(6)))


@pytest.mark.parametrize("name", ["trace", "attribute", "prune", *known()])
def test_everything_is_as_it_was(name):
    model, reference = counting()
    before = state_of(model)
    structure = sc.trace(model, reference.inputs[:1])
    if name == "attribute":
        sc.attribute(model, reference.inputs, reference.targets)
    elif name == "prune":
        plan = sc.select(sc.score(model, structure, reference, "weight"), sc.Budget(units=0.5))
        slim = sc.prune(model, plan)
        assert slim.seen == 0
    elif name == "bn-scale":
        with pytest.raises(sc.RequestError, match="no removable unit passes a norm"):
            sc.score(model, structure, reference, name)
    elif name != "trace":
        sc.score(model, structure, reference, name)
    assert state_of(model) == before


@pytest.mark.parametrize("work", [lambda m, r: sc.trace(m, r.inputs[:1]), lambda m, r: sc.attribute(m, *r.batch)])
def test_everything_is_as_it_was_after_an_exception(work):
    model, reference = counting(fail=True)
    object.__setattr__(reference, "batch", (reference.inputs, reference.targets))
    before = state_of(model)
    with pytest.raises(ValueError, match="as asked"):
        work(model, reference)
    assert state_of(model) == before


def test_nested_loans_end_in_any_order():
    model, _ = counting()
    before = state_of(model)
    with borrowed(model):
        model.inner.weight.requires_grad = True
        with borrowed(model.inner):
            assert not model.inner.weight.requires_grad
            model.seen += 1
        assert model.inner.weight.requires_grad
        assert not model.training
    assert state_of(model) == before
    first, second = borrowed(model), borrowed(model.inner)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not model.inner.weight.requires_grad
    assert model.training
    second.__exit__(None, None, None)
    assert state_of(model) == before


def test_what_passes_change_is_put_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    weight, mean = model[0].weight, model[1].running_mean
    with borrowed(model):
        model[0].weight = nn.Parameter(torch.zeros(2, 2))
        model[1].running_mean = torch.ones(2)
        model.more = nn.Linear(2, 2)
    assert model[0].weight is weight
    assert weight.requires_grad
    assert model[1].running_mean is mean
    assert model.more.weight.requires_grad


def test_threads_take_turns():
    """Every score is what one thread alone finds, and all flags are as they were."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    reference = ReferenceSet(torch.randn(12, 4).double(), torch.arange(12) % 3, tuple(range(12)))
    structure = sc.trace(model, reference.inputs[:1])
    names = ["lrp", "hessian", "shapley", "taylor"]
    alone = {name: sc.score(model, structure, reference, name).values for name in names}
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(len(names)) as pool:
            tasks = [pool.submit(sc.score, model, structure, reference, name) for name in 3 * names]
            found = {name: task.result(60).values for name, task in zip(3 * names, tasks, strict=True)}
    finally:
        sys.setswitchinterval(before)
    for name in names:
        assert (found[name] == alone[name]).all(), name
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_part_of_a_borrowed_network_waits_and_another_network_does_not():
    model, other = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2)
    order, held = [], threading.Event()

    def part():
        held.wait()
        with borrowed(other):
            order.append("other")
        with borrowed(model[0]):
            order.append("part")

    thread = threading.Thread(target=part)
    thread.start()
    with borrowed(model):
        held.set()
        while "other" not in order:
            time.sleep(0.001)
        time.sleep(0.05)
        order.append("whole")
    thread.join(10)
    assert order == ["other", "whole", "part"]
    assert model.training
    assert model[0].weight.requires_grad


def test_two_threads_that_would_wait_for_each_other_are_told():
    first, second, both = nn.Linear(2, 2), nn.Linear(2, 2), threading.Barrier(2)
    told = []

    def work(one, two):
        with borrowed(one):
            both.wait()
            try:
                with borrowed(two):
                    pass
            except sc.SecateurError as error:
                told.append(str(error))

    threads = [threading.Thread(target=work, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [message.split(";")[0] for message in told] == [
        "two threads each wait for a network that the other one uses"
    ]
    assert first.training
    assert second.weight.requires_grad


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_the_threads_of_its_parent():
    model, held, done = nn.Linear(2, 2), threading.Event(), threading.Event()

    def hold():
        with borrowed(model):
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        with borrowed(model):
            os._exit(7)
    done.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


class Merging(nn.Linear):
    """Low-rank adaptation as commonly written: eval mode merges the update into the weight, train mode takes it out."""

    def __init__(self):
        super().__init__(4, 6)
        self.a, self.b = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(6, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.b @ self.a
            self.merged = not mode
        return self

    def forward(self, x):
        return super().forward(x) if self.merged else super().forward(x) + x @ self.a.T @ self.b.T


@pytest.mark.parametrize("mode", [True, False])
def test_modules_that_merge_weights_for_their_eval_mode(mode):
    torch.manual_seed(0)
    model = nn.Sequential(Merging(), nn.ReLU(), nn.Linear(6, 3)).train(mode)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(KeyError), borrowed(model):
        raise KeyError
    assert model[0].merged is not mode
    assert model[0].training is mode
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_inference_mode_and_weights_without_values():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    reference = ReferenceSet(torch.randn(6, 4), torch.arange(6) % 3, tuple(range(6)))
    structure = sc.trace(model, reference.inputs[:1])
    expected = sc.score(model, structure, reference).values
    with torch.inference_mode():
        inside = ReferenceSet(reference.inputs.clone(), reference.targets.clone(), reference.indices)
        assert sc.trace(model, inside.inputs[:1]).fingerprint == structure.fingerprint
        for name in ("lrp", "taylor-group", "activation", "cap", "shapley"):
            found = sc.score(model, structure, inside, name).values
            assert (found == sc.score(model, structure, reference, name).values).all()
        assert (sc.score(model, structure, inside).values == expected).all()
        relevance = sc.attribute(model, inside.inputs, inside.targets)
        assert torch.is_inference_mode_enabled()
        made = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    assert torch.equal(relevance.input, sc.attribute(model, reference.inputs, reference.targets).input)
    with pytest.raises(sc.RequestError, match=r"'0\.weight' was made inside torch.inference_mode"):
        sc.score(made, structure, reference)
    empty = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to("meta")
    for work in (
        lambda: sc.score(empty, structure, reference, "weight"),
        lambda: sc.attribute(empty, reference.inputs, reference.targets),
    ):
        with pytest.raises(sc.RequestError, match=r"'0\.weight' is on the meta device and holds no values"):
            work()
    lazy = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(sc.RequestError, match=r"'0\.weight' of the network has no shape yet"), borrowed(lazy):
        pass
