"""Networks whose weights a library fetches: here, the library is given them."""

from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import SqueezeNet1_1_Weights, get_model
from torchvision.models._api import WeightsEnum

from secateur.cli.exported import ExportJob
from secateur.cli.main import run
from secateur.core.errors import RequestError, SecateurError
from secateur.models import ModelSettings, open_network, origin_of
from secateur.models.building import rebuild
from secateur.models.records import library_weights, record_of
from secateur.pipeline.jobs import PruneJob, TrainJob
from secateur.pipeline.recipe import load_recipe
from secateur.pipeline.run import prepare

NET = "torchvision/squeezenet1_1"
TRAINED = ["--model", NET, "--set", "model.arguments={weights: DEFAULT}"]


def weights_of(name: str) -> dict:
    """Weights that no constructor gives."""
    extra = {"init_weights": True} if name == "googlenet" else {}
    with torch.random.fork_rng():
        torch.manual_seed(77)
        return get_model(name, weights=None, **extra).state_dict()


@pytest.fixture(autouse=True)
def fetched(monkeypatch):
    def state(self, *args, **kwargs):
        return weights_of("googlenet" if "GoogLeNet" in type(self).__name__ else "squeezenet1_1")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", state)


def folder_of(root: Path, *names: str, count: int = 5) -> Path:
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(10 * label + number).integers(0, 256, (50, 70, 3), np.uint8)
            Image.fromarray(pixels).resize((300, 280)).save(root / name / f"{number}.png")
    return root


def recipe_of(source: Path, **changes):
    start = {"data.source": str(source), "model.name": NET, "model.arguments": {"weights": "DEFAULT"}}
    return load_recipe(None, {**start, "reference.per_class": 1, **changes})


def test_images_are_prepared_as_the_weights_say(tmp_path):
    root = folder_of(tmp_path / "imagenette", "n01440764", "n03888257")
    prepared = prepare(recipe_of(root))
    usual = SqueezeNet1_1_Weights.DEFAULT.transforms()
    for index, path in enumerate(prepared.data.test.images):
        with Image.open(path) as picture:
            assert torch.allclose(prepared.data.test[index][0], usual(picture), atol=1e-6)
    assert prepared.trained
    (first, second) = prepared.notes
    assert first == (
        "images as the network's weights were trained: shorter side 256, centre crop 224, bilinear; mean 0.485, 0.456, "
        "0.406, std 0.229, 0.224, 0.225 (SqueezeNet1_1_Weights.IMAGENET1K_V1)"
    )
    assert second == "the data's 2 classes are matched by name to 1,000 outputs of the network"
    assert prepared.data_record()["resize"] == {"size": 256, "crop": 224, "interpolation": "bilinear"}


def test_the_recipe_goes_before_the_weights(tmp_path):
    root = folder_of(tmp_path / "imagenette", "n01440764", "n03888257")
    asked = prepare(recipe_of(root, **{"data.resize": {"size": 70, "crop": 64}}))
    assert asked.data.input_shape == (3, 64, 64)
    assert asked.data.normalisation.mean == (0.485, 0.456, 0.406)
    assert "images as data.resize says: shorter side 70, centre crop 64" in asked.notes[0]
    own = prepare(recipe_of(root, **{"data.resize": 64, "data.follow_network": False}))
    assert own.data.normalisation.mean != (0.485, 0.456, 0.406)
    assert not any("images" in note for note in own.notes)
    with pytest.raises(RequestError, match="needs a size"):
        prepare(recipe_of(root, **{"data.follow_network": False}))


def test_imagenette_is_measured_and_pruned_by_a_network_of_imagenet(tmp_path):
    root = folder_of(tmp_path / "imagenette", "n01440764", "n02102040", "n03888257")
    small = {"data.resize": {"size": 72, "crop": 64}}
    whole = prepare(recipe_of(root, **small))
    assert sorted(set(whole.data.test.labels.tolist())) == [0, 217, 701]
    assert [whole.data.class_names[index] for index in (0, 217, 701)] == ["tench", "English springer", "parachute"]
    some = {"data.classes": ["n03888257", "n01440764"], "model.replace_head": "slice"}
    for changes, outputs in (({"model.replace_head": "slice"}, [0, 217, 701]), (some, [0, 701])):
        cut = prepare(recipe_of(root, **small, **changes))
        assert cut.data.class_names == tuple(whole.data.class_names[index] for index in outputs)
        assert sorted(set(cut.data.test.labels.tolist())) == list(range(len(outputs)))
        images = cut.data.test.batch([0, 1])[0]
        with torch.no_grad():
            assert torch.allclose(cut.model(images), whole.model(images)[:, outputs], atol=1e-5)
    job = PruneJob.of(recipe_of(root, **small))
    assert sorted(set(job.reference.targets.tolist())) == [0, 217, 701]


def test_other_classes_get_a_new_head_that_has_to_be_trained(tmp_path, capsys):
    root = folder_of(tmp_path / "pets", "cat", "dog")
    recipe = recipe_of(root, **{"data.resize": 64})
    first, again = prepare(recipe), prepare(recipe)
    trained, fresh = weights_of("squeezenet1_1"), first.model.state_dict()
    head = {"classifier.1.weight", "classifier.1.bias"}
    assert fresh["classifier.1.weight"].shape[0] == 2
    assert all(torch.equal(value, trained[key]) for key, value in fresh.items() if key not in head)
    assert all(torch.equal(value, again.model.state_dict()[key]) for key, value in fresh.items())
    assert not first.trained
    assert first.new_head
    assert "its head is new, with 2 outputs and random weights (train.seed=0)" in first.notes[1]
    with pytest.raises(RequestError, match="its new head would have random ones; train it first"):
        PruneJob.of(recipe)
    TrainJob.of(recipe)
    assert run(["prune", *TRAINED, "--data", str(root), "--set", "data.resize=64", "--dry-run"]) == 2
    assert "train it first" in capsys.readouterr().err
    asked = ModelSettings(name=NET, arguments={"weights": "DEFAULT", "num_classes": 2})
    job = ExportJob.of(asked, None, (3, 64, 64))
    assert f"note: '{NET}' has a new head with random weights" in capsys.readouterr().err
    assert job.metadata["model"]["resize"]["crop"] == 224


def test_training_keeps_what_the_images_have_to_be(tmp_path, capsys):
    root, out = folder_of(tmp_path / "pets", "cat", "dog"), tmp_path / "out"
    size = ["--set", "data.resize={size: 72, crop: 64}"]
    assert run(["train", *TRAINED, "--data", str(root), *size, "--epochs", "1", "--out", str(out)]) == 0
    capsys.readouterr()
    weights = out / "torchvision-squeezenet1_1.safetensors"
    assert record_of(ModelSettings(name=str(weights)))["resize"] == {
        "size": 72,
        "crop": 64,
        "interpolation": "bilinear",
    }
    assert run(["evaluate", "--model", str(weights), "--data", str(root)]) == 0
    assert "images as the network's weights were trained: shorter side 72, centre crop 64" in capsys.readouterr().err


def test_networks_with_auxiliary_heads_take_fetched_weights_and_new_heads():
    plain = open_network(ModelSettings(name="torchvision/googlenet", arguments={"weights": "DEFAULT"}))
    other = open_network(
        ModelSettings(name="torchvision/googlenet", arguments={"weights": "DEFAULT", "num_classes": 3})
    )
    assert plain.trained
    assert len(plain.metadata["class_names"]) == 1000
    assert not other.trained
    assert other.new_head
    assert "class_names" not in other.metadata
    for opened in (plain, other):
        assert opened.model.transform_input
        rebuild(origin_of(opened.model)).load_state_dict(opened.model.state_dict())


def test_weights_that_are_not_to_be_had(monkeypatch):
    def refused(message, error=RequestError, **arguments):
        with pytest.raises(error, match=message) as caught:
            open_network(ModelSettings(name=arguments.pop("name", NET), arguments=arguments))
        assert "\n" not in str(caught.value)

    refused(r"no weights 'IMAGENET1K_V9' of squeezenet1_1 \(did you mean 'IMAGENET1K_V1'\?\)", weights="IMAGENET1K_V9")
    refused("have no classifier; take others: IMAGENET1K_V1", weights="IMAGENET1K_FEATURES", name="torchvision/vgg16")

    def away(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", away)
    refused("could not be fetched .*no route.*--weights FILE", SecateurError, weights="DEFAULT")


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "efficientnet_b0.ra_in1k", "vit_tiny_patch16_224.augreg_in21k"])
def test_timms_record_is_timms_own(name):
    timm = pytest.importorskip("timm")
    from timm.data import create_transform, resolve_data_config

    found = library_weights(f"timm/{name}", {"pretrained": True})
    config = timm.models.get_pretrained_cfg(name).to_dict()
    resize, crop, *_ = create_transform(**resolve_data_config({}, pretrained_cfg=config)).transforms
    assert (found.resize["size"], found.resize["crop"]) == (resize.size, crop.size[0])
    assert found.resize["interpolation"] == resize.interpolation.value
    assert found.num_classes == config["num_classes"] == len(found.class_names)
    if found.num_classes == 1000:
        assert found.class_names[217] == "English springer"


def test_timms_weights_with_another_number_of_classes(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(5)
    stored = timm.create_model("mobilenetv3_small_050", pretrained=False)
    torch.save(stored.state_dict(), tmp_path / "weights.pt")
    asked = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pt")}}
    name = "timm/mobilenetv3_small_050"
    plain = open_network(ModelSettings(name=name, arguments=asked))
    assert plain.trained
    assert torch.equal(plain.model.classifier.weight, stored.classifier.weight)
    other = open_network(ModelSettings(name=name, arguments={**asked, "num_classes": 3}))
    assert (other.trained, other.new_head) == (False, True)
    assert other.model.classifier.out_features == 3
    assert torch.equal(other.model.conv_stem.weight, stored.conv_stem.weight)
