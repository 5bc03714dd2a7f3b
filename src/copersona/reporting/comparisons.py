"""What a run says of the claim: each rung against the one before, the full system against rivals.

Differences are *gains*: in the direction of the metric, positive is better. A gain is called better
or worse where its p, adjusted by Holm for all comparisons of its family, is below .05; else no
difference was seen, and what could have been seen is said. Families: the claim on one task, and the
ladder on one task and kind of request. Not to be worse than own retrieval is tested without
adjustment, since adjusting would make a loss harder to see.

Knows stored runs and statistics; nothing of tables, figures or words around them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from copersona.evaluation.statistics import Paired, holm, paired, quantile_buckets
from copersona.reporting.stored import SETTINGS, Series, Setting, StoredRun, TaskRun

Array = NDArray[Any]
Verdict = Literal["better", "worse", "no difference seen"]
Outcome = Literal["supported", "not supported", "contradicted", "not tested"]

OWN = "ladder.1"
"""Retrieval from the user's own history."""
FIRST_FACET_RUNG = 4
"""Rungs below know no facet peers: they are rivals, as baselines are."""
ALPHA = 0.05
QUARTILES = 4

_RUNG = re.compile(r"ladder\.(\d+)(.*)")
_OTHERS = re.compile(r"soft\.(?!persona)")


@dataclass(frozen=True)
class Metric:
    """How one metric is said and which way it is better.

    Attributes:
        unit: said after a difference.
    """

    name: str
    title: str
    unit: str
    is_higher_better: bool
    meaning: str

    @property
    def sign(self) -> int:
        """1 where higher is better, else −1."""
        return 1 if self.is_higher_better else -1

    @property
    def arrow(self) -> str:
        """The title with the direction that is better."""
        return f"{self.title}\N{NO-BREAK SPACE}{'↑' if self.is_higher_better else '↓'}"


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("nll", "NLL", "nats", False,
               "negative log-likelihood of the reference, nats per token, teacher-forced"),
        Metric("rouge1", "ROUGE-1", "F", True, "words shared by generated text and reference, F1"),
        Metric("rougeL", "ROUGE-L", "F", True, "longest common subsequence with the reference, F1"),
        Metric("meteor_nosyn", "METEOR-nosyn", "", True,
               "METEOR of generated text and reference, without WordNet's synonyms"),
        Metric("style_distance_own", "style distance, own", "sd", False,
               "of the text's habits of form from the user's own, in standard deviations"),
        Metric("style_distance_population", "style distance, everybody", "sd", True,
               "the same from the population's: what anyone might write is near"),
        Metric("best_exemplar_cosine", "best example, cosine", "cosine", True,
               "reference and the most similar response shown; needs no language model"),
        Metric("best_exemplar_rouge1", "best example, ROUGE-1", "F", True,
               "reference and the most similar response shown; needs no language model"),
        Metric("correct", "accuracy", "", True, "share of right labels"),
        Metric("macro_f1", "macro-F1", "", True, "F1 averaged over labels"),
        Metric("auc", "AUC", "", True,
               "chance that a case of the positive label gets the higher share; two labels only"),
        Metric("log_loss", "log-loss", "nats", False, "−log of the true label's share"),
        Metric("brier", "Brier", "", False, "squared distance of the shares from the true label"),
        Metric("abs_error", "MAE", "points", False, "mean absolute error of the rating"),
        Metric("rmse", "RMSE", "points", False, "root of the mean squared error of the rating"),
        Metric("answer_f1", "answer F1", "", True, "words shared by answer and reference, F1"),
    )
}  # fmt: skip
"""In the order in which tables show them."""

PRIMARY: Mapping[str, tuple[str, ...]] = {
    "text": ("nll", "best_exemplar_cosine"),
    "label": ("correct", "log_loss"),
    "rating": ("abs_error",),
    "answer": ("answer_f1",),
}
"""Kind of task -> what decides, the first that was measured."""


@dataclass(frozen=True)
class Stratum:
    """A kind of request.

    Attributes:
        shift: what was deleted from the histories.
        cases: their numbers; None for all.
    """

    name: str
    title: str
    shift: str = "none"
    cases: Array | None = None


@dataclass(frozen=True)
class Comparison:
    """One system against another on the same requests.

    Attributes:
        gain: difference in the better direction; p is not adjusted.
        p: adjusted by Holm within the family.
    """

    system: str
    rival: str
    stratum: Stratum
    metric: Metric
    gain: Paired
    p: float

    @property
    def verdict(self) -> Verdict:
        """In words."""
        if self.p >= ALPHA:
            return "no difference seen"
        return "better" if self.gain.difference > 0 else "worse"


@dataclass(frozen=True)
class TaskClaim:
    """The claim on one task in one setting.

    Attributes:
        rivals: the full system against every rival where support is low.
        own: the full system against own retrieval where support is high; None if not run.
        missing: rivals and strata that could not be compared, each in words.
    """

    task: str
    setting: Setting
    rivals: tuple[Comparison, ...]
    own: Comparison | None
    missing: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """Contradicted by any loss; supported by wins everywhere, with nothing left out.

        Not tested where there are no rivals, as where users have no peers to borrow from.
        """
        own = [self.own] if self.own else []
        if any(each.verdict == "worse" for each in (*self.rivals, *own)):
            return "contradicted"
        if not self.rivals:
            return "not tested"
        has_won = all(each.verdict == "better" for each in self.rivals)
        return "supported" if has_won and own and not self.missing else "not supported"

    def count(self, verdict: Verdict, stratum: str) -> int:
        """Number of rivals with this verdict on one kind of request."""
        return sum(each.verdict == verdict and each.stratum.name == stratum for each in self.rivals)


class Judge:
    """Compares the systems of one run.

    Args:
        n_resamples: of the bootstrap behind every interval and p.
    """

    def __init__(self, run: StoredRun, n_resamples: int) -> None:
        self.systems = run.systems
        self.n_resamples = n_resamples

    def family(self, system: str) -> str:
        """Family of a system; `unlisted` for one that `run.json` does not name."""
        if _RUNG.fullmatch(system):
            return "ladder"
        return str(self.systems.get(system, {}).get("family", "unlisted"))

    def names(self, task: TaskRun, *families: str) -> list[str]:
        """Systems with scores, of some families or of all; the ladder last, in its order."""
        ran = [name for name in self.systems if name in task.settings]
        ran += sorted(set(task.settings) - set(self.systems))
        chosen = [name for name in ran if not families or self.family(name) in families]
        return [n for n in chosen if not _RUNG.fullmatch(n)] + rungs(chosen)

    def rivals(self, task: TaskRun) -> list[str]:
        """Whom the full system must beat: baselines, and rungs without facet peers.

        Soft prompts of others are among them, and those that know no user: they were trained as
        ours were.
        """
        below = [name for name in rungs(task.settings) if _rung(name)[0] < FIRST_FACET_RUNG]
        soft = [n for n in self.names(task, "dual") if _OTHERS.match(n)]
        return [*(n for n in self.names(task, "baseline") if n not in below), *soft, *below]

    def paired(
        self, task: TaskRun, metric: Metric, pair: tuple[str, str], setting: Setting,
        stratum: Stratum,
    ) -> Paired | None:  # fmt: skip
        """Gain of the first system over the second; None without common requests."""
        first, second = (
            task.find(system, metric.name, setting, shift=stratum.shift) for system in pair
        )
        if first is None or second is None:
            return None
        a, b = aligned(first, second, stratum.cases)
        return self.gain(metric, a, b) if len(a.cases) else None

    def gain(self, metric: Metric, first: Series, second: Series) -> Paired:
        """Paired difference in the better direction; both on the same cases."""
        sign = metric.sign
        return paired(sign * first.values, sign * second.values, first.users.tolist(),
                      n_resamples=self.n_resamples)  # fmt: skip

    def compare(
        self, task: TaskRun, metric: Metric, setting: Setting,
        pairs: Iterable[tuple[str, str, Stratum]],
    ) -> list[Comparison]:  # fmt: skip
        """One family of comparisons; those without common requests are left out."""
        found = []
        for system, rival, stratum in pairs:
            gain = self.paired(task, metric, (system, rival), setting, stratum)
            if gain is not None:
                found.append(Comparison(system, rival, stratum, metric, gain, gain.p))
        adjusted = holm([each.p for each in found]).tolist()
        return [replace(each, p=p) for each, p in zip(found, adjusted, strict=True)]

    def ladder(
        self, task: TaskRun, metric: Metric, setting: Setting, stratum: Stratum
    ) -> list[Comparison]:
        """Every rung against the one before it."""
        steps = [(rung, before, stratum) for rung, before in ladder_steps(task.settings)]
        return self.compare(task, metric, setting, steps)

    def claim(self, task: TaskRun, metric: Metric, setting: Setting) -> TaskClaim:
        """The claim on one task."""
        kinds, full = strata(task), full_of(task)
        if not task.info["has_peers"]:
            own = self.compare(task, metric, setting, [(full, OWN, kinds["all"])])
            return TaskClaim(task.name, setting, (), own[0] if own else None, ())
        low = [kinds[name] for name in ("low", "deleted") if name in kinds]
        rivals = [rival for rival in self.rivals(task) if rival != full]
        pairs = [(full, rival, stratum) for stratum in low for rival in rivals]
        found = self.compare(task, metric, setting, pairs)
        own = self.compare(
            task, metric, setting, [(full, OWN, kinds["high"])] if "high" in kinds else []
        )
        missing = _missing(kinds, pairs, found)
        if not own:
            missing.append(f"{OWN} on high-support requests")
        return TaskClaim(task.name, setting, tuple(found), own[0] if own else None, tuple(missing))


def primary(task: TaskRun) -> Metric | None:
    """What decides on a task; None where nothing that could was measured."""
    measured = [name for name in PRIMARY[str(task.info["kind"])] if name in task.metrics]
    return METRICS[measured[0]] if measured else None


def settings(task: TaskRun) -> list[Setting]:
    """The settings to report: those of the full system, else of anyone.

    The main one first: the one with most requests, of equals the one in the order of `SETTINGS`.
    """
    ran = task.settings.get(full_of(task)) or frozenset().union(*task.settings.values())
    known = [setting for setting in SETTINGS if setting in ran]
    return sorted(known, key=lambda setting: -_n_requests(task, setting))


def _n_requests(task: TaskRun, setting: Setting) -> int:
    """Requests that were asked with whole histories, by whatever system was asked most."""
    return max(
        (
            len(series.cases)
            for key, series in task.series.items()
            if (key.mode, key.same_item, key.cap, key.shift) == (*setting, "all", "none")
        ),
        default=0,
    )


def strata(task: TaskRun) -> dict[str, Stratum]:
    """Kinds of request by name: all, low, high and deleted, as far as the run can tell."""
    found = {"all": Stratum("all", "all requests")}
    buckets = attribute_buckets(task, "confidence", QUARTILES)
    if len(buckets) > 1:
        found["low"] = Stratum("low", "low-support requests", cases=buckets[0].cases)
        found["high"] = Stratum("high", "high-support requests", cases=buckets[-1].cases)
    if any(key.shift == "facet" for key in task.series):
        found["deleted"] = Stratum("deleted", "requests whose facet was deleted", "facet")
    return found


@dataclass(frozen=True)
class Bucket:
    """Cases whose attribute is in [low, high]."""

    low: float
    high: float
    cases: Array


def attribute_buckets(task: TaskRun, name: str, n_buckets: int) -> list[Bucket]:
    """The cases with a whole history by an attribute, from low to high; undefined left out."""
    values = task.attributes[name].astype(float)
    known = np.isfinite(values)
    values, cases = values[known], task.attributes["case"][known]
    buckets = quantile_buckets(values, n_buckets)
    parts = [np.flatnonzero(buckets.numbers == row) for row in range(len(buckets.labels))]
    return [Bucket(float(values[at].min()), float(values[at].max()), cases[at]) for at in parts]


def aligned(first: Series, second: Series, cases: Array | None = None) -> tuple[Series, Series]:
    """Both on the cases they share."""
    shared = np.intersect1d(first.cases, second.cases, assume_unique=True)
    if cases is not None:
        shared = np.intersect1d(shared, cases)
    return first.among(shared), second.among(shared)


def rungs(names: Iterable[str]) -> list[str]:
    """The rungs among systems, from low to high."""
    return sorted((name for name in names if _RUNG.fullmatch(name)), key=_rung)


def full_of(task: TaskRun) -> str:
    """The system that the claim is about: the highest rung that was run on a task."""
    ran = [name for name in rungs(task.settings) if not _rung(name)[1]]
    return ran[-1] if ran else "ladder.8"


def ladder_steps(names: Iterable[str]) -> list[tuple[str, str]]:
    """Every rung and the one before; `2p` stands beside the ladder, on `2`."""
    steps: list[tuple[str, str]] = []
    before: str | None = None
    for name in rungs(names):
        if before is not None:
            steps.append((name, before))
        if not _rung(name)[1]:
            before = name
    return steps


def _missing(
    kinds: Mapping[str, Stratum],
    pairs: Sequence[tuple[str, str, Stratum]],
    found: Sequence[Comparison],
) -> list[str]:
    done = {(each.rival, each.stratum.name) for each in found}
    left = [
        f"{rival} on {stratum.title}"
        for _, rival, stratum in pairs
        if (rival, stratum.name) not in done
    ]
    if "low" not in kinds:
        left.insert(0, "low-support requests (own confidence not stored, or all alike)")
    return left


def _rung(name: str) -> tuple[int, str]:
    match = _RUNG.fullmatch(name)
    return (int(match[1]), match[2]) if match else (-1, name)
