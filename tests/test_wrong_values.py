"""Mistakes of a first hour with the Python interface: each is refused in one line that names the remedy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from secateur.structure.hints import remedy


def network(outputs=4, width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 12, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, outputs),
    )  # fmt: skip


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc, self.out = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, ids):
        return self.out(self.fc(self.embed(ids)).relu().mean(1))


class OfDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, batch):
        return self.net(batch["image"])


class WithMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = Tokens()

    def forward(self, ids, attention_mask):
        return self.tokens(ids * attention_mask)


class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network(1)

    def forward(self, x):
        return self.net(x).squeeze(1)


def reference(inputs, targets):
    return sc.ReferenceSet(inputs, targets, tuple(range(len(inputs))))


torch.manual_seed(0)
NET, OTHER, X, Y = network(), network(width=16), torch.randn(8, 3, 10, 10), torch.arange(8) % 4
IDS = torch.randint(0, 20, (8, 5))
DATA = TensorDataset(X, Y)
STRUCTURE, ANOTHER = sc.trace(NET, X[:1]), sc.trace(OTHER, X[:1])
REFERENCE = reference(X, Y)
SCORES = sc.Scores(STRUCTURE, np.arange(STRUCTURE.num_units), "by hand")
HALF = sc.Budget(macs=0.5)
PLAN = sc.select(SCORES, HALF)


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(network())


TRACE = {
    "NumPy array": (lambda: sc.trace(NET, X.numpy()), r"got ndarray; torch\.from_numpy\(array\)"),
    "one image": (lambda: sc.trace(NET, X[0]), r"samples are missing as the first dimension: x\.unsqueeze\(0\)"),
    "one image, colours last": (lambda: sc.trace(NET, X[0].permute(1, 2, 0)), r"x\.permute\(2, 0, 1\)\.unsqueeze\(0\)"),
    "colours last": (
        lambda: sc.trace(NET, X.permute(0, 2, 3, 1)),
        r"before height and width: x\.permute\(0, 3, 1, 2\)",
    ),
    "one vector": (lambda: sc.trace(nn.Sequential(nn.BatchNorm1d(4)), X[0, 0, 0, :4]), "samples are missing"),
    "list of images": (lambda: sc.trace(NET, [X[0], X[1]]), r"as one tensor \(torch\.stack\)"),
    "list of arrays": (lambda: sc.trace(NET, [X[0].numpy()]), r"no input is a tensor: torch\.from_numpy"),
    "list of texts": (lambda: sc.trace(NET, ["a", "b"]), "no input is a tensor"),
    "a shape": (lambda: sc.trace(NET, (1, 3, 10, 10)), r"torch\.zeros\(shape\) for a shape"),
    "a batch with labels": (lambda: sc.trace(NET, (X, Y)), "give inputs without their labels"),
    "dict for a tensor": (lambda: sc.trace(NET, {"image": X}), "where it takes a tensor, give that"),
    "dict as keywords": (lambda: sc.trace(OfDict(), {"image": X}), r"give it in a tuple: \(\{\.\.\.\},\)"),
    "tensor for a dict": (lambda: sc.trace(OfDict(), X), "takes a dict or several inputs needs a wrapper"),
    "no mask": (lambda: sc.trace(WithMask(), IDS), "give all its inputs, as a tuple"),
    "a file name": (lambda: sc.trace(NET, "cat.png"), "got str; give a batch"),
    "nothing": (lambda: sc.trace(NET, None), "got NoneType; give a batch"),
    "a loader": (lambda: sc.trace(NET, DataLoader(DATA)), r"got DataLoader; .*next\(iter\(loader\)\)\[0\]"),
    "no samples": (lambda: sc.trace(NET, X[:0]), "has no samples; give at least one"),
    "bytes": (lambda: sc.trace(NET, X.to(torch.uint8)), r"give inputs scaled and normalised .* torch\.float32"),
    "double": (lambda: sc.trace(NET, X.double()), r"the inputs torch\.float64: .*inputs\.to\(torch\.float32\)"),
    "half": (lambda: sc.trace(nn.Linear(4, 2), torch.ones(2, 4).half()), r"inputs\.to\(torch\.float32\)"),
    "ids as numbers": (lambda: sc.trace(Tokens(), IDS.float()), r"token ids, which are integers: inputs\.long\(\)"),
    "ids too high": (lambda: sc.trace(Tokens(), IDS + 100), "below the number of the embedding's rows"),
    "meta inputs": (lambda: sc.trace(NET, X.to("meta")), "dense tensors with values"),
    "a class": (lambda: sc.trace(nn.Linear, X), r"got the class Linear; give an instance of it: Linear\("),
    "a state_dict": (lambda: sc.trace(NET.state_dict(), X), r"got a state_dict; .*load_state_dict"),
    "a name": (lambda: sc.trace("resnet20", X), r"got 'resnet20'; secateur\.build\('resnet20'\)"),
    "a function": (lambda: sc.trace(lambda x: x, X), "write a module whose forward"),
    "no network": (lambda: sc.trace(None, X), r"torch\.nn\.Module, got None"),
    "arguments swapped": (lambda: sc.trace(X, NET), "the network comes first, the inputs second"),
    "scripted": (lambda: sc.trace(scripted(), X), "give the module from which it was made"),
    "meta network": (lambda: sc.trace(network().to("meta"), X), "holds no values; load the weights first"),
    "variants as tensor": (lambda: sc.trace(NET, X, variants=X), "variants must be a list"),
}

SELECT = {
    "share alone": (lambda: sc.Budget(0.5), r"names what its share is of: .*macs=0\.5"),
    "per cent": (lambda: sc.Budget(macs=50), r"for 50 % give macs=0\.5"),
    "per cent as text": (lambda: sc.Budget(macs="50%"), "the share that stays"),
    "over one": (lambda: sc.Budget(macs=1.5), r"in \(0, 1\]"),
    "other measure": (lambda: sc.Budget(flops=0.5), "known: units, params, macs, latency"),
    "number as budget": (lambda: sc.select(SCORES, 0.5), r"an object like secateur\.Budget\(macs=0\.5\), got 0\.5"),
    "structure as scores": (lambda: sc.select(STRUCTURE, HALF), r"what secateur\.score returns, got Structure"),
    "array as scores": (lambda: sc.select(SCORES.values, HALF), r"criteria\.Scores\(structure, values, criterion\)"),
    "strategy misspelt": (lambda: sc.select(SCORES, HALF, "globl"), "did you mean 'global'"),
    "strategies": (lambda: sc.select(SCORES, HALF, ["global"]), "known: global, per-cost"),
    "one name to protect": (lambda: sc.select(SCORES, HALF, protect="2"), r"a list of layer names, like \['2'\]"),
    "layer unknown": (lambda: sc.select(SCORES, HALF, protect=["conv9"]), "there is no such layer.*known: 0, 2"),
    "layer locked": (lambda: sc.select(SCORES, HALF, protect=["6"]), "is an output of the network"),
    "rounding as text": (lambda: sc.select(SCORES, HALF, round_to="8"), "a number or 'auto', got '8'"),
    "fraction as rounding": (lambda: sc.select(SCORES, HALF, round_to=2.5), "round_to must be a positive integer"),
    "dict as plan": (lambda: sc.select(SCORES, HALF, within=PLAN.to_json()), "within must be a plan"),
    "out of reach": (lambda: sc.select(SCORES, sc.Budget(macs=0.001)), r"at least 4\.6% stays"),
    "scores of another": (lambda: sc.Scores(ANOTHER, SCORES.values, "mine"), r"\[28\], got shape \[20\]"),
    "scores as text": (lambda: sc.Scores(STRUCTURE, ["a"] * 20, "mine"), "scores must be numbers"),
    "scores by layer": (lambda: sc.Scores(STRUCTURE, {"0": [1.0]}, "mine"), "scores must be numbers"),
    "scores of a network": (lambda: sc.Scores(NET, SCORES.values, "mine"), r"structure that secateur\.trace returns"),
}

SCORE = {
    "criterion class": (lambda: sc.score(NET, STRUCTURE, REFERENCE, sc.criteria.LRP), r"the class LRP; give LRP\("),
    "no criterion": (lambda: sc.score(NET, STRUCTURE, REFERENCE, None), "must be a name or an object, got None"),
    "criterion misspelt": (lambda: sc.score(NET, STRUCTURE, REFERENCE, "lpr"), "did you mean 'lrp'"),
    "other structure": (lambda: sc.score(NET, ANOTHER, REFERENCE), r"\[16, 3, 3, 3\].*\[8, 3, 3, 3\]; trace this one"),
    "other network": (lambda: sc.score(Tokens(), STRUCTURE, REFERENCE), "it has a weight '0.weight'; trace this one"),
    "inputs": (lambda: sc.score(NET, STRUCTURE, X), r"ReferenceSet\.sample\(dataset\) draws them"),
    "pair": (lambda: sc.score(NET, STRUCTURE, (X, Y)), r"ReferenceSet\(inputs, targets, indices\) takes tensors"),
    "data set": (lambda: sc.score(NET, STRUCTURE, DATA), "got TensorDataset"),
    "arguments swapped": (lambda: sc.score(NET, REFERENCE, STRUCTURE), "the structure comes before the reference"),
    "no structure": (lambda: sc.score(NET, X, REFERENCE), r"what secateur\.trace returns, got Tensor"),
    "a state_dict": (lambda: sc.score(NET.state_dict(), STRUCTURE, REFERENCE), "load_state_dict"),
    "labels too high": (lambda: sc.score(NET, STRUCTURE, reference(X, Y + 3)), "target 4 is out of range for 4"),
    "labels below zero": (lambda: sc.score(NET, STRUCTURE, reference(X, Y - 1)), "class indices begin at 0"),
    "one-hot labels": (lambda: reference(X, torch.eye(4)[Y]), r"one class index per sample.*\[8, 4\]"),
    "labels as floats": (lambda: reference(X, Y.float()), r"\[N\] integers, got torch\.float32"),
    "labels as text": (lambda: reference(X, ["cat"] * 8), "reference targets"),
    "fewer labels": (lambda: reference(X, Y[:4]), "8 reference inputs but 4 targets"),
    "inputs with a mask": (lambda: reference({"ids": IDS, "mask": IDS > 0}, Y), "forward takes one tensor"),
    "double": (lambda: sc.score(NET, STRUCTURE, reference(X.double(), Y)), r"inputs\.to\(torch\.float32\)"),
    "grey images": (lambda: sc.score(NET, STRUCTURE, reference(X[:, :1], Y)), "reads 3 channels"),
    "network of a dict": (
        lambda: sc.score(OfDict(), sc.trace(OfDict(), ({"image": X},)), REFERENCE), "needs a wrapper: a module whose",
    ),
    "no classes": (lambda: sc.score(Single(), sc.trace(Single(), X), REFERENCE), r"logits of shape \[N, classes\]"),
    "no samples at a time": (lambda: sc.score(NET, STRUCTURE, REFERENCE, batch_size=0), "must be at least 1"),
}  # fmt: skip


PRUNE = {
    "plan of another": (lambda: sc.prune(OTHER, PLAN), "the plan is for another network"),
    "plan as dict": (lambda: sc.prune(NET, PLAN.to_json()), r"got dict; secateur\.Plan\.from_json"),
    "plan as path": (lambda: sc.prune(NET, "plan.json"), r"got str; json\.loads its text"),
    "budget as plan": (lambda: sc.prune(NET, HALF), r"secateur\.compress\(model, reference, budget\) does all of it"),
    "scores as plan": (lambda: sc.mask(NET, SCORES), r"secateur\.select\(scores, budget\) makes one"),
    "a state_dict": (lambda: sc.prune(NET.state_dict(), PLAN), "load_state_dict"),
    "twice": (lambda: sc.prune(sc.prune(NET, PLAN), PLAN), "the plan is for another network"),
    "array": (lambda: sc.prune(NET, PLAN, X.numpy()), r"torch\.from_numpy\(array\)"),
    "verify a path": (lambda: sc.verify(NET, NET, "plan.json"), "a plan must be"),
    "budget as number": (lambda: sc.compress(NET, REFERENCE, 0.5), r"like secateur\.Budget\(macs=0\.5\), got 0\.5"),
    "data set as reference": (lambda: sc.compress(NET, DATA, HALF), r"ReferenceSet\.sample\(dataset\)"),
    "class as network": (lambda: sc.compress(nn.Linear, REFERENCE, HALF), "got the class Linear"),
    "settings as dict": (lambda: sc.compress(NET, REFERENCE, HALF, settings={}), "secateur.PruneSettings, got dict"),
}

ATTRIBUTE = {
    "one-hot targets": (lambda: sc.attribute(NET, X, torch.eye(4)[Y]), r"targets\.argmax\(1\)"),
    "one-hot integers": (lambda: sc.attribute(NET, X, torch.eye(4).long()[Y]), r"targets\.argmax\(1\)"),
    "names as targets": (lambda: sc.attribute(NET, X, ["cat"] * 8), "class indices, one integer per sample"),
    "one number": (lambda: sc.attribute(NET, X, 3), "one integer per sample .* got 3"),
    "no targets": (lambda: sc.attribute(NET, X, None), "got None"),
    "targets too high": (lambda: sc.attribute(NET, X, Y + 3), "target 4 is out of range"),
    "one image": (lambda: sc.attribute(NET, X[0], [1]), r"for one image, inputs\.unsqueeze\(0\)"),
    "array": (lambda: sc.attribute(NET, X.numpy(), Y), "inputs must be one tensor"),
    "token ids": (lambda: sc.attribute(Tokens(), IDS, Y), r"model\(inputs_embeds=x\)"),
    "bytes": (lambda: sc.attribute(NET, X.to(torch.uint8), Y), "normalise images first"),
    "double": (lambda: sc.attribute(NET, X.double(), Y), r"inputs\.to\(torch\.float32\)"),
    "composite misspelt": (lambda: sc.attribute(NET, X, Y, "epsilonn"), "did you mean 'epsilon'"),
    "a class": (lambda: sc.attribute(nn.Linear, X, Y), "got the class Linear"),
    "network of a dict": (lambda: sc.attribute(OfDict(), X, Y), "needs a wrapper: a module whose"),
}

EVALUATE = {
    "data set": (lambda: sc.evaluate(NET, DATA), r"a single sample .* DataLoader\(dataset, batch_size=256\)"),
    "tensor": (lambda: sc.evaluate(NET, X), "a batch is a Tensor, no pair"),
    "one pair": (lambda: sc.evaluate(NET, (X, Y)), "a batch is a Tensor, no pair"),
    "no labels": (lambda: sc.evaluate(NET, [X]), "no pair"),
    "dicts": (lambda: sc.evaluate(NET, [{"x": X, "y": Y}]), "a batch is a dict, no pair"),
    "one-hot labels": (lambda: sc.evaluate(NET, [(X, torch.eye(4)[Y])]), r"labels\.argmax\(1\)"),
    "labels as floats": (lambda: sc.evaluate(NET, [(X, Y + 0.5)]), r"integer class indices, got torch\.float32"),
    "names as labels": (lambda: sc.evaluate(NET, [(X, ["cat"] * 8)]), "labels must be class indices"),
    "labels below zero": (lambda: sc.evaluate(NET, [(X, Y - 1)]), "label -1 is no class index"),
    "labels too high": (lambda: sc.evaluate(NET, [(X, Y + 3)]), "beyond the network's 4 outputs"),
    "a state_dict": (lambda: sc.evaluate(NET.state_dict(), [(X, Y)]), "load_state_dict"),
}

TABLES = {
    "trace": TRACE,
    "select": SELECT,
    "score": SCORE,
    "prune": PRUNE,
    "attribute": ATTRIBUTE,
    "evaluate": EVALUATE,
}
CASES = [pytest.param(*case, id=f"{table}: {name}") for table in TABLES for name, case in TABLES[table].items()]


@pytest.mark.parametrize(("work", "message"), CASES)
def test_refused_in_one_line(work, message):
    with pytest.raises(sc.RequestError, match=message) as caught:
        work()
    assert "\n" not in str(caught.value)


def test_other_devices():
    line = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
    said = remedy(RuntimeError(line), line, [torch.zeros(1, 4)], nn.Linear(4, 2, device="meta"))
    assert said == "the network is on meta, the inputs on cpu: inputs.to('meta')"


def test_failures_of_a_users_criterion_stay_as_they_are():
    class Broken(sc.criteria.Criterion):
        name = "broken"

        def unit_scores(self, model, structure, reference, *, centred, batch_size):
            raise ValueError("my own mistake")

    with pytest.raises(ValueError, match="my own mistake") as caught:
        sc.score(NET, STRUCTURE, REFERENCE, Broken())
    assert not isinstance(caught.value, sc.RequestError)


@pytest.mark.slow
def test_compiled_networks_are_refused_before_anything_is_compiled():
    compiled = torch.compile(NET)
    for work in (lambda: sc.trace(compiled, X), lambda: sc.score(compiled, STRUCTURE, REFERENCE)):
        with pytest.raises(sc.RequestError, match=r"before torch\.compile"):
            work()


def test_streams_go_where_settings_say_so():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Linear(4, 16), nn.LayerNorm(16)
            self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

        def forward(self, x):
            x = self.embed(x)
            return self.head(x + self.down(self.up(self.norm(x)).relu()))

    samples = reference(torch.randn(6, 4), torch.arange(6) % 3)
    net, budget = Residual(), sc.Budget(params=0.1)
    message = r"norms lock 16 channels .*stream=True \(--stream\) allows removing them"
    with pytest.raises(sc.RequestError, match=message):
        sc.compress(net, samples, budget, "weight", sc.PruneSettings(schedule="one-shot"))
    best = sc.compress(net, samples, budget, "weight", sc.PruneSettings(schedule="one-shot", stream=True))
    assert best.model.norm.normalized_shape[0] < 16
    assert best.plan.achieved["params"] <= 0.1
