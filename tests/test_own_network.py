"""Networks that are not named but brought: the user's own code, files of weights, exported programs."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

import secateur as sc
from secateur.core.errors import RequestError
from secateur.models import (
    ModelSettings,
    build,
    check_model,
    check_model_name,
    installed,
    load_weights,
    open_network,
    origin_of,
    read_metadata,
    save_weights,
)
from secateur.models.opening import build_architecture, image_channels
from secateur.models.settings import SHIPPED, kind_of

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def refused(settings: ModelSettings, message: str, *, early: bool = True) -> str:
    """The one line with which settings are refused, by the check alone and by the work alike."""
    for use in (check_model, open_network) if early else (open_network,):
        with pytest.raises(RequestError, match=message) as caught:
            use(settings)
        assert "\n" not in str(caught.value)
    return str(caught.value)


# names, before anything is opened


def test_names_are_checked_without_pytorch():
    code = """
import sys
from secateur.models.settings import ModelSettings, check_model, check_model_name
check_model(ModelSettings(name="resnet20-cifar10"))
for name in ("torchvision/resnet18", "resnet18", "json.decoder:JSONDecoder"):
    check_model_name(name)
try:
    check_model_name("torchvision/resnet19")
except ValueError as error:
    assert "did you mean 'resnet1" in str(error), error
heavy = {"torch", "torchvision", "timm", "transformers", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_is_read_is_what_torchvision_lists():
    import torchvision

    listed = torchvision.models.list_models(module=torchvision.models)
    assert sorted(listed) == list(installed.torchvision_classifiers())


def test_what_is_read_is_what_timm_lists():
    timm = pytest.importorskip("timm", reason="the timm extra is not installed")
    assert sorted(timm.list_models()) == list(installed.timm_networks())
    assert all(timm.is_model(name) for name in installed.renamed_in_timm())


def test_what_is_read_is_in_transformers():
    pytest.importorskip("transformers", reason="the transformers extra is not installed")
    for name in ("ViTForImageClassification", "ViTPreTrainedModel", "ViTEmbeddings"):
        assert installed.has_transformers_class(name)
    assert not installed.has_transformers_class("ViTForImageClasification")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", r"unknown model 'resnet' \(did you mean 'resnet20'\?\)"),
        ("resnet20-cifar", r"did you mean 'resnet20-cifar10'\?"),
        ("ResNet20", r"did you mean 'resnet20'\?"),
        ("vgg11", None),
        ("torchvision/resnet18", None),
        ("torchvision/fasterrcnn_resnet50_fpn", "torchvision has no classifier"),
        (
            "no_such_folder/bundle",
            "unknown model 'no_such_folder/bundle', and there is no such folder; known: .*a bundle folder",
        ),
        ("no such module:make", "neither a module nor a .py file"),
        ("json.decodr:JSONDecoder", r"no module 'json.decodr' \(did you mean 'json.decoder'\?\)"),
        ("json.decoder:JSONDecode", r"'json.decoder' defines no 'JSONDecode' \(did you mean 'JSONDecoder'\?\)"),
        ("nothing.safetensors", "'nothing.safetensors' is a file that does not exist"),
    ],
)
def test_names_that_cannot_be_right(name, message):
    if message is None:
        return check_model_name(name)
    with pytest.raises(RequestError, match=message) as caught:
        check_model_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet50.a1_in1k", None),
        ("timm/resnet5O", r"timm has no model 'resnet5O' \(did you mean 'resnet50'\?\)"),
        ("timm/hf_hub:somebody/network", "not fetched from a hub by name"),
    ],
)
def test_timm_names(name, message):
    pytest.importorskip("timm", reason="the timm extra is not installed")
    test_names_that_cannot_be_right(name, message)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_libraries_that_are_not_installed(library, monkeypatch):
    monkeypatch.setattr(installed, "is_installed", lambda name: False)
    with pytest.raises(
        RequestError, match=rf"'{library}/anything' needs an extra: pip install 'secateur\[{library}\]'"
    ):
        check_model_name(f"{library}/anything")


def test_files_that_were_meant(tmp_path):
    path = save_weights(build("resnet20", width=4), tmp_path / "model.safetensors")
    with pytest.raises(RequestError, match=r"unknown model '.*model.safetensor' \(did you mean '.*/model.safetensors'"):
        check_model_name(str(tmp_path / "model.safetensor"))
    for wrong in ("modle.safetensors", "weights.safetensors", "Model.safetensors"):
        with pytest.raises(RequestError, match=r"\(did you mean '.*/model.safetensors'\?\)"):
            check_model_name(str(tmp_path / wrong))
        with pytest.raises(RequestError, match=r"does not exist \(did you mean '.*/model.safetensors'\?\)"):
            load_weights(build("resnet20", width=4), tmp_path / wrong)
    with pytest.raises(RequestError, match="belongs to a bundle|is not a bundle.*give '.*model.safetensors'"):
        check_model_name(str(tmp_path))
    check_model_name(str(path))


# the user's own code

CODE = """
from pathlib import Path
import torch
from torch import nn
from helper import WIDTH

Path("ran").touch()

class Net(nn.Sequential):
    def __init__(self, classes=3, width=WIDTH):
        super().__init__(nn.Flatten(), nn.Linear(768, width), nn.ReLU(), nn.Linear(width, classes))

    @classmethod
    def small(cls):
        return cls(width=2)

def seeded(**arguments):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Net(**arguments)

def late():
    from helper import WIDTH
    return Net(width=WIDTH)

ready = seeded()
number = 3

def nothing():
    return {"weights": 3}

def fails(classes=3):
    raise OSError(f"no weights for {classes} classes\\nin the cupboard")

def leaves():
    raise SystemExit(0)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with the user's own code, which is the current one."""
    (tmp_path / "nets.py").write_text(CODE)
    (tmp_path / "helper.py").write_text("WIDTH = 5\n")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from nets import Net\n")
    (package / "inner.py").write_text("from . import Net as Inner\n")
    (tmp_path / "wrong.py").write_text("import torch\n\ndef make(:\n")
    (tmp_path / "lacking.py").write_text("import no_such_library\n\ndef make():\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "arguments", "width"),
    [
        ("nets:Net", {}, 5),
        ("nets:Net", {"classes": 4, "width": 6}, 6),
        ("nets:Net.small", {}, 2),
        ("nets:late", {}, 5),
        ("nets.py:Net", {}, 5),
        ("package.inner:Inner", {}, 5),
        ("nets:ready", {}, 5),
    ],
)
def test_own_code(own, name, arguments, width):
    settings = ModelSettings(name=name, arguments=arguments, trust_code=True)
    check_model(settings)
    assert not (own / "ran").exists(), "checking a name runs nothing"
    path = list(sys.path)
    opened = open_network(settings)
    assert (own / "ran").exists()
    assert sys.path == path
    assert opened.kind == "code"
    assert not opened.model.training
    assert opened.model[1].out_features == width
    assert opened.model(IMAGES).shape == (3, arguments.get("classes", 3))
    assert origin_of(opened.model) is None


def test_own_code_by_its_path_from_elsewhere(own, monkeypatch):
    elsewhere = own / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert build(f"{own}/nets.py:Net", trust_code=True, width=3)[1].out_features == 3


def test_own_code_runs_only_when_trusted(own):
    message = refused(ModelSettings(name="nets:Net"), "runs code of that module.*--trust-code")
    assert "trust_code=True" in message
    with pytest.raises(RequestError, match="runs code"):
        build("nets.py:Net")
    assert not (own / "ran").exists()


def test_whether_own_networks_are_trained(own):
    def trained(name, **arguments):
        return open_network(ModelSettings(name=name, arguments=arguments, trust_code=True)).trained

    assert not trained("nets:Net")
    assert trained("nets:seeded")
    file = save_weights(build("nets:Net", trust_code=True), own / "net.safetensors")
    opened = open_network(ModelSettings(name="nets:Net", weights=file, trust_code=True))
    assert opened.trained
    assert torch.equal(
        opened.model.state_dict()["1.weight"], load_weights(build("nets:Net", trust_code=True), file)[1].weight
    )
    torch.manual_seed(3)
    first = build("nets:Net", trust_code=True)
    torch.manual_seed(3)
    assert same(first, build("nets:Net", trust_code=True)), "asking whether it is trained draws no numbers"


@pytest.mark.parametrize(
    ("name", "message", "early"),
    [
        ("netz:Net", r"no module 'netz' \(did you mean 'nets'\?\)", True),
        ("package.iner:Inner", r"no module 'package.iner' \(did you mean 'package.inner'\?\)", True),
        ("nest.py:Net", r"no file 'nest.py' \(did you mean 'nets.py'\?\)", True),
        ("nets:Nett", r"'nets' defines no 'Nett' \(did you mean 'Net'\?\)", True),
        ("nets:Net.smal", r"'nets' defines no 'smal' \(did you mean 'small'\?\)", False),
        ("nets:", "is not a valid reference", True),
        ("wrong:make", r"'wrong.py' is not valid Python, line 3", True),
        ("lacking:make", r"importing 'lacking' raised ModuleNotFoundError: No module named 'no_such_library'", False),
        ("nets:number", "is a int; name a class or function", False),
        ("nets:nothing", "returned a dict, not a network", False),
        ("nets:fails", r"fails\(\) raised OSError: no weights for 3 classes \(nets.py, line \d+\)", False),
        ("nets:leaves", "raised SystemExit: 0", False),
    ],
)
def test_own_code_that_is_wrong(own, name, message, early):
    refused(ModelSettings(name=name, trust_code=True), message, early=early)
    assert early is False or not (own / "ran").exists()


def test_arguments_that_own_code_does_not_take(own):
    settings = ModelSettings(name="nets:Net", arguments={"colour": "red"}, trust_code=True)
    refused(settings, r"Net\(colour='red'\) raised TypeError: .*unexpected keyword argument 'colour'", early=False)
    settings = ModelSettings(name="nets:ready", arguments={"classes": 3}, trust_code=True)
    refused(settings, "is a network already, and takes no arguments", early=False)


def test_own_networks_are_pruned_saved_and_loaded(own):
    model = build("nets:seeded", trust_code=True)
    slim = sc.prune(
        model, sc.select(sc.score(model, sc.trace(model, IMAGES), _reference(), "weight"), sc.Budget(units=0.5))
    )
    sc.save(slim, own / "bundle")
    with pytest.raises(RequestError, match=r"nets.Net.*load it with sc.load\(path, model=\.\.\.\)"):
        sc.load(own / "bundle")
    settings = ModelSettings(name=str(own / "bundle"), architecture="nets:seeded", trust_code=True)
    assert same(sc.load(own / "bundle", model=build_architecture(settings)), slim)
    refused(settings.model_copy(update={"trust_code": False}), "runs code")
    refused(settings, r"is a bundle folder; open it with secateur.load", early=False)


def _reference() -> sc.ReferenceSet:
    images = torch.randn(9, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    return sc.ReferenceSet.sample(TensorDataset(images, torch.arange(9) % 3), per_class=3)


# files of weights


def test_weights_say_of_which_network_they_are(tmp_path):
    model = build("resnet20", width=4, num_classes=3, in_channels=1)
    record = {"class_names": ["a", "b", "c"], "normalisation": {"mean": [0.5], "std": [0.25]}}
    path = save_weights(model, tmp_path / "net.safetensors", record)
    assert read_metadata(path)["architecture"] == "resnet20"
    settings = ModelSettings(name=str(path))
    check_model(settings)
    opened = open_network(settings, num_classes=10, in_channels=3)
    assert same(opened.model, model)
    assert opened.trained
    assert opened.kind == "weights"
    assert {key: opened.metadata[key] for key in record} == record
    assert origin_of(opened.model) == origin_of(model)
    assert image_channels(settings) == 1
    # the same file as the weights of a network that is named
    assert same(open_network(ModelSettings(name="resnet20", weights=path), num_classes=10).model, model)
    assert same(build(str(path)), model)


def test_weights_of_libraries_say_so_too(tmp_path):
    model = build("torchvision/mobilenet_v3_small", num_classes=3)
    path = save_weights(model, tmp_path / "net.safetensors")
    assert same(build(str(path)), model)
    assert image_channels(ModelSettings(name=str(path))) == 3


def test_weights_whose_network_is_named(tmp_path, own):
    model = build("resnet20", width=4)
    bare = tmp_path / "bare.safetensors"
    save_file(model.state_dict(), bare)
    refused(ModelSettings(name=str(bare)), "does not say of which network the weights are; name its network")
    settings = ModelSettings(name=str(bare), architecture="resnet20", arguments={"width": 4})
    assert same(open_network(settings).model, model)
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    refused(ModelSettings(name=str(tmp_path / "bare.pt")), "does not say of which network")
    assert same(build(tmp_path / "bare.pt", architecture="resnet20", width=4), model)
    mine = build("nets:Net", trust_code=True)
    path = save_weights(mine, tmp_path / "mine.safetensors")
    assert "architecture" not in read_metadata(path)
    assert same(build(path, architecture="nets:Net", trust_code=True), mine)
    refused(ModelSettings(name=str(path), architecture="nets:Net"), "runs code")


def test_networks_with_other_shapes_are_not_named_in_headers(tmp_path):
    model = build("resnet20", width=4)
    model.fc = nn.Linear(16, 7)
    assert "architecture" not in read_metadata(save_weights(model, tmp_path / "changed.safetensors"))
    whole = build("resnet20", width=4)
    plan = sc.select(sc.score(whole, sc.trace(whole, IMAGES), _reference(), "weight"), sc.Budget(units=0.5))
    slim = sc.prune(whole, plan)
    assert "architecture" not in read_metadata(save_weights(slim, tmp_path / "slim.safetensors"))
    sc.save(slim, tmp_path / "bundle")
    refused(ModelSettings(name=str(tmp_path / "bundle" / "model.safetensors")), "belongs to a bundle; give the folder")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"architecture": "nets:Net"}, "names 'nets:Net', which a file may not ask for"),
        ({"architecture": "nets.py:Net"}, "which a file may not ask for"),
        ({"architecture": "other.pt2"}, "which a file may not ask for"),
        ({"architecture": "resnet21"}, r"names a network that is not known here \(unknown model 'resnet21'"),
        ({"architecture": 3}, "does not say of which network"),
        ({"architecture": "torchvision/resnet18", "arguments": {"weights": "DEFAULT"}}, "it would fetch weights"),
        ({"architecture": "resnet20", "arguments": {"colour": "red"}}, "cannot be built with its recorded arguments"),
    ],
)
def test_headers_of_strangers(own, header, message):
    path = own / "net.safetensors"
    metadata = {key: json.dumps(value) for key, value in header.items()}
    save_file(nn.Linear(2, 2).state_dict(), path, metadata)
    refused(ModelSettings(name=str(path), trust_code=True), message, early="arguments" not in header)
    assert not (own / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet20", "architecture": "resnet56"}, "'resnet20' is neither, leave it out"),
        ({"name": "FILE", "weights": "FILE"}, "brings its weights; leave out --weights"),
        ({"name": "FILE", "architecture": "FILE"}, "holds weights itself; name how the network is built"),
        ({"name": "FILE", "architecture": "resnet"}, r"unknown model 'resnet' \(did you mean 'resnet20'"),
        ({"name": "resnet20", "weights": "nothing.pt"}, "checkpoint 'nothing.pt' does not exist"),
        ({"name": "FILE", "architecture": "resnet56"}, "does not fit the network"),
    ],
)
def test_settings_that_contradict_themselves(tmp_path, changes, message):
    path = save_weights(build("resnet20", width=4), tmp_path / "net.safetensors")
    settings = ModelSettings(**{key: value.replace("FILE", str(path)) for key, value in changes.items()})
    refused(settings, message, early="fit" not in message)


def test_every_source_says_whether_it_is_trained():
    assert open_network(ModelSettings(name=next(iter(SHIPPED)))).trained
    opened = open_network(ModelSettings(name="resnet20"), num_classes=4, in_channels=1)
    assert not opened.trained
    assert opened.model.conv1.in_channels == 1
    assert opened.model.fc.out_features == 4
    assert open_network(ModelSettings(name="torchvision/resnet18"), num_classes=4).model.fc.out_features == 4
    assert (kind_of("resnet18"), image_channels(ModelSettings(name="resnet18"))) == ("torchvision", 3)


# exported programs


def exported(model: nn.Module, path: Path, example: torch.Tensor, dynamic: bool = True, core: bool = False) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    torch.export.save(program.run_decompositions() if core else program, path)
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/archive_format") for name in archive.namelist()):
            pytest.skip("this PyTorch writes programs in its old format")
    return path


class Blocks(nn.Module):
    """Layers of many kinds, in-place functions, a shared layer, and sizes that are computed."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.act = nn.ReLU6(inplace=True)
        self.deep = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.GroupNorm(3, 12), nn.SiLU(inplace=True)
        )
        self.again = nn.Conv2d(12, 12, 1)
        self.mix = nn.Conv2d(24, 8, 1, bias=False)
        self.dropout = nn.Dropout(0.3)
        self.layer_norm = nn.LayerNorm(8)
        self.hidden = nn.Linear(8, 10)
        self.prelu = nn.PReLU(10)
        self.head = nn.Linear(10, 3)
        self.scale = nn.Parameter(torch.ones(10))
        self.register_buffer("shift", torch.full((10,), 0.25))

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        y = self.again(self.again(x) + self.deep(x))
        x = self.mix(torch.cat([x, y * 0.5], dim=1))
        x = nn.functional.max_pool2d(x, 2).flatten(2).transpose(1, 2)
        x = self.layer_norm(self.dropout(x))[:, 1:].mean(dim=1)
        x = self.prelu(self.hidden(x)) * self.scale - self.shift
        return self.head(x)


@pytest.mark.slow
@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_programs_give_the_networks_outputs(tmp_path, dynamic, core):
    torch.manual_seed(0)
    model = Blocks().eval()
    path = exported(model, tmp_path / "net.pt2", IMAGES[:2], dynamic, core)
    opened = open_network(ModelSettings(name=str(path)))
    assert (opened.kind, opened.trained, opened.model.training) == ("program", True, False)
    for images in (IMAGES, IMAGES[:2], IMAGES[:1]):
        torch.testing.assert_close(opened.model(images), model(images))
    if not core:
        layers = {name: type(module) for name, module in opened.model.named_modules() if type(module) is not nn.Module}
        ours = {name: type(module) for name, module in model.named_modules() if list(module.parameters(recurse=False))}
        assert ours.items() <= {**layers, "": Blocks}.items()
        weights, state = dict(opened.model.named_parameters()), dict(model.named_parameters())
        assert weights.keys() == state.keys()
        assert all(torch.equal(weights[name], state[name]) for name in weights)


def test_programs_are_scored_pruned_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    model = Blocks().eval()
    path = exported(model, tmp_path / "net.pt2", IMAGES[:1], dynamic=False)
    program, reference = build(path), _reference()
    structure, expected = sc.trace(program, IMAGES[:1]), sc.trace(model, IMAGES[:1])
    assert [(g.name, g.size) for g in structure.groups] == [(g.name, g.size) for g in expected.groups]
    for criterion in ("lrp", "taylor", "weight"):
        theirs = sc.score(program, structure, reference, criterion).values
        np.testing.assert_allclose(theirs, sc.score(model, expected, reference, criterion).values, rtol=1e-4, atol=1e-7)
    plan = sc.select(sc.score(program, structure, reference, "lrp"), sc.Budget(units=0.5))
    slim = sc.prune(program, plan)
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in program.parameters())
    torch.testing.assert_close(slim(IMAGES), sc.mask(program, plan)(IMAGES))
    sc.save(slim, tmp_path / "bundle", plan=plan)
    torch.testing.assert_close(sc.load(tmp_path / "bundle", model=build(path))(IMAGES), slim(IMAGES))
    settings = ModelSettings(name=str(tmp_path / "bundle"), architecture=str(path))
    check_model(settings)
    assert same(sc.load(tmp_path / "bundle", model=build_architecture(settings)), slim)


def test_programs_of_pruned_networks(tmp_path):
    model = build("resnet20", width=4, num_classes=3)
    structure = sc.trace(model, IMAGES[:1])
    slim = sc.prune(model, sc.select(sc.score(model, structure, _reference(), "weight"), sc.Budget(units=0.5)))
    path = exported(slim, tmp_path / "slim.pt2", IMAGES[:2])
    torch.testing.assert_close(build(path)(IMAGES), slim(IMAGES))


class Whole(nn.Module):
    """The batch size is written into what is exported; ``across``: in a way that other sizes do not follow."""

    def __init__(self, across=False):
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 768))
        self.fc = nn.Linear(768, 4)
        self.across = across

    def forward(self, x):
        x = x.reshape(x.shape[0], 768) + self.token.expand(x.shape[0], -1)
        return self.fc(x - x.mean(dim=0) if self.across else x)


@pytest.mark.parametrize("batch", [1, 2])
def test_batch_sizes_that_were_fixed(tmp_path, batch):
    torch.manual_seed(0)
    model = Whole().eval()
    program = build(exported(model, tmp_path / "fixed.pt2", IMAGES[:batch], dynamic=False))
    torch.testing.assert_close(program(IMAGES), model(IMAGES))
    across = exported(Whole(across=True).eval(), tmp_path / "across.pt2", IMAGES[:batch], dynamic=False)
    message = refused(ModelSettings(name=str(across)), f"exported for batches of {batch}, and gives other", early=False)
    assert "dynamic_shapes" in message


@pytest.mark.slow
def test_sizes_that_were_fixed(tmp_path):
    for dynamic in (False, True):
        model = build("resnet20", width=2)
        program = build(exported(model, tmp_path / "net.pt2", IMAGES[:2], dynamic))
        with pytest.raises(RequestError, match=r"inputs of shape \(any, 3, 16, 16\) were fixed.*dynamic_shapes"):
            sc.trace(program, torch.zeros(1, 3, 32, 32))


class Marker:
    """What unpickling this does is seen."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def changed(path: Path, **changes) -> Path:
    """The program with other members: by the end of their names, functions of their bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    target = path.with_name("changed.pt2")
    with zipfile.ZipFile(target, "w", changes.pop("compression", zipfile.ZIP_STORED)) as archive:
        for name, content in members.items():
            for end, change in changes.items():
                if name.endswith({"graph": "models/model.json", "weights": "weights_config.json",
                                  "inputs": "sample_inputs/model.pt"}[end]):  # fmt: skip
                    content = change(content)
            archive.writestr(name, content)
    return target


def edited(old: str, new: str):
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


def test_nothing_in_a_program_runs(tmp_path):
    model = build("resnet20", width=2).eval()
    path = exported(model, tmp_path / "net.pt2", IMAGES[:2])
    marker = tmp_path / "ran"
    evil = pickle.dumps(Marker(marker))
    code = f"__import__('os').mkdir('{marker}')"
    torch.testing.assert_close(build(changed(path, inputs=lambda old: evil))(IMAGES), model(IMAGES))
    guarded = changed(path, graph=edited('"guards_code": []', json.dumps({"guards_code": [code]})[1:-1]))
    torch.testing.assert_close(build(guarded)(IMAGES), model(IMAGES))
    for change, message in (
        (
            {"weights": edited('"use_pickle": false', '"use_pickle": true')},
            "a pickled object, whose loading may run code",
        ),
        ({"graph": edited("torch.ops.aten.relu.default", "torch.hub.load")}, "'torch.hub.load' is not among those"),
        ({"graph": edited("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default")}, "from_file.*not among"),
        ({"graph": edited("torch.ops.aten.relu.default", "_operator.attrgetter")}, "attrgetter' is not among"),
        ({"weights": edited('"conv1.weight"', json.dumps(f"conv1[{code}]"))}, "is no name of a parameter"),
        ({"weights": edited('"conv1.weight"', '"__class__.weight"')}, "is no name of a parameter"),
        ({"weights": edited('"path_name": "weight_0"', '"path_name": "../../x"')}, "a pickled object|no plain tensor"),
        (
            {"weights": edited('"sizes": [{"as_int": 2}, {"as_int": 3}', '"sizes": [{"as_int": 2000}, {"as_int": 3}')},
            "smaller",
        ),
        ({"graph": edited('"expr_str": "', f'"expr_str": "{code}')}, "is the expression"),
        ({"graph": edited('"major": 8', '"major": 9')}, "format has version 9"),
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed or too large"),
    ):
        broken = changed(path, **change)
        with pytest.raises(RequestError, match=message) as caught:
            build(broken)
        assert "\n" not in str(caught.value)
    named = changed(path, graph=edited('"x"', json.dumps(f"x={code}")))
    torch.testing.assert_close(build(named)(IMAGES), model(IMAGES))
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_programs_that_are_cut_short(tmp_path, share):
    path = exported(build("resnet20", width=2), tmp_path / "net.pt2", IMAGES[:2])
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(ModelSettings(name=str(path)), "exported program '.*': |exported program .* cannot be read", early=False)


def test_programs_that_cannot_be_used(tmp_path):
    training = exported(build("resnet20", width=2).train(), tmp_path / "training.pt2", IMAGES[:2])
    refused(
        ModelSettings(name=str(training)), r"as in training mode; export the network after model.eval\(\)", early=False
    )

    class Rare(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x.flatten(2))

    rare = exported(Rare().eval(), tmp_path / "rare.pt2", IMAGES[:2])
    refused(ModelSettings(name=str(rare)), "operator 'torch.ops.aten.linalg_svdvals.default' is not among", early=False)
    refused(ModelSettings(name=str(rare), arguments={"width": 3}), "takes no arguments", early=False)
    refused(ModelSettings(name=str(tmp_path / "rar.pt2")), r"does not exist \(did you mean '.*/rare.pt2'\?\)")
    (tmp_path / "text.pt2").write_text("hello")
    refused(ModelSettings(name=str(tmp_path / "text.pt2")), "cannot be read", early=False)
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", "8.5")
        archive.writestr("serialized_exported_program.json", "{}")
    refused(ModelSettings(name=str(tmp_path / "old.pt2")), "written by PyTorch before 2.8", early=False)


class InPlace(nn.Module):
    """Changes what a view of it shows."""

    def forward(self, x):
        x = x * 2
        part = x[:, :1]
        return x.mul_(3).flatten(1) if self.training else torch.cat([x.relu_(), part], 1).flatten(1)


def test_changes_in_place_that_others_see(tmp_path):
    path = exported(InPlace().eval(), tmp_path / "net.pt2", IMAGES[:2])
    refused(ModelSettings(name=str(path)), "changes memory in place that other values show", early=False)
