"""A study of one's own: which criterion keeps a ring apart from its centre when half of the neurons go?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import nn
from torch.utils.data import TensorDataset

import secateur as sc
from secateur import experiments as ex
from secateur.core.statistics import paired_difference
from secateur.reports import Report, register_section


class Grid(ex.Section):
    criteria: tuple[Literal["lrp", "taylor", "weight", "random"], ...] = ("lrp", "weight", "random")
    seeds: tuple[int, ...] = (0, 1, 2)


class RingSettings(ex.StudySettings):
    grid: Annotated[Grid, ex.Effect.CELLS] = Grid()
    units: Annotated[float, ex.Effect.RESULTS] = 0.5
    execution: Annotated[ex.Execution, ex.Effect.PRESENTATION] = ex.Execution()


class RingCell(ex.Cell):
    criterion: str
    seed: int


@dataclass(frozen=True)
class Trained(ex.Resource[tuple[nn.Module, TensorDataset]]):
    seed: int

    def make(self, resources):
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            points, model = torch.randn(400, 2), nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 2))
        data = TensorDataset(points, (points.norm(dim=1) > 1.2).long())
        sc.fit(model, data, None, sc.TrainSettings(epochs=20, seed=self.seed), progress=False)
        return model, data


@dataclass(frozen=True)
class Kept:
    accuracy: dict[str, float]


register_section(Kept, name="ring/kept", template=Path(__file__).with_name("ring.html"))


@ex.register_study
class RingStudy(ex.Study[RingSettings, RingCell]):
    name, version, summary = "ring", 1, "Points in a ring and its centre: what is left of a network that knows them."
    settings_type = RingSettings
    _columns = (ex.Column("criterion", str, "that ranks the neurons"), ex.Column("seed", int, "of all that is drawn"))
    tables = {"kept": ex.Schema((*_columns, ex.Column("accuracy", float, "of the pruned network", "%")))}

    def cells(self):
        grid = self.settings.grid
        return [RingCell(criterion=criterion, seed=seed) for seed in grid.seeds for criterion in grid.criteria]

    def work(self, cell, resources, earlier):
        model, data = resources.get(Trained(cell.seed))
        reference = sc.ReferenceSet.sample(data, per_class=10, seed=cell.seed)
        criterion = sc.criteria.get(cell.criterion).seeded(cell.seed)
        scores = sc.score(model, sc.trace(model, data[:1][0]), reference, criterion)
        slim = sc.prune(model, sc.select(scores, sc.Budget(units=self.settings.units)))
        return ex.Result({"kept": [{**cell.coordinates, "accuracy": 100 * sc.evaluate(slim, [data[:]]).accuracy}]})

    def findings(self, tables):
        of = {name: rows.set_index("seed")["accuracy"] for name, rows in tables["kept"].groupby("criterion")}
        if not {"lrp", "weight"} <= of.keys():
            return []
        gain = paired_difference(of["lrp"], of["weight"])
        return [ex.Finding("LRP beats the weight norm", gain.verdict, f"{gain.mean:+.1f}{gain.interval_text()} points")]

    def page(self, tables):
        return Report(self.summary, sections=[Kept(tables["kept"].groupby("criterion")["accuracy"].mean().to_dict())])
