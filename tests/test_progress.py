"""Progress as people see it: on a terminal, in a log, by a function of their own; and what Ctrl-C says."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from secateur.core import drawing, interruption
from secateur.core.drawing import screen
from secateur.core.errors import RequestError
from secateur.core.progress import ProgressOption, announce, reported, reporting, task, track

SHOWN = {name: value for name, value in os.environ.items() if name != "SECATEUR_PROGRESS"}
"""For processes that are to show their progress: the other tests' do not."""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def quick(monkeypatch):
    """Drawn from 0.05 s on, every 0.02 s; lines every 0.2 s."""
    for name, seconds in {"DELAY": 0.05, "LINES": 0.2, "_TICK": 0.02, "_INNER": 0.0}.items():
        monkeypatch.setattr(drawing, name, seconds)
    monkeypatch.setattr(screen, "_last_line", -1e9)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("SECATEUR_PROGRESS", raising=False)


def count_slowly(steps: int = 10, seconds: float = 0.03) -> None:
    for _ in track(range(steps), "counting"):
        time.sleep(seconds)


@reported("adding up")
def add_up(steps: int = 10, *, progress: ProgressOption = True) -> int:
    count_slowly(steps)
    return steps


@reported("dealing")
def deal(count: int, *, progress: ProgressOption = True) -> Iterator[int]:
    for number in track(range(count), "cards"):
        time.sleep(0.03)
        yield number


# a function that watches


def test_a_function_is_told_of_begin_steps_and_end():
    seen = []
    assert add_up(10, progress=seen.append) == 10
    steps = [found for found in seen if found.description == "counting"]
    assert (seen[0].description, seen[0].level, seen[-1].description) == ("adding up", 0, "adding up")
    assert [steps[0].done, steps[-1].done, steps[0].total, steps[0].level] == [0, 10, 10, 1]
    assert steps[0].remaining is None
    middle = steps[len(steps) // 2]
    assert 0 < middle.done < 10
    assert middle.elapsed + middle.remaining == pytest.approx(middle.elapsed / middle.done * 10, rel=0.2)
    assert len(steps) < 10, "at most ten a second"


def test_what_the_function_raises_ends_the_work_and_nothing_stays_open():
    class StopError(Exception):
        pass

    def stop(found):
        if found.done > 3:
            raise StopError

    with pytest.raises(StopError):
        add_up(100, progress=stop)
    seen = []
    add_up(1, progress=seen.append)
    assert [found.level for found in seen] == [0, 1, 1, 0]


def test_the_outermost_call_decides_and_silence_within_it_is_kept():
    seen = []

    @reported("outer")
    def outer(*, progress: ProgressOption = True) -> None:
        add_up(1)
        add_up(1, progress=False)

    outer(progress=seen.append)
    assert [found.description for found in seen] == ["outer", "adding up", "counting", "counting", "adding up", "outer"]
    seen.clear()
    with reporting(False):
        outer()
    assert seen == []


def test_a_function_may_itself_call_what_reports():
    seen = []

    def watch(found):
        seen.append(found)
        add_up(1)

    add_up(1, progress=watch)
    assert len(seen) == 4


def test_a_generator_reports_while_it_works_and_not_while_its_caller_does():
    seen, others = [], []
    numbers = deal(3, progress=seen.append)
    assert seen == [], "nothing is done before it is asked for"
    for _ in numbers:
        add_up(1, progress=others.append)
        add_up(1, progress=False)
    assert {found.description for found in seen} == {"dealing", "cards"}
    assert (seen[-1].description, len(others)) == ("dealing", 12)
    first, second = deal(2, progress=seen.append), deal(2, progress=False)
    next(first), next(second)
    first.close()
    seen.clear()
    next(second)
    add_up(1)
    assert seen == [], "generators that end in another order leave nothing behind"


@pytest.mark.parametrize("wrong", [None, "yes", 1])
def test_other_options_are_refused(wrong):
    with pytest.raises(RequestError, match="progress must be True, False or a function"):
        add_up(1, progress=wrong)
    with pytest.raises(RequestError, match="progress must be"):
        next(deal(1, progress=wrong))


# on a terminal


def test_a_terminal_shows_a_bar_and_is_left_clean(quick, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    add_up(10)
    text = terminal.getvalue()
    assert "counting" in text
    assert "of 10" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is back"
    assert text.endswith("\x1b[2K"), "the bar is erased"
    assert screen._live is None


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_errors_leave_the_terminal_clean(quick, monkeypatch, error):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    @reported("failing")
    def fail(*, progress: ProgressOption = True) -> None:
        for number in track(range(100), "steps"):
            time.sleep(0.02)
            if number == 9:
                raise error

    with pytest.raises(error):
        fail()
    text = terminal.getvalue()
    assert "steps" in text
    assert text.endswith("\x1b[2K")
    assert (screen._tasks, screen._live) == ([], None)


def test_work_that_was_broken_off_is_ended_with_the_call(quick, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    kept = []

    @reported("breaking off")
    def leave(*, progress: ProgressOption = True) -> None:
        steps = track(range(3), "never finished")
        kept.append(steps)
        next(steps)

    leave()
    assert screen._tasks == []


def test_one_display_for_nested_work_and_none_while_the_caller_has_the_turn(quick, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for number in deal(6):
        if number == 4:
            assert "cards" in terminal.getvalue()
            assert screen._live is None
            length = len(terminal.getvalue())
            time.sleep(0.1)
            assert len(terminal.getvalue()) == length
    terminal.truncate(0)

    @reported("outer")
    def outer(*, progress: ProgressOption = True) -> None:
        for _ in track(range(3), "rounds"):
            count_slowly(5)

    outer()
    assert "rounds" in terminal.getvalue()
    assert "  counting" in terminal.getvalue()


# where there is no terminal


def test_plain_lines_now_and_then_where_there_is_no_terminal(quick, capsys):
    add_up(20)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert 2 <= len(lines) <= 5
    assert lines[0].startswith("counting: ")
    assert " of 20, 0 s, about " in lines[0]


def test_nested_work_is_said_in_the_same_line(quick, capsys):
    with reporting(), task("training", total=3) as epochs:
        epochs.advance()
        count_slowly(20, 0.02)
    assert capsys.readouterr().err.splitlines()[0].startswith("training: 1 of 3, 0 s, about ")
    with reporting(), task("waiting"), track_of_one():
        time.sleep(0.5)
    assert "waiting: 0 s (reading" in capsys.readouterr().err


@contextlib.contextmanager
def track_of_one() -> Iterator[None]:
    with task("reading"):
        yield


def test_a_step_without_end_is_shown_too(quick, capsys):
    with reporting(), task("tracing"):
        time.sleep(0.5)
    assert capsys.readouterr().err.startswith("tracing: ")


def test_short_work_and_silent_work_show_nothing(quick, capsys, monkeypatch):
    add_up(10, progress=False)
    monkeypatch.setenv("SECATEUR_PROGRESS", "off")
    add_up(10)
    announce("loading")
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("SECATEUR_PROGRESS")
    monkeypatch.setattr(drawing, "DELAY", 2.0)
    add_up(10)
    assert capsys.readouterr().err == ""


def test_a_closed_stream_is_no_error(quick, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    stream.close()
    assert add_up(10) == 10
    announce("loading")


def test_times_are_measured_without_anything_drawn_meanwhile(quick, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with reporting(), task("timing", total=2, steady=True) as work:
        time.sleep(0.2)
        assert terminal.getvalue() == ""
        work.advance()
        assert "1 of 2" in terminal.getvalue()


def test_announcements_are_plain_lines_on_standard_error(capsys, monkeypatch):
    monkeypatch.delenv("SECATEUR_PROGRESS", raising=False)
    announce("loading PyTorch")
    assert capsys.readouterr() == ("", "loading PyTorch ...\n")


# other processes


def test_workers_are_silent():
    script = (
        "import multiprocessing, time\n"
        "from secateur.core import drawing\n"
        "from secateur.core.progress import track\n"
        "drawing.DELAY = drawing._TICK = 0.01\n"
        "def work(n):\n"
        "    for _ in track(range(n), 'in ' + multiprocessing.current_process().name): time.sleep(0.02)\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('fork').Process(target=work, args=(10,), name='worker')\n"
        "    import warnings; warnings.simplefilter('error')\n"
        "    for _ in track(range(1), 'in main'):\n"
        "        time.sleep(0.1)\n"
        "        process.start(); process.join()\n"
        "    assert process.exitcode == 0\n"
    )
    found = subprocess.run([sys.executable, "-c", script], env=SHOWN, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")
    assert "in main" in found.stderr
    assert "worker" not in found.stderr


# interruptions


def test_what_is_kept_is_said_from_the_innermost_on_and_then_forgotten():
    interruption.forget()  # what other tests interrupted
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        interruption.keeping("runs are kept"),
        interruption.keeping(lambda: ""),
        interruption.keeping("epochs are kept"),
    ):
        raise KeyboardInterrupt
    assert caught.value.__notes__ == ["epochs are kept", "runs are kept"]
    assert interruption.message() == "epochs are kept; runs are kept"
    assert interruption.message() == "nothing is kept; the same command starts again"
    with pytest.raises(ValueError), interruption.keeping("runs are kept"):
        raise ValueError
    with interruption.keeping("runs are kept"):
        pass
    assert interruption.message().startswith("nothing is kept")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_the_bar_and_says_what_is_kept(tmp_path):
    script = (
        "import sys, time\n"
        "from secateur.core import drawing, interruption\n"
        "from secateur.core.progress import track, reporting\n"
        "drawing.DELAY = drawing._TICK = 0.01\n"
        "try:\n"
        "    with interruption.keeping('finished parts are kept'), reporting():\n"
        "        for _ in track(range(10_000), 'parts'):\n"
        "            time.sleep(0.01)\n"
        "except KeyboardInterrupt:\n"
        "    print(interruption.message())\n"
        "    sys.exit(130)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=SHOWN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("parts: ")
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "finished parts are kept\n", "")


# the library's own calls


@pytest.mark.parametrize(
    "name",
    [
        "attribute", "compare", "compress", "evaluate", "explain", "export", "fit", "load", "measure_latency",
        "open_data", "prune", "prune_to_budgets", "prune_to_ratios", "recalibrate", "save", "score", "trace", "verify",
    ],
)  # fmt: skip
def test_public_calls_take_progress_and_say_so(name):
    import secateur as sc
    from secateur.pipeline import explain

    function = explain if name == "explain" else getattr(sc, name)
    parameter = inspect.signature(function).parameters["progress"]
    assert (parameter.kind, parameter.default) == (parameter.KEYWORD_ONLY, True)
    assert "progress: " in function.__doc__


def test_a_compression_reports_its_steps(capsys):
    import torch
    from torch import nn

    import secateur as sc

    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    reference = sc.ReferenceSet(torch.randn(12, 4), torch.arange(12) % 3, tuple(range(12)))
    settings = sc.PruneSettings(schedule="rescored", step=0.1)
    seen = []
    result = sc.compress(net, reference, sc.Budget(macs=0.6), "weight", settings, progress=seen.append)
    steps = [found for found in seen if found.description == "re-scoring by weight"]
    assert (seen[0].description, seen[-1].description) == ("compressing", "compressing")
    assert [steps[0].done, steps[0].total] == [0, 4]
    assert {"cutting the network", "comparing a network with the masked one"} <= {found.description for found in seen}
    before = len(seen)
    assert len(result.history) == 4
    sc.compress(net, reference, sc.Budget(macs=0.6), "weight", settings, progress=False)
    assert (len(seen), capsys.readouterr().err) == (before, "")


def test_training_reports_epochs_from_where_it_goes_on(tmp_path):
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from secateur.training import TrainSettings, fit

    data = TensorDataset(torch.randn(20, 4), torch.arange(20) % 2)
    settings = TrainSettings(epochs=3, batch_size=10, learning_rate=0.01, device="cpu")

    class StopError(Exception):
        pass

    def stop(found):
        if found.description == "epoch 3/3":
            raise StopError

    state = tmp_path / "training.state"
    with pytest.raises(StopError):
        fit(nn.Linear(4, 2), data, None, settings, state, progress=stop)
    seen = []
    fit(nn.Linear(4, 2), data, None, settings, state, progress=seen.append)
    epochs = [(found.done, found.total) for found in seen if found.description == "training epochs"]
    assert (epochs[0], epochs[-1]) == ((2, 3), (3, 3))
    assert {found.description for found in seen} == {"training", "training epochs", "epoch 3/3"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupted_training_says_what_is_kept_and_only_what_is(tmp_path):
    script = (
        "import os, signal, sys, torch\n"
        "from torch import nn\n"
        "from torch.utils.data import TensorDataset\n"
        "from secateur.core import interruption\n"
        "from secateur.training import TrainSettings, fit\n"
        "data = TensorDataset(torch.randn(20, 4), torch.arange(20) % 2)\n"
        "settings = TrainSettings(epochs=9, batch_size=10, learning_rate=0.01, device='cpu')\n"
        "for last, state in (('epoch 1/9', sys.argv[1]), ('epoch 2/9', None), ('epoch 2/9', sys.argv[1])):\n"
        "    def press(found):\n"
        "        if found.description == last:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "    try:\n"
        "        fit(nn.Linear(4, 2), data, None, settings, state, progress=press)\n"
        "    except KeyboardInterrupt as error:\n"
        "        print(interruption.message(), *getattr(error, '__notes__', []), sep=' | ')\n"
    )
    state = tmp_path / "training.state"
    found = subprocess.run(
        [sys.executable, "-c", script, str(state)], capture_output=True, text=True, timeout=240, check=True
    )
    kept = f"finished epochs are kept in '{state}'; the same request goes on from there"
    assert found.stdout.splitlines() == [interruption.NOTHING, interruption.NOTHING, f"{kept} | {kept}"]
