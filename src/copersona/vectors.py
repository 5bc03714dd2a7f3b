"""Vectors of texts, encoded at most once: the embedding cache in front of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.encoders import Encoder, encode_batched
from copersona.store import Store, content_hash

Array = NDArray[Any]


class VectorCache:
    """Vectors of one namespace under one encoder; what is new is kept batch by batch."""

    def __init__(self, store: Store, namespace: str, encoder: Encoder) -> None:
        self._store, self._namespace, self.encoder = store, namespace, encoder

    def vectors(
        self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> Array:
        """One row per text, of length 1, or 0 for an empty text.

        Work that was interrupted is not done again: each batch is stored before the next one.
        """
        hashes = [content_hash(text) for text in texts]
        distinct = dict(zip(hashes, texts, strict=True))
        known = self._store.embeddings(self._namespace, self.encoder.name, list(distinct))
        missing = [key for key in distinct if key not in known]
        new = [distinct[key] for key in missing]
        for part, rows in encode_batched(self.encoder, new, progress=progress):
            keys = missing[part]
            # Rounded as the cache rounds, so that the first reading equals every later one.
            rounded = rows.astype(np.float16)
            self._store.put_embeddings(self._namespace, self.encoder.name, keys, rounded)
            known.update(zip(keys, rounded, strict=True))
        if not texts:
            return np.zeros((0, self.encoder.dim), np.float32)
        return np.stack([known[key] for key in hashes]).astype(np.float32)
