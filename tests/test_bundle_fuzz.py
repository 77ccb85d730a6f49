"""Damaged and forged bundles, loaded in processes of their own: each gives a network or one line, and no process dies.

Run as a program, this file loads a range of them: ``python test_bundle_fuzz.py BUNDLE FIRST LAST``.
"""

from __future__ import annotations

import copy
import json
import math
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.core.files import sha256
from secateur.models.safetensors_file import read_safetensors
from secateur.structure import functions
from secateur.surgery import edits_of
from secateur.surgery.bundle import BUNDLE_VERSION, MANIFEST, MEMBERS
from test_surgery import plan_for

WEIGHTS = "model.safetensors"


class Mixed(nn.Module):
    """Attention whose code names sizes, and buffers of all types, of odd lengths."""

    def __init__(self):
        super().__init__()
        self.heads = 4
        self.qkv, self.out, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)
        self.register_buffer("bytes", torch.arange(3, dtype=torch.uint8))
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("sixteen", torch.rand(3).half())
        self.register_buffer("brain", torch.rand(3).bfloat16())
        self.register_buffer("small", torch.rand(3).to(torch.float8_e4m3fn))
        self.register_buffer("sixtyfour", torch.rand(3, dtype=torch.float64))
        self.register_buffer("pairs", torch.rand(3, 2, dtype=torch.complex64))
        self.register_buffer("wide", torch.rand(33, dtype=torch.complex128))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("none", torch.empty(0, 4))

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return self.head(torch.relu(x)).mean(1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A pruned network and its bundle."""
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(2, 5, 16)
    slim = sc.prune(model, plan_for(model, x, 0.6))
    assert edits_of(slim).cuts
    return slim, sc.save(slim, tmp_path_factory.mktemp("whole") / "bundle")


def crash_free(bundle, first, last):
    """Load a range of damaged bundles in one child process."""
    with TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, __file__, str(bundle), str(first), str(last)],
            capture_output=True, text=True, check=False, cwd=home,
        )  # fmt: skip
        note = Path(home) / "seed"
        seed = note.read_text() if note.is_file() else "none"
    assert done.returncode == 0, f"exit code {done.returncode} at seed {seed}: {done.stderr[-3000:]}"
    counts = json.loads(done.stdout.splitlines()[-1])
    assert sum(counts.values()) == last - first
    return counts


def test_damaged_bundles_end_no_process(whole):
    counts = crash_free(whole[1], 0, 150)
    assert counts["refused"] > 50


@pytest.mark.slow
def test_ten_thousand_damaged_bundles_end_no_process(whole):
    total = {"loaded": 0, "refused": 0}
    for first in range(0, 10_000, 1000):
        for key, count in crash_free(whole[1], first, first + 1000).items():
            total[key] += count
    assert min(total.values()) > 500


# tensors at any address


def rewritten(file, order):
    """The same tensors in another order: none is aligned after one of odd length."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    new, parts, position = {"__metadata__": header.pop("__metadata__")}, [], 0
    for name in sorted(header, key=order):
        begin, end = header[name]["data_offsets"]
        new[name] = {**header[name], "data_offsets": [position, position + end - begin]}
        parts.append(data[begin:end])
        position += end - begin
    text = json.dumps(new, separators=(",", ":")).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def rehash(folder):
    sums = {name: sha256(folder / name) for name in MEMBERS}
    (folder / MANIFEST).write_text(json.dumps({"version": BUNDLE_VERSION, "sha256": sums}))


def copied(bundle, folder):
    folder.mkdir()
    for name in (*MEMBERS, MANIFEST):
        (folder / name).write_bytes((bundle / name).read_bytes())
    return folder


@pytest.mark.slow
def test_tensors_may_begin_at_any_address(whole, tmp_path):
    """In a child, since instructions that need aligned memory end the process."""
    slim, bundle = whole
    folders = []
    for first in ("bytes", "flags", "sixteen", "small", "wide"):
        folders.append(copied(bundle, tmp_path / first))
        rewritten(folders[-1] / WEIGHTS, lambda name, first=first: (name != first, name))
        rehash(folders[-1])
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import secateur as sc; from test_bundle_fuzz import Mixed\n"
        "from secateur.surgery.readback import difference_to_loaded\n"
        "whole, *others = [sc.load(folder, Mixed()) for folder in sys.argv[2:]]\n"
        "print([difference_to_loaded(whole, other, None) for other in others])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(bundle), *map(str, folders)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([""] * 5)
    for name, tensor in read_safetensors(folders[0] / WEIGHTS).items():
        assert tensor.data_ptr() % 16 == 0 or not tensor.numel(), name


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F64", "shape": [1], "data_offsets": [1, 9]}},
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 9]}},
        {"a": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}},
        {name: {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]} for name in "ab"},
        {"a": {"dtype": "U8", "shape": [10**30], "data_offsets": [0, 10**30]}},
        {"a": {"dtype": "U8", "shape": [-9], "data_offsets": [9, 0]}},
        {"a": {"dtype": "U8", "shape": [9.0], "data_offsets": [0, 9]}},
        {"a": {"dtype": "U8", "shape": [True] * 9, "data_offsets": [0, 9]}},
        {"a": {"dtype": "F4", "shape": [18], "data_offsets": [0, 9]}},
        {"a": {"dtype": ["U8"], "shape": [9], "data_offsets": [0, 9]}},
        {"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9], "more": 1}},
        {"a": [0, 9]},
        {"\ud800": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}},
        {"__metadata__": {"a": 1}},
        {},
        [],
        None,
    ],
    ids=range(17),
)  # fmt: skip
def test_headers_that_are_refused(tmp_path, header):
    file = tmp_path / WEIGHTS
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(9))
    with pytest.raises(sc.RequestError, match="not a readable safetensors file") as error:
        read_safetensors(file)
    assert "\n" not in str(error.value)


def test_truth_values_are_zero_or_one(tmp_path):
    text = json.dumps({"a": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}).encode()
    (tmp_path / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes([0, 1, 77]))
    assert read_safetensors(tmp_path / WEIGHTS)["a"].view(torch.uint8).tolist() == [0, 1, 1]


# damages, each by its seed


STRANGE = [
    None, True, False, -3, -1, 0, 1, 2, 3, 7, 16, 10**6, 2**31, 2**63, 10**40, 1e400, -0.5, math.nan, "", "x", "F64",
    "U8", "C64", "BOOL", "__class__", "torch.load", "heads", "qkv.weight", "wide", "forward", "in", "out", "along",
    [], {}, [[]], [0, 2**62], {"$": 0}, {"in": 0}, {"baked": {}},
]  # fmt: skip


def places(value, way=()):
    """All ways into a JSON value."""
    yield way
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*way, key))


def mutate(value, source):
    """Change a JSON value in one place."""
    way = source.choice([way for way in places(value) if way])
    place = value
    for key in way[:-1]:
        place = place[key]
    old = place[way[-1]]
    if source.random() < 0.15:
        del place[way[-1]]
    elif type(old) is int and source.random() < 0.6:
        place[way[-1]] = old + source.choice([-8, -4, -2, -1, 1, 2, 4, 8, 2**32])
    else:
        place[way[-1]] = copy.deepcopy(source.choice(STRANGE))


def flip(folder, source):
    """Bytes of any file."""
    file = folder / source.choice([WEIGHTS, WEIGHTS, WEIGHTS, "architecture.json", "plan.json", MANIFEST])
    content = bytearray(file.read_bytes())
    for _ in range(source.randint(1, 4)):
        content[source.randrange(source.choice([min(9, len(content)), len(content)]))] = source.randrange(256)
    file.write_bytes(content[: source.choice([len(content), len(content), source.randrange(len(content))])])
    if file.name != MANIFEST and source.random() < 0.9:
        rehash(folder)


def change_header(folder, source):
    """Types, shapes and offsets of tensors."""
    file = folder / WEIGHTS
    if source.random() < 0.5:
        rewritten(file, lambda name: source.random())
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for _ in range(source.randint(0, 3)):
        mutate(header, source)
    text = json.dumps(header, separators=(",", ":")).encode() + b" " * source.randrange(8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    rehash(folder)


def change_records(folder, source):
    """Edits, ties, strides, and all else that is recorded."""
    file = folder / "architecture.json"
    values = json.loads(file.read_text())
    for _ in range(source.randint(1, 3)):
        part = source.choice(["edits", "edits", "state", "state", "added_biases", "origin", "data", "version"])
        holder = {part: values[part]} if part in values else values
        mutate(holder, source)
        values.update(holder)
    file.write_text(json.dumps(values))
    rehash(folder)


def write_code(folder, source):
    """Code that is run when weights are computed: any function of torch on any arguments."""

    def some():
        return source.choice([
            {"state": source.choice(["qkv.weight", "out.bias", "wide", "flags", "count", "bytes", "none"])},
            {"state": "qkv.weight"}, {"$": 0}, source.randint(-2, 50), 2**40, 0.5, True, None,
            [2, 3], [2**31, 2**31], {"torch": "float64"}, {"tuple": [1, 2]}, "mean",
        ])  # fmt: skip

    names = sorted(functions._known()) + [f"torch.Tensor.{name}" for name in dir(torch.Tensor)]
    steps = [
        {"call": source.choice(names), "args": [{"state": "qkv.weight"}, *(some() for _ in range(source.randrange(4)))]}
        for _ in range(3)
    ]
    steps = [{**step, "kwargs": {}} for step in steps]
    code = {"steps": steps, "output": {"$": 2}}
    file = folder / "architecture.json"
    values = json.loads(file.read_text())
    values["edits"]["code"] = {"": {"baked": {"qkv.weight": code}, "dropped": [], "steps": [], "output": None}}
    file.write_text(json.dumps(values))
    rehash(folder)


DAMAGES = (flip, change_header, change_records, write_code)


def main(bundle, first, last):
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").is_file() else 0
    if pages:  # what asks for terabytes is to fail here, not to fill this machine's memory
        limit = pages * resource.getpagesize() + 4 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    counts = {"loaded": 0, "refused": 0}
    with TemporaryDirectory() as home:
        for seed in range(first, last):
            Path("seed").write_text(str(seed))
            source = random.Random(seed)
            folder = copied(Path(bundle), Path(home) / str(seed))
            DAMAGES[seed % len(DAMAGES)](folder, source)
            signal.alarm(60)
            try:
                sc.load(folder, Mixed())
            except sc.SecateurError as error:
                line = str(error)
            else:
                line = None
            if line is not None and not ("\n" not in line and line.encode()):
                raise ValueError(f"seed {seed} gives more than a line: {line!r}")
            counts["loaded" if line is None else "refused"] += 1
            for file in folder.iterdir():
                file.unlink()
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
