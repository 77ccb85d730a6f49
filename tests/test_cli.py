"""The command line as a user starts it: what is printed, what is written, the exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import secateur as sc
from networks import user_net
from secateur.cli.main import run

SMALL = ["--data", "mnist5k", "--set", "data.limit=120", "--set", "reference.per_class=2", "--device", "cpu"]


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
        + ["--set", "prune.step=0.25", "--set", "compare.sampling.per_class=2", "--out", str(tmp_path)]
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
    assert run(["doctor", "timm/levit_128s", "--full"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\.attn\.qkv\.\s+heads", printed)
    assert run(["doctor", "timm/test_vit", "--stream"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"patch_embed\.proj .* stream", printed)
    assert run(["doctor", "timm/test_vit"]) == 0
    assert "--stream allows removing them" in capsys.readouterr().out


def test_print_config_and_dry_run_do_no_work(trained, tmp_path, capsys):
    assert run(["prune", "--print-config", "--macs", "0.3", "--out", str(tmp_path / "a")]) == 0
    assert "share: 0.3" in capsys.readouterr().out
    assert run(["prune", "--dry-run", *network(trained), "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("the request is right; nothing was done\ndata: 'mnist5k' with 10 classes (120 train")
    assert "1 scoring(s) on 20 train images, one-shot/auto+refitted" in printed
    assert re.search(r"time: about \d+ (s|min)", printed)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("command", ["train", "compare", "explain", "evaluate"])
def test_each_dry_run_says_what_would_be_done(command, trained, tmp_path, capsys):
    out = tmp_path / "a"
    few = ["--set", "compare.sampling.per_class=2"]
    assert run([command, "--dry-run", *network(trained), "--out", str(out), *few]) == 0
    printed = capsys.readouterr().out
    assert {"train": "for 10 epochs of 120 images", "compare": "7 criteria × 3 seeds", "explain": "heatmaps of 8 test",
            "evaluate": "on 120 test images"}[command] in printed  # fmt: skip
    assert f"results: {out}" in printed.replace("\n", " ")
    assert not out.exists()


@pytest.mark.slow
def test_random_weights_are_taken_when_asked_for(tmp_path, capsys):
    request = [
        "prune",
        "--model",
        "resnet20",
        "--set",
        "model.arguments={width: 4}",
        "--set",
        "prune.schedule=one-shot",
    ]
    assert run([*request, *SMALL, "--allow-untrained", "--out", str(tmp_path)]) == 0
    assert "note: 'resnet20' has random weights" in capsys.readouterr().err


def test_python_dash_m_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "secateur", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"secateur {sc.__version__}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("secateur pru", "prune"),
        ("secateur prune --criterion la", "lamp"),
        ("secateur prune --strategy iso", "isomorphic"),
        ("secateur explain --composite eps", "epsilon-plus-flat"),
        ("secateur train --recipe resnet20", "resnet20-cifar10"),
    ],
)
def test_the_shell_completes_commands_and_names(words, expected):
    count = str(len(words.split()) - 1)
    environment = {**os.environ, "_SECATEUR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
    done = subprocess.run(
        [Path(sys.executable).with_name("secateur")], env=environment, capture_output=True, text=True, check=False
    )
    assert expected in done.stdout.split()


def test_a_pickled_checkpoint_is_refused(tmp_path, capsys):
    torch.save(user_net()[0], tmp_path / "whole.pt")
    assert run(["evaluate", "--model", "resnet20", "--weights", str(tmp_path / "whole.pt"), *SMALL]) == 2
    error = capsys.readouterr().err
    assert "unpickling" in error
    assert "safetensors" in error
