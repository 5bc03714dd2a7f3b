"""Masked-facet R² of every comparator on the real data sets; prints Markdown.

python benchmarks/masked_facets.py DATA_DIR [--penalty P] [NAME…]

Two tables a view: histories cut short to 1, 2, 4, 8, 16 interactions or not at all, and full ones.
Rows are read at run time, nothing is kept.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from copersona.errors import DataError
from copersona.evaluation.masked import COMPARATORS, score_masked
from copersona.interactions import check, with_ids
from copersona.language.encoders import open_encoder
from copersona.method.corpus import build_corpus
from copersona.method.fitted import MethodConfig
from copersona.method.masking import CAPS
from copersona.method.residuals import ResidualConfig
from copersona.reading.datasets import load

NAMES = (
    "blog_authorship_adults",
    "rotten_tomatoes_critics",
    "acl_anthology:last",
    "acl_anthology",
    "amazon_2023_multicategory_sample",
)
SHORT = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, np.inf))
FULL = ((0, 4), (4, 10), (10, 30), (30, np.inf))


def load_rows(name, directory, encoder):
    """Interactions of a data set by user and time, and the same as a corpus."""
    rows = []
    for row in load(name, directory):
        try:
            rows.append(check(row))
        except DataError:
            continue
    rows = with_ids("benchmark", rows)
    rows.sort(key=lambda i: (i.user, i.at or 0))
    distinct = {}
    texts = [t for i in rows for t in (i.input_text, i.response_text)]
    place = np.array([distinct.setdefault(t, len(distinct)) for t in texts])
    vectors = encoder.encode(list(distinct))
    return rows, build_corpus(rows, vectors[place[::2]], vectors[place[1::2]])


def table(scores, buckets) -> None:
    head = [f"{a + 1}–{b:g} own" if b > a + 1 else f"{b} own" for a, b in buckets]
    parts = [(scores.n_elsewhere > a) & (scores.n_elsewhere <= b) for a, b in buckets]
    print("| comparator | R² | R² / ceiling | slope | " + " | ".join(head) + " |")
    print("|---|---|---|---|" + "---|" * len(head))
    print("| *masked facets* | | | | " + " | ".join(f"*{rows.sum()}*" for rows in parts) + " |")
    for name in COMPARATORS:
        cells = [f"{scores.explained(name, r):.4f}" if r.sum() >= 30 else "–" for r in parts]
        print(
            f"| {name} | {scores.explained(name):.4f} | {scores.over_ceiling(name):.3f} | "
            f"{scores.slope(name):.2f} | " + " | ".join(cells) + " |"
        )


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("directory", type=Path)
    words.add_argument("names", nargs="*", default=NAMES)
    words.add_argument("--penalty", type=float, help="ridge penalty instead of the cross-fitted")
    given = words.parse_args()
    residuals = ResidualConfig(penalties=(given.penalty,)) if given.penalty else ResidualConfig()
    config = MethodConfig(residuals=residuals)
    encoder = open_encoder("static")
    for name in given.names:
        _, corpus = load_rows(name, given.directory, encoder)
        print(f"\n**{name}**: {corpus.n_users:,} users, {len(corpus):,} interactions")
        for caps, buckets, what in ((CAPS, SHORT, "cut short"), ((None,), FULL, "full histories")):
            start = time.perf_counter()
            results = score_masked(corpus, encoder="static", config=config, caps=caps)
            print(f"\n*{what}*, five folds in {time.perf_counter() - start:.0f} s")
            for scores in results:
                print(
                    f"\nview *{scores.view}*, {len(scores.truth):,} masked facets, "
                    f"borrowed in {scores.borrowed.mean():.0%}\n"
                )
                table(scores, buckets)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
