"""Bundles come back to the bit, anywhere; what is broken, foreign or forged is refused in one line."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import secateur as sc
from marks import some_slow
from networks import UserNet, randomised, user_net, zoo
from secateur.core.files import sha256
from secateur.models.building import rebuild
from secateur.structure import rewritten
from secateur.surgery import edits_of, read_bundle
from secateur.surgery.bundle import BUNDLE_VERSION, MANIFEST, MEMBERS
from secateur.surgery.hub import from_pretrained, push_to_hub
from test_surgery import plan_for


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pruned network of a user's own, with recorded code and attributes, and its bundle."""
    torch.manual_seed(0)
    model, x = Tokens().eval(), torch.randn(2, 6, 16)
    slim = sc.prune(model, plan_for(model, x, 0.6))
    return slim, x, sc.save(slim, tmp_path_factory.mktemp("saved") / "bundle", metrics={"accuracy": 0.5})


@pytest.fixture
def bundle(saved, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(saved[2], tmp_path / "bundle")


class Tokens(nn.Module):
    """Attention whose code names its sizes."""

    def __init__(self):
        super().__init__()
        self.heads = 4
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return self.down(torch.relu(self.up(x))).mean(1)


def rehash(folder, version=BUNDLE_VERSION):
    """A forger changes the manifest too."""
    sums = {name: sha256(folder / name) for name in MEMBERS}
    (folder / MANIFEST).write_text(json.dumps({"version": version, "sha256": sums}))


def forge(folder, change):
    """Change the values of architecture.json in place, and the manifest with them."""
    file = folder / "architecture.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))
    rehash(folder)


def exact(model, again, x):
    with torch.no_grad():
        return torch.equal(model(x), again(x))


# coming back


def test_networks_reload_in_a_fresh_process_without_tracing_or_unpickling(tmp_path):
    model, x = zoo("resnet20")
    slim = sc.prune(model, plan_for(model, x, 0.5))
    folder = sc.save(slim, tmp_path / "bundle")
    torch.save({"x": x, "y": slim(x).detach()}, tmp_path / "seen.pt")
    code = (
        "import sys, pickle, torch, secateur as sc; torch.set_num_threads(1)\n"
        "s = torch.load(sys.argv[2], weights_only=True)\n"
        "def refuse(*a, **k): raise SystemExit('traced or unpickled')\n"
        "import secateur.structure.tracing as t\n"
        "torch.load = pickle.load = pickle.loads = pickle.Unpickler = t.trace = sc.trace = refuse\n"
        "print(float((sc.load(sys.argv[1])(s['x']) - s['y']).abs().max()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "seen.pt")], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == 0.0
    assert {p.name for p in folder.iterdir()} == {*MEMBERS, MANIFEST}


def test_a_users_network_needs_an_instance(tmp_path):
    model, x = user_net()
    slim = sc.prune(model, plan_for(model, x, 0.5))
    folder = sc.save(slim, tmp_path / "bundle")
    assert exact(slim, sc.load(folder, model=UserNet()), x)
    with pytest.raises(sc.RequestError, match=r"sc\.load\(path, model="):
        sc.load(folder)
    with pytest.raises(sc.RequestError, match="another network"):
        sc.load(folder, model=nn.Linear(2, 2))


def test_recorded_code_and_attributes_come_back(saved):
    slim, x, folder = saved
    assert edits_of(slim).corrections
    again = sc.load(folder, model=Tokens())
    assert exact(slim, again, x)
    # and can be pruned and saved once more
    twice = sc.prune(again, plan_for(again, x, 0.7, seed=1))
    assert exact(twice, sc.load(sc.save(twice, folder.parent / "twice"), model=Tokens()), x)
    assert not exact(twice, again, x)


class Odd(nn.Module):
    """Buffers of all kinds, a tied layer, and a recurrent one, which keeps references of its own."""

    def __init__(self, phase=True):
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.recurrent = nn.GRU(12, 12, batch_first=True)
        self.up = nn.Linear(12, 24)
        self.down = nn.Linear(24, 12)
        self.head = nn.Linear(12, 20, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("drawn", torch.randn(24), persistent=False)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("mask", torch.full((5, 5), -torch.inf).triu(1))
        self.register_buffer("phase", torch.rand(12), persistent=False)
        if phase:
            self.phase = torch.polar(torch.ones(12), torch.rand(12))
        self.register_buffer("made", None, persistent=False)

    def forward(self, tokens):
        self.made = torch.arange(tokens.shape[1])
        x = self.embedding(tokens)
        x = x + torch.softmax(self.mask.to(x), -1) @ self.recurrent(x)[0]
        x = (
            x
            + self.down(torch.relu(self.up(x)) * self.drawn.to(x))
            * (self.phase.real if self.phase.is_complex() else self.phase).to(x)
            * self.count
        )
        return self.head(x)


@pytest.mark.parametrize("dtype", [None, torch.float64, torch.bfloat16, torch.float16])
def test_buffers_ties_and_types_come_back(tmp_path, dtype):
    torch.manual_seed(0)
    # casting would make complex buffers real
    model, tokens = Odd(phase=dtype is None).eval(), torch.arange(10).reshape(2, 5)
    slim = model if dtype is None else model.to(dtype)
    slim = sc.prune(slim, plan_for(slim, tokens, 0.7))
    slim(tokens)
    again = sc.load(sc.save(slim, tmp_path / "bundle"), model=Odd(phase=dtype is None))
    assert exact(slim, again, tokens)
    assert again.head.weight is again.embedding.weight
    assert again.recurrent._flat_weights[0] is again.recurrent.weight_ih_l0
    assert torch.equal(again.made, slim.made)
    for name, tensor in {**dict(slim.named_parameters()), **dict(slim.named_buffers())}.items():
        found = again.get_parameter(name) if name in dict(again.named_parameters()) else again.get_buffer(name)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name


def test_weights_that_are_computed_from_others(tmp_path):
    model, x = nn.Sequential(weight_norm(nn.Linear(4, 3))), torch.randn(2, 4)
    again = sc.load(sc.save(model, tmp_path / "bundle"), model=nn.Sequential(weight_norm(nn.Linear(4, 3))))
    assert exact(model, again, x)


def test_ties_made_and_undone_by_hand(tmp_path):
    def make(tied):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        if tied:
            model[2].weight = model[0].weight
        return model

    x = torch.randn(3, 4)
    for tied in (True, False):
        model = make(tied)
        again = sc.load(sc.save(model, tmp_path / str(tied)), model=make(not tied))
        assert exact(model, again, x)
        assert (again[0].weight is again[2].weight) == tied


@pytest.mark.slow
def test_mixed_precision_and_channels_last(tmp_path):
    model, x = zoo("mobilenet_v2")
    slim = sc.prune(model, plan_for(model, x, 0.5)).to(memory_format=torch.channels_last)
    slim.classifier.double()
    slim.classifier.register_forward_pre_hook(lambda module, args: (args[0].double(),))
    again = sc.load(sc.save(slim, tmp_path / "bundle"))
    again.classifier.register_forward_pre_hook(lambda module, args: (args[0].double(),))
    x = x.to(memory_format=torch.channels_last)
    assert exact(slim, again, x)
    assert {n: p.stride() for n, p in again.named_parameters()} == {n: p.stride() for n, p in slim.named_parameters()}


def test_biases_added_by_compensation(tmp_path):
    model, x = zoo("resnet20")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False), nn.ReLU(), nn.Flatten(1))
    reference = sc.ReferenceSet(torch.randn(8, 3, 8, 8), torch.arange(8) % 2, tuple(range(8)))
    plan = plan_for(model, x[:, :, :8, :8], 0.5)
    slim = sc.compensate(sc.prune(model, plan), model, plan, reference)
    assert slim[2].bias is not None
    fresh = copy.deepcopy(model)
    assert exact(slim, sc.load(sc.save(slim, tmp_path / "bundle"), model=fresh), x[:, :, :8, :8])


def test_classes_that_cannot_be_imported(tmp_path):
    class Local(nn.Sequential):
        pass

    model, x = Local(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4)
    slim = sc.prune(model, plan_for(model, x, 0.5))
    folder = sc.save(slim, tmp_path / "bundle")
    assert exact(slim, sc.load(folder, Local(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))), x)
    assert "Local" in read_bundle(folder, copy.deepcopy(model)).architecture["class"]


def same_state(model, again):
    """Whether both have the same tensors, of which the same require gradients."""
    ours, theirs = model.state_dict(keep_vars=True), again.state_dict(keep_vars=True)
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) and ours[name].requires_grad == theirs[name].requires_grad
        for name in ours
    )


def test_frozen_parameters_stay_frozen(tmp_path):
    model, x = zoo("resnet20")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("fc")
    slim = sc.prune(model, plan_for(model, x, 0.5))
    again = sc.load(sc.save(slim, tmp_path / "named"))
    assert same_state(slim, again)
    assert {name for name, p in again.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    # and the other way round: what the given instance freezes does not stay so
    given = nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
    assert sc.load(sc.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "own"), given)[0].weight.requires_grad


@pytest.mark.parametrize("change", ["nowhere", "count"])
def test_forged_records_of_frozen_parameters_are_refused(tmp_path, change):
    net = nn.Linear(2, 2)
    net.register_parameter("count", nn.Parameter(torch.tensor([1, 2]), requires_grad=False))
    folder = sc.save(net, tmp_path / "bundle")
    fresh = copy.deepcopy(net)
    assert same_state(net, sc.load(folder, fresh))
    forge(folder, _set("state", "frozen", [] if change == "count" else ["count", "nowhere"]))
    with pytest.raises(sc.RequestError, match=f"'{change}'"):
        sc.load(folder, fresh)


# traced networks


class Sizes(nn.Module):
    """Its code names a size, or not."""

    def __init__(self, named):
        super().__init__()
        self.named = named
        self.first, self.second, self.third = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = x.view(-1, 8) if self.named else x.flatten(1)
        return self.third(torch.relu(self.second(x)))


def pickled(model):
    return pickle.loads(pickle.dumps(model))


COPIES = {
    "deepcopy": [copy.deepcopy], "copy": [copy.copy], "pickle": [pickled], "deep copy of a pickle":
    [pickled, copy.deepcopy], "pickle of a deep copy": [copy.deepcopy, pickled], "deep copy of a copy":
    [copy.copy, copy.deepcopy],
}  # fmt: skip


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("ways", COPIES.values(), ids=COPIES)
def test_copies_of_traced_networks_keep_what_surgery_did(tmp_path, named, ways):
    torch.manual_seed(0)
    model, x = torch.fx.symbolic_trace(Sizes(named).eval()), torch.randn(5, 4)
    slim = sc.prune(model, plan_for(model, x, 0.5))
    again = slim
    for way in ways:
        again = way(again)
    assert exact(slim, again, x)
    assert edits_of(again) == edits_of(slim)
    assert exact(slim, sc.load(sc.save(again, tmp_path / "bundle"), torch.fx.symbolic_trace(Sizes(named).eval())), x)
    twice = sc.prune(again, plan_for(again, x, 0.7, seed=1))
    assert exact(twice, sc.load(sc.save(twice, tmp_path / "twice"), copy.deepcopy(model)), x)
    assert exact(slim, slim, x)  # copying left it as it was


def test_traced_networks_inside_others_are_copied_with_them():
    torch.manual_seed(0)
    x = torch.randn(5, 4)
    model = nn.Sequential(torch.fx.symbolic_trace(Sizes(named=True)), nn.Identity()).eval()
    slim = sc.prune(model, plan_for(model, x, 0.5))
    for way in (copy.deepcopy, pickled):
        assert exact(slim, way(slim), x)


# checked when saved


def test_a_bundle_that_would_not_load_is_not_written(tmp_path):
    """Its constructor gives another network the second time."""
    from secateur.models import registered

    made = []

    def moody():
        made.append(None)
        return nn.Sequential(nn.Linear(2, 3 if len(made) < 3 else 4), nn.Linear(3 if len(made) < 3 else 4, 2))

    registered.register("moody")(moody)
    try:
        model = sc.build("moody")
        with pytest.raises(sc.SecateurError, match="'.*bundle' was not written, .* has shape") as error:
            sc.save(model, tmp_path / "bundle")
    finally:
        del registered._factories["moody"]
    assert not isinstance(error.value, sc.RequestError)
    assert "\n" not in str(error.value)
    assert ".part" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("own", [False, True])
def test_what_was_written_wrongly_is_found(tmp_path, monkeypatch, own):
    """A disk, or a library, that changes one value; the bundle of before stays."""
    from secateur.surgery import bundle as module

    model = nn.Sequential(nn.Linear(2, 2)) if own else sc.build("resnet20", width=4)
    first = sc.save(model, tmp_path / "bundle", metrics={"n": 1})
    write = module.write_state

    def wrong(network, path):
        changed = copy.deepcopy(network)
        with torch.no_grad():
            next(changed.parameters()).view(-1)[0] += 1e-6
        return write(changed, path)

    monkeypatch.setattr(module, "write_state", wrong)
    with pytest.raises(sc.SecateurError, match=r"does not give the network back: '\S+weight' has other values"):
        sc.save(model, first, metrics={"n": 2})
    assert read_bundle(first, copy.deepcopy(model)).metrics == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    sc.save(model, tmp_path / "unchecked", verify=False)


def test_a_forward_of_its_own_is_found_with_the_plan(tmp_path):
    model, x = zoo("resnet20")
    plan = plan_for(model, x, 0.5)
    slim = sc.prune(model, plan)
    before = torch.random.get_rng_state()
    folder = sc.save(slim, tmp_path / "bundle", plan=plan)
    assert torch.equal(before, torch.random.get_rng_state())
    assert exact(slim, sc.load(folder), x)
    whole = slim.forward
    slim.forward = lambda images: whole(images) * 2
    with pytest.raises(sc.SecateurError, match="it computes something else"):
        sc.save(slim, tmp_path / "other", plan=plan)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_layers_that_were_replaced_after_surgery_are_found(tmp_path):
    model, x = user_net()
    slim = sc.prune(model, plan_for(model, x, 0.5))
    cut = next(c for c in edits_of(slim).cuts if c.role == "out" and c.tensor.endswith("weight"))
    module = slim.get_submodule(cut.tensor.rpartition(".")[0])
    module.weight = nn.Parameter(torch.zeros(cut.size, *module.weight.shape[1:]))
    with pytest.raises(sc.SecateurError, match=rf"'{cut.tensor}' is .*but surgery left"):
        sc.save(slim, tmp_path / "bundle")


# of older versions


def test_bundles_of_version_2_load(tmp_path):
    """Written by the versions before the corrections of code."""
    model, x = zoo("resnet20")
    plan = plan_for(model, x, 0.5)
    slim = sc.prune(model, plan)
    folder = sc.save(slim, tmp_path / "bundle", plan=plan)

    def older(edits):
        assert not {**edits["corrections"], **edits["heads"]}
        return {key: edits[key] for key in ("cuts", "attributes", "code", "masks")}

    file = folder / "architecture.json"
    values = json.loads(file.read_text())
    del values["state"]["frozen"]
    file.write_text(json.dumps({**values, "version": 2, "edits": older(values["edits"])}))
    text = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**text, "version": 2, "edits": older(text["edits"])}))
    rehash(folder, 2)
    bundle = read_bundle(folder)
    assert exact(slim, bundle.model, x)
    assert sc.Plan.from_json(bundle.plan).cuts == plan.cuts
    assert exact(slim, sc.load(sc.save(bundle.model, tmp_path / "again")), x)
    assert json.loads((tmp_path / "again" / MANIFEST).read_text())["version"] == BUNDLE_VERSION == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no second device")
def test_networks_on_another_device(tmp_path):
    model, x = zoo("resnet20")
    slim = sc.prune(model, plan_for(model, x, 0.5)).cuda()
    folder = sc.save(slim, tmp_path / "bundle")
    again = sc.load(folder)
    assert next(again.parameters()).device.type == "cpu"
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        assert exact(slim, again.cuda(), x.cuda())
    there = sc.load(folder, model=sc.build("resnet20").cuda())
    assert all(p.is_cuda for p in there.parameters())


def test_what_cannot_come_back_is_refused_when_saving(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return "x"

    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight.data[0, 0] = torch.nan
    with pytest.raises(sc.RequestError, match=r"'0\.weight' holds NaN"):
        sc.save(model, tmp_path / "bundle")
    with pytest.raises(sc.RequestError, match="keeps extra state"):
        sc.save(nn.Sequential(Extra(2, 2)), tmp_path / "bundle")
    with pytest.raises(sc.RequestError, match="plain values"):
        sc.save(nn.Linear(2, 2), tmp_path / "bundle", metrics={"x": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(2, 2, device="meta"), "'weight' is on the meta device"),
        (lambda: nn.Sequential(nn.BatchNorm1d(2, device="meta")), "'0.weight' is on the meta device"),
        (lambda: nn.Sequential(nn.LazyLinear(2)), "'0.weight' has no shape yet"),
        (lambda: torch.jit.script(nn.Linear(2, 2)), "the network is TorchScript"),
        (lambda: nn.Sequential(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))), "module '0' is TorchScript"),
        (lambda: with_buffer(torch.eye(3).to_sparse()), "'more' is a sparse_coo tensor"),
    ],
)  # fmt: skip
def test_networks_without_values_or_of_other_kinds_are_refused(tmp_path, make, message):
    with pytest.raises(sc.RequestError, match=message) as error:
        sc.save(make(), tmp_path / "bundle")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def with_buffer(tensor):
    model = nn.Linear(2, 2)
    model.register_buffer("more", tensor)
    return model


def test_networks_made_in_inference_mode(tmp_path):
    """They are saved, and what is loaded can be trained, wherever it is loaded."""
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        folder = sc.save(model, tmp_path / "bundle")
        inside = sc.load(folder, nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)))
        given = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        named = sc.load(sc.save(sc.build("resnet20", width=4), tmp_path / "named"))
    outside = sc.load(folder, given)
    for again in (inside, outside):
        assert exact(model, again, torch.ones(1, 2))
        again(torch.ones(1, 2)).sum().backward()
    assert not any(tensor.is_inference() for net in (inside, outside, named) for tensor in net.state_dict().values())


def test_networks_on_the_meta_device_take_a_bundle(tmp_path):
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)).eval()
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    assert exact(model, sc.load(sc.save(model, tmp_path / "bundle"), empty), torch.ones(2, 2))
    with pytest.raises(sc.RequestError, match="has no shape yet"):
        sc.load(tmp_path / "bundle", nn.Sequential(nn.LazyLinear(4), nn.BatchNorm1d(4)))


# networks that have a name


@pytest.mark.parametrize(
    "name",
    some_slow(["resnet18", "mobilenet_v3_small", "googlenet", "regnet_y_400mf", "swin_t"], "regnet_y_400mf", "swin_t"),
)
def test_torchvisions_own_constructors_are_recognised(tmp_path, name):
    import torchvision

    options = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    model = randomised(torchvision.models.get_model(name, num_classes=5, **options))
    before = torch.random.get_rng_state()
    folder = sc.save(model, tmp_path / "bundle")
    assert torch.equal(before, torch.random.get_rng_state())
    bundle = read_bundle(folder)
    assert bundle.architecture["origin"]["name"] == f"torchvision/{name}"
    assert exact(model, bundle.model, torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("name", some_slow(["resnet18", "vit_tiny_patch16_224"], "vit_tiny_patch16_224"))
def test_timms_own_constructor_is_recognised(tmp_path, name):
    timm = pytest.importorskip("timm")
    side = {"img_size": 64} if "vit" in name else {}
    model = randomised(timm.create_model(name, num_classes=5, in_chans=1, **side))
    x = torch.randn(1, 1, 64, 64)
    slim = sc.prune(model, plan_for(model, x, 0.6))
    again = sc.load(sc.save(slim, tmp_path / "bundle"))
    assert exact(slim, again, x)
    assert again.pretrained_cfg["architecture"] == name


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: setattr(m, "relu", nn.GELU()), "a ReLU at 'relu', this network a GELU"),
        (lambda m: setattr(m, "fc", nn.Linear(512, 10, bias=False)), "another state"),
        (lambda m: setattr(m.conv1, "stride", (1, 1)), r"stride=\(2, 2\) at 'conv1'"),
        pytest.param(
            lambda m: setattr(m.maxpool, "ceil_mode", True), "ceil_mode=False at 'maxpool'", marks=pytest.mark.slow
        ),
        pytest.param(lambda m: m.register_buffer("more", torch.zeros(1)), "another state", marks=pytest.mark.slow),
    ],
)
def test_networks_changed_by_hand_have_no_name(tmp_path, change, reason):
    model = sc.build("resnet18", num_classes=10)
    change(model)
    folder = sc.save(model, tmp_path / "bundle")
    with pytest.raises(sc.RequestError, match=rf"user's own .*{reason}"):
        sc.load(folder)


def test_a_new_head_is_another_number_of_classes(tmp_path):
    model = sc.build("resnet18", num_classes=10)
    model.fc = nn.Linear(512, 3)
    again = sc.load(sc.save(model.eval(), tmp_path / "bundle"))
    assert exact(model, again, torch.randn(1, 3, 64, 64))


def hugging_face(name):
    transformers = pytest.importorskip("transformers")
    small = {"num_labels": 5, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64}  # fmt: skip
    if name == "ViTForImageClassification":
        return transformers.ViTForImageClassification(transformers.ViTConfig(**small, image_size=32, patch_size=8))
    config = transformers.BertConfig(**small, vocab_size=50, attn_implementation="eager")
    return transformers.BertForSequenceClassification(config)


@pytest.mark.parametrize("name", ["ViTForImageClassification", "BertForSequenceClassification"])
def test_networks_of_transformers_load_by_themselves(tmp_path, name):
    torch.manual_seed(0)
    model = hugging_face(name).eval()
    x = torch.randn(2, 3, 32, 32) if "ViT" in name else torch.arange(20).reshape(2, 10)
    slim = sc.prune(model, plan_for(model, x, 0.6))
    folder = sc.save(slim, tmp_path / "bundle")
    again = sc.load(folder)
    with torch.no_grad():
        assert torch.equal(again(x).logits, slim(x).logits)
    assert type(again).__mro__[-1] is object
    assert isinstance(again, type(model))
    assert again.config._attn_implementation == model.config._attn_implementation
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("transformers/os", {}, "no network class"),
        ("transformers/pipeline", {}, "no network class"),
        ("transformers/AutoModel", {}, "no network class"),
        ("transformers/__dict__", {}, "no network class"),
        ("transformers/ViTModel", {"config": {"auto_map": {"AutoModel": "x--y.Z"}}}, "fetch"),
        ("transformers/ViTModel", {"config": {"deep": [{"backbone": "hf-hub:x/y"}]}}, "fetch"),
        ("transformers/ViTModel", {"attention": "kernels-community/flash"}, "fetch"),
        ("transformers/ViTModel", {"config": "x"}, "fields"),
        ("transformers/ViTModel", {"config": {"hidden_size": "many"}}, "cannot be built"),
        ("timm/resnet18", {"pretrained": True}, "fetch weights"),
        ("timm/resnet18", {"checkpoint_path": "x.pth"}, "fetch weights"),
        ("timm/hf-hub:x/y", {}, "timm"),
        ("resnet20", {"weights": "x.pth"}, "fetch weights"),
        ("resnet20", {"num_classes": -1}, "cannot be built"),
        ("resnet20", {"num_classes": "x" * 5000}, "cannot be built"),
        ("resnet20", {"in_channels": None}, "cannot be built"),
    ],
)
def test_names_that_a_stranger_may_give(name, arguments, message):
    pytest.importorskip(name.partition("/")[0] if "/" in name else "torch")
    with pytest.raises(sc.RequestError, match=message) as error:
        rebuild({"name": name, "arguments": arguments})
    assert "\n" not in str(error.value)


# what is refused


def _drop(name):
    return lambda folder: (folder / name).unlink()


def _sum(name, value="0"):
    def change(folder):
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["sha256"][name] = value
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return change


def _link_out(name):
    def change(folder):
        outside = (folder / name).rename(folder.parent / "outside")
        (folder / name).symlink_to(outside)

    return change


def _pickled(folder):
    torch.save({"x": torch.zeros(1)}, folder / "model.safetensors")
    rehash(folder)


def _version(number):
    def change(folder):
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**manifest, "version": number}))

    return change


DAMAGES = {
    "a changed file": (lambda f: (f / "model.safetensors").write_bytes(b"x"), "changed since it was written"),
    "a changed card": (lambda f: (f / "README.md").write_text("x"), "'README.md' was changed"),
    "a missing file": (_drop("plan.json"), "lacks the file 'plan.json'"),
    "no manifest": (_drop(MANIFEST), "manifest.json is missing"),
    "half a manifest": (lambda f: (f / MANIFEST).write_text("{"), "not readable JSON"),
    "bytes as manifest": (lambda f: (f / MANIFEST).write_bytes(b"\xff\x00"), "not readable JSON"),
    "a deep manifest": (lambda f: (f / MANIFEST).write_text("[" * 200_000), "not readable JSON"),
    "a huge manifest": (lambda f: (f / MANIFEST).write_text(" " * 2**21), "larger than 1 MiB"),
    "a list as manifest": (lambda f: (f / MANIFEST).write_text("[]"), "another version"),
    "an incomplete manifest": (lambda f: (f / MANIFEST).write_text('{"version": 2, "sha256": {}}'), "incomplete"),
    "an older version": (_version(1), r"version 1, .* written by secateur \d[\w.]+, load and save it again"),
    "a newer version": (_version(99), "version 99, .* pip install --upgrade secateur"),
    "a version of words": (_version("two"), "another version"),
    "the parent folder": (_sum("../secret"), "lists '../secret', which is no file of a bundle"),
    "an absolute path": (_sum("/etc/passwd"), "no file of a bundle"),
    "Windows separators": (_sum("..\\secret"), "no file of a bundle"),
    "a drive": (_sum("C:\\secret"), "no file of a bundle"),
    "a pickle beside": (_sum("extra.pkl"), "no file of a bundle"),
    "a checkpoint beside": (_sum("extra.pt"), "no file of a bundle"),
    "a sum that is no text": (_sum("plan.json", 3), "checksum differs"),
    "a link to outside": (_link_out("model.safetensors"), "leads out of the bundle"),
    "a link as manifest": (_link_out(MANIFEST), "leads out of the bundle"),
    "a PyTorch archive": (_pickled, "is no safetensors file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_bundles_are_refused_in_one_line(bundle, damage):
    change, message = DAMAGES[damage]
    change(bundle)
    with pytest.raises(sc.RequestError, match=message) as error:
        sc.load(bundle, model=Tokens())
    assert "\n" not in str(error.value)
    assert str(bundle) in str(error.value)


def _set(*path):
    *way, last, value = path

    def change(values):
        for key in way:
            values = values[key]
        values[last] = value

    return change


CUT = {"tensor": "up.weight", "dim": 0, "role": "out", "size": 32, "removed": [0]}
FORGERIES = {
    "cuts that do not fit": (_set("edits", "cuts", 0, "size", 999), "another network"),
    "a cut of nothing here": (_set("edits", "cuts", 0, "tensor", "elsewhere.weight"), "not here"),
    "cuts out of range": (_set("edits", "cuts", 0, "removed", [10**6]), "out of range"),
    "a cut to infinity": (_set("edits", "cuts", 0, "removed", [1e400]), "unreadable architecture.json"),
    "cuts twice": (_set("edits", "cuts", [CUT, CUT]), "fit"),
    "a cut from behind": (_set("edits", "cuts", [{**CUT, "dim": -7}]), "fit"),
    "no cuts": (_set("edits", "cuts", []), "fit"),
    "cuts that are text": (_set("edits", "cuts", "all"), "unreadable architecture.json"),
    "edits that are a list": (_set("edits", []), "unreadable architecture.json"),
    "an attribute that is none": (_set("edits", "attributes", {"": {"forward": 3}}), "no integer 'forward'"),
    "an attribute of words": (_set("edits", "attributes", {"": {"heads": "x"}}), "unreadable architecture.json"),
    "a bias nowhere": (_set("added_biases", ["nowhere"]), "no layer 'nowhere'"),
    "biases that are none": (_set("added_biases", 3), "unreadable architecture.json .added_biases"),
    "an origin of words": (_set("origin", "os.system"), "unreadable architecture.json .origin"),
    "ties of strangers": (_set("state", "ties", [["up.weight", "down.weight"]]), "two values of 'up.weight'"),
    "impossible strides": (_set("state", "strides", {"up.bias": [10**12]}), "cannot have strides"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_edits_are_refused(bundle, forgery):
    change, message = FORGERIES[forgery]
    forge(bundle, change)
    with pytest.raises(sc.RequestError, match=message) as error:
        sc.load(bundle, model=Tokens())
    assert "\n" not in str(error.value)


def _nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "step",
    [
        {"call": "torch.load"},
        {"call": "torch.hub.load"},
        {"call": "builtins.eval"},
        {"call": "os.system"},
        {"call": ""},
        {"call": "torch.Tensor.__reduce_ex__"},
        {"call": "torch.Tensor.apply_"},
        {"call": "torch.Tensor.is_cuda"},
        {"call": "torch.Tensor.requires_grad.__get__"},
        {"call": "module:"},
        {"call": "module:nowhere"},
        {"call": "module:up.register_forward_hook"},
        {"args": [{"state": "__class__.__init__.__globals__"}]},
        {"args": [{"state": "up.forward"}]},
        {"args": [{"state": 3}]},
        {"args": [{"$": 10**9}]},
        {"args": [{"$": -1}]},
        {"args": [{"$": True}]},
        {"args": [{"$": [0]}]},
        {"args": [{"in": -1}]},
        {"args": [{"in": 0, "at": "xy"}]},
        {"args": [{"in": 0, "at": [{}]}]},
        {"args": [{"op": ["pow", 10**9, 10**9]}]},
        {"args": [{"op": []}]},
        {"args": [{"size": [{"in": 0}, "x"]}]},
        {"args": [{"dict": [1, 2]}]},
        {"args": [{"slice": [1]}]},
        {"args": [{"tuple": 3}]},
        {"args": [{"float": "0x"}]},
        {"args": [{"torch": "load"}]},
        {"args": [{"torch": ["load"]}]},
        {"args": [{"unknown": 1}]},
        {"args": [{}]},
        {"args": _nested(900)},
        {"kwargs": {"out": {"state": "_modules"}}},
        {"kwargs": 5},
        {"args": None},
    ],
)
def test_forged_code_is_refused(bundle, step):
    code = {"steps": [{"call": "torch.relu", "args": [{"in": 0}], "kwargs": {}, **step}], "output": {"$": 0}}
    forge(bundle, _set("edits", "code", {"": code}))
    with pytest.raises(sc.RequestError) as error:
        sc.load(bundle, model=Tokens())
    assert "\n" not in str(error.value)


# disks


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    model, _ = zoo("resnet20")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(sc.SecateurError, match="cannot write"):
            sc.save(model, tmp_path / "bundle")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_only_bundles_are_replaced(tmp_path):
    model, _ = user_net()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(sc.RequestError, match="not a bundle"):
        sc.save(model, tmp_path / "mine")
    folder = sc.save(model, tmp_path / "bundle", metrics={"run": 1})
    sc.save(model, folder, metrics={"run": 2})
    assert read_bundle(folder, UserNet()).metrics == {"run": 2}
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(sc.RequestError, match="'notes.txt'"):
        sc.save(model, folder)


class Dies(BaseException):
    """The program is killed: nothing runs after this."""


class Disk:
    """Counts what Python does in a folder, and kills the program at one of these steps."""

    def __init__(self):
        self.folder, self.left, self.dead = "", 0, False

    def __call__(self, event, args):
        if not self.folder or event.partition(".")[0] not in ("open", "os", "shutil", "tempfile"):
            return
        if any(isinstance(arg, (str, bytes)) and self.folder in os.fsdecode(arg) for arg in args):
            self.left -= 1
            if self.left < 0:
                self.dead = True  # cleaning up does not happen either
                raise Dies


DISK = Disk()


@contextlib.contextmanager
def dying_after(steps, folder):
    """Within, the program dies after some steps in the folder; it is alive again afterwards."""
    if DISK not in HOOKED:
        sys.addaudithook(DISK)  # cannot be taken away again, so there is one that is idle
        HOOKED.append(DISK)
    DISK.left, DISK.dead, DISK.folder = steps, False, str(folder)
    try:
        yield DISK
    except Dies:
        assert DISK.dead
    finally:
        DISK.folder = ""


HOOKED: list[Disk] = []


def test_a_save_that_dies_at_any_step_leaves_the_old_or_the_new(tmp_path):
    """Whole, each; or a line that says where the old one is."""
    models = [nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)) for _ in range(2)]
    x = torch.randn(4, 2)
    before = sc.save(models[0], tmp_path / "before", metrics={"model": 0})
    shutil.copytree(before, tmp_path / "count")
    with dying_after(10**6, tmp_path) as disk:
        sc.save(models[1], tmp_path / "count", verify=False)
    steps = 10**6 - disk.left
    assert steps >= 100
    seen = set()
    for step in range(steps + 1):
        home = tmp_path / str(step)
        home.mkdir()
        shutil.copytree(before, home / "bundle")
        with dying_after(step, home):
            sc.save(models[1], home / "bundle", metrics={"model": 1}, verify=False)
        for folder in (home / "bundle", *home.glob(".*")):
            fresh = copy.deepcopy(models[0])
            found, line = None, ""
            try:
                found = read_bundle(folder, fresh)
            except sc.RequestError as error:
                line = str(error)
            if found is not None:
                assert folder.name == "bundle"
                assert exact(models[found.metrics["model"]], found.model, x)
                seen.add(found.metrics["model"])
                continue
            seen.add("refused")
            if folder.name == "bundle":
                seen.add("set aside")
                [was] = home.glob(".*.old/was")
                assert str(was) in line
                assert exact(models[0], sc.load(was, fresh), x)
        shutil.rmtree(home)
    assert seen == {0, 1, "refused", "set aside"}


def test_files_cut_short_are_refused(bundle):
    """Whatever file of a bundle is cut wherever, and whatever mix of two bundles there is."""
    for name in (*MEMBERS, MANIFEST):
        whole = (bundle / name).read_bytes()
        for offset in {len(whole) * k // 15 for k in range(15)}:
            (bundle / name).write_bytes(whole[:offset])
            with pytest.raises(sc.RequestError):
                sc.load(bundle, model=Tokens())
        (bundle / name).write_bytes(whole)
    sc.load(bundle, model=Tokens())


def test_mixes_of_two_bundles_are_refused(tmp_path):
    models = [nn.Sequential(nn.Linear(2, 3)) for _ in range(2)]
    folders = [sc.save(model, tmp_path / f"{n}", metrics={"n": n}) for n, model in enumerate(models)]
    names = ["model.safetensors", "metrics.json", "README.md", MANIFEST]
    for mixed in range(1, 2 ** len(names) - 1):
        mix = shutil.copytree(folders[0], tmp_path / "mix", dirs_exist_ok=True)
        for number, name in enumerate(names):
            shutil.copy(folders[mixed >> number & 1] / name, mix / name)
        with pytest.raises(sc.RequestError, match="was changed"):
            sc.load(mix, model=nn.Sequential(nn.Linear(2, 3)))


# forgeries at random


def _places(value, way=()):
    """All ways into a JSON value."""
    yield way
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*way, key))


STRANGE = [
    None, True, False, -3, -1, 0, 1, 2, 3, 16, 10**6, 2**31, 2**63, 10**40, 1e400, -0.5, "", "x", "__class__",
    "torch.load", "torch.Tensor.numpy", "torch.relu", "module:up", "module:", "up.weight", "qkv.weight", "forward",
    "_modules", "in", "out", "along", "../..", "heads", "training", "dump_patches", [], {}, [[]], {"$": 0}, {"in": 0},
    {"state": "__dict__"}, {"op": ["mul", 2, 3]}, _nested(50), {"baked": {"up.weight": {"steps": [], "output": 1}}},
]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1))
def test_random_forgeries_load_or_are_refused(saved, seed):
    check_forgery(saved[2], seed)


@pytest.mark.slow
def test_three_thousand_forgeries(saved):
    for seed in range(3000):
        check_forgery(saved[2], seed)


def check_forgery(whole, seed):
    """A mutated architecture.json with right checksums: `RequestError` or a network; nothing unknown is called."""
    source = random.Random(seed)
    with TemporaryDirectory() as home:
        folder = shutil.copytree(whole, Path(home) / "bundle")
        forge(folder, lambda values: mutate(values, source))
        called, line, found = [], "", None
        known = rewritten.function_named
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rewritten, "function_named", lambda name: called.append(name) or known(name))
            for owner, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (os, "system")):
                patch.setattr(owner, name, _forbidden)
            try:
                found = sc.load(folder, model=Tokens())
            except sc.RequestError as error:
                line = str(error)
    assert "\n" not in line
    assert bool(line) or (isinstance(found, Tokens) and all(callable(known(name)) for name in called))


def mutate(values, source):
    for _ in range(source.randint(1, 3)):
        part = source.choice(["edits", "edits", "edits", "state", "added_biases", "origin", "data"])
        place, last = values, part
        for key in source.choice(list(_places(values[part]))):
            place, last = place[last], key
        if source.random() < 0.2 and place is not values:
            del place[last]
        else:
            place[last] = copy.deepcopy(source.choice(STRANGE))


def _forbidden(*args, **kwargs):
    raise AssertionError("a forged bundle ran something")


# the hub


def test_a_bundle_is_a_repository_of_the_hub(tmp_path):
    model, x = zoo("resnet20")
    plan = plan_for(model, x, 0.5)
    memory = {"peak_bytes": 12_500_000, "network_bytes": 4_500_000, "batch_size": 64}
    before = {"accuracy": 0.9, "params": 100, "memory": memory}
    metrics = {"before": before, "pruned": {"accuracy": 0.88, "memory": {"mine": 1}}, "note": "a|b\n<script>"}
    folder = sc.save(sc.prune(model, plan), tmp_path / "bundle", plan=plan, metrics=metrics)
    about = json.loads((folder / "config.json").read_text())
    assert about["library_name"] == "secateur"
    assert about["origin"] == {"name": "resnet20", "arguments": {"num_classes": 10}}
    assert 0 < about["kept"]["params"] < 1
    assert about["kept"]["last_plan"] == dict(plan.achieved)
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "secateur", "tags": ["secateur", "pruning", "pytorch"]}
    assert "| accuracy | 0.9 | 0.88 |  |" in body
    assert "| peak memory | 12.5 MB for a batch of 64 |  |  |" in body
    assert "<script>" not in body
    assert exact(sc.prune(model, plan), from_pretrained(folder), x)


def test_the_card_names_the_trained_network_that_it_started_from(tmp_path):
    model = hugging_face("ViTForImageClassification")
    for name, expected in (("google/vit-base-patch16-224", "google/vit-base-patch16-224"), ("/home/me/x", None)):
        model.config.name_or_path = name
        front = (sc.save(model, tmp_path / "bundle") / "README.md").read_text().split("---\n")[1]
        assert yaml.safe_load(front).get("base_model") == expected


@pytest.fixture
def hub(monkeypatch, saved, tmp_path):
    """A hub without a network: its cache holds links beside snapshots, as the real one's does."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(repository, *, revision, allow_patterns):
        asked.append((repository, revision, sorted(allow_patterns)))
        if repository != "me/net":
            raise ConnectionError("no route")
        cache = tmp_path / "models--me--net"
        snapshot = cache / "snapshots" / "0123"
        (cache / "blobs").mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for number, name in enumerate(allow_patterns):
            shutil.copy(saved[2] / name, cache / "blobs" / str(number))
            (snapshot / name).symlink_to(f"../../blobs/{number}")
        return str(snapshot)

    class Client:
        def __init__(self, **options):
            pass

        def create_repo(self, repository, **options):
            asked.append(("create", repository, options))
            return f"https://hub/{repository}"

        def upload_folder(self, **options):
            asked.append(("upload", options["folder_path"], sorted(options["allow_patterns"])))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", Client)
    return asked


def test_repositories_are_fetched_by_the_names_of_a_bundles_files(hub, saved):
    assert exact(saved[0], from_pretrained("me/net", Tokens(), revision="v1"), saved[1])
    assert hub == [("me/net", "v1", sorted((*MEMBERS, MANIFEST)))]
    with pytest.raises(sc.SecateurError, match="cannot fetch 'me/other' .*no local folder.*: no route"):
        from_pretrained("me/other")


@pytest.mark.parametrize("name", ["nowhere", "/no/where", "../me/net", "me/..", "a/b/c", "me/net\n", ".me/net"])
def test_what_is_no_repository_asks_nobody(hub, name):
    with pytest.raises(sc.RequestError, match="no folder and no repository"):
        from_pretrained(name)
    assert hub == []


def test_local_folders_ask_nobody_and_whole_bundles_are_pushed(hub, bundle, saved):
    assert exact(saved[0], from_pretrained(bundle, Tokens()), saved[1])
    assert hub == []
    assert push_to_hub(bundle, "me/net", private=True) == "https://hub/me/net"
    assert [entry[0] for entry in hub] == ["create", "upload"]
    (bundle / "metrics.json").write_text("{}")
    with pytest.raises(sc.RequestError, match="changed"):
        push_to_hub(bundle, "me/net")
    assert len(hub) == 2


def test_extras_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(sc.RequestError, match=r"pip install 'secateur\[hub\]'"):
        from_pretrained("me/net")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(sc.RequestError, match=r"pip install 'secateur\[transformers\]'"):
        sc.build("transformers/ViTModel")
