import numpy as np
import pytest

from secateur.core.errors import RequestError
from secateur.data import ImageData, LabelledImages, Normalisation
from secateur.data.matching import IMAGENETTE, match_classes, outputs_by_name


def data_of(*names: str, labels=None) -> ImageData:
    labels = np.arange(len(names)).repeat(2) if labels is None else np.asarray(labels)
    pixels = np.zeros((len(labels), 4, 4, 1), np.uint8)
    split = LabelledImages(pixels, labels, names, Normalisation((0.5,), (0.5,)))
    return ImageData("pets", split, split, split)


def test_some_of_the_networks_classes_in_any_order():
    matched = match_classes(data_of("dog", "cat"), ("bird", "cat", "cow", "dog"))
    assert matched.data.test.labels.tolist() == [3, 3, 1, 1]
    assert matched.data.class_names == ("bird", "cat", "cow", "dog")
    assert matched.outputs == (3, 1)
    assert "2 classes are matched by name to 4 outputs" in matched.note


def test_some_of_the_datas_classes():
    matched = match_classes(data_of("bird", "cat", "dog"), ("dog", "bird"))
    assert matched.data.test.labels.tolist() == [1, 1, 0, 0]
    assert matched.data.class_names == ("dog", "bird")
    assert "the network answers for 2 of 3 classes" in matched.note
    three = match_classes(data_of("bird", "cat", "cow", "dog"), ("dog", "bird", "cow"), classes=(0, 3))
    assert sorted(set(three.data.test.labels.tolist())) == [0, 1]
    with pytest.raises(RequestError, match="the network does not know class 'cat'; it knows dog, bird"):
        match_classes(data_of("bird", "cat", "dog"), ("dog", "bird"), classes=(0, 1))


@pytest.mark.parametrize(
    ("own", "names"),
    [
        (("0", "1", "2"), ("cat", "cow", "dog")),
        (("0", "1"), ("cat", "cow", "dog")),
        (("a", "b", "c"), ("cat", "cow", "dog")),
        (("a", "cow", "dog"), ("cat", "cow", "dog")),
        (("cat", "dog"), ()),
        (("cat", "dog"), ("cat", "dog")),
    ],
)
def test_the_order_decides_where_names_do_not(own, names):
    matched = match_classes(data_of(*own), names)
    assert matched.data.class_names == own
    assert matched.note == ""
    assert matched.outputs == tuple(range(len(own)))


@pytest.mark.parametrize(
    ("own", "names"),
    [
        (("cat", "dog"), ("bird", "cat", "cow")),
        (("cow", "dog", "emu"), ("cat", "cow", "dog")),
        (("cat", "dog", "emu"), ("bird", "cat")),
    ],
)
def test_what_cannot_be_matched_is_refused(own, names):
    with pytest.raises(RequestError, match="neither the same nor a part of each other"):
        match_classes(data_of(*own), names)


def test_names_that_several_outputs_have_match_none():
    assert outputs_by_name(("crane", "tench"), ("tench", "crane", "crane")) == (None, 0)


def test_imagenette_is_imagenets_ten_classes_as_torchvision_has_them():
    from torchvision.datasets import Imagenette
    from torchvision.models import ResNet18_Weights

    categories = ResNet18_Weights.DEFAULT.meta["categories"]
    indices = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
    assert outputs_by_name(tuple(IMAGENETTE), categories) == indices
    assert outputs_by_name(tuple(IMAGENETTE.values()), categories) == indices
    assert {wnid: names[0] for wnid, names in Imagenette._WNID_TO_CLASS.items()} == IMAGENETTE
