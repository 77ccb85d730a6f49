"""What `secateur doctor` says: of the installation, and of a network."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import metadata

import pytest
import torch
import typer
from torch import nn
from typer.main import get_command

import secateur as sc
from networks import zoo
from secateur.cli import doctor, installation, wide


class Residual(nn.Module):
    """A residual stream that a norm runs over."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(4, 16), nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.down(self.up(self.norm(x)).relu()))


class Products(nn.Module):
    """Products of activations that nothing prunes, and a parameter that belongs to no unit."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(6, 8), nn.Linear(8, 2), nn.Parameter(torch.ones(1))

    def forward(self, x):
        mixed = (x @ x.transpose(1, 2)) @ x * self.scale
        return self.last(self.first(mixed).relu().mean(1))


NETWORKS = {
    "resnet20": lambda: (lambda m, x: (m, x[:1]))(*zoo("resnet20")),
    "residual": lambda: (Residual(), torch.zeros(2, 4)),
    "products": lambda: (Products(), torch.randn(2, 5, 6)),
}


def said(capsys, *arguments):
    app = typer.Typer()
    app.command()(doctor.command)
    get_command(app)(args=list(arguments), standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_shares_add_up(name, stream):
    rows = sc.trace(*NETWORKS[name](), stream=stream).table()
    for measure in ("params", "macs"):
        assert all(row[measure] >= 0 for row in rows)
        assert sum(row[measure] for row in rows) == pytest.approx(1, abs=1e-9)


def test_shares_after_a_removal_are_those_of_what_is_left():
    structure = sc.trace(*NETWORKS["resnet20"]())
    keep = torch.arange(structure.num_units).numpy() % 3 > 0
    assert sum(row["params"] for row in structure.reduced(keep).table()) == pytest.approx(1, abs=1e-9)


def test_a_weight_counts_half_for_the_group_that_reads_it():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 5, bias=False), nn.Linear(5, 2, bias=False))
    first, second, output, rest = sc.trace(net, torch.zeros(1, 3)).table()
    assert first["params"] == pytest.approx((12 + 20 / 2) / 42)
    assert second["params"] == pytest.approx((20 / 2 + 10) / 42)
    assert output["params"] == rest["params"] == 0


def test_what_nothing_prunes_is_all_else():
    rows = sc.trace(*NETWORKS["products"]()).table()
    assert rows[-1]["group"] == "all else"
    assert rows[-1]["macs"] == pytest.approx(2 * 5 * 5 * 6 / (2 * 5 * 5 * 6 + 5 * 6 * 8 + 8 * 2))


def test_tables_fit_and_columns_add_up(capsys):
    printed = said(capsys, "resnet20")
    assert max(map(len, printed.splitlines())) <= wide.WIDTH
    assert "layer3.0.conv2 and 3 more" in printed
    shares = [[float(n) for n in re.findall(r"([\d.]+) %", line)] for line in printed.splitlines() if " %" in line]
    *rows, total = shares
    assert total == [100, 100]
    for column in zip(*rows, strict=True):
        assert sum(column) == pytest.approx(100, abs=0.005 * len(rows))
    assert re.search(r"^reachable: .*macs 0\.\d+% .*prune --macs 0\.01\)$", printed, re.M)


def test_the_last_line_names_the_flag(capsys):
    printed = said(capsys, "timm/test_vit")
    assert max(map(len, printed.splitlines()[:-2])) <= wide.WIDTH
    last = printed.splitlines()[-1]
    start = "norms lock 64 channels of the residual stream; --stream allows removing them; then reachable: "
    assert last.startswith(start)
    share = re.search(r"macs ([\d.]+)% .*prune --macs 0\.01 --stream\)", last)
    assert float(share[1]) < 1
    assert "blocks.5.mlp.fc2" not in printed
    full = said(capsys, "timm/test_vit", "--full", "--stream")
    assert "blocks.5.mlp.fc2" in full
    assert max(map(len, full.splitlines())) <= wide.WIDTH
    assert "allows removing them" not in full


def test_every_extra_is_listed(capsys):
    printed = said(capsys)
    assert max(map(len, printed.splitlines())) <= wide.WIDTH
    for extra in metadata("secateur").get_all("Provides-Extra"):
        assert re.search(rf"^ ?extra {extra} +(\S+ \d|missing)", printed, re.M), extra
    assert f"torch {torch.__version__.partition('+')[0]}" in " ".join(printed.split())


def test_missing_packages_come_with_the_command(monkeypatch):
    monkeypatch.setattr(installation, "_version", lambda name: None if name == "onnxscript" else "1.0")
    assert installation.extra_line("onnx") == "missing onnxscript: pip install 'secateur[onnx]'"
    assert "onnxscript" in installation.extra_line("openvino")
    assert installation.extra_line("toy") == "scikit-learn 1.0"


def test_extras_of_extras():
    named = ["numpy>=2", "onnx>=1; extra == 'onnx'", "openvino; extra == 'all'", "secateur[onnx,toy]; extra == 'all'"]
    assert list(installation.packages([*named, "scikit-learn; extra == 'toy'"], "all")) == [
        "openvino",
        "onnx",
        "scikit-learn",
    ]
    assert list(installation.packages(named, None)) == ["numpy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet21"], "unknown model 'resnet21'"),
        (["resnet20", "--shape", "a,b"], "should read C,H,W"),
        (["resnet20", "--shape", "3,0,32"], "at least 1"),
        (["resnet20", "--shape", "3"], "fails on the example input of shape"),
        (["resnet20", "--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["json:loads"], "--trust-code"),
    ],
)
def test_wrong_requests(capsys, arguments, message):
    with pytest.raises(sc.RequestError, match=re.escape(message)) as caught:
        said(capsys, *arguments)
    assert "\n" not in str(caught.value)


def test_options_are_read_without_pytorch():
    code = "import sys, secateur.cli.doctor; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
