"""Install and test on every interpreter found, with the newest and with the lowest dependencies that are allowed.

    make pythons                                                  # all combinations
    make pythons ARGS="--python 3.12 --dependencies lowest"       # one of them
    make pythons ARGS="--python 3.12 -- tests/test_core.py -x"    # what follows -- goes to pytest

Each combination has an environment, the list of what was installed and the output of its tests in ``.pythons/``; the
table is kept there as ``results.csv`` and ``results.json``. A combination that passed is not repeated while its
interpreter, pyproject.toml, the sources and the tests stay as they are. Needs uv and the standard library only.

``newest`` is what an installation takes on that day. ``lowest`` takes the lowest version of each direct dependency,
those of the extras and the test tools included, that comes as a wheel for the interpreter: NumPy 2.0, for example, has
none for Python 3.13, and few would build it from source. What these depend on in turn is as new as they let it be.
Linters, type stubs and Sphinx take no part: no test needs them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
RESOLUTIONS = {
    "newest": ("--resolution", "highest"),
    "lowest": ("--resolution", "lowest-direct", "--only-binary", ":all:"),
}
GREEN = "green"
TESTED = ("pyproject.toml", "src", "tests")
"""What a result depends on, besides the interpreter."""
FROM_OUTSIDE = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS")
"""Variables of the caller's environment that would change what is tested."""
QUESTION = "import json, sys; print(json.dumps([sys.version_info[:4], sys.executable]))"


@dataclass(frozen=True)
class Interpreter:
    """A Python that starts.

    Attributes:
        release: as (3, 12, 1).
        path: of the executable.
    """

    release: tuple[int, ...]
    path: str

    @property
    def version(self) -> str:
        """As 3.12.1."""
        return ".".join(map(str, self.release))

    @property
    def minor(self) -> str:
        """As 3.12."""
        return ".".join(map(str, self.release[:2]))


@dataclass(frozen=True)
class Result:
    """What became of one combination.

    Attributes:
        python: version of the interpreter.
        dependencies: newest or lowest.
        torch: version that was installed; empty where none was.
        outcome: ``green``, ``red: install``, ``red: tests`` or ``red: demo``.
        passed: how many tests passed.
        failed: how many failed; errors in fixtures and files that cannot be imported count too.
        skipped: how many were skipped.
        install_seconds: time for the environment.
        test_seconds: time for the tests.
        demo_seconds: time for the demo.
        tests: arguments to pytest; empty for the default tests, which the demo follows.
        fingerprint: of what the result depends on.
    """

    python: str
    dependencies: str
    torch: str = ""
    outcome: str = "red: install"
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    install_seconds: float = 0.0
    test_seconds: float = 0.0
    demo_seconds: float = 0.0
    tests: str = ""
    fingerprint: str = ""


class Combination:
    """One interpreter with one choice of dependencies.

    Args:
        interpreter: that runs the tests.
        dependencies: newest or lowest.
        folder: for the results of all combinations; this one's files go into a folder of its own there.
    """

    def __init__(self, interpreter: Interpreter, dependencies: str, folder: Path) -> None:
        self.interpreter, self.dependencies = interpreter, dependencies
        self.name = f"{interpreter.minor}-{dependencies}"
        self.folder = folder / self.name
        self._bin = self.folder / "env" / "bin"

    @property
    def fingerprint(self) -> str:
        """Hash of all that the outcome depends on, but the versions that are installed."""
        digest = hashlib.sha256(self.interpreter.version.encode())
        for name in TESTED:
            top = ROOT / name
            for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if path.is_file() and "__pycache__" not in path.parts:
                    digest.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    def run(self, uv: Sequence[str], tests: Sequence[str], workers: int, limit: float) -> Result:
        """Install, test, and run the demo; the result says where it stopped.

        Args:
            uv: command that starts uv.
            tests: arguments to pytest; without any, the default tests and then the demo.
            workers: processes that run tests.
            limit: seconds that one step may take.
        """
        result = Result(
            self.interpreter.version, self.dependencies, tests=" ".join(tests), fingerprint=self.fingerprint
        )
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        installed, seconds = _timed(lambda: self._install(uv, limit))
        result = replace(result, install_seconds=seconds)
        if not installed:
            return result
        ended, seconds = _timed(lambda: self._test(tests, workers, limit))
        passed, failed, skipped = _counts(self.folder / "tests.xml")
        result = replace(result, passed=passed, failed=failed, skipped=skipped)
        result = replace(result, torch=self._torch(), test_seconds=seconds)
        if not ended:
            return replace(result, outcome="red: tests")
        if tests:
            return replace(result, outcome=GREEN)
        ended, seconds = _timed(lambda: self._call("demo", [self._bin / "secateur", "demo", "--out", "demo"], limit))
        return replace(result, outcome=GREEN if ended else "red: demo", demo_seconds=seconds)

    def last_words(self, result: Result) -> str:
        """The end of what the step said that failed."""
        step = result.outcome.removeprefix("red: ")
        lines = (self.folder / f"{step}.log").read_text(errors="replace").splitlines()
        return "\n".join(f"  | {line}" for line in lines[-20:])

    def _install(self, uv: Sequence[str], limit: float) -> bool:
        """The environment holds what was resolved and nothing else; the list of it stays beside it."""
        listed, python = self.folder / "requirements.txt", ["--python", self._bin / "python"]
        resolution = [*RESOLUTIONS[self.dependencies], "--extra", "test", "--no-header", "--output-file", listed]
        return all(
            self._call("install", [*uv, *command], limit)
            for command in (
                ["venv", "--python", self.interpreter.path, self._bin.parent],
                ["pip", "compile", "--quiet", *python, *resolution, ROOT / "pyproject.toml"],
                ["pip", "sync", *python, listed],
                ["pip", "install", *python, "--no-deps", "--editable", ROOT],
            )
        )

    def _torch(self) -> str:
        listed = self.folder / "requirements.txt"
        lines = listed.read_text().splitlines() if listed.exists() else []
        return next((line.removeprefix("torch==") for line in lines if line.startswith("torch==")), "")

    def _test(self, tests: Sequence[str], workers: int, limit: float) -> bool:
        kept = [f"--junitxml={self.folder / 'tests.xml'}", "-o", f"cache_dir={self.folder / 'cache'}"]
        command = [self._bin / "python", "-m", "pytest", "-q", "--tb=short", "-n", workers, *kept, *tests]
        return self._call("tests", command, limit, where=ROOT)

    def _call(self, step: str, command: Sequence[object], limit: float, where: Path | None = None) -> bool:
        """Whether a command ends well within its time; what it says goes to a file."""
        environment = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
        with (self.folder / f"{step}.log").open("a") as log:
            try:
                done = subprocess.run(
                    [str(part) for part in command],
                    cwd=where or self.folder,
                    env=environment | {"OMP_NUM_THREADS": "1"},  # several processes share the cores
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=limit,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                log.write(f"\nstopped after {limit:.0f} s; --minutes gives it more\n")
                return False
        return done.returncode == 0


def interpreters(further: Iterable[str] = ()) -> list[Interpreter]:
    """The newest final release of each version, among pyenv's, those on PATH, and further ones.

    Args:
        further: paths, or names on PATH.
    """
    newest: dict[str, Interpreter] = {}
    for candidate in dict.fromkeys((*further, *_candidates())):
        one = _ask(candidate)
        if one and one.minor in VERSIONS and (one.minor not in newest or one.release > newest[one.minor].release):
            newest[one.minor] = one
    return [newest[version] for version in VERSIONS if version in newest]


def _candidates() -> Iterator[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for folder in sorted(pyenv.glob("versions/*/bin")):
        yield from (str(folder / f"python{version}") for version in VERSIONS)
    for folder in map(Path, os.get_exec_path()):
        yield from (str(folder / f"python{version}") for version in (*VERSIONS, "3", ""))


def _ask(candidate: str) -> Interpreter | None:
    """What an executable says of itself; the wrapper of a version manager may be there and not start."""
    path = shutil.which(candidate)
    if path is None:
        return None
    try:
        said = subprocess.run([path, "-c", QUESTION], capture_output=True, text=True, timeout=60, check=True).stdout
        (*release, level), executable = json.loads(said)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Interpreter(tuple(release), executable) if level == "final" else None


def _timed(work: Callable[[], bool]) -> tuple[bool, float]:
    start = time.monotonic()
    return work(), round(time.monotonic() - start, 1)


def _counts(report: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped tests in pytest's report; none where pytest did not get so far."""
    try:
        suites = list(ElementTree.parse(report).iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return 0, 0, 0
    total, failures, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return total - failures - errors - skipped, failures + errors, skipped


def read(folder: Path) -> list[Result]:
    """Results that were kept; none where there is no file, or one of another version."""
    try:
        return [Result(**item) for item in json.loads((folder / "results.json").read_text())]
    except (OSError, ValueError, TypeError):
        return []


def keep(results: Iterable[Result], folder: Path) -> None:
    """Write ``results.json`` and ``results.csv``, each whole or not at all."""
    rows = [asdict(result) for result in results]
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, [field.name for field in fields(Result)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for name, text in (("results.json", json.dumps(rows, indent=1) + "\n"), ("results.csv", lines.getvalue())):
        part = folder / f"{name}.part"
        part.write_text(text)
        part.replace(folder / name)


def table(results: Iterable[Result]) -> str:
    """The results for a reader, a line each."""
    head = ("python", "dependencies", "torch", "passed", "failed", "skipped", "install", "tests", "demo", "outcome")
    rows = [
        (
            *(one.python, one.dependencies, one.torch or "-", str(one.passed), str(one.failed), str(one.skipped)),
            *(f"{seconds:.0f} s" for seconds in (one.install_seconds, one.test_seconds, one.demo_seconds)),
            one.outcome,
        )
        for one in results
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        for place in (0, 1, 2, -1):  # words to the left, figures to the right
            cells[place] = row[place].ljust(widths[place])
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def run_all(combinations: Iterable[Combination], arguments: argparse.Namespace) -> Iterator[Result]:
    """Run what is not green already; each result is kept at once, and after a red one the others follow."""
    kept = {(one.python, one.dependencies, one.tests): one for one in read(arguments.folder)}
    for each in combinations:
        key = (each.interpreter.version, each.dependencies, " ".join(arguments.tests))
        before = kept.get(key)
        if before and before.outcome == GREEN and before.fingerprint == each.fingerprint and not arguments.again:
            say(f"{each.name}: green before, and nothing has changed; --again repeats it")
            yield before
            continue
        say(f"{each.name}: {each.interpreter.path}; output in {each.folder}")
        result = each.run(arguments.uv, arguments.tests, arguments.workers, 60 * arguments.minutes)
        kept[key] = result
        keep(kept.values(), arguments.folder)
        say(f"{each.name}: {result.outcome}")
        if result.outcome != GREEN:
            say(each.last_words(result))
        yield result


def say(text: str) -> None:
    """Tell the user, also where nothing is a terminal."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--python", action="append", choices=VERSIONS, help="only this version; may be repeated")
    parser.add_argument("--dependencies", action="append", choices=tuple(RESOLUTIONS), help="only these")
    parser.add_argument("--interpreter", action="append", default=[], help="look at this executable too")
    parser.add_argument("--again", action="store_true", help="repeat what was green")
    parser.add_argument("--list", action="store_true", help="list the interpreters and end")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="test processes (default: the cores)")
    parser.add_argument("--minutes", type=float, default=60, help="that one step may take (default: 60)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".pythons", help="for results (default: .pythons)")
    parser.add_argument("--uv", type=shlex.split, help="command that starts uv (default: uv, or this Python's)")
    parser.add_argument("tests", nargs="*", help="arguments to pytest, after --; without any, all tests and the demo")
    chosen = parser.parse_args(arguments)
    chosen.uv = chosen.uv or (["uv"] if shutil.which("uv") else [sys.executable, "-m", "uv"])
    # steps run in folders of their own; a link to an interpreter is not followed, it is what makes an environment
    program = shutil.which(chosen.uv[0]) or chosen.uv[0]
    chosen.uv = [str(Path(program).absolute()), *chosen.uv[1:]]
    chosen.folder = chosen.folder.resolve()
    return chosen


def main() -> int:
    """Exit code: 0 all green, 1 something is red, 2 a wrong request, 130 interrupted."""
    arguments = parse()
    everything = interpreters(arguments.interpreter)
    wanted = [one for one in everything if not arguments.python or one.minor in arguments.python]
    if arguments.list:
        say("\n".join(f"{one.version}\t{one.path}" for one in wanted))
        return 0
    missing = set(arguments.python or ()) - {one.minor for one in wanted}
    if missing or not wanted:
        say(
            f"no Python {', '.join(sorted(missing or VERSIONS))} in pyenv or on PATH; install it, or name its "
            "executable with --interpreter"
        )
        return 2
    if subprocess.run([*arguments.uv, "--version"], capture_output=True, check=False).returncode:
        say(f"'{' '.join(arguments.uv)}' does not start uv; run `make pythons`, or install uv with pip")
        return 2
    combinations = [
        Combination(one, dependencies, arguments.folder)
        for one in wanted
        for dependencies in arguments.dependencies or RESOLUTIONS
    ]
    results = []
    try:
        for result in run_all(combinations, arguments):
            results.append(result)
    except KeyboardInterrupt:
        say("interrupted: what has ended is kept, and the same command goes on after it")
        return 130
    finally:
        if results:
            say("\n" + table(results))
    return int(any(result.outcome != GREEN for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
