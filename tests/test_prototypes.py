"""Prototype networks end to end: trained in stages, projected, pruned, explained; and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import secateur as sc
from marks import some_slow
from secateur.core.errors import RequestError
from secateur.data import LabelledImages, Normalisation
from secateur.models import save_weights
from secateur.models.prototype_network import PrototypeNetwork, squared_distances
from secateur.pipeline.recipe import known_recipes, load_settings
from secateur.prototypes import (
    BOX_KINDS,
    NearestPatches,
    PrototypeEnsemble,
    PrototypePruneSettings,
    PrototypeRecipe,
    PrototypeTrainSettings,
    boxes_of,
    check_sources,
    class_heatmap,
    disable_prototypes,
    explain_images,
    explain_prototypes,
    fit_last_layer,
    load_backbone,
    load_published,
    nearest_patches,
    project,
    prototype_numbers,
    prototype_relevance,
    prune_prototypes,
    remove_prototypes,
    similarities_of,
    train_prototypes,
)
from secateur.prototypes.objective import PrototypeObjective
from secateur.prototypes.receptive_field import receptive_field
from secateur.prototypes.schedule import TrainParts
from secateur.prototypes.selection import decide, relevance_scores, usage_scores
from secateur.prototypes.settings import LossSettings

SIDE = 16


def images(count: int = 24, classes: int = 3, seed: int = 0) -> LabelledImages:
    """Classes that differ in where a bright square is."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 80, (count, SIDE, SIDE, 3), np.uint8)
    labels = np.arange(count) % classes
    for row, label in enumerate(labels):
        pixels[row, 5 * label : 5 * label + 5, 2:9] += 150
    return LabelledImages(pixels, labels, [f"kind {c}" for c in range(classes)], Normalisation((0.4,) * 3, (0.3,) * 3))


def network(seed: int = 0, **arguments: object) -> PrototypeNetwork:
    torch.manual_seed(seed)
    given = {"num_classes": 3, "backbone": "resnet20", "backbone_arguments": {"width": 4}, "image_size": SIDE}
    made = sc.build("prototype-network", **{**given, "per_class": 2, "channels": 8, "add_on": "plain", **arguments})
    assert isinstance(made, PrototypeNetwork)
    return made


def settings(**changes: object) -> PrototypeTrainSettings:
    given = {"epochs": 3, "warm_epochs": 1, "push_every": 2, "push_start": 2, "last_iterations": 3, "batch_size": 8}
    return PrototypeTrainSettings(**{**given, "rates": {"backbone": 0.003, "step": None}, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained() -> tuple[PrototypeNetwork, LabelledImages, object]:
    net, data = network(), images(60)
    done = train_prototypes(net, data, images(12, seed=1), settings(epochs=6, push_every=3), progress=False)
    return net, data, done


# -- projection and nearest patches -----------------------------------------------------------------------------------


def slow_nearest(net: PrototypeNetwork, data: LabelledImages, own: bool) -> list[list[tuple[float, int, int, int]]]:
    """All patches of all images, one at a time."""
    found: list[list[tuple[float, int, int, int]]] = [[] for _ in range(net.num_prototypes)]
    with torch.no_grad():
        for image in range(len(data)):
            x, y = data.batch([image])
            features = net.eval().feature_map(x).double()[0]
            for p, prototype in enumerate(net.prototypes.weight.double()):
                h, w = prototype.shape[1:]
                best = min(
                    (float(((features[:, i : i + h, j : j + w] - prototype) ** 2).sum()), image, i, j)
                    for i in range(features.shape[1] - h + 1)
                    for j in range(features.shape[2] - w + 1)
                )
                if not own or int(y[0]) == int(net.prototypes.classes[p]):
                    found[p].append(best)
    return [sorted(patches) for patches in found]


@pytest.mark.parametrize("size", [(1, 1), (2, 2)])
@pytest.mark.parametrize("own", [False, True])
def test_nearest_patches_are_those_of_all_pairs(size: tuple[int, int], own: bool) -> None:
    net, data = network(size=size), images(13)
    wanted = slow_nearest(net, data, own)
    for batch in (1, 5, 64):
        found = nearest_patches(net, data, k=4, own_class=own, batch_size=batch, progress=False)
        for p, patches in enumerate(wanted):
            assert found.images[p].tolist() == [image for _, image, _, _ in patches[:4]]
            assert list(zip(found.rows[p], found.columns[p], strict=True)) == [(i, j) for *_, i, j in patches[:4]]
            np.testing.assert_allclose(found.distances[p], [d for d, *_ in patches[:4]], rtol=1e-4, atol=1e-6)


def test_equal_patches_go_to_the_first_image() -> None:
    data = images(6)
    same = data.replace(images=np.repeat(data.images[:1], 6, 0), labels=np.zeros(6, np.int64))
    found = nearest_patches(network(), same, k=3, progress=False)
    assert found.images.tolist() == [[0, 1, 2]] * 6


def test_fewer_images_than_asked_for_leave_gaps() -> None:
    found = nearest_patches(network(), images(2), k=4, progress=False)
    assert (found.images[:, 2:] == -1).all()
    assert np.isnan(found.distances[:, 2:]).all()
    assert found.purity(np.array([0, 0, 1, 1, 2, 2])).tolist() == [0.5, 0.5, 0.5, 0.5, 0, 0]


@pytest.mark.parametrize("similarity", ["log", "linear", "cosine"])
def test_projection_makes_prototypes_of_training_patches(similarity: str) -> None:
    net, data = network(similarity=similarity), images()
    before = nearest_patches(net, data, k=1, own_class=True, progress=False)
    found = project(net, data, epoch=7, progress=False)
    assert found.epoch == 7
    for row, source in enumerate(found.sources):
        assert source.label == source.patch.label == int(net.prototypes.classes[row])
        assert source.patch.image == before.images[row, 0]
        with torch.no_grad():
            features = net.feature_map(data.batch([source.patch.image])[0])[0]
        i, j = source.patch.position
        torch.testing.assert_close(net.prototypes.weight[row, :, 0, 0], features[:, i, j], rtol=1e-4, atol=1e-5)
        assert set(source.boxes) == set(BOX_KINDS)
    again = nearest_patches(net, data, k=1, progress=False)
    assert again.distances.max() < 1e-4


def test_duplicates_are_reported_or_avoided() -> None:
    net, data = network(per_class=4), images()
    with torch.no_grad():  # all prototypes of a class are the same
        net.prototypes.weight.copy_(net.prototypes.weight[::4].repeat_interleave(4, 0))
    same = network(per_class=4)
    same.load_state_dict(net.state_dict())
    assert len(project(net, data, boxes=(), progress=False).duplicates) == 9
    found = project(same, data, avoid_duplicates=True, boxes=(), progress=False)
    assert not found.duplicates
    assert len({source.patch.image for source in found.sources}) == 12


def test_projection_refuses_what_it_cannot_do_and_leaves_the_network() -> None:
    net, data = network(), images()
    before = net.prototypes.weight.clone()
    with pytest.raises(sc.RequestError, match="class 'kind 2' has 2 prototypes but no training image"):
        project(net, data.only([0, 1]), progress=False)
    few = data.subset([0, 1, 2])
    with pytest.raises(sc.RequestError, match="has 2 prototypes and 1 training images"):
        project(net, few, avoid_duplicates=True, progress=False)
    torch.testing.assert_close(net.prototypes.weight, before, rtol=0, atol=0)


def test_sources_that_changed_or_moved_are_named() -> None:
    net, data = network(), images()
    found = project(net, data, boxes=(), progress=False)
    check_sources(found, data)
    first = found.sources[0].patch.image
    changed = data.images.copy()
    changed[first] += 1
    with pytest.raises(sc.RequestError, match=f"prototype 0 is a patch of train image {first}, which is another image"):
        check_sources(found, data.replace(images=changed))
    with pytest.raises(sc.RequestError, match="but there are 1 images"):
        check_sources(replace(found, sources=found.sources[-1:]), data.subset([0]))


# -- where a prototype is ---------------------------------------------------------------------------------------------


def test_receptive_fields_are_those_of_the_arithmetic() -> None:
    net = network(at="layer1.0.conv2", image_size=32)  # three 3x3 convolutions
    field = receptive_field(net, (3, 32, 32))
    assert field.rows[10] == (7, 14)
    assert field.columns[0] == (0, 4)
    assert field.rows[31] == (28, 32)


def test_attention_sees_the_whole_image() -> None:
    timm = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3}
    net = network(backbone="timm/vit_tiny_patch16_224", backbone_arguments=timm)
    assert set(receptive_field(net, (3, 16, 16)).rows) == {(0, 16)}


def test_code_that_hides_what_is_no_number_is_refused() -> None:
    net = network()
    inner = net.features.network.conv1.forward
    net.features.network.conv1.forward = lambda x: inner(torch.nan_to_num(x))
    with pytest.raises(sc.RequestError, match="receptive field cannot be measured"):
        receptive_field(net, (3, SIDE, SIDE))


def test_relevance_of_a_prototype_adds_up_to_its_similarity() -> None:
    net = network().double()
    with torch.no_grad():
        for parameter_name, parameter in net.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.zero_()
    x = torch.rand(3, 3, SIDE, SIDE, dtype=torch.float64)
    found = prototype_relevance(net, x, [0, 2, 5])
    wanted = net.inspect(x).similarities[range(3), [0, 2, 5]]
    torch.testing.assert_close(found.sum((1, 2, 3)), wanted, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("similarity", ["log", "linear", "cosine"])
def test_a_prototype_finds_its_own_patch_by_relevance(similarity: str) -> None:
    net, data = network(similarity=similarity), images()
    found = project(net, data, boxes=(), progress=False)
    for row, source in enumerate(found.sources):
        relevance = prototype_relevance(net, data.batch([source.patch.image])[0], [row])
        assert float(relevance.sum()) > 0.5


def test_a_single_prototype_speaks_for_itself() -> None:
    net, data = network(num_classes=1, per_class=1), images(4)
    assert float(prototype_relevance(net, data.batch([0])[0], [0]).sum()) > 0


def test_maps_that_are_not_finite_are_named() -> None:
    net, data = network(), images(4)
    with torch.no_grad():
        net.features.network.conv1.weight.fill_(torch.nan)
    with pytest.raises(sc.SecateurError, match="feature map of image 0 is not finite"):
        project(net, data, progress=False)


def test_double_precision_works() -> None:
    net, data = network().double(), images(6)
    found = project(net, data, progress=False)
    assert len(found.sources) == 6
    assert explain_images(net, data.batch([0])[0], progress=False)[0].evidence


def test_boxes_lie_within_the_image() -> None:
    net, data = network(), images(4)
    for boxes in boxes_of(net, data.batch(range(4))[0], [0, 1, 2, 3], [(0, 0), (1, 1), (2, 2), (3, 3)]):
        for box in boxes.values():
            assert 0 <= box.top < box.bottom <= SIDE
            assert 0 <= box.left < box.right <= SIDE


# -- loss and training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_specific", [True, False])
def test_the_loss_is_that_of_the_paper(class_specific: bool) -> None:
    net, data = network(), images(5)
    x, y = data.batch(range(5))
    coefficients = LossSettings(cluster=0.7, separation=-0.2, l1=0.01, class_specific=class_specific)
    logits, loss = PrototypeObjective(TrainParts("joint", 0, 1, 1.0, 1.0, 1.0), coefficients, 0.0).loss(net, x, y)
    torch.testing.assert_close(logits, net(x))
    distances = squared_distances(net.feature_map(x), net.prototypes.weight).amin((2, 3)).detach()
    classes = net.prototypes.classes
    cluster = separation = 0.0
    for n in range(5):
        own = [float(distances[n, p]) for p in range(6) if not class_specific or classes[p] == y[n]]
        other = [float(distances[n, p]) for p in range(6) if classes[p] != y[n]]
        cluster, separation = cluster + min(own) / 5, separation + min(other) / 5
    weights = net.last.weight.detach()
    l1 = sum(
        float(abs(weights[c, p])) for c in range(3) for p in range(6) if not class_specific or int(classes[p]) != c
    )
    wanted = (
        float(F.cross_entropy(logits, y).detach())
        + 0.7 * cluster
        + 0.01 * l1
        - (0.2 * separation if class_specific else 0)
    )
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-4)


def test_warm_epochs_leave_the_backbone_alone() -> None:
    net, data = network(), images()
    before = {name: p.clone() for name, p in net.named_parameters()}
    train_prototypes(net, data, None, settings(epochs=1, last_iterations=0), progress=False)
    moved = {name.partition(".")[0] for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"add_on", "prototypes"}
    assert all(p.requires_grad for p in net.parameters())


def test_training_learns_and_ends_projected(trained) -> None:
    net, data, done = trained
    rows = done.rows()
    assert [row["stage"] for row in rows if row["stage"] in ("projection", "last layer")] == [
        "projection", "last layer", "projection", "last layer"
    ]  # fmt: skip
    assert sorted(done.projections) == [3, 6]
    check_sources(done.last, data)
    assert nearest_patches(net, data, 1, progress=False).distances.max() < 1e-3
    accuracy = (similarities_of(net, data, progress=False) @ net.last.weight.T).argmax(1).numpy() == data.labels
    assert accuracy.mean() > 0.6


def test_last_layer_training_lowers_its_loss_and_is_the_same_again() -> None:
    data = images()
    results = []
    for _ in range(2):
        net = network()
        labels = torch.from_numpy(data.labels)
        losses = fit_last_layer(net, similarities_of(net, data, progress=False), labels, settings(), 10)
        results.append((losses, net.last.weight.clone()))
    assert results[0][0][-1] < results[0][0][0]
    assert torch.equal(results[0][1], results[1][1])


def published_state(net: PrototypeNetwork) -> dict[str, torch.Tensor]:
    """The network's weights under the names of the published code."""
    names = {"features.network.": "features.", "add_on.": "add_on_layers.", "last.": "last_layer."}
    found = {"ones": torch.ones_like(net.prototypes.weight), "prototype_vectors": net.prototypes.weight.detach()}
    for name, tensor in net.state_dict().items():
        for ours, theirs in names.items():
            if name.startswith(ours):
                found[theirs + name.removeprefix(ours)] = tensor
    return found


def test_published_checkpoints_are_read(tmp_path: Path) -> None:
    theirs, net = network(1), network(2)
    with torch.no_grad():  # prototypes in another order of classes
        theirs.prototypes.identity.copy_(theirs.prototypes.identity[[2, 0, 3, 1, 5, 4]])
        theirs.reset_last()
    torch.save(published_state(theirs), tmp_path / "p.pth")
    load_published(net, tmp_path / "p.pth")
    x = torch.randn(2, 3, SIDE, SIDE)
    torch.testing.assert_close(net(x), theirs.eval()(x), rtol=0, atol=0)
    assert net.prototypes.classes.tolist() == theirs.prototypes.classes.tolist()


def test_published_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = published_state(network())
    torch.save(network(), tmp_path / "whole.pth")
    with pytest.raises(sc.RequestError, match=r"whole pickled modules are never read.*state_dict"):
        load_published(network(), tmp_path / "whole.pth")
    torch.save(state, tmp_path / "p.pth")
    with pytest.raises(sc.RequestError, match=r"prototype_vectors has shape \[6, 8, 1, 1\], the network's \[9"):
        load_published(network(per_class=3), tmp_path / "p.pth")
    torch.save({**state, "features.features.norm5.weight": torch.ones(1)}, tmp_path / "dense.pth")
    with pytest.raises(sc.RequestError, match="is a DenseNet"):
        load_published(network(), tmp_path / "dense.pth")
    torch.save({**state, "last_layer.weight": torch.zeros(3, 6)}, tmp_path / "flat.pth")
    with pytest.raises(sc.RequestError, match="no prototype has its highest weight for class 1"):
        load_published(network(), tmp_path / "flat.pth")
    torch.save({"fc.weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(sc.RequestError, match="is no published ProtoPNet"):
        load_published(network(), tmp_path / "other.pth")


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", some_slow([1, 2, 3], 1, 3))
def test_training_that_was_stopped_goes_on_to_the_same_network(tmp_path: Path, stop: int) -> None:
    data, val = images(), images(9, seed=1)
    whole = network()
    train_prototypes(whole, data, val, settings(), progress=False)

    def until(epoch) -> None:
        if epoch.index + 1 == stop and not epoch.resumed:
            raise Stopped

    with pytest.raises(Stopped):
        train_prototypes(network(), data, val, settings(), state_folder=tmp_path / "s", on_epoch=until, progress=False)
    resumed = network()
    train_prototypes(resumed, data, val, settings(), state_folder=tmp_path / "s", progress=False)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert sorted(path.name for path in (tmp_path / "s").glob("*project.safetensors"))


def test_a_state_folder_of_another_request_is_refused(tmp_path: Path) -> None:
    data = images()
    train_prototypes(network(), data, None, settings(epochs=1), state_folder=tmp_path, progress=False)
    with pytest.raises(sc.RequestError, match="other settings"):
        train_prototypes(network(), data, None, settings(epochs=2), state_folder=tmp_path, progress=False)
    with pytest.raises(sc.RequestError, match="other data"):
        train_prototypes(network(), images(seed=3), None, settings(epochs=1), state_folder=tmp_path, progress=False)
    with pytest.raises(sc.RequestError, match="other network"):
        train_prototypes(network(1), data, None, settings(epochs=1), state_folder=tmp_path, progress=False)


def test_a_class_without_images_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(sc.RequestError, match="class 'kind 2' has prototypes but no training image"):
        train_prototypes(network(), images().only([0, 1]), None, settings(), state_folder=tmp_path, progress=False)


_CHILD = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from test_prototypes import images, network, settings
from secateur.prototypes import train_prototypes
torch.set_num_threads(1)
net = network()
train_prototypes(net, images(120), images(9, seed=1), settings(epochs=5), state_folder=sys.argv[1], progress=False)
torch.save(net.state_dict(), sys.argv[1] + "/done.pt")
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_network(tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, "-c", _CHILD, str(folder), str(Path(__file__).parent)])

    whole = start(tmp_path / "whole")
    begin = time.monotonic()
    assert whole.wait() == 0
    seconds, kills = time.monotonic() - begin, 0
    rng = np.random.default_rng(0)
    while not (tmp_path / "killed" / "done.pt").is_file():
        child = start(tmp_path / "killed")
        try:
            child.wait(rng.uniform(0.4, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            kills += 1
        assert kills < 30
    assert kills
    states = [torch.load(tmp_path / name / "done.pt", weights_only=True) for name in ("whole", "killed")]
    assert all(torch.equal(a, states[1][name]) for name, a in states[0].items())


# -- pruning ----------------------------------------------------------------------------------------------------------


def test_removed_prototypes_are_gone_and_the_rest_computes_the_same(tmp_path: Path) -> None:
    net = network(per_class=3)
    x = torch.randn(4, 3, SIDE, SIDE)
    slim = remove_prototypes(net, [1, 8])
    assert slim.num_prototypes == 7
    assert prototype_numbers(slim).tolist() == [0, 2, 3, 4, 5, 6, 7]
    with torch.no_grad():
        similarities = net.inspect(x).similarities
        similarities[:, [1, 8]] = 0
        torch.testing.assert_close(slim(x), net.last(similarities))
    torch.testing.assert_close(disable_prototypes(net, [1, 8])(x), slim(x))
    assert net.num_prototypes == 9
    again = sc.load(sc.save(slim, tmp_path / "b"))
    assert prototype_numbers(again).tolist() == prototype_numbers(slim).tolist()
    torch.testing.assert_close(again(x), slim(x), rtol=0, atol=0)


@pytest.mark.parametrize("order", some_slow(["prototypes first", "backbone first", "both twice"], "both twice"))
def test_prototypes_and_backbone_are_pruned_in_any_order(order: str, tmp_path: Path) -> None:
    net, data = network(per_class=3), images()
    samples = sc.ReferenceSet.sample(data, per_class=3)

    def halved(model: PrototypeNetwork, share: float = 0.6) -> PrototypeNetwork:
        asked = sc.PruneSettings(protect=("prototypes",))
        slim = sc.compress(model, samples, sc.Budget(macs=share), criterion="lrp", settings=asked, progress=False).model
        assert isinstance(slim, PrototypeNetwork)
        return slim

    if order == "prototypes first":
        slim = halved(remove_prototypes(net, [0, 4]))
    elif order == "backbone first":
        slim = remove_prototypes(halved(net), [0, 4])
    else:
        slim = halved(remove_prototypes(halved(remove_prototypes(net, [0])), [4]), 0.8)
    assert prototype_numbers(slim).tolist() == [1, 2, 3, 5, 6, 7, 8]
    again = sc.load(sc.save(slim, tmp_path / "b"))
    x = data.batch(range(4))[0]
    torch.testing.assert_close(again(x), slim(x), rtol=0, atol=0)


def test_wrong_numbers_are_refused() -> None:
    net = network()
    with pytest.raises(sc.RequestError, match="no prototype 9; its 6 prototypes have numbers 0 to 5"):
        remove_prototypes(net, [9])
    with pytest.raises(sc.RequestError, match="class 1 would have no prototype left; keep one of 2, 3"):
        remove_prototypes(net, [2, 3])
    with pytest.raises(sc.RequestError, match="no prototype 1 \\(it was removed\\)"):
        remove_prototypes(remove_prototypes(net, [1]), [1])


def near(labels: list[list[int]]) -> NearestPatches:
    array = np.array(labels)
    zeros = np.zeros(array.shape)
    return NearestPatches(np.zeros(array.shape, int), array, array, array, zeros, zeros)


def test_purity_pruning_is_the_published_rule() -> None:
    net = network()
    nearest = near([[0, 0, 0, 1], [0, 0, 1, 2], [1, 1, 1, 1], [0, 2, 0, 2], [2, 1, 1, 1], [1, 1, 0, 0]])
    asked = PrototypePruneSettings(k=4, threshold=3)
    found = decide(net, images(), nearest, asked)
    assert [d.kept for d in found] == [True, False, True, False, True, False]  # class 2: its purest stays
    assert found[4].reason.endswith("but its class needs it")
    assert found[1].purity == 0.5
    with pytest.raises(sc.RequestError, match="class 2 would have no prototype left of 2"):
        decide(net, images(), nearest, asked.model_copy(update={"per_class": 0}))
    by_hand = decide(net, images(), nearest, asked.model_copy(update={"disable": (0,)}))
    assert [d.kept for d in by_hand][:2] == [False, True]
    assert by_hand[0].reason == "removed by hand"


@pytest.mark.parametrize("criterion", ["relevance", "usage"])
def test_ranked_pruning_meets_its_budget(trained, criterion: str) -> None:
    net, data, _ = trained
    scores = (relevance_scores if criterion == "relevance" else usage_scores)(net, data)
    assert scores.shape == (6,)
    assert np.isfinite(scores).all()
    asked = PrototypePruneSettings(criterion=criterion, budget=0.5, k=4, threshold=2)
    found = decide(net, data, nearest_patches(net, data, 4, progress=False), asked)
    kept = [d for d in found if d.kept]
    assert {d.label for d in kept} == {0, 1, 2}
    assert len(kept) >= 3
    assert found == decide(net, data, nearest_patches(net, data, 4, progress=False), asked)


def test_relevance_of_prototypes_is_their_share_of_the_logit() -> None:
    net, data = network(), images(6)
    similarities = similarities_of(net, data, progress=False).double()
    contributions = similarities * net.last.weight.detach().double()[data.labels]
    wanted = (contributions / contributions.sum(1, keepdim=True)).abs().mean(0)
    np.testing.assert_allclose(relevance_scores(net, data), wanted.numpy(), rtol=1e-3)


def test_pruning_measures_each_stage_and_costs_less(trained) -> None:
    net, data, _ = trained
    asked = PrototypePruneSettings(k=4, threshold=0, disable=(0,), last_iterations=5)
    found = prune_prototypes(net, data, images(12, seed=2), asked, settings(), progress=False)
    assert list(found.measured) == ["unpruned", "pruned", "last layer trained"]
    before, after = found.measured["unpruned"], found.measured["pruned"]
    assert net.num_prototypes == 6
    assert found.network.num_prototypes == 5
    positions = 4 * 4
    assert before.macs - after.macs == positions * 8 + 3  # one prototype's distances, and its weights in the last layer
    assert before.params - after.params == 8 + 3


# -- explanation ------------------------------------------------------------------------------------------------------


def test_contributions_add_up_to_the_logit(trained) -> None:
    net, data, done = trained
    x, _ = data.batch(range(5))
    found = explain_images(net, x, top=6, projection=done.last, progress=False)
    logits = net(x).detach()
    for n, item in enumerate(found):
        assert item.predicted == item.target == int(logits[n].argmax())
        assert sum(e.contribution for e in item.evidence) == pytest.approx(float(logits[n, item.target]), rel=1e-3)
        contributions = [e.contribution for e in item.evidence]
        assert contributions == sorted(contributions, reverse=True)
        assert all(e.source is not None and e.source.prototype == e.prototype for e in item.evidence)
        assert 1 <= item.used <= 6
    other = explain_images(net, x, top=2, targets=[1] * 5, boxes=(), batch_size=2, progress=False)
    assert {item.target for item in other} == {1}


def test_prototypes_are_explained_by_images(trained) -> None:
    net, data, _ = trained
    found = explain_prototypes(net, data, images(9, seed=4), k=3, progress=False)
    assert found.test is not None
    assert found.test.images.shape == (6, 3)
    assert found.purity.shape == (6,)
    assert 1 <= found.used <= 6
    assert class_heatmap(net, data.batch([0])[0], [0]).shape == (1, SIDE, SIDE)


def test_ensembles_add_logits_up_and_refuse_other_classes() -> None:
    nets = [network(0), network(1)]
    x = torch.rand(2, 3, SIDE, SIDE)
    torch.testing.assert_close(PrototypeEnsemble(nets)(x), nets[0](x) + nets[1](x))
    with pytest.raises(sc.RequestError, match="same classes, got 3, 4"):
        PrototypeEnsemble([nets[0], network(num_classes=4)])


# -- settings and commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.epochs": 3, "train.warm_epochs": 4}, "warm epochs are more"),
        ({"prune.threshold": 7}, "threshold 7 is above k = 6"),
        ({"prune.criterion": "relevance"}, "give budget"),
        ({"prune.budget": 0.5}, "takes no budget"),
        ({"train.loss.cluster": float("inf")}, "finite"),
        ({"network.add_on": "deep"}, "add_on"),
        ({"network.bakbone": "resnet20"}, "did you mean 'backbone'"),
    ],
)
def test_wrong_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(sc.RequestError, match=message):
        load_settings(PrototypeRecipe, None, changes)


@pytest.mark.parametrize("name", [name for name in known_recipes() if name.startswith("prototypes-")])
def test_shipped_recipes_load(name: str) -> None:
    recipe = load_settings(PrototypeRecipe, name)
    assert recipe.train.stages()
    assert recipe.network.model(recipe.data).name == "prototype-network"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network trained by the command, and its data."""
    from secateur.cli.main import run

    folder = tmp_path_factory.mktemp("commands")
    splits = {}
    for name, count, seed in (("train", 60, 0), ("val", 9, 1), ("test", 12, 2)):
        part = images(count, seed=seed)
        splits |= {f"{name}_images": part.images, f"{name}_labels": part.labels[:, None]}
    np.savez(folder / "squares.npz", **splits)
    out = folder / "trained"
    command = ["prototypes", "train", "--data", str(folder / "squares.npz"), "--out", str(out), "--epochs", "3"]
    for item in (
        "network.image_size=16", "network.backbone_arguments={width: 4}", "network.channels=8", "network.add_on=plain",
        "network.per_class=2", "train.warm_epochs=1", "train.rates.backbone=0.003", "train.batch_size=8",
        "train.last_iterations=2", "prune.last_iterations=2", "prune.threshold=1",
    ):  # fmt: skip
        command += ["--set", item]
    assert run([*command, "--dry-run"]) == 0
    assert not out.exists()
    assert run(command) == 0
    return folder / "squares.npz", out


def test_a_trained_network_gives_its_backbone(tmp_path, capsys) -> None:
    from secateur.cli.main import run

    trained = sc.build("resnet20", num_classes=5, width=4)
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = save_weights(trained, tmp_path / "trained.safetensors")
    net = sc.build(
        "prototype-network", backbone="resnet20", backbone_arguments={"width": 4}, num_classes=3, per_class=2
    )
    load_backbone(net, path)
    x = torch.randn(2, 3, 32, 32)
    expected = trained.eval().get_submodule(net.features.place.module)
    held = []
    handle = expected.register_forward_hook(lambda _m, _i, output: held.append(output))
    trained(x)
    handle.remove()
    assert torch.equal(net.eval().features(x), held[0])
    other = save_weights(sc.build("resnet20", width=8), tmp_path / "wide.safetensors")
    with pytest.raises(RequestError, match="does not fit the network"):
        load_backbone(net, other)
    assert torch.equal(net.features(x), held[0])
    with pytest.raises(RequestError, match="is not of this backbone: it lacks"):
        load_backbone(net, save_weights(torch.nn.Linear(2, 2), tmp_path / "linear.safetensors"))
    both = ["--weights", str(path), "--model", "bundle"]
    assert run(["prototypes", "train", *both]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert run(["prototypes", "train", "--data", "mnist5k", "--weights", str(tmp_path / "traned.safetensors")]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_commands_work_from_training_to_explanation(bundle, tmp_path, capsys) -> None:
    from secateur.cli.main import run

    data, out = bundle
    assert {"bundle", "history.csv", "metrics.json", "prototypes.csv", "report.html", "states"} <= {
        p.name for p in out.iterdir()
    }
    net = sc.load(out / "bundle")
    assert isinstance(net, PrototypeNetwork)
    model = ["--model", str(out / "bundle")]
    assert run(["prototypes", "prune", *model, "--disable", "3", "--out", str(tmp_path / "pruned")]) == 0
    slim = sc.load(tmp_path / "pruned" / "bundle")
    assert isinstance(slim, PrototypeNetwork)
    assert 3 not in prototype_numbers(slim)
    assert (tmp_path / "pruned" / "report.html").is_file()
    pruned = ["--model", str(tmp_path / "pruned" / "bundle")]
    assert run(["prototypes", "explain", *pruned, "--count", "2", "--out", str(tmp_path / "explained")]) == 0
    assert {"evidence.csv", "nearest.csv", "report.html"} <= {p.name for p in (tmp_path / "explained").iterdir()}
    from PIL import Image

    for row, picture in enumerate(images(3).images):
        (tmp_path / "loose").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "loose" / f"{row}.png")
    folder = ["--folder", str(tmp_path / "loose"), "--out", str(tmp_path / "folder")]
    assert run(["prototypes", "explain", *pruned, *folder]) == 0
    assert (tmp_path / "folder" / "evidence.csv").read_text().count("2.png") == 5
    assert run(["prototypes", "push", *pruned, "--out", str(tmp_path / "pushed")]) == 0
    metrics = json.loads((tmp_path / "pushed" / "bundle" / "metrics.json").read_text())
    assert len(metrics["prototype_sources"]["sources"]) == slim.num_prototypes
    assert run(["evaluate", *pruned, "--data", str(data)]) == 0
    half = ["prune", *pruned, "--data", str(data), "--macs", "0.6", "--set", "prune.protect=[prototypes]"]
    assert run([*half, "--out", str(tmp_path / "half")]) == 0
    smaller = ["--model", str(tmp_path / "half" / "bundle")]
    assert run(["prototypes", "explain", *smaller, "--out", str(tmp_path / "never")]) == 2
    assert "run `secateur prototypes push` first" in capsys.readouterr().err
    brief = ["--epochs", "1", "--set", "train.warm_epochs=0", "--set", "train.last_iterations=1"]
    assert run(["prototypes", "train", *smaller, *brief, "--out", str(tmp_path / "tuned")]) == 0
    tuned = sc.load(tmp_path / "tuned" / "bundle")
    assert prototype_numbers(tuned).tolist() == prototype_numbers(slim).tolist()
    assert sum(p.numel() for p in tuned.features.parameters()) < sum(p.numel() for p in slim.features.parameters())
    again = ["--model", str(tmp_path / "tuned" / "bundle"), "--data", str(data), "--count", "1"]
    assert run(["prototypes", "explain", *again, "--out", str(tmp_path / "again")]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train"], "needs --data"),
        (["train", "--data", "DATA", "--backbone", "resnet2"], "did you mean 'resnet20'"),
        (["prune", "--data", "DATA"], "needs --model"),
        (["prune", "--model", "BUNDLE", "--disable", "three"], "--disable takes numbers"),
        (["prune", "--model", "BUNDLE", "--disable", "99"], "no prototype 99"),
        (["explain", "--model", "BUNDLE", "--image", "999"], "no test image 999"),
        (["explain", "--model", "BUNDLE", "--folder", "nowhere"], "there is no folder 'nowhere'"),
        (["prune", "--model", "resnet20-cifar10", "--data", "DATA"], "has no prototypes"),
    ],
)
def test_wrong_commands_say_so_in_one_line(bundle, tmp_path, capsys, options, message) -> None:
    from secateur.cli.main import run

    data, out = bundle
    given = [{"DATA": str(data), "BUNDLE": str(out / "bundle")}.get(option, option) for option in options]
    assert run(["prototypes", *given, "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in line


@pytest.mark.slow
def test_exported_networks_give_logits_and_similarities(trained, tmp_path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX comes with the onnx extra")
    from secateur.exporting import OnnxSession
    from secateur.prototypes import export_prototypes

    net, data, _ = trained
    slim = remove_prototypes(net, [2])
    found = export_prototypes(slim, tmp_path / "p.onnx", progress=False)
    assert found.difference < 1e-4
    session = OnnxSession(found.path)
    others = images(5, seed=9)  # at its own patch the logarithm magnifies rounding
    for count in (1, 5):
        x = others.batch(range(count))[0]
        given = session(x)
        with torch.no_grad():
            wanted = slim.inspect(x)
        torch.testing.assert_close(torch.as_tensor(given[0]), wanted.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.as_tensor(given[1]), wanted.similarities, rtol=1e-4, atol=1e-4)
    onnx = pytest.importorskip("onnx")
    assert [output.name for output in onnx.load(found.path).graph.output] == ["logits", "similarities"]
