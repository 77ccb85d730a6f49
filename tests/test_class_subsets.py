"""Some classes of a data set, and small training sets that stand for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import secateur as sc
from comparisons import compare_settings
from secateur.core.errors import RequestError
from secateur.data import (
    DataSettings,
    ImageData,
    LabelledImages,
    Normalisation,
    ReferenceSet,
    class_indices,
    closest_subset,
    open_data,
)
from secateur.pipeline.compare_settings import SubsetSettings
from secateur.studies.compare import Bench

ANIMALS = ("cat", "dog", "fish", "cow")


def refused(message, action, *arguments, **options):
    with pytest.raises(RequestError, match=message) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)


def split(labels, names=ANIMALS, seed=0) -> LabelledImages:
    labels = np.asarray(labels, np.int64)
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 4, 4, 1), np.uint8)
    return LabelledImages(pixels, labels, names, Normalisation((0.5,), (0.25,)))


def written(path, counts=(8, 6, 4), classes=4):
    """A file whose classes have different brightness, so that statistics tell which were measured."""
    arrays = {"class_names": np.array(ANIMALS[:classes])}
    for name, count in zip(("train", "val", "test"), counts, strict=True):
        labels = np.tile(np.arange(classes), count)
        noise = np.random.default_rng(count).integers(0, 20, (len(labels), 4, 4), np.uint8)
        arrays |= {f"{name}_images": noise + (50 * labels).astype(np.uint8)[:, None, None], f"{name}_labels": labels}
    np.savez(path, **arrays)
    return str(path)


# names and indices


@given(data=st.data(), count=st.integers(1, 30))
def test_names_indices_and_digits_say_the_same(data, count):
    names = [f"class {i}" for i in range(count)]
    wanted = data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
    spellings = [data.draw(st.sampled_from([i, str(i), names[i], np.int64(i)])) for i in wanted]
    assert class_indices(spellings, names) == tuple(sorted(wanted))
    assert class_indices(wanted, (), range(count)) == tuple(sorted(wanted))


def test_a_name_goes_before_an_index():
    assert class_indices(["2"], ("2", "1", "0")) == (0,)
    assert class_indices([2], ("2", "1", "0")) == (2,)
    assert class_indices(["7"], ("a", "b"), present=[7]) == (7,)


def test_wrong_classes_are_answered_with_the_known_ones():
    many = [f"class{i:02}" for i in range(30)]
    refused(
        "unknown class 'dgo' \\(did you mean 'dog'\\?\\); known: cat, dog, fish, cow$", class_indices, ["dgo"], ANIMALS
    )
    refused("known: class00, .*class19 ... and 10 more$", class_indices, ["zebra"], many)
    refused("unknown class 3; known: 0, 1, 2$", class_indices, [3], (), range(3))
    refused("unknown class -1", class_indices, [-1], ANIMALS)
    refused("unknown class True", class_indices, [True], ANIMALS)
    refused("unknown class 1.0", class_indices, [1.0], ANIMALS)
    refused("non-empty", class_indices, [], ANIMALS)
    refused("non-empty list .* got 'cat'", class_indices, "cat", ANIMALS)
    refused("'dog' is asked for twice \\(as 'dog' and 1\\)", class_indices, ["dog", 0, 1], ANIMALS)
    refused("belongs to classes 0 and 2; give the index", class_indices, ["crane"], ("crane", "cat", "crane"))


def test_reference_samples_take_the_same_lists():
    data = split([0, 1, 2, 3] * 3)
    assert ReferenceSet.sample(data, 2, classes=["fish", "0"]).targets.tolist() == [2, 2, 0, 0]
    refused("did you mean 'fish'", ReferenceSet.sample, data, 1, classes=["fsh"])
    refused("asked for twice", ReferenceSet.sample, data, 1, classes=["2", "fish"])


# restricted data


@given(
    labels=st.lists(st.integers(0, 3), min_size=8, max_size=40).filter(lambda found: len(set(found)) == 4),
    classes=st.lists(st.integers(0, 3), min_size=1, unique=True),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_only_the_chosen_images_stay(labels, classes, seed):
    data = split(labels, seed=seed)
    left, renumbered = data.only(classes), data.only([ANIMALS[c] for c in classes], renumber=True)
    expected = [i for i, label in enumerate(labels) if label in classes]
    assert (left.images == data.images[expected]).all()
    assert left.labels.tolist() == [labels[i] for i in expected]
    assert left.class_names == ANIMALS
    assert renumbered.class_names == tuple(ANIMALS[c] for c in sorted(classes))
    assert [renumbered.class_names[i] for i in renumbered.labels] == [ANIMALS[labels[i]] for i in expected]
    assert (renumbered.images == left.images).all()


def test_all_splits_are_restricted_and_a_class_without_images_is_named():
    data = ImageData("zoo", split([0, 1, 2, 3]), split([0, 1, 3]), split([3, 2, 1, 0, 0]))
    few = data.only(["cow", "cat"], renumber=True)
    assert [s.labels.tolist() for s in (few.train, few.val, few.test)] == [[0, 1], [0, 1], [1, 0, 0]]
    assert few.class_names == few.val.class_names == ("cat", "cow")
    refused("class 'fish' has no images in the val split of 'zoo'", data.only, ["fish", "cat"])
    refused("class 'fish' has no images", data.val.only, [2])
    refused("unknown class 'cowl'", data.only, ["cowl"])
    unvalidated = ImageData("zoo", data.train, data.val.subset(np.zeros(3, bool)), data.test).only([2, 3], True)
    assert len(unvalidated.val) == 0
    assert unvalidated.val.class_names == ("fish", "cow")


@pytest.mark.parametrize("limit", [None, 5])
def test_opened_data_of_some_classes(tmp_path, limit):
    source = written(tmp_path / "zoo.npz")
    whole = open_data(DataSettings(source=source, limit=limit))
    data = open_data(DataSettings(source=source, limit=limit, classes=["cow", 1]))
    assert data.class_names == whole.class_names == ANIMALS
    assert data.normalisation == whole.normalisation
    for name, count in zip(("train", "val", "test"), (8, 6, 4), strict=True):
        labels = getattr(data, name).labels
        assert set(labels) == {1, 3}
        assert len(labels) == (2 * count if limit is None else limit)
    again = DataSettings.model_validate_json(DataSettings(source=source, classes=["cow", 1]).model_dump_json())
    assert again.classes == ("cow", 1)


def test_images_in_folders_and_splits_made_here(tmp_path):
    for name in ANIMALS:
        for i in range(6):
            path = tmp_path / "zoo" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), 10 * i, np.uint8)).save(path)
    data = open_data(DataSettings(source=str(tmp_path / "zoo"), resize=4, classes=("dog", "fish")))
    for part in (data.train, data.val, data.test):
        assert {path.parent.name for path in part.images} == {"dog", "fish"}
        assert {part.class_names[label] for label in part.labels} == {"dog", "fish"}


def test_opened_data_of_wrong_classes(tmp_path):
    source = written(tmp_path / "zoo.npz")

    def asked(*classes, source=source):
        return lambda: open_data(DataSettings(source=source, classes=classes))

    refused("unknown class 'zebra'; known: cat", asked("zebra", "cat"))
    refused("names one class only \\('cat'\\); at least two", asked("cat"))
    refused("asked for twice", asked("cat", 0))
    refused("non-empty", asked())
    without = dict(np.load(source))
    cats = without["test_labels"] != 0
    np.savez(tmp_path / "few.npz", **without | {f"test_{n}": without[f"test_{n}"][cats] for n in ("images", "labels")})
    refused("class 'cat' has no images in the test split", asked("cat", "dog", source=str(tmp_path / "few.npz")))


# small training sets


def divergence(draw, whole):
    """Of the diagonal Gaussian of a draw from that of its class, feature by feature."""
    total = 0.0
    for few, all_ in zip(draw.T, whole.T, strict=True):
        v_c = sum((x - all_.mean()) ** 2 for x in all_) / len(all_)
        v_d = max(sum((x - few.mean()) ** 2 for x in few) / len(few), 1e-3 * v_c)
        total += 0.5 * (np.log(v_c / v_d) + (v_d + (few.mean() - all_.mean()) ** 2) / v_c - 1)
    return total


@given(
    classes=st.integers(1, 4),
    each=st.integers(6, 20),
    features=st.integers(1, 6),
    seed=st.integers(0, 1000),
    data=st.data(),
)
@settings(deadline=None, max_examples=25)
def test_the_chosen_set_is_balanced_repeatable_and_close(classes, each, features, seed, data):
    size = data.draw(st.integers(classes, classes * each))
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(classes), each))
    values = generator.normal(size=(len(labels), features)) * generator.uniform(0.1, 30, features) + 5
    chosen = closest_subset(values, labels, size, seed, trials=40)
    assert (chosen == closest_subset(values, labels, size, seed, trials=40)).all()
    assert len(chosen) == size
    assert (np.diff(chosen) > 0).all()
    counts = np.bincount(labels[chosen], minlength=classes)
    assert counts.max() - counts.min() <= 1
    for c in range(classes):
        whole = values[labels == c]
        by_chance = [divergence(whole[generator.permutation(each)[: counts[c]]], whole) for _ in range(25)]
        assert divergence(values[chosen[labels[chosen] == c]], whole) <= np.median(by_chance) + 1e-9


def test_more_draws_come_closer_and_units_do_not_matter():
    generator = np.random.default_rng(0)
    values, labels = generator.normal(size=(120, 5)), np.zeros(120, int)
    distances = [divergence(values[closest_subset(values, labels, 15, trials=n)], values) for n in (1, 20, 400)]
    assert distances[0] > distances[1] > distances[2]
    scaled = np.concatenate([1000 * values - 7, np.full((120, 1), 0.1)], 1)  # another unit, and a constant
    assert (closest_subset(values, labels, 15) == closest_subset(scaled, labels, 15)).all()
    assert not np.array_equal(closest_subset(values, labels, 15), closest_subset(values, labels, 15, seed=1))


def test_choices_that_cannot_be_balanced_are_refused():
    values, labels = np.random.default_rng(0).normal(size=(10, 2)), np.array([0] * 7 + [1] * 3)
    assert np.bincount(labels[closest_subset(values, labels, 7)]).tolist() == [4, 3]  # the larger class gives more
    assert len(closest_subset(np.zeros((4, 2)), np.arange(4) % 2, 2)) == 2  # features that say nothing
    refused("11 samples are asked for, there are 10", closest_subset, values, labels, 11)
    refused("1 sample\\(s\\) cannot represent 2 classes", closest_subset, values, labels, 1)
    refused("class 1 has 3 sample\\(s\\), a balanced choice of 8 takes 4", closest_subset, values, labels, 8)
    refused("NaN or infinite", closest_subset, values * np.nan, labels, 4)
    refused("one label each", closest_subset, values[:, 0], labels, 4)
    refused("trials", closest_subset, values, labels, 4, trials=0)


# evenly spaced sets, images per class


def test_evenly_spaced_sets_are_nested():
    names = [f"class {i}" for i in range(1000)]
    published = {k: SubsetSettings(name=f"{k}", spaced=k).indices(names) for k in (3, 10, 30, 50)}
    assert published[50] == tuple(range(0, 1000, 20))
    assert all(published[k] == published[50][:k] for k in published)
    assert SubsetSettings(name="wide", spaced=3, largest=3).indices(names) == (0, 333, 666)
    few = names[:43]
    assert SubsetSettings(name="all", spaced=43).indices(few) == tuple(range(43))
    assert SubsetSettings(name="few", spaced=5, largest=30).indices(few) == (0, 1, 2, 4, 5)
    refused("asks for 44 classes, there are 43", SubsetSettings(name="x", spaced=44).indices, few)
    with pytest.raises(ValueError, match="has 60 classes of 50; raise largest"):
        SubsetSettings(name="x", spaced=60)
    with pytest.raises(ValueError, match="needs one of classes, spaced and draw"):
        SubsetSettings(name="x", spaced=3, draw=3)


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """Digits in 0 ... 9 with 5 to 14 images of each in every split."""
    labels = np.repeat(np.arange(10), np.arange(5, 15))
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 28, 28, 1), np.uint8)
    images = LabelledImages(pixels, labels, [str(i) for i in range(10)], Normalisation((0.5,), (0.25,)))
    return ImageData("unequal", images, images, images)


def benched(data, **changes):
    torch.manual_seed(0)
    fields = {"subsets": (SubsetSettings(name="odd", classes=(1, 3, 9)), SubsetSettings(name="two", classes=(3, 9)))}
    return Bench(sc.build("resnet20", in_channels=1, width=4), data, compare_settings(**fields | changes), None)


def test_images_of_each_class_are_limited(unequal):
    bench = benched(unequal, limit_per_class=7)
    odd, two = (bench._evaluated[name] for name in ("odd", "two"))
    assert np.bincount(odd.labels).tolist() == [6, 7, 7]  # of a class that has fewer, all of them
    assert np.bincount(two.labels).tolist() == [7, 7]
    np.testing.assert_array_equal(odd.images[odd.labels > 0], two.images)  # the same ones in every subset
    for choice in ("chance", "closest"):
        bench = benched(unequal, retrain_images_per_class=4, retrain_choice=choice)
        [first, again, other] = [bench._training_images(bench.tasks["odd"], seed) for seed in (0, 0, 1)]
        assert np.bincount(first.labels).tolist() == [4, 4, 4]
        np.testing.assert_array_equal(first.images, again.images)
        assert not np.array_equal(first.images, other.images)
    for prefix, name in (("", "limit"), ("retrain_", "images")):
        with pytest.raises(ValueError, match=f"give either {name} or {name}_per_class"):
            compare_settings(**{f"{prefix}{name}": 10, f"{prefix}{name}_per_class": 2})
