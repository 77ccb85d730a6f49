"""Wrong requests: one line that says what, where and the remedy; exit code 2; by the dry run and by the run alike."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from secateur.cli.main import run

NET = ["--model", "resnet20-cifar10"]
TINY = ["--data", "tiny.npz"]
BOTH = [*NET, *TINY]

EARLY = [  # refused before PyTorch is loaded
    (["train"], "train needs --data and --model, or a --recipe that names them; for example: secateur train"),
    (["prune"], "prune needs --data and --model"),
    (["prune", *NET], "prune needs --data, or a --recipe"),
    (["compare", *TINY], "compare needs --model"),
    (["explain"], "for example: secateur explain --model resnet20-cifar10"),
    (["evaluate", *NET], "evaluate needs --data"),
    (["prune", "--model", "resnet20", *TINY], "'resnet20' would have random weights"),
    (["compare", "--model", "torchvision/resnet18", *TINY], "or --allow-untrained if you mean it"),
    (["explain", "--model", "resnet56", *TINY], "'resnet56' would have random weights"),
    (["prune", "--model", "resnt20", *TINY], "unknown model 'resnt20' (did you mean 'resnet20'?); known: prototype-"),
    (["prune", "--model", "resnet20-cifar", *TINY], "(did you mean 'resnet20-cifar10'?)"),
    (["evaluate", "--model", "torchvision/resnet81", *TINY], "torchvision has no classifier 'resnet81' (did you mean"),
    (["evaluate", "--model", "timm/vit_tinny_patch16_224", *TINY], "timm has no model 'vit_tinny_patch16_224' (did"),
    (["evaluate", "--model", "notes", *TINY], "is not a bundle: manifest.json is missing"),
    (["evaluate", "--model", "missing.safetensors", *TINY], "'missing.safetensors' is a file that does not exist"),
    (["evaluate", "--model", "own_net:make", *TINY], "--trust-code"),
    (["evaluate", "--model", "resnet20", "--weights", "nowhere.pt", *TINY], "checkpoint 'nowhere.pt' does not exist"),
    (["evaluate", *BOTH, "--architecture", "resnet20"], "model.architecture says what a file of weights"),
    (["prune", *NET, "--data", "/nowhere/x.npz"], "'/nowhere/x.npz' does not exist"),
    (["prune", *NET, "--data", "tinny.npz"], "(did you mean 'tiny.npz'?)"),
    (["prune", *NET, "--data", "cifar11"], "did you mean 'cifar10'?"),
    (["prune", *NET, "--data", "text.npz"], "text.npz"),
    (["prune", *NET, "--data", "notes"], "notes"),
    (["train", "--model", "resnet20", "--data", "torchvision/cifar11"], "unknown torchvision data set 'cifar11'"),
    (["train", "--model", "resnet20", "--data", "torchvision/cifar10"], "--set data.root="),
    (["train", "--model", "resnet20", *TINY, "--set", "data.augmentation=flop"], "unknown augmentation 'flop' (did"),
    (["prune", *BOTH, "--criterion", "lpr"], "unknown criterion 'lpr' (did you mean 'lrp'?)"),
    (["prune", *BOTH, "--criterion", "lrp:composite=epsilon-pluss"], "unknown composite 'epsilon-pluss' (did you mean"),
    (["prune", *BOTH, "--criterion", "lrp:epsilon=1"], "unexpected keyword argument 'epsilon'"),
    (["prune", *BOTH, "--criterion", "lrp:reduce"], "should read key=value"),
    (["prune", *BOTH, "--criterion", "weight:p=3"], "p must be 1 or 2, got 3"),
    (["prune", *BOTH, "--criterion", "lrp:start=logits"], "unknown start 'logits'"),
    (["prune", *BOTH, "--strategy", "best"], "unknown strategy 'best'"),
    (["prune", *BOTH, "--schedule", "oneshot"], "got 'oneshot' (did you mean 'one-shot'?)"),
    (["prune", *BOTH, "--schedule", "iterative"], "give --finetune EPOCHS of at least 1"),
    (["prune", *BOTH, "--macs", "1.5"], "'budget.share': Input should be less than or equal to 1"),
    (["prune", *BOTH, "--macs", "50"], "'budget.share': Input should be less than or equal to 1"),
    (["prune", *BOTH, "--macs", "1"], "leaves nothing to remove"),
    (["prune", *BOTH, "--macs", "0.5", "--units", "0.5"], "give one of --macs, --params, --units"),
    (["prune", *BOTH, "--set", "prune.stratgy=global"], "has no key 'stratgy' (did you mean 'strategy'?)"),
    (["prune", *BOTH, "--set", "prun.step=0.1"], "a recipe has no key 'prun' (did you mean 'prune'?)"),
    (["prune", *BOTH, "--set", "prune.min_keep=0"], "min_keep"),
    (["prune", *BOTH, "--set", "nonsense"], "--set needs key=value"),
    (["prune", *BOTH, "--set", "prune.step=[1"], "is not a YAML value"),
    (["prune", *BOTH, "--set", "budget.share.more=1"], "'budget.share': Input should be a valid number"),
    (["prune", *BOTH, "--recipe", "resnet20-cifr10"], "(did you mean 'resnet20-cifar10'?)"),
    (["prune", *BOTH, "--recipe", "broken.yaml"], "recipe 'broken.yaml' is not valid YAML"),
    (["prune", *BOTH, "--device", "gpu"], "unknown device 'gpu'"),
    (["prune", *BOTH, "--head", "slice"], "needs data.classes (--classes)"),
    (["prune", *BOTH, "--out", "notes/text.txt/out"], "cannot write to folder 'notes/text.txt/out'"),
    (["train", "--model", "resnet20", *TINY, "--epochs", "many"], "Invalid value for '--epochs'"),
    (["train", "--model", "resnet20", *TINY, "--lr", "-1"], "'train.learning_rate': Input should be greater than 0"),
    (["trane"], "No such command 'trane'"),
    (["prune", *BOTH, "--mac", "0.5"], "No such option"),
    (["compare", *BOTH, "--criterion", "lrp", "--criterion", "wieght"], "unknown criterion 'wieght' (did you mean"),
    (["compare", *BOTH, "--criterion", "lrp", "--criterion", "lrp"], "compare.variants.criteria has 'lrp' twice"),
    (["compare", *BOTH, "--budget", "1.2"], "compare.targets.budgets must be shares in (0, 1), got 1.2"),
    (["compare", *BOTH, "--set", "compare.variants.seeds=[]"], "compare.variants.seeds is empty"),
    (["compare", *BOTH, "--track", "wand"], "unknown tracker 'wand' (did you mean 'wandb'?)"),
    (["compare", *BOTH, "--head", "slice"], "--head is for the classes of --subset"),
    (["compare", *BOTH, "--set", "compare.variants.blind=[lrp]"], "variants.blind compares with scores on all"),
    (["explain", *BOTH, "--composite", "eps-plus"], "unknown composite 'eps-plus' (did you mean 'epsilon-plus'?)"),
    (["explain", *BOTH, "--start", "logits"], "unknown start 'logits' (did you mean 'logit'?)"),
    (["explain", *BOTH, "--against", "notes"], "is not a bundle folder"),
    (["explain", *BOTH, "--image", "-1"], "there is no test image -1"),
    (["evaluate", *BOTH, "--split", "tests"], "unknown split 'tests' (did you mean 'test'?)"),
    (["export", "resnet20-cifar10", "--format", "onxx"], "unknown format 'onxx' (did you mean 'onnx'?)"),
    (["export", "resnet20-cifar10", "--shape", "3x32x32"], "--shape should read C,H,W"),
    (["export", "resnet20-cifar10", "--batch", "0"], "a batch holds at least one sample"),
    (["toy", "run", "--criterion", "lpr"], "unknown criterion 'lpr' (did you mean 'lrp'?)"),
    (["toy", "run", "--dataset", "mon"], "unknown toy data set 'mon'"),
    (["toy", "grid", "--seed", "1", "--seeds", "3"], "give --seed (which) or --seeds (how many)"),
]

LATE = [  # refused when data or network are open
    (["prune", *BOTH, "--macs", "0.0001"], "cannot be reached: at least"),
    (["prune", *BOTH, "--set", "prune.protect=[conv9]"], "conv9"),
    (["prune", *BOTH, "--set", "reference.per_class=4000"], "fewer than the 4000 per class"),
    (["prune", *BOTH, "--set", "reference.classes=[cats]"], "unknown class 'cats'"),
    (["prune", *BOTH, "--criterion", "ocap:images=5000"], "asks for 5000 reference samples"),
    (["prune", *BOTH, "--classes", "one"], "names one class only"),
    (["compare", *BOTH, "--budget", "0.0001"], "cannot be reached: at least"),
    (["compare", *BOTH, "--subset", "one,none"], "unknown class 'none'"),
    (["compare", *BOTH, "--set", "compare.sampling.per_class=4000"], "fewer than the 4000 per class"),
    (["explain", *BOTH, "--image", "5000"], "there is no test image 5000"),
    (["evaluate", "--model", "timm/test_resnet", "--set", "model.arguments={num_classes: 3}", *TINY], "10 classes"),
    (["evaluate", "--model", "resnet20", "--weights", "notes/text.pt", *TINY], "'notes/text.pt'"),
]

NO_DRY_RUN = (  # commands that work at once
    (["report", "missing.json"], "record 'missing.json' does not exist"),
    (["report", "report.json", "--out", "page.doc"], "should end in .html, .png or .svg"),
    (["doctor", "resnt20"], "unknown model 'resnt20' (did you mean 'resnet20'?)"),
    (["doctor", "resnet20", "--shape", "a,b"], "--shape should read C,H,W"),
    (["toy", "analyse", "nowhere"], "'nowhere/results.csv' does not exist"),
    (["data", "fetch", "cifar11"], "did you mean 'cifar10'?"),
)


def _short(value: object) -> str:
    return " ".join(value)[:60] if isinstance(value, list) else ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small data of ten classes, and files that are none of what they are taken for."""
    place = tmp_path_factory.mktemp("wrong")
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 100), ("val", 20), ("test", 20)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 10
    names = "one two three four five six seven eight nine ten".split()
    np.savez(place / "tiny.npz", **arrays, class_names=names)
    (place / "notes").mkdir()
    (place / "notes" / "text.txt").write_text("text")
    (place / "notes" / "text.pt").write_text("text")
    (place / "text.npz").write_text("text")
    (place / "broken.yaml").write_text("prune: [")
    (place / "report.json").write_text("{}")
    (place / "own_net.py").write_text("raise SystemExit('this must not run')\n\n\ndef make(): ...\n")
    return place


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal."""
    code = run(arguments)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith(("note:", "loading PyTorch"))]
    assert code == 2, captured.err
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("secateur: ")
    assert not captured.out
    return lines[0]


@pytest.mark.parametrize(("arguments", "message"), [*EARLY, *LATE], ids=_short)
def test_the_dry_run_and_the_run_refuse_alike(arguments, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    line = refused(arguments, capsys)
    assert message in line
    if len(arguments) > 1:  # an unknown command has no options
        assert refused([*arguments, "--dry-run"], capsys) == line
    assert sorted(folder.rglob("*")) == before  # nothing was written, no folder made


@pytest.mark.parametrize(("arguments", "message"), NO_DRY_RUN, ids=_short)
def test_other_commands_refuse_in_one_line(arguments, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert message in refused(list(arguments), capsys)


def test_nothing_heavy_is_loaded_to_refuse_or_to_help(folder):
    """In a process of its own, which is asked after each request what it has loaded."""
    requests = [arguments for arguments, _ in EARLY]
    commands = ["train", "prune", "compare", "explain", "evaluate", "export", "doctor", "demo", "report", "data"]
    asked = [["--version"], ["--help"], *([name, "--help"] for name in commands), ["toy", "run", "--help"], *requests]
    script = f"""
import sys
from secateur.cli.main import run
for arguments in {json.dumps(asked)}:
    run(arguments)
    loaded = [name for name in ("torch", "torchvision", "pandas", "altair") if name in sys.modules]
    assert not loaded, (arguments, loaded)
print("all", len({json.dumps(asked)}), "light")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("light\n")
