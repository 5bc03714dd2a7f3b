"""Masked facets as rows of a run: R² of every comparator, by view and by what is left to go by."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from copersona.evaluation.masked import MaskedScores, score_masked
from copersona.method.corpus import Corpus
from copersona.method.fitted import MethodConfig
from copersona.method.masking import CAPS
from copersona.method.profiles import LowSupportWarning

Row = dict[str, Any]

BUCKETS = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, math.inf))
"""Interactions left outside the hidden facet: above the first, up to the second."""
_LEAST = 30


def masked_rows(corpus: Corpus, encoder: str, config: MethodConfig | None = None) -> list[Row]:
    """Rows of all comparators on histories cut to 1, 2, 4, 8, 16 interactions or not at all.

    Buckets of fewer than 30 masked facets are left out. Five folds by user: see `masked`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LowSupportWarning)  # of each fold; a run keeps the whole's
        scores = score_masked(corpus, encoder=encoder, config=config or MethodConfig(), caps=CAPS)
    return [row for one in scores for row in _rows(one)]


def _rows(scores: MaskedScores) -> list[Row]:
    parts = {"all": np.ones(len(scores.truth), bool)}
    for low, high in BUCKETS:
        name = f"{low + 1}+" if high == math.inf else f"{low + 1}–{high}" if high > low + 1 else (
            str(high))  # fmt: skip
        parts[name] = (scores.n_elsewhere > low) & (scores.n_elsewhere <= high)
    return [
        {
            "view": scores.view, "comparator": name, "bucket": bucket,
            "r2": scores.explained(name, at),
            "r2_over_ceiling": scores.over_ceiling(name) if bucket == "all" else math.nan,
            "slope": scores.slope(name) if bucket == "all" else math.nan, "n": int(at.sum()),
        }
        for bucket, at in parts.items() if at.sum() >= _LEAST for name in scores.predictions
    ]  # fmt: skip
