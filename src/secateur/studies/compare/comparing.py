"""Criteria side by side, in one call."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from secateur.core.errors import RequestError
from secateur.core.progress import ProgressOption, reported
from secateur.criteria import get, parse
from secateur.criteria.samples import first_balanced
from secateur.data import ImageData
from secateur.experiments import Execution, Here, Resources, Store, executor_for, run
from secateur.pipeline import CompareSettings, PruneSettings
from secateur.pipeline.settings import Compressed
from secateur.studies.compare.settings import CompareStudySettings
from secateur.studies.compare.study import CompareStudy, Subject
from secateur.studies.compare.tables import Row, rows_of
from secateur.studies.compare.work import Bench
from secateur.training import TrainSettings


@reported("comparing")
def compare(
    model: nn.Module,
    data: ImageData,
    settings: CompareSettings,
    prune_settings: PruneSettings,
    *,
    model_name: str = "model",
    finetune: TrainSettings | None = None,
    folder: str | Path | None = None,
    keep: dict[str, Compressed] | None = None,
    progress: ProgressOption = True,
) -> list[Row]:
    """Prune by every criterion to every budget for every subset of classes and seed, and measure.

    Args:
        model: trained network; untouched.
        data: reference samples come from its training split.
        settings: what to compare.
        prune_settings: the strategy all criteria share.
        model_name: for the table.
        finetune: also measure after this training, when it has epochs.
        folder: finished cells are kept there, in ``compare.sqlite``, and found again after an interruption.
        keep: when given, filled with the last seed's pruned network of each criterion at the smallest budget (after
            fine-tuning, if any); everything is then computed anew, in this process.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.

    Returns:
        Rows with the keys of `COLUMNS`, and behind them ``per_class`` (accuracy by class), ``layers`` (name, kept and
        all channels), ``removed`` (units by group) and ``part_s`` (seconds of the whole cell without retraining). First
        for each subset comes one for the unpruned network (budget 1).

    With several processes (``execution``), a script needs the guard ``if __name__ == "__main__"``: they import it anew.

    Raises:
        RequestError: before any work, for unknown criteria or classes, subsets that do not go together, a head that
            cannot be sliced, budgets out of range, or a missing package.
        SecateurError: when all else is done, for cells that failed.
    """
    whole = CompareStudySettings(
        prune=prune_settings, finetune=finetune or TrainSettings(epochs=0, learning_rate=0.01), compare=settings
    )
    study = CompareStudy(whole, Subject(model, data, model_name), keep)
    resources = Resources()
    check_compare(study, resources)
    location = "sqlite://" if folder is None or keep is not None else Path(folder) / "compare.sqlite"
    with Store(location, study.name, study.version, study.tables) as store:
        if keep is not None:
            outcome = run(study, store, Here(resources), resources=resources)
        else:
            with executor_for(_execution(study, model), resources) as executor:
                outcome = run(study, store, executor, resources=resources)
        outcome.raise_failures(store)
        return rows_of(study.assemble(store.frames()))


def check_compare(study: CompareStudy, resources: Resources) -> Bench:
    """What a comparison refuses before any work, with network and data open; the bench that it works on.

    Args:
        study: the comparison.
        resources: of this process.

    Raises:
        RequestError: naming it.
    """
    study.check()
    settings = study.settings.compare
    bench = resources.get(study.bench)
    for task in bench.tasks.values():
        structures = [task.structure, *([task.whole_structure] if settings.variants.blind else [])]
        assert structures[0].groups  # what cannot be traced has failed by now
        reference = task.reference(settings.sampling.per_class, settings.variants.seeds[0])
        for text in settings.variants.criteria:
            name, parameters = parse(text)
            criterion = get(name, **parameters)
            first_balanced(reference, criterion.asks_for, criterion.name)
    _execution(study, bench.model)
    return bench


def _execution(study: CompareStudy, model: nn.Module) -> Execution:
    """As it is asked for; as many processes as there are cores only where the network is on the CPU."""
    asked = study.settings.compare.execution
    if asked.executor != "processes":
        return asked
    places = {p.device.type for p in model.parameters()} - {"cpu"}
    if places and asked.processes > 1:
        raise RequestError(
            f"several processes would share one {places.pop()}; set compare.execution.processes=1, or device=cpu"
        )
    return asked.model_copy(update={"processes": 1}) if places else asked
