"""The space of settings, and which one is tried next."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from secateur.core.errors import SecateurError
from secateur.core.parameters import write_parameters
from secateur.core.randomness import derive_seed, numpy_generator
from secateur.studies.search.settings import ObjectiveSettings, SamplerSettings, SpaceSettings
from secateur.studies.search.tables import COMPLETE, FAILED, PARAMETERS

if TYPE_CHECKING:
    import optuna

Parameters = dict[str, Any]
Row = Mapping[str, Any]

_RULES = ("low", "middle", "high", "classifier")
"""Parameters that are rules of layers, by depth."""

_AGAIN = 20
"""Draws by chance in place of a setting that was tried already."""


@dataclass(frozen=True)
class Space:
    """The settings that are searched in.

    Attributes:
        settings: what each parameter may be.
        attention: whether the network has any; without, its rule is fixed.
        heatmaps: whether they count; the rule of the first layer, which no unit's relevance passes, is fixed otherwise.
    """

    settings: SpaceSettings
    attention: bool
    heatmaps: bool = False

    @cached_property
    def choices(self) -> dict[str, list[Any]]:
        """Values of the parameters that are chosen from a list, those with one value included."""
        found = {name: list(getattr(self.settings, name)) for name in PARAMETERS if name != "gamma"}
        if not self.attention:
            found["softmax"] = found["softmax"][:1]
        if not self.heatmaps:
            found["first"] = found["first"][:1]
        return found

    @classmethod
    def of(cls, settings: SpaceSettings, objective: ObjectiveSettings, attention: bool) -> Space:
        """As far as the objective looks at it."""
        return cls(settings, attention, objective.faithfulness)

    @property
    def gammas(self) -> tuple[float, float]:
        """Ends of the range."""
        return self.settings.gamma[0], self.settings.gamma[-1]

    @property
    def uses_gamma(self) -> bool:
        """Whether some rule may be the γ-rule."""
        return any("gamma" in self.choices[name] for name in _RULES)

    @cached_property
    def grid(self) -> list[Parameters]:
        """Every setting, γ at the ends of its range and in its geometric middle, in an order drawn by chance."""
        names, every = list(self.choices), []
        for values in itertools.product(*self.choices.values()):
            chosen = dict(zip(names, values, strict=True))
            for gamma in self._gammas_of_grid if self._takes_gamma(chosen) else self.gammas[:1]:
                every.append({name: gamma if name == "gamma" else chosen[name] for name in PARAMETERS})
        order = numpy_generator(0, "grid").permutation(len(every))
        return [every[place] for place in order]

    @property
    def grid_size(self) -> int:
        """Length of the grid, which is not made for it."""
        rules = list(itertools.product(*(self.choices[name] for name in _RULES)))
        with_gamma = sum("gamma" in each for each in rules)
        others = math.prod(len(values) for name, values in self.choices.items() if name not in _RULES)
        return others * (len(rules) - with_gamma + with_gamma * len(self._gammas_of_grid))

    @property
    def _gammas_of_grid(self) -> list[float]:
        low, high = self.gammas
        return [low] if low == high else [low, math.sqrt(low * high), high]

    @cached_property
    def known(self) -> list[Parameters]:
        """Settings to begin with, as far as the space holds them.

        Each rule everywhere, z⁺ and α2β1 with ε in the classifier; both with what our LRP and the published one have
        beside the rules.
        """
        found: list[Parameters] = []
        ours = {"start": "logit", "reduce": "square", "at": "readers", "normalise": "none"}
        published = {"start": "one", "reduce": "abs", "at": "makers", "normalise": "none"}
        rules = [(rule, rule) for rule in ("epsilon", "z-plus", "alpha2-beta1", "gamma")]
        rules += [("z-plus", "epsilon"), ("alpha2-beta1", "epsilon")]
        low, high = self.gammas
        for beside in (ours, published):
            for rule, last in rules:
                wanted: Parameters = {**beside, "low": rule, "middle": rule, "high": rule, "classifier": last}
                wanted = {name: value for name, value in wanted.items() if value in self.choices[name]}
                if len(wanted) < len(beside) + 4:
                    continue
                wanted["gamma"] = min(max(0.25, low), high)
                wanted["first"] = "none" if "none" in self.choices["first"] else self.choices["first"][0]
                found.append(self.canonical(self.whole(wanted)))
        return list({self.key(each): each for each in found}.values())

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Of the parameters that have a choice, for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        found: dict[str, optuna.distributions.BaseDistribution] = {
            name: CategoricalDistribution(values) for name, values in self.choices.items() if len(values) > 1
        }
        if self.open_gamma:
            found["gamma"] = FloatDistribution(*self.gammas, log=True)
        return found

    def whole(self, chosen: Mapping[str, Any]) -> Parameters:
        """All parameters, from those that have a choice."""
        fixed = {name: values[0] for name, values in self.choices.items()} | {"gamma": self.gammas[0]}
        return {name: chosen.get(name, fixed[name]) for name in PARAMETERS}

    def canonical(self, parameters: Mapping[str, Any]) -> Parameters:
        """The same setting by the same words: γ is its lowest value where no rule takes it."""
        gamma = parameters["gamma"] if self._takes_gamma(parameters) else self.gammas[0]
        return {name: gamma if name == "gamma" else parameters[name] for name in PARAMETERS}

    @staticmethod
    def _takes_gamma(parameters: Mapping[str, Any]) -> bool:
        """Whether some rule of a setting is the γ-rule."""
        return any(parameters[name] == "gamma" for name in _RULES)

    def key(self, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        """By which settings are told apart."""
        return tuple(self.canonical(parameters)[name] for name in PARAMETERS)

    @property
    def open_gamma(self) -> bool:
        """Whether γ is any value of a range."""
        return self.gammas[0] < self.gammas[1] and self.uses_gamma

    def size(self) -> int | None:
        """How many settings there are; None: without end."""
        return None if self.open_gamma else self.grid_size


def composite_of(parameters: Mapping[str, Any]) -> str:
    """The composite of a setting, as commands take it.

    Example:
        >>> composite_of({"low": "z-plus", "middle": "epsilon", "high": "epsilon", "classifier": "epsilon",
        ...               "gamma": 0.1, "first": "flat", "softmax": "attnlrp"})
        'graded(classifier=epsilon, first=flat, high=epsilon, low=z-plus, middle=epsilon)'
    """
    rules = {name: parameters[name] for name in _RULES}
    found: dict[str, Any] = dict(rules)
    if "gamma" in rules.values():
        found["gamma"] = round(float(parameters["gamma"]), 6)
    if parameters["first"] != "none":
        found["first"] = parameters["first"]
    if parameters["softmax"] != "attnlrp":
        found["softmax"] = parameters["softmax"]
    return f"graded({write_parameters(found)})"


def shown(parameters: Mapping[str, Any], name: str) -> str:
    """A parameter in words; γ where no rule takes it is a dash."""
    value = parameters[name]
    if name != "gamma":
        return str(value)
    used = any(parameters[part] == "gamma" for part in _RULES)
    return f"{value:.3g}" if used else "-"


def criterion_of(parameters: Mapping[str, Any]) -> str:
    """The criterion of a setting, as commands take it; ``order`` and ``per_class`` are settings beside it."""
    given = {"start": parameters["start"], "reduce": parameters["reduce"], "at": parameters["at"]}
    if parameters["normalise"] != "none":
        given["normalise"] = parameters["normalise"]
    return f"lrp:composite={composite_of(parameters)}, {write_parameters(given)}"


def proposal(
    space: Space, sampler: SamplerSettings, earlier: Sequence[Row], number: int, goals: Sequence[str]
) -> Parameters:
    """The setting of one trial; the same for the same earlier ones, wherever and whenever it is asked for.

    Args:
        space: to choose from.
        sampler: how.
        earlier: rows of the trials that it is proposed from, by number.
        number: of the trial. Those between, which run side by side with it, count as under way.
        goals: columns to maximise.

    Raises:
        SecateurError: where every setting of a grid was tried.
    """
    if sampler.kind == "grid":
        if number >= space.grid_size:
            raise SecateurError(f"the grid has {space.grid_size} settings, all tried; ask for fewer trials")
        return space.grid[number]
    known = space.known if sampler.known else []
    if number < len(known):
        return known[number]
    tried = {space.key(row) for row in earlier}
    study = _study(space, earlier, goals)
    chosen: Parameters = {}
    for place in range(len(earlier), number + 1):
        if place < len(known):  # those of them that run side by side with this one
            study.enqueue_trial({name: known[place][name] for name in space.distributions()})
        study.sampler = _sampler(sampler, derive_seed(sampler.seed, "trial", place) % 2**32)
        chosen = space.canonical(space.whole(study.ask(space.distributions()).params))
        for again in range(_AGAIN):
            if space.key(chosen) not in tried:
                break
            chosen = _by_chance(space, derive_seed(sampler.seed, "trial", place, again))
        if space.key(chosen) in tried and not space.open_gamma:
            chosen = next((each for each in space.grid if space.key(each) not in tried), chosen)
        tried.add(space.key(chosen))
    return chosen


def optuna_study(
    space: Space, rows: Sequence[Row], goals: Sequence[str], name: str, storage: optuna.storages.BaseStorage | None
) -> optuna.Study:
    """All trials as a study of Optuna, failed ones too.

    Args:
        space: of the search.
        rows: of the trials.
        goals: columns that were maximised.
        name: of the study.
        storage: a database; None: in memory.
    """
    return _study(space, rows, goals, name, storage, failed=True)


def _study(
    space: Space,
    rows: Sequence[Row],
    goals: Sequence[str],
    name: str | None = None,
    storage: optuna.storages.BaseStorage | None = None,
    failed: bool = False,
) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize"] * len(goals), study_name=name, storage=storage)
    distributions = space.distributions()
    for row in rows:
        values = [row[goal] for goal in goals]
        parameters = {key: row[key] for key in distributions}
        notes = {"number": row["number"], "state": row["state"]}
        if row["state"] == FAILED or None in values:
            if failed:
                study.add_trial(
                    optuna.trial.create_trial(
                        state=optuna.trial.TrialState.FAIL, params=parameters, distributions=distributions,
                        user_attrs=notes | {"reason": row["reason"]},
                    )
                )  # fmt: skip
            continue
        study.add_trial(
            optuna.trial.create_trial(values=values, params=parameters, distributions=distributions, user_attrs=notes)
        )
    return study


def _sampler(settings: SamplerSettings, seed: int) -> optuna.samplers.BaseSampler:
    import warnings

    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if settings.kind == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=settings.startup)
        if settings.kind == "tpe":
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=settings.startup, multivariate=True, constant_liar=True
            )
        return optuna.samplers.RandomSampler(seed=seed)


def _by_chance(space: Space, seed: int) -> Parameters:
    draw = numpy_generator(seed, "setting")
    chosen = {name: values[int(draw.integers(len(values)))] for name, values in space.choices.items()}
    low, high = space.gammas
    chosen["gamma"] = float(math.exp(draw.uniform(math.log(low), math.log(high))))
    return space.canonical(space.whole(chosen))


def best_of(rows: Sequence[Row], goal: str) -> Row:
    """The complete trial with the highest value; of equal ones, the first.

    Raises:
        SecateurError: where none is complete, with the reason of the first that failed.
    """
    complete = [row for row in rows if row["state"] == COMPLETE and row[goal] is not None]
    if not complete:
        reasons = [row["reason"] for row in rows if row["reason"]]
        why = f"; the first failed because {reasons[0]}" if reasons else ""
        raise SecateurError(f"no trial of the search is complete{why}; widen the space, or see `secateur study status`")
    return max(complete, key=lambda row: (row[goal], -row["number"]))
