"""The command line as a user starts it: what is printed, what is written, the exit code."""

from __future__ import annotations

import json
import re

import pytest
import torch

import secateur as sc
from networks import user_net
from secateur.cli.main import run

SMALL = ["--set", "data.limit=120", "--set", "reference.per_class=2", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny network trained by the train command."""
    out = tmp_path_factory.mktemp("train")
    code = run(
        [
            "train",
            "--model",
            "resnet20",
            "--epochs",
            "1",
            "--set",
            "model.arguments={width: 4}",
            *SMALL,
            "--out",
            str(out),
        ]
    )
    assert code == 0
    return out / "resnet20.safetensors"


def network(trained):
    return ["--model", "resnet20", "--set", "model.arguments={width: 4}", "--weights", str(trained), *SMALL]


def test_prune_writes_bundle_report_and_metrics(trained, tmp_path, capsys):
    code = run(
        ["prune", *network(trained), "--macs", "0.5", "--criterion", "lrp:composite=epsilon-plus", "--finetune", "1"]
        + ["--set", "prune.step=0.25", "--out", str(tmp_path)]
    )
    printed = capsys.readouterr().out
    assert code == 0
    assert "fine-tuned" in printed
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 0.49 < metrics["achieved"]["macs"] <= 0.5
    html = (tmp_path / "report.html").read_text()
    assert "<img" in html
    slim = sc.load(tmp_path / "bundle")
    assert sum(p.numel() for p in slim.parameters()) == metrics["finetuned"]["params"] < metrics["before"]["params"]
    # the bundle is a network like any other
    assert run(["evaluate", "--model", str(tmp_path / "bundle"), *SMALL, "--out", str(tmp_path / "eval")]) == 0
    found = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert found["accuracy"] == metrics["finetuned"]["accuracy"]
    against = ["--against", str(tmp_path / "bundle"), "--count", "2", "--out", str(tmp_path / "x")]
    assert run(["explain", *network(trained), *against]) == 0
    assert len(list((tmp_path / "x").glob("*.png"))) == 4
    assert run(["report", str(tmp_path / "report.json"), "--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text() == html


def test_compare(trained, tmp_path, capsys):
    code = run(
        ["compare", *network(trained), "--criterion", "lrp", "--criterion", "random", "--budget", "0.5", "--seed", "0"]
        + ["--set", "prune.step=0.25", "--set", "compare.per_class=2", "--out", str(tmp_path)]
    )
    assert code == 0
    assert {"compare.csv", "compare.parquet", "compare.json", "compare.svg", "report.html"} <= {
        p.name for p in tmp_path.iterdir()
    }
    assert "random" in capsys.readouterr().out


def test_doctor(capsys):
    assert run(["doctor"]) == 0
    assert run(["doctor", "resnet20"]) == 0
    printed = capsys.readouterr().out
    assert "is an output of the network" in printed
    assert re.search(r"reachable: .*macs 0\.\d+%", printed)


def test_doctor_shows_heads_and_streams(capsys):
    assert run(["doctor", "timm/levit_128s"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\.attn\.qkv\.linear\[heads\].* heads", printed)
    assert run(["doctor", "timm/test_vit", "--stream"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"patch_embed\.proj .* stream", printed)
    assert run(["doctor", "timm/test_vit"]) == 0
    assert "--stream lets them go" in capsys.readouterr().out


def test_print_config_and_dry_run_do_no_work(tmp_path, capsys):
    assert run(["prune", "--print-config", "--macs", "0.3", "--out", str(tmp_path / "a")]) == 0
    assert "share: 0.3" in capsys.readouterr().out
    assert run(["prune", "--dry-run", *SMALL, "--out", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.startswith("ok: data 'mnist5k'")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--macs", "1.5"], "'budget.share': Input should be less than or equal to 1"),
        (["prune", "--macs", "0.0001", *SMALL], "cannot be reached: at least"),
        (["prune", "--model", "resnt20"], "unknown model 'resnt20' (did you mean 'resnet20'?); known: resnet20"),
        (["prune", "--criterion", "lpr", *SMALL], "unknown criterion 'lpr' (did you mean 'lrp'?)"),
        (["prune", "--data", "/nowhere/x.npz"], "'/nowhere/x.npz' does not exist"),
        (["prune", "--data", "cifar11"], "neither a folder nor a .npz file; known names: mnist5k"),
        (["prune", "--set", "prune.speed=9"], "'prune.speed': Extra inputs"),
        (["prune", "--set", "nonsense"], "--set needs key=value"),
        (["prune", "--strategy", "best", *SMALL], "unknown strategy 'best'"),
        (["prune", "--macs", "0.5", "--units", "0.5"], "give one of --macs, --params, --units"),
        (["prune", "--set", "reference.per_class=4000"], "fewer than the 4000 per class"),
        (["prune", "--device", "tpu9"], "device 'tpu9' cannot be used here"),
        (["train", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["report", "/nowhere/report.json"], "does not exist"),
        (["trane"], "No such command 'trane'"),
        (["doctor", "resnet20", "--shape", "a,b"], "--shape should read C,H,W"),
    ],
)
def test_wrong_requests_are_one_line_and_exit_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = run(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note:")]
    error = "\n".join(lines)
    assert code == 2, error
    assert message in error
    assert len(lines) == 1
    assert "Traceback" not in error
    assert not list(tmp_path.glob("**/manifest.json"))


def test_a_pickled_checkpoint_is_refused(tmp_path, capsys):
    torch.save(user_net()[0], tmp_path / "whole.pt")
    assert run(["evaluate", "--model", "resnet20", "--weights", str(tmp_path / "whole.pt"), *SMALL]) == 2
    error = capsys.readouterr().err
    assert "unpickling" in error
    assert "safetensors" in error
