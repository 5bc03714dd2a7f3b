"""Masked-facet R² of every comparator on the real data sets; prints Markdown.

python benchmarks/masked_facets.py DATA_DIR [NAME…]   (rows are read at run time, nothing is kept)
"""

import sys
import time
from pathlib import Path

import numpy as np

from copersona.corpus import build_corpus
from copersona.datasets import load
from copersona.encoders import open_encoder
from copersona.errors import DataError
from copersona.evaluation.masked import COMPARATORS, score_masked
from copersona.fitted import MethodConfig
from copersona.interactions import check, with_ids

NAMES = (
    "blog_authorship_adults",
    "rotten_tomatoes_critics",
    "acl_anthology:last",
    "acl_anthology",
    "amazon_2023_multicategory_sample",
)
BUCKETS = ((0, 4), (4, 10), (10, 30), (30, np.inf))


def corpus_of(name, directory, encoder):
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
    return build_corpus(rows, vectors[place[::2]], vectors[place[1::2]])


def main() -> None:
    directory, names = Path(sys.argv[1]), sys.argv[2:] or NAMES
    encoder = open_encoder("static")
    for name in names:
        start = time.perf_counter()
        corpus = corpus_of(name, directory, encoder)
        results = score_masked(corpus, encoder="static", config=MethodConfig())
        seconds = time.perf_counter() - start
        print(
            f"\n**{name}**: {corpus.n_users:,} users, {len(corpus):,} interactions, {seconds:.0f} s"
        )
        for scores in results:
            print(
                f"\nview *{scores.view}*, {len(scores.truth):,} masked facets, "
                f"borrowed in {scores.borrowed.mean():.0%}\n"
            )
            head = [f"{a}–{b:g} own" for a, b in BUCKETS]
            print("| comparator | R² | R² / ceiling | slope | " + " | ".join(head) + " |")
            print("|---|---|---|---|" + "---|" * len(head))
            for comparator in COMPARATORS:
                cells = [
                    f"{scores.explained(comparator, rows):.4f}" if rows.sum() >= 30 else "–"
                    for a, b in BUCKETS
                    for rows in [(scores.n_elsewhere > a) & (scores.n_elsewhere <= b)]
                ]
                print(
                    f"| {comparator} | {scores.explained(comparator):.4f} | "
                    f"{scores.over_ceiling(comparator):.3f} | {scores.slope(comparator):.2f} | "
                    + " | ".join(cells)
                    + " |"
                )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
