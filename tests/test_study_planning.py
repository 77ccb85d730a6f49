"""How long a study will take: on stores with known seconds, against schedules by brute force."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.cli.main import run as command
from secateur.core.errors import RequestError
from secateur.experiments import (
    Effect,
    Resource,
    Resources,
    Result,
    Section,
    estimate,
    identities,
    opened_store,
)
from secateur.experiments.planning import _schedule
from tiny_study import SQUARE, SUM, Grid, Power, TinySettings, TinyStudy, tiny


def finished(store, study, seconds):
    """Note the first cells as finished, with so many seconds each, by stage."""
    cells = identities(study, Resources())
    store.start(list(cells.items()), study.settings.model_dump(mode="json"))
    left = {stage: list(values) for stage, values in seconds.items()}
    for name, cell in cells.items():
        if left.get(cell.stage):
            store.finish(name, Result({}), 0.0, left[cell.stage].pop(0))


@pytest.fixture
def store(tmp_path):
    with opened_store(tmp_path / "cells.sqlite", tiny()) as opened:
        yield opened


def numbers(count, kind=TinyStudy, sums=False):
    return kind(TinySettings(grid=Grid(numbers=tuple(range(count)), sums=sums)))


def test_equal_seconds_are_divided_by_the_workers(store):
    study = numbers(22)
    finished(store, study, {SQUARE: [3.0, 3.0]})
    for workers, rounds in ((1, 20), (4, 5), (6, 4), (100, 1)):
        found = estimate(study, store, workers)
        square = found.stages[0]
        assert (square.finished, square.missing, square.measured) == (2, 20, 2)
        assert found.total.seconds == pytest.approx(3.0 * rounds), "20 cells of 3 s; none can be split"
        assert found.total.low is None, "two cells give no range"


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=7), st.integers(1, 4))
def test_schedules_by_brute_force(batches, workers):
    flat = list(itertools.chain.from_iterable(batches))
    places = iter(range(len(flat)))
    rounds = [[[next(places) for _ in batch] for batch in batches]]
    clocks = [0] * workers
    for batch in batches:
        clocks[clocks.index(min(clocks))] += sum(batch)
    found = _schedule(rounds, flat, workers)
    assert found == max(clocks)
    assert found >= max(sum(flat) / workers, max(map(sum, batches)))


def test_ranges_follow_the_spread(store):
    study = numbers(40)
    finished(store, study, {SQUARE: [1.0, 1.0, 1.0, 1.0, 1.0, 11.0, 11.0, 11.0, 11.0, 11.0]})
    one, many = estimate(study, store, 1).total, estimate(study, store, 1000).total
    assert one.low < 30 * 6 < one.high
    assert one.seconds == pytest.approx(30 * 6, rel=0.1)
    assert one == estimate(study, store, 1).total, "the same draws each time"
    assert (many.low, many.high) == (11, 11), "a cell cannot be split: the longest of thirty is expected"
    assert many.text() == "11 s"


class Alone(TinyStudy):
    alone = frozenset({SUM})


@pytest.mark.parametrize(("kind", "workers"), [(TinyStudy, 4), (Alone, 1)])
def test_stages_are_one_after_another_and_alone_where_they_take_times(store, kind, workers):
    study = numbers(6, kind, sums=True)
    finished(store, study, {SQUARE: [10.0, 10.0], SUM: [2.0, 2.0]})
    square, total = estimate(study, store, 4).stages
    assert (square.workers, total.workers) == (4, workers)
    assert (square.duration.seconds, total.duration.seconds) == (10, 2 * 4 / workers)
    assert estimate(study, store, 4).total.seconds == 10 + 2 * 4 / workers


def test_rounds_and_batches_wait(store):
    class Chained(TinyStudy):
        def needs(self, cell):
            return [type(cell)(number=cell.number - 1)] if cell.stage == SQUARE and cell.number else ()

    class Batched(TinyStudy):
        def batch(self, cell):
            return cell.number // 5

    finished(store, numbers(2), {SQUARE: [3.0]})
    assert estimate(numbers(6, Chained), store, 10).total.seconds == pytest.approx(6 * 3 - 3)
    assert estimate(numbers(11, Batched), store, 10).total.seconds == pytest.approx(5 * 3)


class Slow(Resource[int]):
    made: ClassVar[int] = 0

    def make(self, resources):
        raise AssertionError("an estimate makes nothing")

    def ready(self):
        return False

    def __str__(self):
        return "slow network"


def test_what_is_not_known_is_said(store):
    class Sharing(TinyStudy):
        def shared(self):
            return [Slow()]

        def inputs(self, cell, resources):
            return {"network": str(resources.get(Slow()))}

    finished(store, numbers(3, sums=True), {SQUARE: [3.0, 3.0, 3.0]})
    found = estimate(numbers(4, sums=True), store, 2)
    assert found.total is None
    assert "sum: 4 cells missing, 0 finished; no cell was measured yet, nothing is known" in found.lines()
    lines = estimate(numbers(4, Sharing), store, 2).lines()
    assert "made first, once, and not in the time: slow network" in lines
    nothing = estimate(numbers(4), None, 2)
    assert nothing.total is None
    assert "run a few cells of each stage" in nothing.lines(2.0)[-1]
    with pytest.raises(RequestError, match="0 workers cannot work"):
        estimate(numbers(4), store, 0)


@dataclass(frozen=True)
class Network(Resource[str]):
    """Of one number; those in ``made`` are stored."""

    number: int
    made: ClassVar[set[int]] = set()

    def make(self, resources):
        assert self.number in self.made, "an estimate makes nothing"
        return f"weights {self.number}"

    def ready(self):
        return self.number in self.made

    def __str__(self):
        return f"network {self.number}"


class Trained(TinyStudy):
    """A network for each number, whose weights are a part of the identity."""

    def shared(self):
        return [Network(number) for number in self.settings.grid.numbers]

    def inputs(self, cell, resources):
        return {"weights": resources.get(Network(cell.number))} if cell.stage == SQUARE else {}


def stages(store, *numbers, exponent=2.0):
    found = estimate(Trained(TinySettings(grid=Grid(numbers=numbers), power=Power(exponent=exponent))), store, 1)
    return found, [(each.missing, each.finished, each.unnamed, each.matched) for each in found.stages]


def test_cells_whose_resources_are_not_made_are_matched_by_coordinates(store, monkeypatch):
    """The store has squares of 0 to 4, and their sums but for the last one."""
    monkeypatch.setattr(Network, "made", {0, 1, 2, 3, 4})
    finished(store, numbers(5, Trained, sums=True), {SQUARE: [3.0] * 5, SUM: [1.0] * 4})
    assert stages(store, 0, 1, 2, 3, 4)[1] == [(0, 5, 0, 0), (1, 4, 0, 0)]
    Network.made -= {1, 4}
    found, counts = stages(store, 0, 1, 2, 3, 4)
    assert counts == [(0, 5, 2, 2), (1, 4, 4, 3)], "all sums but the first need the square of 1"
    assert found.lines()[2:5] == [
        "made first, once, and not in the time: network 1, network 4",
        "not exact: 2 cells of 'square' have no identity until that is made; 2 of them count as finished, because the "
        "store has finished cells with their coordinates and settings, the others as missing",
        "not exact: 4 cells of 'sum' have no identity until that is made; 3 of them count as finished, because the "
        "store has finished cells with their coordinates and settings, the others as missing",
    ]
    assert found.total.seconds == 1.0, "the sum that is missing"
    assert stages(store, 0, 1, 2, 3, 4, 5)[1][0] == (1, 5, 3, 2), "5 was never measured"
    assert stages(store, 0, 1, exponent=3.0)[1] == [(2, 0, 1, 0), (2, 0, 1, 0)], "with other settings"


def test_other_inputs_are_no_match(store, monkeypatch):
    class Opened(Section):
        source: str = "a"

    class OpeningSettings(TinySettings):
        data: Annotated[Opened, Effect.INPUTS] = Opened()

    class Opening(Trained):
        settings_type = OpeningSettings

    def opening(source):
        return Opening(OpeningSettings(grid=Grid(numbers=(1, 2), sums=False), data=Opened(source=source)))

    monkeypatch.setattr(Network, "made", {1, 2})
    finished(store, opening("a"), {SQUARE: [3.0, 3.0]})
    assert estimate(opening("b"), store, 1).stages[0].missing == 0, "the weights are the same"
    Network.made.clear()
    assert [estimate(opening(source), store, 1).stages[0].missing for source in "ab"] == [0, 2]


def test_costs_are_those_of_all_workers(store):
    study = numbers(12)
    finished(store, study, {SQUARE: [3600.0, 3600.0]})
    lines = estimate(study, store, 5).lines(1.5)
    assert lines[-2:] == [
        "whole time on 5 workers: 2.0 h", "cost at 1.5 per worker and hour, all paid until the end: 15.00",
    ]  # fmt: skip


def typed(arguments, capsys):
    code = command(["study", "run", "tiny", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_the_command_says_and_does_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    code, text, _ = typed(["--out", out, "--estimate"], capsys)
    assert (code, out.exists()) == (0, False)
    assert text.splitlines()[0] == "nothing was done"
    assert "whole time: not known" in text
    grid = ["--set", "grid.sums=false", "--set", "grid.numbers=[1, 2, 3, 4, 5, 6]"]
    typed(["--out", out, "--set", "grid.sums=false"], capsys)
    before = (out / "cells.sqlite").read_bytes()
    asked = [*grid, "--out", out, "--estimate", "--workers", "2", "--price-per-hour", "3"]
    code, text, _ = typed(asked, capsys)
    assert code == 0
    assert "square: 3 cells missing, 3 finished; " in text
    assert "on 2 workers, by 3 measured cells" in text
    assert "cost at 3 per worker and hour" in text
    assert (out / "cells.sqlite").read_bytes() == before
    code, _, error = typed(["--out", out, "--workers", "2"], capsys)
    assert (code, "are for --estimate" in error) == (2, True)
