"""Exported files compute what PyTorch computes, or are not there."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from networks import user_net, zoo
from secateur.cli.main import run
from secateur.exporting import OnnxSession, OpenVinoSession, export_networks, load_program, measure_runtime
from secateur.exporting import onnx as onnx_writer
from secateur.exporting.capture import Example
from secateur.exporting.formats import SUFFIXES
from secateur.exporting.parity import compare_outputs
from secateur.exporting.program import write_program
from secateur.models import save_weights

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}


def slim_net(share=0.5):
    """A small pruned network of a user's own."""
    model, x = user_net()
    structure = sc.trace(model, x[:1])
    scores = sc.Scores(structure, np.random.default_rng(0).random(structure.num_units), "by hand")
    plan = sc.select(scores, sc.Budget(macs=share))
    return sc.prune(model, plan), x, plan


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(5, 4)


class Several(nn.Module):
    """Two inputs and a mask, named outputs of which one is nested."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(11, 6), nn.Linear(6, 3)

    def forward(self, tokens, weight, mask):
        hidden = (self.embed(tokens) * weight[..., None] * mask[:, None]).sum(1)
        return {"logits": self.fc(hidden), "parts": (hidden, hidden.argmax(1))}


@pytest.mark.parametrize("format", FORMATS)
def test_a_pruned_network_computes_the_same_there(format, tmp_path, capfd):
    slim, x, _ = slim_net()
    before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
    slim.train()
    found = sc.export(slim, tmp_path / f"net{FORMATS[format]}", x, format)
    assert slim.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in slim.state_dict().items())
    assert all(p.requires_grad for p in slim.parameters())
    assert found.difference < 1e-5
    assert found.top1_equal
    assert not found.constant
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == (["net.bin", "net.xml"] if format == "openvino" else [found.path.name])
    assert found.bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.slow
def test_the_file_takes_any_number_of_samples_and_says_what_it_expects(tmp_path):
    slim, x, _ = slim_net()
    about = {"normalisation": {"mean": [0.5], "std": [0.2]}, "class_names": ["a", "b", "ü"]}
    sc.export(slim, tmp_path / "net.onnx", x, metadata=about, opset=18)
    sc.export(slim, tmp_path / "net.xml", x, "openvino", metadata=about)
    for session in (OnnxSession(tmp_path / "net.onnx", 1), OpenVinoSession(tmp_path / "net.xml", 1)):
        for rows in (1, 7):
            batch = torch.randn(rows, *x.shape[1:])
            torch.testing.assert_close(session(batch), slim(batch).detach(), rtol=1e-4, atol=1e-5)
        assert json.loads(session.metadata["normalisation"]) == about["normalisation"]
        assert json.loads(session.metadata["class_names"]) == about["class_names"]
        assert session.metadata["secateur_version"] == sc.__version__
        (entry,) = json.loads(session.metadata["inputs"])
        assert entry == {"name": "x", "shape": [None, *x.shape[1:]], "dtype": "float32"}
    import onnx

    model = onnx.load(tmp_path / "net.onnx")
    assert model.opset_import[0].version == 18
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    # no paths of the user's source files
    assert b"networks.py" not in (tmp_path / "net.onnx").read_bytes()


@pytest.mark.slow
def test_resnet18(tmp_path):
    model, x = zoo("resnet18")
    found = sc.export(model, tmp_path / "r.onnx", x)
    assert found.top1_equal
    assert found.difference < 1e-4


def test_inputs_and_outputs_of_several_kinds(tmp_path):
    tokens, weight = torch.randint(0, 11, (4, 5)), torch.rand(4, 5)
    inputs = {"tokens": tokens, "weight": weight, "mask": torch.ones(5)}
    model = Several().eval()
    sc.export(model, tmp_path / "a.onnx", inputs)
    session = OnnxSession(tmp_path / "a.onnx")
    found, expected = session(**inputs), model(**inputs)
    torch.testing.assert_close(found[0], expected["logits"].detach())
    torch.testing.assert_close(found[2], expected["parts"][1])
    with pytest.raises(sc.RequestError, match="takes tokens, weight, mask"):
        session(tokens)
    found = sc.export(model, tmp_path / "b.onnx", tuple(inputs.values()))
    assert found.top1_equal


def test_one_batch_size_only(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 2, 2).sum(1)

    x = torch.randn(2, 4)
    with pytest.raises(sc.RequestError, match="batch size written into it.*--batch"):
        sc.export(Fixed(), tmp_path / "f.onnx", x)
    sc.export(Fixed(), tmp_path / "f.onnx", x, batch=2)
    session = OnnxSession(tmp_path / "f.onnx")
    assert session(x).shape == (2, 2)
    with pytest.raises(sc.RequestError, match="ONNX Runtime fails on these inputs"):
        session(torch.randn(3, 4))


def test_a_file_that_computes_something_else_is_not_left(tmp_path):
    """A network that is not the same twice cannot equal its file."""

    class Moody(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    (tmp_path / "m.onnx").write_text("earlier")
    with pytest.raises(sc.SecateurError, match="something else than PyTorch.*nothing was written") as caught:
        sc.export(Moody(), tmp_path / "m.onnx", torch.randn(2, 4))
    assert caught.value.exit_code == 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "earlier"


def test_parity_knows_differences_ties_and_nan():
    a = torch.tensor([[1.0, 3.0, 2.0], [0.0, 5.0, 4.0]])
    assert asdict(compare_outputs([a], [a])) == {"difference": 0.0, "top1_equal": True, "reason": None}
    assert compare_outputs([a], [a * 1.01]).difference == pytest.approx(0.01, rel=1e-4)
    small = a / 100
    assert compare_outputs([small], [small + 0.001]).difference == pytest.approx(0.001, rel=1e-4)
    # the difference of small outputs is measured against 1, their top class against themselves
    swapped = small[:, [0, 2, 1]]
    assert compare_outputs([small / 1000], [swapped / 1000]).top1_equal is False
    tied = torch.tensor([[3.0, 3.0001]])
    assert compare_outputs([tied], [tied.flip(1)]).top1_equal is True
    assert compare_outputs([a], [torch.full_like(a, float("nan"))]).difference == float("inf")
    assert "shape (2, 2)" in str(compare_outputs([a], [a[:, :2]]).reason)
    assert "2 outputs" in str(compare_outputs([a], [a, a]).reason)
    assert compare_outputs([a.argmax(1)], [a.argmax(1)]).top1_equal is None


def test_random_batches_stay_in_the_range_of_the_example():
    generator = torch.Generator().manual_seed(0)
    inputs = {"tokens": torch.tensor([[3, 5], [7, 3]]), "x": torch.zeros(2, 1), "mask": torch.ones(4)}
    drawn = Example.of(inputs).draw(50, generator)
    assert set(drawn.tensors["tokens"].flatten().tolist()) == {3, 5, 7}
    assert float(drawn.tensors["x"].std()) > 0.5
    assert torch.equal(drawn.tensors["mask"], inputs["mask"])


@pytest.mark.slow
def test_a_check_that_says_nothing_is_called_so(tmp_path, capfd):
    """A head of zeros gives zero for everything, which any file reproduces."""
    model, x = mlp()
    nn.init.zeros_(model[2].weight)
    assert sc.export(model, tmp_path / "net.onnx", x).constant
    weights = sc.build("resnet20", num_classes=4)
    nn.init.zeros_(weights.fc.weight)
    known = {"class_names": list("abcd"), "resize": {"size": 10, "crop": 8}}
    save_weights(weights, tmp_path / "w.safetensors", known)
    options = ["--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "out"), "--repeats", "0"]
    assert run(["export", "resnet20", *options, "--shape", "3,8,8"]) == 0
    written = OnnxSession(next((tmp_path / "out").glob("*.onnx"))).metadata
    assert {key: json.loads(written[key]) for key in known} == known
    printed = capfd.readouterr()
    assert "'model' gives the same outputs for all inputs" in printed.err
    assert "constant outputs" in printed.out
    assert "same top class" not in printed.out


def test_large_networks_keep_their_weights_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_writer, "SINGLE_FILE_LIMIT", 1000)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 3))
    found = sc.export(model, tmp_path / "net.onnx", torch.randn(2, 64))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert found.bytes > 64 * 64 * 4
    x = torch.randn(3, 64)
    torch.testing.assert_close(OnnxSession(tmp_path / "net.onnx")(x), model(x).detach())


def test_programs_load_only_when_trusted(tmp_path):
    model, x = mlp()
    path = sc.export(model, tmp_path / "net.pt2", x, "torch-export", metadata={"class_names": ["a"]}).path
    with pytest.raises(sc.RequestError, match="may run code.*trust=True"):
        load_program(path)
    torch.testing.assert_close(load_program(path, trust=True).module()(x), model(x))
    with zipfile.ZipFile(path) as archive:
        assert any(b"class_names" in archive.read(n) for n in archive.namelist() if n.endswith("secateur.json"))
    (tmp_path / "broken.pt2").write_bytes(b"not an archive")
    with pytest.raises(sc.RequestError, match="cannot be read as a .pt2 file"):
        load_program(tmp_path / "broken.pt2", trust=True)
    with pytest.raises(sc.RequestError, match="does not exist"):
        load_program(tmp_path / "absent.pt2", trust=True)


def test_a_full_disk_is_the_works_failure(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch.export, "save", full)
    model, x = mlp()
    program = torch.export.export(model, (x,))
    with pytest.raises(sc.SecateurError, match="cannot write 'n.pt2'.*free space"):
        write_program(program, tmp_path / "n.pt2", {})


def test_executorch(tmp_path):
    pytest.importorskip("executorch", reason="large; comes with the executorch extra")
    slim, x, _ = slim_net()
    found = sc.export(slim, tmp_path / "net.pte", x, "executorch")
    assert found.difference < 1e-4
    assert found.top1_equal


def test_networks_are_timed_in_turn(tmp_path):
    model, x = mlp()
    order = []
    model.register_forward_hook(lambda *_: order.append("a"))

    def other(_):
        order.append("b")

    times = measure_runtime([model, other], x, repeats=4, warmup=0)
    assert "".join(order) in ("abbaabba", "baabbaab")
    assert times[0].quartiles_ms[0] <= times[0].median_ms <= times[0].quartiles_ms[1]
    assert (times[0].batch_size, times[0].repeats) == (5, 4)
    sc.export(model, tmp_path / "net.onnx", x)
    with pytest.raises(sc.RequestError, match="give both the same number"):
        measure_runtime([model, OnnxSession(tmp_path / "net.onnx", threads=2)], x, threads=1)
    with pytest.raises(sc.RequestError, match="repeats >= 1"):
        measure_runtime([model], x, repeats=0)


def test_before_and_after(tmp_path):
    model, x = mlp()
    rows = export_networks({"original": model, "pruned": model}, tmp_path, x, repeats=7)
    assert [row.name for row in rows] == ["original", "pruned"]
    assert [t.batch_size for t in rows[1].timings] == [1, 8]
    for whole, slim in zip(*(row.timings for row in rows), strict=True):
        # the original there with PyTorch, the pruned network in each runtime with the original; all in one run
        for before, after in ((whole.torch, whole.runtime), (whole.torch, slim.torch), (whole.runtime, slim.runtime)):
            assert after.relative.share == pytest.approx(after.median_ms / before.median_ms)
            assert after.relative.before_ms == before.median_ms
            assert after.relative.rounds == 7
            assert after.relative.interval[0] <= after.relative.share <= after.relative.interval[1]
    assert rows[1].to_json()["timings"][0]["runtime"]["relative"]["rounds"] == 7


class Unknown(nn.Module):
    def forward(self, x):
        return torch.special.airy_ai(x)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Failing(nn.Module):
    def forward(self, x):
        raise KeyError("mine")


class Infinite(nn.Module):
    def forward(self, x):
        return x / 0


@pytest.mark.parametrize(
    ("model", "inputs", "options", "message"),
    [
        (None, None, {"format": "onx"}, "unknown format 'onx'"),
        (None, None, {"name": "net.bin"}, r"should end in .onnx"),
        (None, None, {"opset": 999}, "unknown ONNX opset 999; known: 7 to"),
        (None, None, {"opset": 9}, "cannot be written in ONNX opset 9"),
        (None, None, {"format": "torch-export", "name": "n.pt2", "opset": 18}, "has no opset"),
        (None, None, {"batch": 0}, "at least one sample"),
        (None, None, {"metadata": {"x": {1, 2}}}, "metadata should be JSON values"),
        (None, "text", {}, "should be a tensor, a tuple of tensors, or a dict"),
        (None, torch.zeros(0, 4), {}, "hold no sample"),
        (None, torch.zeros(2, 4, dtype=torch.bfloat16), {}, "bfloat16 cannot be exported"),
        (None, torch.randn(2, 5), {}, r"fails on inputs of shape \[\(2, 5\)\]: RuntimeError"),
        (Failing(), None, {}, "KeyError: 'mine'"),
        (Unknown(), None, {}, "operation 'aten.special_airy_ai' has no ONNX form"),
        (Branching(), None, {}, "cannot be captured as a graph"),
        (Infinite(), None, {}, "not finite"),
    ],
)
def test_wrong_requests_are_one_line(model, inputs, options, message, tmp_path, capfd):
    net, x = mlp()
    options = dict(options)
    path = tmp_path / "new" / options.pop("name", "net.onnx")
    with pytest.raises(sc.SecateurError, match=message) as caught:
        sc.export(model or net.eval(), path, x if inputs is None else inputs, **options)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, sc.RequestError) or message == "not finite"
    assert not list(tmp_path.iterdir())
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_places_that_cannot_be_written(tmp_path):
    model, x = mlp()
    (tmp_path / "file").write_text("")
    with pytest.raises(sc.RequestError, match="cannot be written"):
        sc.export(model, tmp_path / "file" / "net.onnx", x)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(sc.RequestError, match="is a folder"):
        sc.export(model, tmp_path / "folder.onnx", x)


@pytest.mark.parametrize(
    ("format", "module", "extra"),
    [("onnx", "onnx", "onnx"), ("executorch", "executorch.exir", "executorch"), ("openvino", "openvino", "openvino")],
)
def test_a_missing_extra_names_its_installation(format, module, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    model, x = mlp()
    path = tmp_path / f"net{SUFFIXES[format]}"
    with pytest.raises(sc.RequestError, match=rf"pip install 'secateur\[{extra}\]'"):
        sc.export(model, path, x, format)
    assert not list(tmp_path.iterdir())


def test_openvino_is_imported_without_reporting_home(tmp_path):
    """Its own start-up would write an identifier into the home folder and send usage over the network."""
    import subprocess

    code = (
        "import sys; from secateur.exporting.sessions import import_openvino; import_openvino();"
        "print([m for m in sys.modules if m.startswith('openvino_telemetry')])"
    )
    home = {"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "intel").exists()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The shipped network, pruned, as the prune command saves it."""
    model = sc.build("resnet20-cifar10")
    structure = sc.trace(model, torch.zeros(1, 3, 16, 16))
    scores = sc.Scores(structure, np.random.default_rng(0).random(structure.num_units), "by hand")
    plan = sc.select(scores, sc.Budget(macs=0.5))
    folder = tmp_path_factory.mktemp("bundle") / "b"
    data = {"class_names": [f"c{i}" for i in range(10)]}
    return sc.save(
        sc.prune(model, plan), folder, plan=plan, recipe={"model": {"name": "resnet20-cifar10"}}, data=data
    )  # fmt: skip


@pytest.mark.slow
def test_command_exports_before_and_after(bundle, tmp_path, capfd):
    out = tmp_path / "out"
    assert run(["export", str(bundle), "--out", str(out), "--repeats", "1"]) == 0
    printed = capfd.readouterr()
    assert "original" in printed.out
    assert "pruned" in printed.out
    assert printed.err == ""
    assert sorted(p.name for p in out.iterdir()) == ["export.json", "original.onnx", "pruned.onnx"]
    record = json.loads((out / "export.json").read_text())
    before, after = record["networks"]
    assert after["bytes"] == (out / after["path"]).stat().st_size < before["bytes"]
    assert before["top1_equal"]
    assert [t["batch_size"] for t in after["timings"]] == [1, 8]
    assert record["input_shape"] == [None, 3, 16, 16]
    # the original is the trained network, the pruned one the bundle's
    x = torch.randn(3, 3, 16, 16)
    for name, network in (("original", sc.build("resnet20-cifar10")), ("pruned", sc.load(bundle))):
        session = OnnxSession(out / f"{name}.onnx")
        torch.testing.assert_close(session(x), network(x).detach(), rtol=1e-3, atol=1e-3)
        assert "c3" in session.metadata["class_names"]
    # written again in its place, and into no other folder
    assert run(["export", str(bundle), "--out", str(out), "--repeats", "0", "--format", "torch-export"]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["export.json", "original.pt2", "pruned.pt2"]
    assert run(["export", str(bundle), "--out", str(bundle)]) == 2
    assert "is not an export" in capfd.readouterr().err


@pytest.mark.slow
def test_command_says_when_the_originals_weights_are_gone(bundle, tmp_path, capfd):
    net = sc.load(bundle)
    plan = json.loads((bundle / "plan.json").read_text())
    sc.save(net, tmp_path / "b", plan=sc.Plan.from_json(plan))
    assert run(["export", str(tmp_path / "b"), "--out", str(tmp_path / "out"), "--repeats", "0"]) == 0
    assert "note: the weights before pruning are not at hand" in capfd.readouterr().err
    assert (tmp_path / "out" / "original-random-weights.onnx").is_file()
    options = ["--against", "resnet20-cifar10", "--repeats", "0", "--out", str(tmp_path / "out")]
    assert run(["export", str(tmp_path / "b"), *options]) == 0
    assert (tmp_path / "out" / "original.onnx").is_file()
    assert not (tmp_path / "out" / "original-random-weights.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["resnet20-cifar10", "--format", "onx"], 2, "unknown format 'onx'"),
        (["resnt20"], 2, "unknown model 'resnt20' (did you mean 'resnet20'?)"),
        (["resnet20-cifar10", "--shape", "a,b"], 2, "--shape should read C,H,W"),
        (["resnet20-cifar10", "--shape", "1,32,32"], 2, "fails on inputs of shape [(2, 1, 32, 32)]"),
        (["resnet20-cifar10", "--shape", "3,0,32"], 2, "positive sizes"),
        (["resnet20-cifar10", "--opset", "2"], 2, "unknown ONNX opset 2"),
        (["resnet20-cifar10", "--against", "nothing"], 2, "unknown model 'nothing'"),
        (["resnet20-cifar10", "--batch", "0"], 2, "at least one sample"),
    ],
)
def test_command_errors_are_one_line(arguments, code, message, tmp_path, capfd):
    assert run(["export", *arguments, "--out", str(tmp_path / "out")]) == code
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.iterdir())
