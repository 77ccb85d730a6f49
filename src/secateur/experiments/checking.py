"""What every study must keep, as one function: our tests run it on all registered studies, users on theirs."""

import contextlib
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from secateur.core import interruption
from secateur.core.errors import RequestError
from secateur.core.files import cache_folder
from secateur.core.progress import reporting
from secateur.core.threads import one_thread
from secateur.experiments.executors import Done, Executor, Here, Job, Processes
from secateur.experiments.opening import opened_store
from secateur.experiments.running import Outcome, identities, run
from secateur.experiments.settings import Effect, StudySettings
from secateur.experiments.study import Finding, Study, Tables
from secateur.experiments.variation import Field, changed, fields_of, other_values

AnyStudy = Study[Any, Any]


def check_study(
    study: AnyStudy,
    folder: str | Path,
    *,
    processes: int = 2,
    changes: Mapping[str, Any] | None = None,
    also: Sequence[StudySettings] = (),
    wrong: Mapping[str, Any] | None = None,
) -> None:
    """Check a study against the contract, by running it several times; give it settings with few and quick cells.

    Tables are the same when a run is interrupted and resumed, whatever the order of the cells, and in several processes
    (but for columns that are `Column.timed`); rows fit their schemas; unknown names in the settings are refused; a dry
    run writes nothing; each field of the settings changes the identities of cells, or its section is declared
    `Effect.PRESENTATION` (then it changes none) or `Effect.INPUTS`; findings, page and files can be made of the tables.

    Args:
        study: with small settings.
        folder: for stores and results; emptied by nobody.
        processes: in how many the cells are worked on once more; 1: leave that out.
        changes: another valid value for fields, by path, where the suite finds none by itself.
        also: more settings; a field must change identities under one of them, or under those of the study.
        wrong: values by path that must be refused before any work, such as names that do not exist.

    Raises:
        AssertionError: naming what does not hold.

    Example:
        >>> import tempfile
        >>> from typing import Annotated
        >>> from secateur.experiments import Cell, Column, Result, Schema, Section
        >>> from secateur.reports import Report
        >>> class Number(Cell):
        ...     number: int
        >>> class Numbers(Section):
        ...     numbers: tuple[int, ...] = (1, 2, 3)
        >>> class Settings(StudySettings):
        ...     grid: Annotated[Numbers, Effect.CELLS] = Numbers()
        >>> class Squares(Study[Settings, Number]):
        ...     name, version, summary, settings_type = "squares", 1, "Squares of numbers.", Settings
        ...     tables = {"squares": Schema((Column("number", int, "given"), Column("square", int, "of it")))}
        ...     def cells(self):
        ...         return [Number(number=number) for number in self.settings.grid.numbers]
        ...     def work(self, cell, resources, earlier):
        ...         return Result({"squares": [{"number": cell.number, "square": cell.number**2}]})
        ...     def page(self, tables):
        ...         return Report("Squares", [])
        >>> check_study(Squares(Settings()), tempfile.mkdtemp(), processes=1)
    """
    home = Path(folder)
    with reporting(False), one_thread():  # sums are added in one order here, as in processes with one thread each
        check_dry(study, home / "dry", sent=processes > 1)
        check_names(study, wrong or {})
        check_settings(study, changes or {}, also)
        fresh = check_runs(study, home, processes)
        check_results(study, fresh, home / "results")


def check_dry(study: AnyStudy, folder: Path, *, sent: bool) -> None:
    """Cells are listed, the same each time, without writing anything, also when the study was ``sent`` to a process."""
    folder.mkdir(parents=True, exist_ok=True)
    unready = [resource for resource in study.shared() if not resource.ready()]
    before = _listing(cache_folder("."))
    with contextlib.chdir(folder):
        study.dry_run()
        first, again = _identities(study), _identities(study)
    assert first, f"{study.name}: has no cells"
    assert first == again, f"{study.name}: lists other cells when asked again"
    assert not _listing(folder), f"{study.name}: a dry run wrote {sorted(_listing(folder))[0][0]}"
    assert _listing(cache_folder(".")) == before, f"{study.name}: a dry run wrote to the cache"
    still = [resource for resource in study.shared() if not resource.ready()]
    assert len(still) == len(unready), f"{study.name}: a dry run made shared resources"
    if sent:
        there = pickle.loads(pickle.dumps(study))
        assert _identities(there) == first, f"{study.name}: has other cells after it was sent to a process"


def check_names(study: AnyStudy, wrong: Mapping[str, Any]) -> None:
    """Unknown names of settings are refused at every level, and so are the given wrong values."""
    for path in _groups(study.settings):
        inside = f"{path}.no_such_name".lstrip(".")
        assert _altered(study, inside, 1) is None, f"{study.name}: takes an unknown setting '{inside}'"
    for path, value in wrong.items():
        assert _altered(study, path, value) is None, f"{study.name}: takes {path}={value!r} without a word"


def check_settings(study: AnyStudy, changes: Mapping[str, Any], also: Sequence[StudySettings]) -> None:
    """Each field changes identities, or its section says that it does not."""
    studies = [study, *(type(study)(settings) for settings in also)]
    alike: dict[str, str] = {}
    for each in studies:
        before = set(_identities(each))
        for field in fields_of(each.settings):
            if field.effect is Effect.INPUTS or alike.get(field.path) == "":
                continue
            alike[field.path] = _complaint(each, field, before, changes) or ""
    unknown = [path for path in changes if path not in alike]
    assert not unknown, f"{study.name}: changes has '{unknown[0]}', which is no field that identities depend on"
    wrong = [f"{path} {reason}" for path, reason in alike.items() if reason]
    assert not wrong, f"{study.name}: {'; '.join(wrong)}"


def _complaint(study: AnyStudy, field: Field, before: set[str], changes: Mapping[str, Any]) -> str | None:
    """What is wrong with a field; None: nothing."""
    given = [changes[field.path]] if field.path in changes else other_values(field.annotation, field.value)
    tried = False
    for value in given:
        other = _altered(study, field.path, value)
        if other is None or other.settings == study.settings:
            continue
        same, tried = set(_identities(other)) == before, True
        if field.effect is Effect.PRESENTATION:
            return None if same else f"is declared PRESENTATION, but {value!r} changes identities of cells"
        if not same:
            return None
        if field.effect is Effect.RESULTS:  # of cells, one value more or less may make no difference
            break
    if tried:
        return f"({field.effect.name}) can change without changing the identity of any cell"
    return "has no other value that the suite knows; give one with changes={'PATH': VALUE}"


def check_runs(study: AnyStudy, home: Path, processes: int) -> Tables:
    """Tables are the same however the work is done; those of the first run."""
    count = len(study.cells())
    outcome, fresh = _run(study, home / "fresh.sqlite", Here())
    assert outcome.made == count, f"{study.name}: worked on {outcome.made} of {count} cells"
    main = next(iter(study.tables))
    assert len(fresh[main]), f"{study.name}: its main table '{main}' has no rows"
    outcome, again = _run(study, home / "fresh.sqlite", Here())
    assert outcome.made == 0, f"{study.name}: works on {outcome.made} cells again that are finished"
    _compare(study, fresh, again, "a run of which all is finished")
    reached = sum(cell.stage not in study.alone for cell in study.cells())  # the others are worked on without executor
    with contextlib.suppress(KeyboardInterrupt):
        _run(study, home / "resumed.sqlite", _Stopping(reached // 2))
        assert not reached, f"{study.name}: swallows an interruption"
    interruption.forget()  # what the interruption leaves is nobody's message
    with opened_store(home / "resumed.sqlite", study) as store:
        kept = store.status().total("finished")
    outcome, resumed = _run(study, home / "resumed.sqlite", Here())
    assert outcome.found == kept, f"{study.name}: found {outcome.found} of {kept} cells that were finished before"
    _compare(study, fresh, resumed, "a run that was interrupted and resumed")
    _, reversed_ = _run(study, home / "reversed.sqlite", _Reversed())
    _compare(study, fresh, reversed_, "a run in the opposite order")
    if processes > 1:
        with Processes(processes) as executor:
            _, several = _run(study, home / "processes.sqlite", executor)
        _compare(study, fresh, several, f"a run in {processes} processes")
    return fresh


def check_results(study: AnyStudy, stored: Tables, folder: Path) -> None:
    """Findings, page, short tables and files can be made of the tables."""
    from secateur.reports import write_report

    tables = study.assemble(stored)
    for finding in study.findings(tables):
        assert isinstance(finding, Finding), f"{study.name}: {finding!r} is no Finding"
        assert finding.text, f"{study.name}: a finding without a text"
    for table in study.overview(tables):
        wide = [row for row in table.rows if len(row) != len(table.columns)]
        assert not wide, f"{study.name}: '{table.title}' has a row of {len(wide[0])} cells, {len(table.columns)} heads"
    folder.mkdir(parents=True, exist_ok=True)
    for what, path in study.write(tables, folder).items():
        assert Path(path).exists(), f"{study.name}: wrote no {what} to '{path}'"
    page = write_report(study.page(tables), folder / "report.html")
    assert page.stat().st_size, f"{study.name}: its page is empty"


def _run(study: AnyStudy, path: Path, executor: Executor) -> tuple[Outcome, Tables]:
    with opened_store(path, study) as store:
        outcome = run(study, store, executor)
        if outcome.failures:
            first = outcome.failures[0]
            raise AssertionError(f"{study.name}: cell ({first.cell}) failed: {first.error}")
        return outcome, store.frames()


def _compare(study: AnyStudy, first: Tables, second: Tables, what: str) -> None:
    from pandas.testing import assert_frame_equal

    for name, schema in study.tables.items():
        kept = [column.name for column in schema.columns if not column.timed]
        try:
            assert_frame_equal(first[name][kept], second[name][kept], check_exact=True)
        except AssertionError as error:
            reason = " ".join(str(error).split())
            raise AssertionError(f"{study.name}: table '{name}' of {what} differs: {reason}") from error


def _identities(study: AnyStudy) -> list[str]:
    """Of all cells, without inputs, which would have to be opened."""
    return list(identities(study, None))


def _altered(study: AnyStudy, path: str, value: Any) -> AnyStudy | None:
    """The study with one setting changed; None: it is refused."""
    try:
        other = type(study)(changed(study.settings, path, value))
        other.check()
        _identities(other)
    except (ValidationError, RequestError):
        return None
    return other


def _groups(settings: BaseModel, path: str = "") -> Iterator[str]:
    """Paths of all models within settings, "" for themselves."""
    yield path
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _groups(value, f"{path}.{name}".lstrip("."))


def _listing(folder: Path) -> set[tuple[str, int]]:
    """Files with their times."""
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


class _Stopping(Here):
    """Is interrupted after some cells."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def work(self, study: AnyStudy, jobs: Iterable[Job]) -> Iterator[list[Done]]:
        """See `Executor.work`."""
        for done in super().work(study, jobs):
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            yield done


class _Reversed(Here):
    """Works on the last cell first."""

    def work(self, study: AnyStudy, jobs: Iterable[Job]) -> Iterator[list[Done]]:
        """See `Executor.work`."""
        yield from super().work(study, [Job(job.cells[::-1], job.earlier) for job in list(jobs)[::-1]])
