"""`make pythons`: what it counts, keeps, repeats and says; no environment is made here."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "scripts" / "pythons.py").exists(), reason="scripts/ is not here")


@pytest.fixture(scope="module")
def pythons():
    spec = importlib.util.spec_from_file_location("pythons", ROOT / "scripts" / "pythons.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pythons"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["pythons"]


def fake_uv(folder: Path, tests: str) -> list[str]:
    """A program in place of uv, and an environment whose Python writes a report of tests and ends as told."""
    uv = folder / "uv"
    uv.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = venv ]; then mkdir -p "$4/bin"; cp "$(dirname "$0")/python" "$4/bin/python"; fi\n'
        'if [ "$2" = compile ]; then\n'
        '  for one; do if [ "$before" = --output-file ]; then echo torch==9.9.9 > "$one"; fi; before="$one"; done\n'
        "fi\n"
    )
    python, ended = folder / "python", int('failures="0"' not in tests)
    python.write_text(
        "#!/bin/sh\n"
        f"for one; do case \"$one\" in --junitxml=*) printf '%s' '{tests}' > \"${{one#--junitxml=}}\";; esac; done\n"
        f"exit {ended}\n"
    )
    for program in (uv, python):
        program.chmod(0o755)
    return [str(uv)]


def report(failures: int) -> str:
    return f'<testsuites><testsuite tests="5" failures="{failures}" errors="0" skipped="1"/></testsuites>'


def test_this_interpreter_is_known(pythons):
    here = pythons.interpreters([sys.executable])
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert version in {one.minor for one in here} or version not in pythons.VERSIONS
    assert [one.minor for one in here] == sorted({one.minor for one in here}, key=pythons.VERSIONS.index)


def test_what_does_not_start_is_passed_over(pythons, tmp_path):
    broken = tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert pythons._ask(str(broken)) is None
    assert pythons._ask(str(tmp_path / "nowhere")) is None


@pytest.mark.skipif(os.name == "nt", reason="shell scripts")
@pytest.mark.parametrize(("failures", "outcome", "passed"), [(0, "green", 4), (2, "red: tests", 2)])
def test_a_combination_is_installed_tested_counted_and_kept(pythons, tmp_path, failures, outcome, passed):
    uv = fake_uv(tmp_path, report(failures))
    arguments = argparse.Namespace(
        folder=tmp_path / "results", uv=uv, tests=["tests/x.py"], workers=1, minutes=1, again=False
    )
    one = pythons.Combination(pythons.Interpreter((3, 12, 1), sys.executable), "newest", arguments.folder)
    (result,) = pythons.run_all([one], arguments)
    assert (result.outcome, result.passed, result.failed, result.skipped) == (outcome, passed, failures, 1)
    assert result.torch == "9.9.9"
    assert pythons.read(arguments.folder) == [result]
    assert (arguments.folder / "results.csv").read_text().startswith("python,dependencies,torch,outcome")
    assert outcome in pythons.table([result])
    uv[0] = str(tmp_path / "gone")  # what was green is not repeated, what was red is
    if outcome == "green":
        assert list(pythons.run_all([one], arguments)) == [result]
    else:
        with pytest.raises(FileNotFoundError):
            list(pythons.run_all([one], arguments))


def test_results_of_another_version_are_no_results(pythons, tmp_path):
    (tmp_path / "results.json").write_text('[{"python": "3.12.1", "colour": "green"}]')
    assert pythons.read(tmp_path) == []
    assert pythons._counts(tmp_path / "missing.xml") == (0, 0, 0)
