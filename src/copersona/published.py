"""The fitted state in force: published, opened once, followed when another process replaces it.

What is damaged is never served: the newest sound state of the folder is, in a process that had it
open as in one that has just started. That is logged once for each damaged state and stands in
`degraded` for as long as it lasts. Knows files and fitted states; knows nobody's consent, and not
what a state is used for.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from copersona import artifacts
from copersona.answering.text_items import TextItems, items_from_arrays, items_to_arrays
from copersona.answering.words import WordCounts, counts_from_arrays, counts_to_arrays
from copersona.errors import ArtifactError, ConfigError
from copersona.learnt import Learnt, learnt_from_arrays, learnt_to_arrays
from copersona.method.fitted import FittedState, from_arrays, to_arrays
from copersona.storage.store import content_hash

Array = NDArray[np.generic]

KEPT = 2
"""States that stay in the folder after a fit: the new one, and one to go back to."""

_LOOK_AGAIN_S = 60.0
_log = logging.getLogger("copersona")


class Published(NamedTuple):
    """A fitted state, the items it may quote and the words it has counted, under its version.

    Attributes:
        learnt: what was trained on the state.
    """

    version: str
    state: FittedState
    items: TextItems
    words: WordCounts
    learnt: Learnt


class States:
    """The fitted states of one namespace.

    Attributes:
        root: folder of the states of all namespaces.
        held: what was served last; None before the first look.
        degraded: why the newest state is not the one that is served; empty where it is.
    """

    def __init__(self, root: Path, namespace: str) -> None:
        self.root, self._namespace = root, namespace
        self.held: Published | None = None
        self.degraded = ""
        self._refused, self._refused_until = "", 0.0
        self._looking = threading.Lock()

    @property
    def training_folder(self) -> Path:
        """Where a training that was killed is gone on from."""
        return self.root / f".training-{content_hash(self._namespace).hex()[:16]}"

    def in_force(self) -> Published | None:
        """The newest sound state; None where nothing was published.

        Raises:
            ArtifactError: there are states, and none is sound.
        """
        with self._looking:  # a state is large: one thread opens it, the others wait
            return self._in_force()

    def _in_force(self) -> Published | None:
        wanted = ""
        try:
            wanted = artifacts.current(self.root, self._namespace) or ""
            if not wanted:
                return None
            if self.held is None or self.held.version != wanted:
                if self._is_refused(wanted):
                    return self.held
                self.held = self._open(wanted)
        except ArtifactError as error:
            if self._is_replaced(wanted):  # while it was being opened
                return self._in_force()
            return self._instead_of(wanted, error)
        self.degraded = ""
        return self.held

    def _is_replaced(self, version: str) -> bool:
        try:
            return artifacts.current(self.root, self._namespace) not in (None, version)
        except ArtifactError:
            return False

    def publish(
        self, state: FittedState, items: TextItems, words: WordCounts, learnt: Learnt | None = None
    ) -> str:
        """Write a new state and put it in force; gives back its version."""
        arrays, meta = to_arrays(state)
        weights, facts = learnt_to_arrays(learnt or {})
        arrays = {**arrays, **items_to_arrays(items), **counts_to_arrays(words), **weights}
        meta = {**meta, **facts}
        version = artifacts.publish(self.root, self._namespace, arrays, meta)
        self.held = _restored(version, arrays, meta)  # as later readers see it: rounded as stored
        self.degraded = ""
        return version

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """Nobody else, in this process or another, publishes meanwhile.

        Whoever publishes does so inside, and looks inside again at what it was made of.
        """
        with artifacts.replacing(self.root, self._namespace):
            yield

    @contextmanager
    def training(self) -> Iterator[None]:
        """Nobody else trains in this namespace meanwhile; publishing goes on."""
        with artifacts.training(self.root, self._namespace):
            yield

    def drop_checkpoints(self) -> None:
        """Delete what a killed training would go on from; who is training just now does so itself.

        They notice, when they come to publish, that the state was replaced.
        """
        with suppress(BlockingIOError), artifacts.training(
            self.root, self._namespace, is_patient=False
        ):  # fmt: skip
            shutil.rmtree(self.training_folder, ignore_errors=True)

    def versions(self) -> list[str]:
        """What lies in the folder, oldest first, sound or not."""
        return artifacts.versions(self.root, self._namespace)

    def remove(self, version: str) -> None:
        """Delete one version."""
        artifacts.remove(self.root, self._namespace, version)

    def prune(self) -> None:
        """Delete all but the newest."""
        artifacts.prune(self.root, self._namespace, keep=KEPT)

    def problems(self) -> list[str]:
        """What is wrong in the folder, and what is served meanwhile; empty when all is sound."""
        found: list[str] = []
        try:
            artifacts.current(self.root, self._namespace)
        except ArtifactError as error:
            found.append(str(error))
        for version in self.versions():
            try:
                self._open(version)
            except ArtifactError as error:
                found.append(str(error))
        return [*found, *self._served_meanwhile()] if found else []

    def _served_meanwhile(self) -> list[str]:
        try:
            served = self.in_force()
        except ArtifactError:
            return ["no fitted state is sound: fit again"]
        if served is None or not self.degraded:
            return []
        return [f"fitted state {served.version} is served instead; fit again for a new one"]

    def _open(self, version: str) -> Published:
        opened = artifacts.open_version(self.root, self._namespace, version)
        return _restored(version, opened.arrays, opened.meta)

    def _instead_of(self, wanted: str, error: ArtifactError) -> Published:
        """The newest sound state but this one, looked for again once a minute."""
        if self.held is not None and self._is_refused(wanted):
            return self.held
        self.held = self._newest_sound(wanted) or self.held
        if self.held is None:
            raise error
        self._refused, self._refused_until = wanted, time.monotonic() + _LOOK_AGAIN_S
        reason = f"still serving fitted state {self.held.version}: {error}"
        if reason != self.degraded:
            _log.warning(reason)
        self.degraded = reason
        return self.held

    def _newest_sound(self, refused: str) -> Published | None:
        for version in reversed(self.versions()):
            if version == refused:
                continue
            if self.held is not None and self.held.version == version:
                return self.held
            try:
                return self._open(version)
            except ArtifactError:
                continue
        return None

    def _is_refused(self, wanted: str) -> bool:
        is_recent = time.monotonic() < self._refused_until
        return bool(self.degraded) and self._refused == wanted and is_recent


def _restored(version: str, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> Published:
    try:
        return Published(
            version, from_arrays(arrays, meta), items_from_arrays(arrays),
            counts_from_arrays(arrays), learnt_from_arrays(arrays, meta),
        )  # fmt: skip
    except KeyError as error:
        raise ArtifactError(f"fitted state {version} lacks {error}; fit again") from error


def state_folder(store: str | Path, state_dir: Path | None) -> Path:
    """Where the fitted states of a store are.

    Raises:
        ConfigError: a database URL without `state_dir`.
    """
    if state_dir is not None:
        return state_dir
    name = str(store)
    if "://" in name and not name.startswith("sqlite"):
        raise ConfigError("a database URL needs state_dir: the folder for fitted states")
    return Path((name.split("///", 1)[-1] if "://" in name else name) + ".state")
