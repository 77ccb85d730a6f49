"""All runs of a grid on one or more processes; what is finished is found again."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from torch import nn

from secateur.core.interruption import keeping
from secateur.core.pool import Pool, cores
from secateur.core.progress import ProgressOption, reported, track
from secateur.studies.toy.network import place, trained
from secateur.studies.toy.ranks import Run
from secateur.studies.toy.runs import Bench, Outcome
from secateur.studies.toy.settings import NetworkSettings, ToySettings
from secateur.studies.toy.store import Store, key_of
from secateur.studies.toy.tables import write_ranks, write_rows


@dataclass(frozen=True)
class Job:
    """Runs of one data set and seed, which share their noisy points and passes."""

    dataset: str
    seed: int
    wanted: dict[int, tuple[str, ...]]

    @property
    def runs(self) -> list[Run]:
        """Its runs."""
        return [Run(self.dataset, c, n, self.seed) for n, criteria in self.wanted.items() for c in criteria]


@dataclass(frozen=True)
class Written:
    """What a grid has written.

    Attributes:
        rows: the table as CSV; the same rows are beside it as Parquet.
        ranks: the pruning orders, if they were kept.
        done: runs that were made now.
        found: runs that were there already.
    """

    rows: Path
    ranks: Path | None
    done: int
    found: int


@reported("running the grid")
def run_grid(settings: ToySettings, folder: str | Path, *, progress: ProgressOption = True) -> Written:
    """Make all runs of a grid, and write ``results.csv``, ``results.parquet`` and ``ranks.parquet``.

    Finished runs are kept in ``runs.sqlite`` and not made again, also after a kill; results do not depend on the number
    of processes, as each works on one thread and each run is computed on its own.

    Args:
        settings: the grid.
        folder: for results; of this grid or of none.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for unknown names, or a store of another version.
        SecateurError: when files cannot be written.
    """
    settings.check()
    target = Path(folder)
    with Store(target / "runs.sqlite") as store:
        with Pool(settings.processes or cores()) as pool:
            models = dict(zip(settings.datasets, _train_missing(pool, settings), strict=True))
            identities = {name: identity(model, settings) for name, model in models.items()}
            jobs, keys = _jobs(settings, identities, store.known(settings.ranks))
            missing = sum(len(job.runs) for job in jobs)
            work = pool.work(partial(_work, settings), jobs)
            with keeping(lambda: _kept(store, settings, keys)):
                for job, outcomes in track(work, f"{missing} prunings", total=len(jobs)):
                    pairs = zip((key_of(identities[job.dataset], item.run) for item in outcomes), outcomes, strict=True)
                    store.add(pairs, settings.ranks)
        rows = write_rows([row for item in store.read(keys) for row in item.rows(settings)], target)
        ranks = target / "ranks.parquet"
        ranks.unlink(missing_ok=True)  # an earlier grid's must not stand beside this one's table
        if settings.ranks:
            write_ranks(store.read(keys), ranks)
        return Written(rows, ranks if settings.ranks else None, missing, len(keys) - missing)


def _kept(store: Store, settings: ToySettings, keys: Sequence[str]) -> str:
    """What an interruption leaves."""
    done = len(store.known(settings.ranks) & set(keys))
    said = f"{done} of {len(keys)} runs are finished and kept in '{store.path}'; the same request goes on from there"
    return said if done else ""


def untrained(settings: ToySettings) -> list[str]:
    """Data sets whose network is not in the cache."""
    return [name for name in settings.datasets if not place(name, settings.network).exists()]


def prepare(settings: ToySettings) -> None:
    """See to it that all networks are trained, side by side where several are missing."""
    with Pool(settings.processes or cores()) as pool:
        _train_missing(pool, settings)


def identity(model: nn.Module, settings: ToySettings) -> str:
    """Hash of the weights and of all settings that a run's result depends on, but its own coordinates."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    digest.update(json.dumps([1, settings.network.hash, sorted(settings.noise), settings.remove]).encode())
    return digest.hexdigest()


def _jobs(settings: ToySettings, identities: dict[str, str], known: set[str]) -> tuple[list[Job], list[str]]:
    """What is still to do, and the keys of all runs in the table's order."""
    keys, wanted = [], defaultdict[tuple[str, int], dict[int, tuple[str, ...]]](dict)
    for dataset in settings.datasets:
        for criterion in settings.criteria:
            for count in settings.samples_per_class:
                for seed in settings.seeds:
                    key = key_of(identities[dataset], Run(dataset, criterion, count, seed))
                    keys.append(key)
                    if key not in known:
                        job = wanted[dataset, seed]
                        job[count] = (*job.get(count, ()), criterion)
    return [Job(dataset, seed, counts) for (dataset, seed), counts in wanted.items()], keys


def _train_missing(pool: Pool, settings: ToySettings) -> list[nn.Sequential]:
    """The networks of all data sets; those that the cache lacks are trained side by side."""
    missing = untrained(settings)
    work = pool.work(partial(_train, settings.network), missing)
    with keeping(lambda: _kept_networks(settings, missing)):
        for _ in track(work, f"training on {', '.join(missing)}", total=len(missing)) if len(missing) > 1 else ():
            pass
        return [trained(name, settings.network) for name in settings.datasets]


def _kept_networks(settings: ToySettings, missing: Sequence[str]) -> str:
    """What an interruption leaves."""
    done = [name for name in missing if place(name, settings.network).exists()]
    return f"networks trained on {', '.join(done)} are kept for the next run" if done else ""


def _train(settings: NetworkSettings, name: str) -> None:
    trained(name, settings)


def _work(settings: ToySettings, job: Job) -> list[Outcome]:
    return _bench(job.dataset, settings.network).outcomes(job.wanted, job.seed, settings.noise, settings.remove)


@lru_cache(maxsize=1)
def _bench(dataset: str, network: NetworkSettings) -> Bench:
    return Bench(dataset, network)
