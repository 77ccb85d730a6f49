import contextlib
import copy
import math
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from secateur.core.errors import RequestError, SecateurError
from secateur.data import DataSettings, loader, open_data
from secateur.models import build
from secateur.training import TrainingHistory, TrainSettings, fit

FAST = TrainSettings(epochs=3, batch_size=16, learning_rate=0.05, device="cpu")


def points(count: int = 60, classes: int = 3, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    return TensorDataset(torch.randn(count, 4, generator=generator) + 2 * targets[:, None], targets)


def network(seed: int = 0, outputs: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, outputs))


def images(count: int = 12) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 3)


def small_resnet() -> nn.Module:
    torch.manual_seed(0)
    return build("resnet20", width=4, num_classes=3)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def accuracy(model: nn.Module, data) -> float:
    with torch.no_grad():
        return float(torch.cat([(model(x).argmax(1) == y).float() for x, y in loader(data)]).mean())


class Interrupting(nn.Module):
    """Presses Ctrl-C at the given training step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def forward(self, x):
        if self.training:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
        return x


# learning


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_it_learns_and_reports(optimiser):
    model = network()
    settings = FAST.model_copy(update={"epochs": 8, "optimiser": optimiser})
    history = fit(model, points(), points(seed=1), settings)
    assert accuracy(model, points(seed=2)) > 0.75
    assert [row["epoch"] for row in history.rows] == list(range(8))
    assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]
    best = history.rows[history.best_epoch]
    assert best["val_accuracy"] == history.best_accuracy == max(row["val_accuracy"] for row in history.rows)
    assert accuracy(model, points(seed=1)) == pytest.approx(history.best_accuracy)
    assert TrainingHistory(**history.to_json()) == history


def test_adam_adds_the_decay_to_the_gradient_and_adamw_to_the_weights():
    plain = FAST.model_copy(update={"epochs": 1, "batch_size": 60, "schedule": "constant", "weight_decay": 0.5})
    start = nn.Linear(4, 3)
    steps = {}
    for optimiser in ("adam", "adamw"):
        model = copy.deepcopy(start)
        fit(model, points(), None, plain.model_copy(update={"optimiser": optimiser}))
        steps[optimiser] = (model.weight - start.weight).detach()
    # the first step of Adam has the size of the learning rate, whatever the gradient
    torch.testing.assert_close(steps["adam"].abs(), torch.full_like(start.weight, 0.05), rtol=1e-3, atol=0)
    moved = steps["adamw"] + 0.05 * 0.5 * start.weight.detach()
    torch.testing.assert_close(moved.abs(), torch.full_like(start.weight, 0.05), rtol=1e-3, atol=0)


@pytest.mark.slow
def test_real_digits(tiny_data):
    torch.manual_seed(0)
    model = build("resnet20", in_channels=1, width=8)
    settings = TrainSettings(epochs=8, batch_size=20, learning_rate=0.05, device="cpu", warmup_epochs=1)
    fit(model, tiny_data.train, tiny_data.val, settings)
    assert accuracy(model, tiny_data.test) > 0.6


@pytest.mark.slow
def test_real_photographs(cifar10_path):
    data = open_data(DataSettings(source=str(cifar10_path), limit=200, augmentation="crop-flip"))
    torch.manual_seed(0)
    model = build("resnet20", width=8)
    history = fit(model, data.train, data.val, TrainSettings(epochs=3, batch_size=40, device="cpu"))
    assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]


def test_the_seed_decides_everything():
    def trained(seed, model_seed=0):
        model = network(model_seed)
        torch.rand(seed + 3)  # what ran before must not matter
        return fit(model, points(), points(seed=1), FAST.model_copy(update={"seed": seed})), weights(model)

    assert trained(0)[0] == trained(0)[0]
    assert equal(trained(0)[1], trained(0)[1])
    assert not equal(trained(0)[1], trained(1)[1])


def test_the_kept_epoch():
    # the labels of these validation points are wrong: training makes it worse
    wrong = TensorDataset(points()[:][0], (points()[:][1] + 1) % 3)
    best, last = network(), network()
    history = fit(best, points(), wrong, FAST)
    fit(last, points(), wrong, FAST.model_copy(update={"keep": "last"}))
    unvalidated = network()
    plain = fit(unvalidated, points(), None, FAST)
    assert accuracy(best, wrong) == pytest.approx(history.best_accuracy)
    assert history.best_epoch < 2
    assert equal(weights(last), weights(unvalidated))
    assert plain.best_epoch == 2
    assert "val_loss" not in plain.rows[0]
    empty = network()
    fit(empty, points(), TensorDataset(torch.empty(0, 4), torch.empty(0, dtype=torch.long)), FAST)
    assert equal(weights(empty), weights(unvalidated))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_early_stop(keep):
    wrong = TensorDataset(points()[:][0], (points()[:][1] + 1) % 3)
    settings = FAST.model_copy(update={"epochs": 30, "patience": 2, "keep": keep})
    history = fit(network(), points(), wrong, settings)
    assert history.stopped_early
    assert len(history.rows) == history.best_epoch + 3


def validated(accuracies, losses=None, **settings):
    """The history of a training with these validation metrics."""
    settings, history = FAST.model_copy(update=settings), TrainingHistory()
    for epoch, accuracy in enumerate(accuracies):
        if history.stopped_early:
            break
        loss = 1 - accuracy if losses is None else losses[epoch]
        history.add({"epoch": epoch, "val_loss": loss, "val_accuracy": accuracy}, 0.1, settings)
    return history


def test_small_improvements_do_not_put_an_early_stop_off():
    accuracies = [0.5, 0.55, 0.552, 0.554, 0.556, 0.9]
    assert not validated(accuracies, patience=2).stopped_early
    found = validated(accuracies, patience=2, min_delta=0.01)
    assert found.stopped_early
    assert len(found.rows) == 4
    assert (found.best_epoch, found.best_accuracy) == (3, 0.554)  # the weights that are kept are the best all the same
    # small ones that add up do
    assert not validated([0.5, 0.505, 0.511, 0.515, 0.522], patience=2, min_delta=0.01).stopped_early
    with pytest.raises(ValueError, match="min_delta is for early stopping; set patience, too"):
        TrainSettings(min_delta=0.1)


def test_the_loss_can_be_what_decides():
    accuracies, losses = [0.5, 0.7, 0.6, 0.6], [1.0, 1.2, 0.9, 0.95]
    assert validated(accuracies, losses).best_epoch == 1
    found = validated(accuracies, losses, monitor="val_loss")
    assert (found.best_epoch, found.best_accuracy) == (2, 0.6)
    assert len(validated(accuracies, losses, monitor="val_loss", patience=1).rows) == 2
    model = network()
    history = fit(model, points(), points(seed=1), FAST.model_copy(update={"monitor": "val_loss"}))
    assert history.best_epoch == min(range(3), key=lambda epoch: history.rows[epoch]["val_loss"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1]),
        ({"schedule": "step", "step_epochs": (1, 3)}, [1, 0.1, 0.1, 0.01]),
        ({"schedule": "cosine"}, [0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]),
        ({"schedule": "constant", "warmup_epochs": 2}, [1 / 9, 5 / 9, 1, 1]),
    ],
)
def test_schedules(changes, expected):
    # 61 samples in batches of 16 are 4 steps and an odd sample
    settings = TrainSettings(epochs=4, batch_size=15, learning_rate=0.02, device="cpu", **changes)
    history = fit(network(), points(61), None, settings)
    assert [row["learning_rate"] / 0.02 for row in history.rows] == pytest.approx(expected)


def test_frozen_parameters_stay():
    model = network()
    model[0].requires_grad_(False)
    before = weights(model[0])
    fit(model, points(), None, FAST)
    assert equal(weights(model[0]), before)
    model.requires_grad_(False)
    with pytest.raises(RequestError, match="no trainable parameters"):
        fit(model, points(), None, FAST)


def test_options_do_not_break_training():
    settings = FAST.model_copy(update={"gradient_clip": 0.1, "label_smoothing": 0.1, "momentum": 0.0, "workers": 0})
    model = network()
    fit(model, points(), points(seed=1), settings)
    assert all(torch.isfinite(v).all() for v in weights(model).values())


# state of the model afterwards


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_model_comes_back_clean(precision):
    model = small_resnet()
    names = set(vars(model))
    fit(model, images(), images(), FAST.model_copy(update={"epochs": 1, "mixed_precision": precision}))
    fresh = dict(small_resnet().named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.stride() == fresh[name].stride(), name
        assert parameter.dtype == torch.float32
        assert parameter.grad is None
        assert parameter.is_leaf
        assert parameter.requires_grad
    assert not any(module.training for module in model.modules())
    assert set(vars(model)) == names  # no replaced forward
    with torch.no_grad():
        assert model(images()[:][0]).dtype == torch.float32
        assert torch.equal(copy.deepcopy(model)(images()[:][0]), model(images()[:][0]))


def test_no_epochs_change_nothing():
    model = small_resnet().train()
    before = weights(model)
    history = fit(model, images(), images(), FAST.model_copy(update={"epochs": 0}))
    assert history.rows == []
    assert equal(weights(model), before)
    assert not model.training


def test_precision_can_change_within_a_process():
    losses = [
        fit(
            small_resnet(),
            images(),
            None,
            FAST.model_copy(update={"epochs": 1, "mixed_precision": precision}),
        ).rows[0]
        for precision in ("no", "bf16", "no")
    ]
    assert losses[0] == losses[2]
    assert losses[1]["train_loss"] == pytest.approx(losses[0]["train_loss"], rel=0.05)
    assert losses[1] != losses[0]
    with pytest.raises(RequestError, match="fp16 needs a GPU"):
        fit(network(), points(), None, FAST.model_copy(update={"mixed_precision": "fp16"}))


# batches of one


@pytest.mark.parametrize("count", [17, 33])
def test_one_sample_left_over_is_no_obstacle(count):
    history = fit(network(), points(count), points(), FAST)
    assert len(history.rows) == 3


def test_batches_of_one():
    plain = nn.Linear(4, 3)
    before = weights(plain)
    fit(plain, points(6), None, FAST.model_copy(update={"batch_size": 1, "epochs": 1}))
    assert not equal(weights(plain), before)
    fit(nn.Linear(4, 3), points(1), None, FAST)
    with pytest.raises(RequestError, match="batches of one sample are too small"):
        fit(network(), points(6), None, FAST.model_copy(update={"batch_size": 1}))


def test_every_sample_of_a_batch_size_of_one_is_used():
    seen = []
    model = nn.Linear(4, 3)
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    fit(model, points(6), None, FAST.model_copy(update={"batch_size": 1, "epochs": 1}))
    assert seen == [1] * 6


# resuming


def with_interruption(step: int) -> nn.Module:
    return nn.Sequential(*network(), Interrupting(step))


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("step", [5, 7, 8])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, step, optimiser):
    settings = FAST.model_copy(
        update={"epochs": 4, "optimiser": optimiser, "mixed_precision": "bf16", "warmup_epochs": 1.0}
    )
    state = tmp_path / "state.pt"
    whole = with_interruption(0)
    expected = fit(whole, points(61), points(seed=1), settings)

    with pytest.raises(KeyboardInterrupt):
        fit(with_interruption(step), points(61), points(seed=1), settings, state)
    # four steps an epoch: the first epoch is done, the second was running
    assert torch.load(state, weights_only=True)["epoch"] == (step - 1) // 4
    resumed = with_interruption(0)
    with torch.no_grad():
        resumed[0].weight.zero_()  # its own weights do not matter
    assert fit(resumed, points(61), points(seed=1), settings, state) == expected
    assert equal(weights(resumed), weights(whole))
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_resuming_a_finished_run_trains_no_more(tmp_path):
    first, second = network(), network(seed=5)
    state = tmp_path / "state.pt"
    expected = fit(first, points(), points(seed=1), FAST, state)
    assert fit(second, points(), points(seed=1), FAST, state) == expected
    assert equal(weights(first), weights(second))


def test_resuming_a_run_that_stopped_early(tmp_path):
    wrong = TensorDataset(points()[:][0], (points()[:][1] + 1) % 3)
    settings = FAST.model_copy(update={"epochs": 30, "patience": 1})
    first, second = network(), network(seed=5)
    expected = fit(first, points(), wrong, settings, tmp_path / "state.pt")
    assert fit(second, points(), wrong, settings, tmp_path / "state.pt") == expected
    assert equal(weights(first), weights(second))


def test_an_early_stop_with_min_delta_goes_on_where_it_was(tmp_path):
    wrong = TensorDataset(points()[:][0], (points()[:][1] + 1) % 3)
    settings = FAST.model_copy(update={"epochs": 30, "patience": 3, "min_delta": 0.05, "monitor": "val_loss"})
    whole = fit(with_interruption(0), points(), wrong, settings)
    assert whole.stopped_early
    with pytest.raises(KeyboardInterrupt):
        fit(with_interruption(10), points(), wrong, settings, tmp_path / "state.pt")
    assert fit(with_interruption(0), points(), wrong, settings, tmp_path / "state.pt") == whole


def test_each_epoch_is_reported_once_its_state_is_saved(tmp_path):
    state, told = tmp_path / "state.pt", []

    def report(epoch):
        saved = torch.load(state, weights_only=True)["epoch"]
        told.append((epoch.index, epoch.resumed, saved))
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network(), points(), points(seed=1), FAST, state, on_epoch=report)
    history = fit(network(), points(), points(seed=1), FAST, state, on_epoch=report)
    assert told == [(0, False, 1), (1, False, 2), (0, True, 2), (1, True, 2), (2, False, 3)]
    assert len(history.seconds) == 3
    with pytest.raises(RequestError, match="on_epoch must be a function"):
        fit(network(), points(), None, FAST, on_epoch="print")


def test_states_of_other_requests_are_refused(tmp_path):
    state = tmp_path / "state.pt"
    fit(network(), points(), None, FAST, state)

    def refused(message, model=None, data=None, settings=FAST):
        with pytest.raises(RequestError, match=message) as caught:
            fit(model or network(), data or points(), None, settings, state)
        assert "\n" not in str(caught.value)
        assert "state.pt" in str(caught.value)

    refused("other settings", settings=FAST.model_copy(update={"learning_rate": 0.01}))
    refused("other settings or data", data=points(30))
    refused("another network", model=network(outputs=4))
    fit(network(), points(), None, FAST.model_copy(update={"device": "auto"}), state)
    content = state.read_bytes()
    for broken in (b"", b"hello", content[: len(content) // 2]):
        state.write_bytes(broken)
        refused("not a training state")
    torch.save({"epoch": 3}, state)
    refused("not a training state")
    torch.save(network(), state)
    refused("not a training state")


@contextlib.contextmanager
def file_size_limit(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


@pytest.mark.parametrize("size", [100, 2000, 4096])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path, size):
    with file_size_limit(size), pytest.raises(SecateurError, match=r"cannot write '.*state\.pt'") as caught:
        fit(network(), points(), None, FAST, tmp_path / "state.pt")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# requests that cannot be met


def test_a_loss_that_explodes_is_reported():
    class Exploding(nn.Linear):
        def forward(self, x):
            return super().forward(x) * float("inf")

    with pytest.raises(SecateurError, match=r"the loss became nan in epoch 1/3; lower the learning rate"):
        fit(Exploding(4, 3), points(), None, FAST)


def test_labels_beyond_the_outputs():
    with pytest.raises(RequestError, match="labels run from 0 to 2; it must have one output per class"):
        fit(network(outputs=2), points(), None, FAST)
    with pytest.raises(RequestError, match="one output per class"):
        fit(nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2))), points(), None, FAST)


def test_empty_data_and_unknown_devices():
    with pytest.raises(RequestError, match="empty data set"):
        fit(network(), TensorDataset(torch.empty(0, 4), torch.empty(0)), None, FAST)
    with pytest.raises(RequestError, match="cannot be used here"):
        fit(network(), points(), None, FAST.model_copy(update={"device": "cuda:99"}))
    with pytest.raises(ValueError, match="greater than 0"):
        TrainSettings(learning_rate=0)


def test_auxiliary_heads_are_left_to_themselves():
    class TwoHeads(nn.Linear):
        def forward(self, x):
            return (super().forward(x), x) if self.training else super().forward(x)

    model = TwoHeads(4, 3)
    assert len(fit(model, points(), points(seed=1), FAST).rows) == 3


@pytest.mark.slow
def test_strided_convolutions_of_few_channels_train(tmp_path):
    """In channels-last memory they end the process on CPUs without AVX-512, so this one has a process of its own."""
    script = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from secateur.training import TrainSettings, fit
for channels in (1, 4, 7):
    net = nn.Sequential(nn.Conv2d(channels, 8, 1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 2))
    data = TensorDataset(torch.randn(128, channels, 28, 28), torch.arange(128) % 2)
    fit(net.to(memory_format=torch.channels_last), data, None, TrainSettings(epochs=3, batch_size=64, device="cpu"))
print("trained")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "trained\n", done.stderr[-1000:]
