"""Parts of a run: what one system says to the requests of one task, kept by what it depends on.

A part is one system in one setting, with one seed, on histories cut or shifted in one way. It is a
Parquet file named by the hash of everything it depends on – data, split, encoder, setting and the
program itself – so that a second run finds it, and a killed run loses one part at most. Nothing
here asks a language model: what is to be asked stands in the part.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import copersona
from copersona.answering.blocks import CountTokens
from copersona.contenders.systems import VOTES, Entry
from copersona.contenders.tutoring import Tutor
from copersona.contenders.world import Mode, TextVectors, Training, World, Write
from copersona.evaluation.leakage import check_shown, check_split, near_copies
from copersona.evaluation.metrics import brier, log_loss, rating_errors, rouge, style_center
from copersona.evaluation.scoring import packed
from copersona.method.completion import confidence_of
from copersona.method.facets import unit
from copersona.tasks.cases import Case, Prediction, Shift, Task
from copersona.tasks.splits import Split, SplitConfig, kept, lessons, shifted, split

Array = NDArray[Any]
Row = dict[str, Any]

_PER_USER, _MOST_LESSONS = 3, 800
"""Requests of each user, and in all, that soft prompts and the gate learn from."""
_NOT_PREDICTING = ("commands", "demo", "reporting", "testing")
"""Families that no part depends on."""
_NO_PARTS = ("cache", "gather", "judging", "part_jobs", "plans", "runs", "scoring", "statistics",
             "weights")  # fmt: skip
"""Modules of this family that no part depends on: they ask for parts, or use them."""


@dataclass(frozen=True)
class Setting:
    """What is the same for every system compared.

    Attributes:
        cap: newest interactions kept of a history; None keeps all.
        most: cases, the same ones whatever the setting; None takes all.
    """

    mode: Mode = "text"
    same_item: bool = True
    cap: int | None = None
    shift: Shift = "none"
    most: int | None = None
    budget_tokens: int = 350

    @property
    def columns(self) -> Row:
        """As columns of the stored outputs."""
        cap = "all" if self.cap is None else str(self.cap)
        return {"mode": self.mode, "same_item": self.same_item, "cap": cap, "shift": self.shift}


class Bench:
    """One task, loaded and split, with everything that systems need; loaded when first asked.

    Args:
        encode: texts to vectors: n texts -> (n, dim).
        count_tokens: of the language model.
        write: asks the language model for a summary; None where systems do without.
        tutor_of: given the lessons, trains soft prompts and the gate; None where nobody does.
    """

    def __init__(
        self,
        task: Task,
        data: Path,
        split_config: SplitConfig,
        vectors: TextVectors,
        count_tokens: CountTokens,
        write: Write | None = None,
        tutor_of: Callable[[Callable[[], Sequence[Case]]], Tutor] | None = None,
    ) -> None:
        self.task, self._data, self._config = task, data, split_config
        self._vectors, self._count_tokens, self._write = vectors, count_tokens, write
        self._rouge: dict[tuple[str, str], float] = {}
        self._tutor = tutor_of(self._lessons) if tutor_of else None

    @cached_property
    def split(self) -> Split:
        """The split, checked for leaks."""
        found = split(self.task, self.task.load(self._data), self._config)
        check_split(self.task, found, unseen=self._config.unseen)
        return found

    @cached_property
    def training(self) -> Training:
        """What may be fitted on."""
        return Training.of(self.split, self._vectors)

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """All cases, each with what gives its target away barred."""
        barred = near_copies(self.task, self.split.cases, self.training)
        return tuple(
            replace(case, request=replace(case.request, barred=ids))
            for case, ids in zip(self.split.cases, barred, strict=True)
        )

    def _lessons(self) -> list[Case]:
        """Requests from before the cut, to be learnt from, bare of targets as the cases are."""
        found = lessons(self.task, self.split.fitted, _PER_USER, _MOST_LESSONS)
        self._vectors.add(text for case in found for text in (case.request.text, case.target.text))
        barred = near_copies(self.task, found, self.training)
        return [
            replace(case, request=replace(case.request, barred=ids))
            for case, ids in zip(found, barred, strict=True)
        ]

    def cases_of(self, setting: Setting) -> list[Case]:
        """The cases of a setting; a shift keeps those where it changes something."""
        state = self.training.state()

        def in_main_facet(case: Case) -> Any:
            vector = self._vectors.of_request(case.request.text)
            main = int(state.facets.route(vector).argmax())

            def falls(history: Sequence[Any]) -> Sequence[bool]:
                inputs = self._vectors.vectors([row.input_text for row in history])
                facets = state.facets.assign(inputs, [row.facet for row in history])
                return list((facets == main).tolist())

            return falls

        found = (shifted(case, setting.shift, in_main_facet(case)) for case in self.cases)
        left = [kept(case, setting.cap) for case in found if case is not None]
        return sorted(left, key=lambda case: case.request.id)[: setting.most]

    def world(self, setting: Setting) -> World:
        """The world of a setting."""
        return World(
            self.task, self.training, self._count_tokens, setting.mode, setting.same_item,
            setting.budget_tokens, self._write, self._tutor,
        )  # fmt: skip

    # ---- parts ---------------------------------------------------------------------------------

    def predictions(self, entry: Entry, seed: int, setting: Setting) -> list[Row]:
        """One row for every case: metrics that need no language model, and what one is to be asked.

        Raises:
            LeakageError: the system showed what must not be seen.
        """
        world = self.world(setting)
        system = entry.make(world, seed)
        rows = []
        for case in self.cases_of(setting):
            start = time.perf_counter()
            prediction = system.predict(case.request)
            spent = (time.perf_counter() - start) * 1e3
            check_shown(case, prediction, world, entry.name)
            rows.append({
                "case": case.request.id, "user": hidden(case.request.user),
                "messages": json.dumps([dict(m) for m in prediction.messages], ensure_ascii=False),
                "soft": "" if prediction.soft is None else packed(prediction.soft),
                "reference": case.target.text, "text": prediction.text,
                "truth": _truth(self.task, case), "labels": json.dumps(dict(prediction.labels)),
                "metrics": json.dumps(self._metrics(case, prediction) | {"ms": spent}),
            })  # fmt: skip
        return rows

    def _metrics(self, case: Case, prediction: Prediction) -> dict[str, float]:
        counts = {
            f"n_{origin}": float(sum(one.origin == origin for one in prediction.shown))
            for origin in ("own", "peer", "population")
        }
        found = {**prediction.numbers, **counts, "tokens": float(prediction.tokens)}
        if self.task.kind == "label":
            return found | _label_metrics(prediction, str(case.target.label))
        if self.task.kind == "rating":
            return found | _rating_metrics(prediction, float(case.target.rating or 0.0))
        return found | self._exemplar_metrics(case, prediction)

    def _exemplar_metrics(self, case: Case, prediction: Prediction) -> dict[str, float]:
        """How like the target the best of the shown responses is; 0 where nothing is shown."""
        said = [one.response or one.input for one in prediction.shown]
        if not said or not case.target.text:
            return {"best_exemplar_rouge1": 0.0, "best_exemplar_cosine": 0.0}
        target = self._vectors.of_request(case.target.text)
        cosine = float((unit(self._vectors.vectors(said)) @ unit(target[None])[0]).max())
        best = max(self._overlap(text, case.target.text) for text in said)
        return {"best_exemplar_rouge1": best, "best_exemplar_cosine": cosine}

    def _overlap(self, said: str, target: str) -> float:
        key = said, target
        if key not in self._rouge:
            self._rouge[key] = rouge(said, target)["rouge1"]
        return self._rouge[key]

    @cached_property
    def _style_of_user(self) -> dict[str, list[float]]:
        """Mean habits of every user's targets, which no system sees."""
        said: dict[str, list[str]] = defaultdict(list)
        for case in self.cases:
            said[case.request.user].append(case.target.text)
        return {user: style_center(texts)[0].tolist() for user, texts in said.items()}

    def features(self, setting: Setting) -> list[Row]:
        """What is known of every case, under the full state: for buckets, and for style."""
        world, state = self.world(setting), self.training.state()
        center = self.training.corpus.responses.mean(axis=0)
        rows = []
        for case in self.cases_of(setting):
            request = case.request
            desk = world.desk(request, state)
            own = desk.own(request.user, before=request.at)
            routed = state.facets.route(self._vectors.of_request(request.text))
            view = desk.view(request.user, own.corpus, np.flatnonzero(routed > 0).tolist())
            confidences = {f: confidence_of(v.own_confidence, state.models)
                           for f, v in view.facets.items()}  # fmt: skip
            support = view.support
            rows.append({
                "case": request.id, "user": hidden(request.user),
                "n_history": len(request.history), "facet": int(routed.argmax()),
                "support": float(routed @ support),
                "confidence": float(sum(routed[f] * c for f, c in confidences.items())),
                "skew": _evenness(support), "typicality": _typicality(own.corpus.responses, center),
                "style_own": self._style_of_user[request.user],
            })  # fmt: skip
        return rows

    def transfer(self) -> list[Row]:
        """The T matrix of the full state."""
        state = self.training.state()
        layers = ["whole user", *state.facets.names]
        return [
            {"facet": f, "facet_name": state.facets.names[f], "layer": g, "layer_name": layers[g],
             "value": float(value)}
            for f, row in enumerate(state.transfer) for g, value in enumerate(row)
        ]  # fmt: skip

    def facts(self) -> Row:
        """What the report says of the data."""
        rows = self.split.fitted
        self.training.state()
        center, scale = style_center([row.response_text for row in rows])
        return {
            "style_center": center.tolist(), "style_scale": scale.tolist(),
            "warnings": sorted(set(self.training.warnings)),
            "n_users": len({row.user for row in rows} | {c.request.user for c in self.split.cases}),
            "n_interactions": len(rows), "n_cases": len(self.split.cases),
            "n_asked": len({case.request.user for case in self.split.cases}),
            "cut": self.split.cut, "n_undated": self.split.n_undated,
        }  # fmt: skip


def hidden(user: str) -> str:
    """A name for a user that is not the user's name."""
    return hashlib.sha256(f"evaluation\0{user}".encode("utf-8", "replace")).hexdigest()[:12]


def _truth(task: Task, case: Case) -> str:
    value = case.target.label if task.kind == "label" else case.target.rating
    return "" if task.kind not in VOTES or value is None else str(value)


def _label_metrics(prediction: Prediction, truth: str) -> dict[str, float]:
    shares = prediction.labels
    best = max(shares, key=lambda label: (shares[label], label), default="")
    return {
        "correct": float(best == truth), "p_true": float(shares.get(truth, 0.0)),
        "brier": brier(shares, truth), "log_loss": log_loss(shares, truth),
    }  # fmt: skip


def _rating_metrics(prediction: Prediction, truth: float) -> dict[str, float]:
    absolute, squared = rating_errors(prediction, truth)
    return {"abs_error": absolute, "sq_error": squared}


def _evenness(support: Array) -> float:
    """Normalised entropy over facets: 0 is one facet, 1 is even; NaN without a history."""
    total = float(support.sum())
    if total <= 0 or len(support) < 2:
        return float("nan")
    shares = support[support > 0] / total
    return float(-(shares * np.log(shares)).sum() / np.log(len(support)))


def _typicality(responses: Array, center: Array) -> float:
    """Cosine of a history's mean response with everybody's; NaN without a history."""
    if not len(responses):
        return float("nan")
    both = unit(np.stack([responses.mean(axis=0), center]))
    return float(both[0] @ both[1])


# ---- kept by what they depend on ---------------------------------------------------------------


def part_name(key: Mapping[str, Any]) -> str:
    """The hash of what a part depends on."""
    told = json.dumps(key, sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


class PartStore:
    """Parts as Parquet files in one folder, named by the hash of what they depend on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, key: Mapping[str, Any]) -> Path:
        """Where the part of a key is, or would be."""
        return self._folder / f"{part_name(key)}.parquet"

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether it was computed."""
        return self.path(key).exists()

    def get(self, key: Mapping[str, Any]) -> list[Row]:
        """Its rows."""
        return list(pq.read_table(self.path(key)).to_pylist())

    def put(self, key: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Keep it; it appears whole or not at all."""
        place = self.path(key)
        draft = place.with_suffix(f".{time.time_ns()}.draft")
        pq.write_table(pa.Table.from_pylist(list(rows)), draft)
        draft.replace(place)


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """Hash of what a part can depend on in this program."""
    root = Path(copersona.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        asks = relative.parts[0] == "evaluation" and relative.stem in _NO_PARTS
        if relative.parts[0] not in _NOT_PREDICTING and not asks:
            digest.update(f"{relative}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def data_fingerprint(path: Path) -> str:
    """Hash of a data set's files, by content."""
    digest = hashlib.sha256()
    files: Iterable[Path] = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in files:
        if file.is_file():
            digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def system_fingerprint(entry: Entry) -> str:
    """Hash of the file of a system that is not part of this package."""
    made: Any = getattr(entry.make, "func", entry.make)
    if made.__module__.startswith("copersona."):
        return ""
    return hashlib.sha256(Path(inspect.getfile(made)).read_bytes()).hexdigest()[:16]


def part_key(
    what: str, task: Task, fixed: Mapping[str, Any], setting: Setting | None = None,
    entry: Entry | None = None, seed: int = 0,
) -> Row:  # fmt: skip
    """Everything that a part depends on."""
    key: Row = {"what": what, "task": task.name, "code": code_fingerprint(), **fixed}
    if setting is not None:
        key |= {"setting": asdict(setting)}
    if entry is not None:
        key |= {"system": entry.name, "system_code": system_fingerprint(entry), "seed": seed}
    return key
