"""Networks for some of their classes: heads cut to them, or masked."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import secateur as sc
from networks import UserNet, randomised, zoo
from secateur.core.errors import RequestError
from secateur.surgery import edits_of, mask_head, slice_head
from secateur.training import TrainSettings, fit

CHOSEN = [7, 2, 5]
SORTED = sorted(CHOSEN)


def vit() -> tuple[nn.Module, torch.Tensor]:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = sc.build("timm/vit_tiny_patch16_224", num_classes=10, depth=2, img_size=64)
    return model.eval(), torch.randn(2, 3, 64, 64)


def distilled() -> tuple[nn.Module, torch.Tensor]:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=10, depth=1, img_size=64)
    return model.eval(), torch.randn(2, 3, 64, 64)


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    made = {"vit": vit, "distilled": distilled}.get(name)
    return zoo(name) if made is None else made()


def dense(*last: nn.Module, outputs: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, outputs), *last).eval()


def batch(model: nn.Module, x: torch.Tensor, classes) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x, torch.tensor([classes[i % len(classes)] for i in range(len(x))]))]


def reference(x: torch.Tensor, classes) -> sc.ReferenceSet:
    targets = torch.tensor([classes[i % len(classes)] for i in range(len(x))])
    return sc.ReferenceSet(x, targets, tuple(range(len(x))))


def pruned(model: nn.Module, x: torch.Tensor, classes, criterion="taylor", share=0.6) -> nn.Module:
    structure = sc.trace(model, x[:1])
    scores = sc.score(model, structure, reference(x, classes), criterion)
    return sc.prune(model, sc.select(scores, sc.Budget(macs=share)))


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5 * float(second.detach().abs().max()))


# cut heads


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("vgg11-bn-32", "mobilenet_v2", "distilled")]


@pytest.mark.parametrize("name", ["resnet20", "squeezenet1_1", "vit", *LARGE])
def test_a_cut_head_gives_the_same_logits_and_all_else_goes_on(name, tmp_path):
    model, x = network(name)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        whole = model(x)
        sliced = slice_head(model, CHOSEN, x[:1])
        assert same(sliced(x), whole[:, SORTED])
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
        result = sc.evaluate(sliced, [(x, whole[:, SORTED].argmax(1))])
        assert result.accuracy == 1
        assert result.params < sc.evaluate(model, [(x, whole.argmax(1))]).params
        if name == "distilled":  # another depth than its name says: it is given
            again = sc.load(sc.save(sliced, tmp_path / "sliced"), model=distilled()[0])
        else:
            again = sc.load(sc.save(sliced, tmp_path / "sliced"))
        assert torch.equal(again(x), sliced(x))
    slim = pruned(again, x, range(3))
    with torch.no_grad():
        reloaded = sc.load(sc.save(slim, tmp_path / "slim"), **({"model": model} if name == "distilled" else {}))
        assert torch.equal(reloaded(x), slim(x))
        assert slim(x).shape == (2, 3)


class TwoHeads(nn.Module):
    """Two readings of the features, by one weight or two."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(6, 12)
        self.first, self.second = nn.Linear(12, 10), nn.Linear(12, 10, bias=False)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x):
        return (self.first(torch.relu(self.a(x))) + self.second(torch.tanh(self.b(x)))) / 2


@pytest.mark.parametrize("tied", [False, True])
def test_two_heads_and_tied_ones(tied, tmp_path):
    torch.manual_seed(0)
    model, x = TwoHeads(tied).eval(), torch.randn(4, 6)
    sliced = slice_head(model, CHOSEN, x)
    assert same(sliced(x), model(x)[:, SORTED])
    assert (sliced.second.weight is sliced.first.weight) == tied
    slim = pruned(sliced, x, range(3))
    again = sc.load(sc.save(slim, tmp_path / "b"), model=TwoHeads(tied))
    assert torch.equal(again(x), slim(x))


class Sized(nn.Module):
    """Its own code names the number of classes and the size of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8 * 4, 20)

    def forward(self, x):
        x = torch.relu(nn.functional.adaptive_avg_pool2d(self.conv(x), 2)).reshape(-1, 8 * 4)
        return self.head(x).view(-1, 10, 2).mean(2)


def test_code_that_names_the_number_of_classes(tmp_path):
    torch.manual_seed(0)
    model, x = Sized().eval(), torch.randn(4, 3, 6, 6)
    sliced = slice_head(model, CHOSEN, x)
    assert sliced.head.out_features == 6
    assert same(sliced(x), model(x)[:, SORTED])
    slim = pruned(sliced, x, range(3))
    assert torch.equal(sc.load(sc.save(slim, tmp_path / "b"), model=Sized())(x), slim(x))


def test_a_norm_behind_the_head_and_logits_beside_features():
    torch.manual_seed(0)
    model, x = randomised(UserNet()), torch.randn(2, 3, 8, 8)
    assert same(slice_head(model, [2, 0], x)(x), model(x)[:, [0, 2]])
    behind = dense(nn.BatchNorm1d(10))
    y = torch.randn(4, 6)
    assert same(slice_head(behind, CHOSEN, y)(y), behind(y)[:, SORTED])

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 12), nn.Linear(12, 10)

        def forward(self, x):
            features = self.body(x)
            return self.head(features.relu()), features

    model = Beside().eval()
    logits, features = slice_head(model, CHOSEN, y)(y)
    assert same(logits, model(y)[0][:, SORTED])
    assert torch.equal(features, model(y)[1])


@pytest.mark.parametrize("classes", [[4], list(range(1, 10)), list(range(9, -1, -1))])
def test_one_class_all_but_one_and_all(classes):
    model, x = dense(), torch.randn(4, 6)
    sliced = slice_head(model, classes, x)
    assert same(sliced(x), model(x)[:, sorted(classes)])
    assert sliced is not model
    if len(classes) == 10:
        assert edits_of(sliced).cuts == ()
        assert sliced[2].weight is not model[2].weight


def test_cutting_twice_and_after_pruning(tmp_path):
    model, x = dense(), torch.randn(8, 6)
    slim = pruned(model, x, range(10))
    twice = slice_head(slice_head(slim, [1, 3, 4, 8], x), [0, 3], x)
    assert same(twice(x), slim(x)[:, [1, 8]])
    assert torch.equal(sc.load(sc.save(twice, tmp_path / "b"), model=dense(seed=1))(x), twice(x))


class Reading(nn.Module):
    """A last layer corrects the logits by what they are."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.correct = nn.Linear(6, 12), nn.Linear(12, 10), nn.Linear(10, 10)

    def forward(self, x):
        logits = self.head(self.body(x).relu())
        return logits + self.correct(logits)


class After(nn.Module):
    """Does something with the logits."""

    def __init__(self, function):
        super().__init__()
        self.head, self.function = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10)), function

    def forward(self, x):
        return self.function(self.head(x))


class OwnWords(nn.Module):
    """Rows of one table are read and made."""

    def __init__(self):
        super().__init__()
        self.words, self.mix = nn.Embedding(10, 8), nn.Linear(8, 8)

    def forward(self, x):
        hidden = self.mix(self.words(x).mean(1)).relu()
        return nn.functional.linear(hidden, self.words.weight)


@pytest.mark.parametrize(
    ("model", "x", "reason"),
    [
        (dense(nn.LogSoftmax(1)), torch.randn(2, 6), "an output passes a softmax across units"),
        (nn.Sequential(nn.Linear(6, 10), nn.LogSoftmax(1)), torch.randn(2, 6), "passes a softmax"),
        (dense(nn.LayerNorm(10)), torch.randn(2, 6), "is normalised across units"),
        (Reading(), torch.randn(2, 6), "outputs are also read inside the network, by 'correct'"),
        (After(lambda y: (y, 2 * y)), torch.randn(2, 6), "an output is returned by the network next to the logits"),
        (OwnWords(), torch.randint(0, 10, (2, 5)), "an output .*indexed .*fixed positions"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 10, 1)), torch.randn(2, 3, 4, 4), r"output is \[2, 10, 4, 4\]"),
        (After(lambda y: nn.functional.normalize(y)), torch.randn(2, 6), "an output is produced by, or combined with"),
        (After(lambda y: y + (y[:, None] @ y[:, :, None])[:, 0]), torch.randn(2, 6), "computes something else"),
        (dense(nn.Unflatten(1, (5, 2)), nn.Linear(2, 2), nn.Flatten()), torch.randn(2, 6), "outputs depend on"),
    ],
)  # fmt: skip
def test_heads_that_cannot_be_cut_say_why_and_can_be_masked(model, x, reason):
    model.eval()
    with pytest.raises(RequestError, match=f"cannot be cut to some classes: .*({reason}).*replace_head=mask") as caught:
        slice_head(model, CHOSEN, x)
    assert "\n" not in str(caught.value)
    if "10, 4" in reason:
        return
    masked = mask_head(model, CHOSEN)(x)
    logits = masked[0] if isinstance(masked, tuple) else masked
    assert set(logits.argmax(1).tolist()) <= set(CHOSEN)


def test_wrong_classes_are_refused():
    model, x = dense(), torch.randn(2, 6)
    for classes, message in (([10], "unknown class 10; known: 0, 1"), ([], "non-empty"), ([2, 2], "twice")):
        with pytest.raises(RequestError, match=message):
            slice_head(model, classes, x)
    for classes, message in (([], "non-empty"), ([2, 2], "twice"), ([-1], "indices from 0"), (["cat"], "indices")):
        with pytest.raises(RequestError, match=message):
            mask_head(model, classes)
    with pytest.raises(RequestError, match="unknown class 10; known: 0, 1"):
        mask_head(model, [3, 10])(x)
    with pytest.raises(RequestError, match="fails on the example input"):
        slice_head(model, [1], torch.randn(2, 5))


# masked heads


def test_only_the_chosen_classes_compete():
    model, x = dense(), torch.randn(50, 6)
    masked = mask_head(model, CHOSEN)
    others = [c for c in range(10) if c not in CHOSEN]
    assert torch.equal(masked(x)[:, SORTED], model(x)[:, SORTED])
    assert bool((masked(x)[:, others] < -9000).all())
    torch.testing.assert_close(masked(x).softmax(1)[:, SORTED], model(x)[:, SORTED].softmax(1))
    assert masked.state_dict().keys() == model.state_dict().keys()
    assert not model._forward_hooks
    # again: the mask is replaced, not added
    again = mask_head(masked, [0, 1])
    assert torch.equal(again(x)[:, [0, 1]], model(x)[:, [0, 1]])
    assert set(again(x).argmax(1).tolist()) <= {0, 1}
    assert set(masked(x).argmax(1).tolist()) <= set(CHOSEN)
    # in half precision too, and copies keep it
    half = copy.deepcopy(masked).half()(x.half())
    assert torch.isfinite(half).all()
    assert set(half.argmax(1).tolist()) <= set(CHOSEN)
    # a cut head is cut from the network behind the mask, also where it is a part of another
    assert same(slice_head(masked, [0, 7], x)(x), model(x)[:, [0, 7]])
    assert same(slice_head(nn.Sequential(nn.Identity(), masked), [0, 7], x)(x), model(x)[:, [0, 7]])
    calls = []
    model.register_forward_hook(lambda *args: calls.append(1))
    masked = mask_head(model, CHOSEN)
    sc.trace(masked, x)
    assert [type(hook).__name__ for hook in masked._forward_hooks.values()] == ["function", "_HeadMask"]
    assert calls == [1]


def test_the_first_of_several_outputs_and_named_ones_are_masked():
    x = torch.randn(4, 6)
    for kind, get in ((lambda y: (y, y), lambda o: o[0]), (lambda y: {"logits": y}, lambda o: o["logits"])):
        assert set(get(mask_head(After(kind), CHOSEN)(x)).argmax(1).tolist()) <= set(CHOSEN)
    aux = sc.build("torchvision/googlenet", num_classes=10, aux_logits=True).train()
    found = mask_head(aux, CHOSEN)(torch.randn(2, 3, 64, 64))
    assert set(found.logits.argmax(1).tolist()) <= set(CHOSEN)
    assert found.aux_logits1 is not None
    with pytest.raises(RequestError, match="returns a list"):
        mask_head(After(lambda y: [y]), CHOSEN)(x)
    with pytest.raises(RequestError, match=r"must be \[samples, classes\]"):
        mask_head(After(lambda y: y[:, None]), CHOSEN)(x)


def is_masked(model: nn.Module, x: torch.Tensor) -> bool:
    with torch.no_grad():
        others = [c for c in range(10) if c not in CHOSEN]
        return bool((model(x)[:, others] < -9000).all() and (model(x)[:, SORTED] > -9000).all())


@pytest.mark.parametrize("name", ["resnet20", "vit", "own"])
def test_masked_networks_are_traced_scored_pruned_evaluated_and_trained(name, tmp_path):
    torch.manual_seed(0)
    model, x = (Sized().eval(), torch.randn(4, 3, 6, 6)) if name == "own" else network(name)
    x = torch.cat([x, x.flip(-1) * 0.5, x + 0.1])
    masked = mask_head(model, CHOSEN)
    plain, structure = sc.trace(model, x[:1]), sc.trace(masked, x[:1])
    assert [(g.name, g.size) for g in structure.groups] == [(g.name, g.size) for g in plain.groups]
    assert [(k.name, k.reason) for k in structure.locked] == [(k.name, k.reason) for k in plain.locked]
    samples = reference(x, SORTED)
    lrp, taylor = (sc.score(masked, structure, samples, criterion) for criterion in ("lrp", "taylor"))
    # relevance starts at the target's logit, which the mask leaves as it is
    np.testing.assert_allclose(lrp.values, sc.score(model, plain, samples, "lrp").values, rtol=1e-3, atol=1e-6)
    assert not np.allclose(taylor.values, sc.score(model, plain, samples, "taylor").values, rtol=1e-2, atol=0)
    assert sc.evaluate(masked, [(x, samples.targets)]).samples == len(x)
    for scores in (lrp, taylor):
        plan = sc.select(scores, sc.Budget(macs=0.7))
        slim = sc.prune(masked, plan)
        assert is_masked(slim, x)
        assert is_masked(sc.mask(masked, plan), x)
    # a bundle holds the network without the mask
    loaded = sc.load(sc.save(slim, tmp_path / "b"), **({"model": Sized()} if name == "own" else {}))
    with torch.no_grad():
        assert same(loaded(x), sc.prune(model, plan)(x))
    settings = TrainSettings(epochs=1, batch_size=6, learning_rate=0.01, device="cpu")
    fit(slim, TensorDataset(x, samples.targets), None, settings, tmp_path / "state.pt")
    assert is_masked(slim, x)


def test_compensation_and_a_copy_keep_the_mask():
    model, x = zoo("resnet20")
    masked = mask_head(model, CHOSEN)
    samples = reference(torch.randn(6, 3, 16, 16), SORTED)
    plan = sc.select(sc.score(masked, sc.trace(masked, x[:1]), samples, "weight"), sc.Budget(macs=0.7))
    slim = sc.compensate(sc.prune(masked, plan), masked, plan, samples)
    assert is_masked(copy.deepcopy(slim), x)
