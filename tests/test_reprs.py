"""What a console and a notebook show of the engine's values: short, and never tensors in full."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.pipeline.settings import Compressed, Step


class Checked(HTMLParser):
    """Every opened tag is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.pictures = [], [], 0
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures += 1
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def values():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 40, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 4),
    )  # fmt: skip
    x, y = torch.randn(12, 3, 10, 10), torch.arange(12) % 4
    structure = sc.trace(net, x[:1])
    scores = sc.Scores(structure, np.linspace(-1, 1, structure.num_units), "a<b")
    plan = sc.select(scores, sc.Budget(macs=0.3))
    slim = sc.prune(net, plan)
    steps = (Step(0.6, {"units": 0.7, "macs": 0.59}), Step(0.3, dict(plan.achieved), "why"))
    return {
        "structure": structure,
        "scores": scores,
        "plan": plan,
        "evaluation": sc.evaluate(net, [(x, y)], class_names=["a", "<b>", "c", "d"], latency=True, latency_batch=2),
        "compressed": Compressed(slim, plan, steps, {"scoring": 1.0, "surgery": 0.5}),
        "relevance": sc.attribute(net, x, y),
        "verification": sc.verify(slim, net, plan, [x[:2]]),
        "budget": sc.Budget(macs=0.5),
    }


EXPECTED = {
    "structure": r"Structure\(2 groups, 48 removable units, 1 locked, 3,308 parameters, [\d,]+ MACs\)",
    "scores": r"Scores\(a<b: 48 units in 2 groups, lowest -1, median .*, highest 1\)",
    "plan": r"Plan\(\d+ units are removed by a<b \(global\); "
    r"requested: macs 30\.0%; stays: units .*%, params .*%, macs .*%\)",
    "evaluation": r"Evaluation\(accuracy [\d.]+ %, balanced [\d.]+ %, loss [\d.]+ on 12 samples; 3,308 param.*\)",
    "compressed": r"Compressed\(Sequential, 2 scorings, 1\.5 s: \d+ units are removed by a<b .*\)",
    "relevance": r"Relevance\(input \[12, 3, 10, 10\], 3 layers of units, logits \[12, 4\]\)",
    "verification": r"Verification\(4 outputs compared: no output differs; 0 calls refused, 0 not compared\)",
    "budget": r"Budget\(macs=0\.5\)",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_one_line(values, name):
    text = repr(values[name])
    assert re.fullmatch(EXPECTED[name], text), text
    assert len(text) < 240
    assert "tensor" not in text


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "budget"])
def test_html(values, name):
    page = values[name]._repr_html_()
    seen = Checked(page)
    assert "tensor(" not in page
    assert "<b>" not in page
    assert len(seen.texts) >= 5
    assert seen.pictures == (8 if name == "relevance" else 0)


def test_html_tells_what_is_inside(values):
    texts = {name: Checked(values[name]._repr_html_()).texts for name in EXPECTED if name != "budget"}
    assert {"0", "2", "6", "all else"} <= set(texts["structure"])
    assert {"accuracy of <b>", "Evaluation on 12 samples"} <= set(texts["evaluation"])
    assert {"60.0 %", "59.0 %", "30.0 %", "why"} <= set(texts["compressed"])
    assert {"call 1", "random inputs", "ok"} <= set(texts["verification"])
    assert {"0", "40"} <= set(texts["scores"])


def test_relevance_of_vectors_has_no_picture():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    seen = Checked(sc.attribute(net, torch.randn(2, 4), [0, 1])._repr_html_())
    assert seen.pictures == 0
    assert {"0", "2"} <= set(seen.texts)


def test_wrong_networks_are_told_at_a_glance(values):
    wrong = sc.verify(nn.Sequential(nn.Flatten(), nn.Linear(300, 4)), *_network_and_plan(), random=False)
    assert re.match(r"Verification\(0 outputs", repr(wrong))
    found = sc.verify(nn.Sequential(nn.Flatten(), nn.Linear(300, 4)), *_network_and_plan(), [torch.ones(2, 300)])
    assert repr(found).startswith("Verification(4 outputs compared: 4 differ, first call 1: difference ")


def _network_and_plan():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(300, 6), nn.ReLU(), nn.Linear(6, 4))
    structure = sc.trace(net, torch.zeros(1, 300))
    return net, sc.Plan.of(structure, np.arange(6) < 3, {}, "by hand", "none")


def test_plans_print_their_notes():
    net = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 3))
    structure = sc.trace(net, torch.zeros(1, 4))
    plan = sc.Plan.of(structure, np.arange(70) >= 37, {}, "by hand", "none")
    assert str(plan).splitlines()[1].startswith("note: almost emptied: 0 (3 of 40 units left);")
    assert "note" not in repr(plan)
    assert "almost emptied" in " ".join(Checked(plan._repr_html_()).texts)
