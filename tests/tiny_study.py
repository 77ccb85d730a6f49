"""A study of squares and their running sums, for tests of what all studies share; it registers itself.

Environment variables make it fail (``TINY_BROKEN``: numbers), die (``TINY_DEADLY``: a number), wait (``TINY_SECONDS``)
and say what it does (``TINY_LOG``: a file with a line for each piece of work).
"""

import os
import time
from typing import Annotated, ClassVar

from pydantic import Field

from secateur.core.errors import RequestError
from secateur.experiments import (
    Cell,
    Column,
    Effect,
    Execution,
    Finding,
    Result,
    Schema,
    Section,
    Study,
    StudySettings,
    register_study,
)
from secateur.reports import Report

SQUARE, SUM = "square", "sum"


class Grid(Section):
    numbers: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    sums: bool = True


class Power(Section):
    exponent: float = 2.0


class TinySettings(StudySettings):
    grid: Annotated[Grid, Effect.CELLS] = Grid()
    power: Annotated[Power, Effect.RESULTS] = Power()
    execution: Annotated[Execution, Effect.PRESENTATION] = Execution()


class SquareCell(Cell):
    stage: ClassVar[str] = SQUARE
    number: int


class SumCell(Cell):
    stage: ClassVar[str] = SUM
    up_to: int


@register_study
class TinyStudy(Study[TinySettings, Cell]):
    name = "tiny"
    version = 1
    summary = "Squares of numbers, and their sums."
    settings_type = TinySettings
    tables = {
        "squares": Schema((Column("number", int, "of the cell"), Column("square", float, "its power"))),
        "sums": Schema((Column("up_to", int, "last of the numbers"), Column("total", float, "of their powers"))),
    }
    stages = (SQUARE, SUM)

    def check(self):
        if -1 in self.settings.grid.numbers:
            raise RequestError("-1 is no number of this study; leave it out")

    def cells(self):
        numbers = self.settings.grid.numbers
        sums = [SumCell(up_to=number) for number in numbers] if self.settings.grid.sums else []
        return [*(SquareCell(number=number) for number in numbers), *sums]

    def needs(self, cell):
        if cell.stage == SQUARE:
            return ()
        return [SquareCell(number=number) for number in self.settings.grid.numbers if number <= cell.up_to]

    def work(self, cell, resources, earlier):
        number = cell.number if cell.stage == SQUARE else cell.up_to
        if path := os.environ.get("TINY_LOG"):
            with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 - one write, so that lines stay whole
                file.write(f"{cell.stage} {number}\n")
        time.sleep(float(os.environ.get("TINY_SECONDS", "0")))
        if cell.stage == SUM:
            needed = [earlier[each].rows["squares"][0]["square"] for each in self.needs(cell)]
            return Result({"sums": [{"up_to": number, "total": sum(needed)}]})
        if str(number) in os.environ.get("TINY_BROKEN", "").split(","):
            raise ArithmeticError(f"{number} is\nbroken")
        if str(number) == os.environ.get("TINY_DEADLY"):
            os._exit(9)
        power = number**self.settings.power.exponent
        return Result({"squares": [{"number": number, "square": power}]}, {"square.txt": str(power).encode()})

    def findings(self, tables):
        return [Finding("squares grow", bool(tables["squares"]["square"].is_monotonic_increasing))]

    def page(self, tables):
        return Report("Squares", settings=self.settings.model_dump(mode="json"))


def tiny(*numbers, **power):
    """The study for some numbers."""
    grid = Grid(numbers=numbers) if numbers else Grid()
    return TinyStudy(TinySettings(grid=grid, power=Power(**power)))
