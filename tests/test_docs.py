"""What the pages say is there: links, commands, settings, names, extras; and every check fails when it should."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("myst_parser", reason="the pages are read as MyST reads them: pip install 'secateur[dev]'")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from checks import problems  # noqa: E402
from checks.pages import Page  # noqa: E402

from secateur.criteria.base import _registry  # noqa: E402


def test_pages() -> None:
    found = problems()
    assert not found, "\n".join(map(str, found))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A repository with nothing but a page to write to."""
    (tmp_path / "docs" / "images").mkdir(parents=True)
    (tmp_path / "benchmarks").mkdir()
    for name in ("pyproject.toml", "Makefile", "benchmarks/toy.py", "docs/images/compare.svg"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "docs" / "other.md").write_text("# Other\n\n## What `it` does\n\n## Twice\n\n## Twice\n")
    return tmp_path


WRONG = [
    # text that would not be shown
    ("a mean of 50\n% of all", 2, "begins with '%'"),
    ("- a mean of 50\n  % of all", 2, "begins with '%'"),
    ("> 50\n> % of all", 2, "begins with '%'"),
    ("a\n\n+++ b", 3, "block break"),
    ("fetch <NAME> first", 1, "angle brackets"),
    ("```{note}\nfifty\n% lost\n```", 3, "begins with '%'"),
    # links
    ("[x](missing.md)", 1, "leads to no file"),
    ("a\n[x](other.md#nowhere)", 2, "names no heading of docs/other.md"),
    ("[x](#nowhere)", 1, "names no heading of docs/page.md"),
    ("![x](images/missing.svg)", 1, "leads to no file"),
    ("{download}`table <missing.csv>`", 1, "leads to no file"),
    ("[x](../../outside.md)", 1, "leaves the repository"),
    ("[x][nowhere]", 1, "looks like a link"),
    # commands
    ("`secateur prun`", 1, "no such command: prun"),
    ("`secateur toy gird`", 1, "no such command: gird"),
    ("`secateur prune --mac 0.5`", 1, "--mac"),
    ("```sh\nsecateur toy show\nsecateur prune --macs half\n```", 3, "half"),
    ("```sh\nsecateur prune \\\n    --sead 3\n```", 2, "--sead"),
    ("```sh\nsecateur export\n```", 2, "Missing argument"),
    ("`python -m secateur train --epoch 3`", 1, "--epoch"),
    ("```sh\nsrun torchrun --nnodes 2 \\\n    -m secateur prune --mac 0.5\n```", 2, "--mac"),
    ("```yaml\napiVersion: ray.io/v1\nspec:\n  entrypoint: secateur study rnu toy\n```", 4, "rnu"),
    ("`secateur compare --recipe compare-cifar11`", 1, "compare-cifar11"),
    ("`secateur prune --set prune.stride=2`", 1, "stride"),
    ("`secateur prune --set prune.step=two`", 1, "prune.step"),
    ("`secateur toy grid --set network.relu=true`", 1, "relu"),
    ("`secateur prune --criterion tailor`", 1, "tailor"),
    ("`secateur prune --criterion lrp:composite=epsilom`", 1, "epsilom"),
    ("`secateur prune --model resnet21`", 1, "resnet21"),
    ("`--no-such-option`", 1, "no command has this option"),
    ("`--set prune.stride=2`", 1, "stride"),
    ("`python benchmarks/nothing.py`", 1, "does not exist"),
    ("`python benchmarks/toy.py --sedes 3`", 1, "no option --sedes"),
    ("`make coffee`", 1, "no target 'coffee'"),
    # settings and recipes
    ("`prune.stride`", 1, "stride"),
    ("`data.limit=many`", 1, "data.limit"),
    ("```yaml\nprune: {stride: 2}\n```", 2, "stride"),
    # Python
    ("```python\nx = (1\n```", 2, "does not compile"),
    ("```python\nimport secateur as sc\n\nsc.prunes(1)\n```", 4, "no 'sc.prunes'"),
    ("```python\nsc.Budget(mac=0.5)\n```", 2, "'mac'"),
    ("```python\nsc.trace(model)\n```", 2, "missing a required argument"),
    ("```python\nsc.prune(model, plan, checks=False)\n```", 2, "'checks'"),
    ("`sc.criteria.known_names()`", 1, "no 'sc.criteria.known_names'"),
    ("`sc.trace(..., variant=[])`", 1, "'variant'"),
    ("`secateur.attribution.treats`", 1, "no 'secateur.attribution.treats'"),
    # the package
    ("`pip install 'secateur[tpu]'`", 1, "no extra 'tpu'"),
    ("`benchmarks/missing.py`", 1, "does not exist"),
    ("Python 3.9 to 3.14", 1, "says 'Python 3.9 to 3.14'"),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG, ids=[text.replace("\n", " ") for text, _, _ in WRONG])
def test_found(text: str, line: int, message: str, scratch: Path) -> None:
    page = scratch / "docs" / "page.md"
    page.write_text(text + "\n")
    found = problems(scratch)
    assert [(p.path, p.line) for p in found] == [(page, line)], found
    assert message in found[0].message


RIGHT = [
    "```text\n% in code stays\n```",
    "$$\na % b\n$$",
    "[x](other.md#what-it-does), [y](other.md#twice-1), [z](https://example.org/missing), ![i](images/compare.svg)",
    "`secateur prune --model MODEL --macs 0.5 ...`, `secateur export`, `secateur toy`, `--set section.key=value`",
    "```sh\nOMP_NUM_THREADS=1 secateur toy grid --seeds N --out out/toy  # a comment: secateur nothing\nls | wc\n```",
    "```sh\nsecateur prune --recipe mine.yaml --weights FILE.pt --set data.root=DIR\n```",
    "```sh\nray job submit --address http://HEAD:8265 -- secateur study run toy --executor ray --address auto\n```",
    "```yaml\napiVersion: ray.io/v1\nspec:\n  entrypoint: secateur study run toy --executor ray\n```",
    "`prune.step=0.05`, `criterion.parameters.composite`, `data.root=DIR`, `model.safetensors`",
    "`sc.Budget(macs=0.5)`, `sc.PruneSettings.published()`, `sc.trace(..., variants=[...])`, `sc.save`",
    "`python benchmarks/toy.py --seeds 3`, `make docs`, `pip install 'secateur[toy,onnx]'`",
]


@pytest.mark.parametrize("text", RIGHT, ids=[text.replace("\n", " ") for text in RIGHT])
def test_not_found(text: str, scratch: Path) -> None:
    (scratch / "docs" / "page.md").write_text(text + "\n")
    assert problems(scratch) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("| `hub` |", "| `hubs` |", "differs from the package"),
        ("| `scikit-learn` |", "| `sklearn` |", "extra 'toy'"),
        ("| without `executorch`, ", "| without ", "extra 'all'"),
        ("`secateur toy analyse`", "the analysis", "'secateur toy analyse' is not described"),
        ("`study statistics`\nand `study retry` have no", "`study retry` have no", "without --dry-run are"),
    ],
)
def test_guide_agrees_with_the_package(old: str, new: str, message: str, scratch: Path) -> None:
    guide = scratch / "docs" / "guide.md"
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    assert old in text
    guide.write_text(text.replace(old, new), encoding="utf-8")
    # links to the other pages lead nowhere here
    found = [problem.message for problem in problems(scratch) if not problem.message.startswith("link")]
    assert any(message in text for text in found), found


def test_own_network_and_own_criterion_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two examples that are whole programs, in one go."""
    monkeypatch.chdir(tmp_path)
    blocks = [code.text for code in Page.read(ROOT / "docs" / "guide.md").fences("python")]
    network, criterion = (next(text for text in blocks if mark in text) for mark in ("class MyNet", "my-bn-scale"))
    names: dict[str, object] = {"__name__": "guide"}
    monkeypatch.setitem(sys.modules, "guide", type(sys)("guide"))
    try:
        exec(compile(f"{network}\nscores = None\n{criterion}", "guide.md", "exec"), names)
    finally:
        _registry.remove("my-bn-scale")  # other tests look at all criteria
    assert (tmp_path / "out" / "bundle" / "manifest.json").is_file()
    assert names["scores"] is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("", None),
        ("\n50\n% of all\n", "begins with '%'"),
        ("\n{py:class}`secateur.Nothing`\n", "reference target not found: secateur.Nothing"),
        ("\n$\\nonsense x$\n", "a formula cannot be shown"),
    ],
)
def test_build(addition: str, message: str | None, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "NOTICE", "Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("benchmarks", "src", "tests", ".ci"):
        (tmp_path / name).symlink_to(ROOT / name)
    index = docs / "index.md"
    index.write_text(index.read_text(encoding="utf-8") + addition, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(docs), str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if message is None else 1), done.stderr
    assert message is None or message in done.stderr
