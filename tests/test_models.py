import json
import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from secateur.core.errors import RequestError, SecateurError
from secateur.models import (
    ModelSettings,
    build,
    known_models,
    load_weights,
    origin_of,
    read_metadata,
    registered,
    save_weights,
)
from secateur.models.checkpoint import check_finite, read_tensors
from secateur.models.settings import SHIPPED, WEIGHTS


def small(**changes) -> nn.Module:
    return build("resnet20", **({"width": 4, "num_classes": 3} | changes))


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# building


@pytest.mark.parametrize(
    ("name", "arguments", "classes"),
    [
        ("resnet20", {"num_classes": 7, "in_channels": 1}, 7),
        ("resnet56", {"width": 4}, 10),
        ("vgg11-bn-32", {"width": 4, "num_classes": 3}, 3),
        ("resnet18", {}, 1000),
        ("torchvision/resnet18", {"num_classes": 5}, 5),
        ("timm/resnet18", {"num_classes": 4}, 4),
    ],
)
def test_networks_by_name(name, arguments, classes):
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="the timm extra is not installed")
    model = build(name, **arguments)
    assert not model.training
    channels = arguments.get("in_channels", 3)
    with torch.no_grad():
        assert model(torch.randn(2, channels, 32, 32)).shape == (2, classes)
    assert origin_of(model) == {"name": name, "arguments": arguments}
    again = build(**origin_of(model)["arguments"], name=name)
    assert [v.shape for v in again.state_dict().values()] == [v.shape for v in model.state_dict().values()]


@pytest.mark.parametrize("name", ["googlenet", "torchvision/inception_v3"])
def test_networks_with_auxiliary_heads_build_without_warnings(name):
    assert build(name, num_classes=5).fc.out_features == 5


def test_the_seed_decides_the_weights():
    torch.manual_seed(0)
    first = small()
    torch.manual_seed(0)
    assert same(first, small())
    assert not same(first, small())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet2O", r"unknown model 'resnet2O' \(did you mean 'resnet20'\?\); known: .*vgg11-bn-32"),
        ("torchvision/resnet19", r"torchvision has no classifier 'resnet19' \(did you mean 'resnet1"),
        ("torchvision/fasterrcnn_resnet50_fpn", "no classifier"),
        ("timm/resnet19x", "timm has no model 'resnet19x'"),
        ("elsewhere/resnet18", "unknown model"),
        ("", "unknown model"),
    ],
)
def test_unknown_names_list_the_known(name, message):
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="the timm extra is not installed")
    with pytest.raises(RequestError, match=message) as caught:
        build(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet20", {"colour": "red"}),
        ("resnet20", {"num_classes": 0}),
        ("vgg11-bn-32", {"width": -1}),
        ("resnet20", {"depth": 20}),
        ("resnet18", {"in_channels": 1}),
        ("resnet18", {"num_classes": -5}),
    ],
)
def test_arguments_a_network_does_not_take(name, arguments):
    with pytest.raises(RequestError, match=f"model '{name}' cannot be built with") as caught:
        build(name, **arguments)
    assert "\n" not in str(caught.value)


def test_a_users_network_has_no_origin_until_registered():
    assert origin_of(nn.Linear(2, 2)) is None
    registered.register("test-linear")(lambda size=2: nn.Linear(size, size))
    try:
        assert origin_of(build("test-linear", size=3)) == {"name": "test-linear", "arguments": {"size": 3}}
        assert "test-linear" in known_models()
    finally:
        registered.remove("test-linear")


def test_settings_refuse_strangers():
    assert ModelSettings().name == "resnet20"
    with pytest.raises(ValueError, match="extra"):
        ModelSettings(nme="resnet20")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks(name):
    if not (WEIGHTS / f"{name}.safetensors").is_file():
        pytest.skip(f"the weights of {name} are not in this checkout")
    model = build(name)
    assert origin_of(model)["name"] == SHIPPED[name]
    assert {"normalisation", "class_names", "arguments"} <= read_metadata(WEIGHTS / f"{name}.safetensors").keys()
    check_finite(model)


# checkpoints


def test_weights_come_back_exactly(tmp_path):
    model = small().to(memory_format=torch.channels_last)
    metadata = {"normalisation": {"mean": [0.5], "std": [0.25]}, "class_names": ["a", "ü"]}
    path = save_weights(model, tmp_path / "sub" / "model.safetensors", metadata)
    assert same(build("resnet20", path, width=4, num_classes=3), model)
    built = {"architecture": "resnet20", "arguments": {"width": 4, "num_classes": 3}}
    assert read_metadata(path) == metadata | built
    assert all(tensor.is_contiguous() for tensor in read_tensors(path).values())
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["class_names"]) == ["a", "ü"]


def test_tied_weights_are_saved(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = nn.Linear(3, 3)
            self.b.weight = self.a.weight

    model = Tied()
    assert same(load_weights(Tied(), save_weights(model, tmp_path / "tied.safetensors")), model)


def test_a_full_disk_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(SecateurError, match="cannot write") as caught:
            save_weights(small(), tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_pytorch_files_with_plain_weights(tmp_path, wrap, prefix):
    model = small()
    path = tmp_path / "model.pt"
    torch.save(wrap({prefix + name: tensor for name, tensor in model.state_dict().items()}), path)
    assert same(load_weights(small(), path), model)


def test_a_network_whose_own_names_begin_with_module(tmp_path):
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    path = save_weights(model, tmp_path / "model.safetensors")
    assert same(load_weights(nn.ModuleDict({"module": nn.Linear(2, 2)}), path), model)


class Stranger:
    """An object that only unpickling could bring back."""


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_objects_are_refused(tmp_path, legacy):
    for name, content in (("object", Stranger()), ("network", nn.Linear(2, 2))):
        path = tmp_path / f"{name}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(RequestError, match="may run code") as caught:
            load_weights(nn.Linear(2, 2), path)
        assert "\n" not in str(caught.value)


def refused(model: nn.Module, path: Path, message: str) -> str:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RequestError, match=message) as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_checkpoints(tmp_path, suffix, share):
    model = small()
    path = tmp_path / f"model{suffix}"
    save_file(model.state_dict(), path) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(model, path, "checkpoint")
    if suffix == ".safetensors":
        with pytest.raises(RequestError, match="not a readable safetensors"):
            read_metadata(path)


@pytest.mark.parametrize(
    "content", [{"epoch": 3}, [1, 2], {"weight": [1.0]}, torch.zeros(3), {"model": {"weight": "text"}}]
)
def test_files_without_weights(tmp_path, content):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    refused(nn.Linear(2, 2), path, "does not hold a state_dict")


def test_text_and_absent_files(tmp_path):
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"model{suffix}"
        refused(nn.Linear(2, 2), path, "does not exist")
        path.write_text("hello, this is no checkpoint")
        refused(nn.Linear(2, 2), path, "checkpoint")


def test_a_checkpoint_of_another_network_changes_nothing(tmp_path):
    path = save_weights(small(num_classes=5), tmp_path / "model.safetensors")
    message = refused(small(), path, "does not fit the network: size mismatch for fc.weight")
    assert len(message) < 600
    refused(build("vgg11-bn-32", width=4), path, "Missing key")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    model = small()
    broken = small()
    with torch.no_grad():
        broken.layer2[0].bn1.running_var[2] = value
    path = save_weights(broken, tmp_path / "model.safetensors")
    refused(model, path, r"'layer2.0.bn1.running_var' in checkpoint .* holds 1 NaN or infinite")
    check_finite(model)
    with pytest.raises(RequestError, match=r"'layer2.0.bn1.running_var' holds 1 NaN"):
        check_finite(broken)


def test_networks_that_cannot_take_or_give_weights(tmp_path):
    path = save_weights(nn.Linear(2, 2), tmp_path / "model.safetensors")
    with torch.inference_mode():
        inside = nn.Linear(2, 2)
        assert same(load_weights(nn.Linear(2, 2), path), nn.Linear(2, 2)) is False
    with pytest.raises(RequestError, match=r"'weight' was made inside torch\.inference_mode") as caught:
        load_weights(inside, path)
    assert "\n" not in str(caught.value)
    empty = nn.Linear(2, 2, device="meta")
    for use in (check_finite, lambda net: load_weights(net, path), lambda net: save_weights(net, tmp_path / "new")):
        with pytest.raises(RequestError, match="'weight' is on the meta device"):
            use(empty)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_headers_of_other_tools(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(nn.Linear(2, 2).state_dict(), path, {"format": "pt", "author": "somebody", "epochs": "5"})
    assert read_metadata(path) == {"author": "somebody", "epochs": 5}
    assert read_metadata(tmp_path / "model.pt") == {}
    with pytest.raises(RequestError, match="not a readable"):
        read_metadata(tmp_path / "absent.safetensors")
