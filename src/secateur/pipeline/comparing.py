"""Criteria side by side under the same strategy, budgets and seeds: one tidy row per measurement."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from secateur.core.errors import RequestError
from secateur.core.files import read_json, write_json
from secateur.core.interruption import keeping
from secateur.core.pool import Pool, cores
from secateur.core.progress import ProgressOption, reported, track
from secateur.criteria import get, parse
from secateur.criteria.samples import first_balanced
from secateur.data import ImageData
from secateur.pipeline.bench import Bench
from secateur.pipeline.compare_settings import CompareSettings
from secateur.pipeline.comparison import Part, Row, parts_of
from secateur.pipeline.requests import check_compare_settings
from secateur.pipeline.settings import Compressed, PruneSettings
from secateur.pipeline.timed import Timer
from secateur.surgery.head import head_mask
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
        folder: finished parts are kept there and found again after an interruption.
        keep: when given, filled with the last seed's pruned network of each criterion at the smallest budget (after
            fine-tuning, if any); such parts are always computed, in this process.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.

    Returns:
        Rows with the keys of `COLUMNS`, and behind them ``per_class`` (accuracy by class), ``layers`` (name, kept and
        all channels), ``removed`` (units by group) and ``part_s`` (seconds of the whole part without retraining). First
        for each subset comes one for the unpruned network (budget 1).

    With several ``processes``, a script needs the guard ``if __name__ == "__main__"``: processes import it anew.

    Raises:
        RequestError: before any work, for unknown criteria or classes, subsets that do not go together, a head that
            cannot be sliced, budgets out of range, or a missing package.
    """
    bench = check_compare(model, data, settings, prune_settings, model_name=model_name, finetune=finetune)
    identity = _identity(model, data, settings, finetune)
    places = {part: _place(folder, f"{identity}/{part.key(settings)}") for part in parts_of(settings, prune_settings)}
    found: dict[Part, list[Row]] = {}
    for part, place in places.items():
        if place is not None and place.exists() and keep is None:
            found[part] = [row | {"model": model_name} for row in read_json(place)]
    missing = [part for part in places if part not in found]
    with keeping(lambda: "" if keep is not None else _kept(folder, places)):
        work = _worked(bench, missing, keep)
        for part, rows in track(work, "parts of the comparison", len(places), done=len(found)):
            place = places[part]
            if place is not None:
                write_json(place, rows)
            found[part] = rows
        baselines = {subset: bench.baseline(subset) for subset in bench.tasks}
        _time(bench, found, baselines, {part: places[part] for part in found})
    table: list[Row] = []
    for subset, row in baselines.items():
        table += [row, *(r for part in places if part.subset == subset for r in found[part])]
    return table


def check_compare(
    model: nn.Module,
    data: ImageData,
    settings: CompareSettings,
    prune_settings: PruneSettings,
    *,
    model_name: str = "model",
    finetune: TrainSettings | None = None,
) -> Bench:
    """What `compare` refuses before any work; the bench that it works on."""
    check_compare_settings(settings, prune_settings)
    bench = Bench(model, data, settings, finetune, model_name, prune_settings.stream)
    for task in bench.tasks.values():
        structures = [task.structure, *([task.whole_structure] if settings.blind else [])]
        assert structures[0].groups  # what cannot be traced has failed by now
        reference = task.reference(settings.per_class, settings.seeds[0])
        for text in settings.criteria:
            name, parameters = parse(text)
            criterion = get(name, **parameters)
            first_balanced(reference, criterion.asks_for, criterion.name)
    return bench


def _place(folder: str | Path | None, identity: str) -> Path | None:
    return None if folder is None else Path(folder) / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def _kept(folder: str | Path | None, places: Mapping[Part, Path | None]) -> str:
    """What an interruption leaves."""
    done = sum(place is not None and place.exists() for place in places.values())
    said = f"{done} of {len(places)} parts are finished and kept in '{folder}'; the same request goes on from there"
    return said if done else ""


def _worked(
    bench: Bench, parts: Sequence[Part], keep: dict[str, Compressed] | None
) -> Iterator[tuple[Part, list[Row]]]:
    """Finished parts, in any order."""
    workers = min(_workers(bench), max(1, len(parts)))
    if workers == 1 or keep is not None:
        for part in parts:
            yield part, bench.rows(part, keep)
        return
    try:
        packed = pickle.dumps(dataclasses.replace(bench))  # without what it has worked out
    except Exception as error:  # whatever a stranger's class raises, the remedy is the same
        raise RequestError(f"the network or its data cannot be sent to processes ({error}); use one process") from error
    with Pool(workers, _receive, (packed,)) as pool:
        yield from pool.work(_rows, parts)


def _workers(bench: Bench) -> int:
    """Processes; as many as there are cores where that is asked for and the network is on the CPU."""
    on_cpu = all(p.device.type == "cpu" for p in bench.model.parameters())
    return bench.settings.processes or (cores() if on_cpu else 1)


def _refuse_device(bench: Bench) -> None:
    places = {p.device.type for p in bench.model.parameters()} - {"cpu"}
    if places:
        raise RequestError(f"several processes would share one {places.pop()}; set compare.processes=1, or device=cpu")


_bench: Bench | None = None


def _receive(packed: bytes) -> None:
    """In a process that works: unpack, and take one thread, as the others take theirs."""
    global _bench
    torch.set_num_threads(1)
    _bench = pickle.loads(packed)


def _rows(part: Part) -> list[Row]:
    assert _bench is not None
    return _bench.rows(part)


def _time(
    bench: Bench, found: dict[Part, list[Row]], baselines: dict[str, Row], places: dict[Part, Path | None]
) -> None:
    """Fill in times; they are kept beside the parts, and found again."""
    with tempfile.TemporaryDirectory() as folder:
        timer = Timer(bench, folder)
        wanted = [part for part in places if timer.wants(part)]
        for subset in dict.fromkeys(part.subset for part in wanted):
            baselines[subset] |= timer.whole(subset)
        for part in track(wanted, "parts timed"):
            place = places[part]
            beside = None if place is None else place.with_suffix(f".{timer.identity(part.subset)}.json")
            if beside is not None and beside.exists():
                times = {float(budget): columns for budget, columns in read_json(beside).items()}
            else:
                times = timer.times(part, found[part])
                if beside is not None:
                    write_json(beside, {str(budget): columns for budget, columns in times.items()})
            for row in found[part]:
                row |= timer.beside(times.get(row["budget"], {}), baselines[part.subset])


def _identity(model: nn.Module, data: ImageData, settings: CompareSettings, finetune: TrainSettings | None) -> str:
    """Hash of everything that a part's result depends on, but the part's own coordinates."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    digest.update(f"{model!r} {head_mask(model)} {data.class_names} {data.train.augmentation!r}".encode())
    for split in (data.train, data.val, data.test):
        digest.update(split.labels.tobytes())
        digest.update(split.replace(augmentation=None).batch(range(min(16, len(split))))[0].numpy().tobytes())
    digest.update(version("secateur").encode())
    # coordinates of parts, and what does not change their results
    others = {"criteria", "blind", "unstructured", "subsets", "seeds", "published", "default", "processes", "trackers"}
    timing = {name for name in CompareSettings.model_fields if name.startswith(("latency_", "onnx_"))}
    own = settings.model_dump(mode="json", exclude=others | timing)
    tuned = finetune.model_dump(mode="json") if finetune is not None and finetune.epochs else None
    digest.update(json.dumps([own, tuned, asdict(data.normalisation), data.name], sort_keys=True).encode())
    return digest.hexdigest()
