"""Masked-facet R² of every comparator on the real data sets; prints Markdown.

python benchmarks/masked_facets.py DATA_DIR [--penalty P] [--reasoning] [--set NAME=VALUE…]
                                            [--short-only] [NAME…]

Two tables a view: histories cut short to 1, 2, 4, 8, 16 interactions or not at all, and full ones.
With `--reasoning` graph reasoning is trained on the people of every fold, with `--set` by other
settings, and how often an 80 % interval holds the truth is told as well. `--short-only` leaves out
full histories. Rows are read at run time, nothing is kept.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from copersona.errors import DataError
from copersona.evaluation.masked import score_masked
from copersona.interactions import check, with_ids
from copersona.language.encoders import open_encoder
from copersona.method.corpus import build_corpus
from copersona.method.fitted import MethodConfig
from copersona.method.masking import CAPS
from copersona.method.residuals import ResidualConfig
from copersona.reading.datasets import load
from copersona.reasoning.neighbourhoods import units

NAMES = (
    "blog_authorship_adults",
    "rotten_tomatoes_critics",
    "acl_anthology:last",
    "acl_anthology",
    "amazon_2023_multicategory_sample",
)
SHORT = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, np.inf))
Z_80 = 1.2816
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
    print("| comparator | R² | R² / ceiling | cosine | slope | " + " | ".join(head) + " |")
    print("|---|---|---|---|---|" + "---|" * len(head))
    print("| *masked facets* | | | | | " + " | ".join(f"*{rows.sum()}*" for rows in parts) + " |")
    for name in scores.predictions:
        cells = [f"{scores.explained(name, r):.4f}" if r.sum() >= 30 else "–" for r in parts]
        print(
            f"| {name} | {scores.explained(name):.4f} | {scores.over_ceiling(name):.3f} | "
            f"{scores.cosine(name):.3f} | {scores.slope(name):.2f} | " + " | ".join(cells) + " |"
        )


class Reasoning:
    """Trains on the people of a fold and answers for the others; keeps what it decided."""

    def __init__(self, settings) -> None:
        # Imported here: torch is not there for everybody.
        from copersona.reasoning import hidden, reasoner, training  # noqa: PLC0415

        self._parts = hidden, reasoner, training
        self._config = training.TrainingConfig(**settings)
        self.decisions, self.covered, self.losses = [], [], []

    def __call__(self, state, fitted, masked):
        hidden, reasoner, training = self._parts
        trained = training.train(state, fitted, self._config, progress=self._say)
        self.decisions.append(trained.decisions)
        self.losses.append(trained.losses)
        found = hidden.hidden_of(state, masked, are_lenders=False, n_peers=self._config.n_peers)
        guess, variance = reasoner.GraphReasoner(trained, state).complete(found, everywhere=True)
        for view in state.residuals.views:
            seen, part = np.isfinite(found.noise[:, view.start]), view.slice
            cells = [
                np.abs(found.truth - said)[seen, part]
                <= Z_80 * np.sqrt(left + found.noise)[seen, part]
                for said, left in ((found.closed, found.variance), (guess, variance))
            ]
            self.covered.append((view.name, *(cell.mean() for cell in cells), seen.sum()))
        return guess * units(state.models)[masked.facets]

    def _say(self, epoch, n_epochs, said) -> None:
        print(f"pass {epoch} of {n_epochs}: {said}", file=sys.stderr)

    def tell(self) -> None:
        """What the deciding users said in every fold, and the coverage over all folds."""
        print("\n| view | gain on deciding users, fold by fold | used in | 80 % interval holds: "
              "completion | reasoning |\n|---|---|---|---|---|")  # fmt: skip
        for name in dict.fromkeys(row[0] for row in self.covered):
            told = [one for fold in self.decisions for one in fold if one.view == name]
            gains = ", ".join(f"{one.gain:+.3f} (≥ {one.lower:+.3f})" for one in told)
            rows = np.array([row[1:] for row in self.covered if row[0] == name])
            closed, reasoned = (rows[:, :2] * rows[:, 2:]).sum(axis=0) / rows[:, 2].sum()
            print(f"| {name} | {gains} | {sum(one.is_used for one in told)} of {len(told)} | "
                  f"{closed:.3f} | {reasoned:.3f} |")  # fmt: skip
        print(f"\npasses: {', '.join(str(len(losses) - 1) for losses in self.losses)}")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("directory", type=Path)
    words.add_argument("names", nargs="*", default=NAMES)
    words.add_argument("--penalty", type=float, help="ridge penalty instead of the cross-fitted")
    words.add_argument("--reasoning", action="store_true", help="train graph reasoning as well")
    words.add_argument("--set", nargs="*", default=[], help="of its training: epochs=5 nce=0.2 …")
    words.add_argument("--short-only", action="store_true", help="no full histories")
    given = words.parse_intermixed_args()
    settings = dict(pair.split("=") for pair in given.set)
    residuals = ResidualConfig(penalties=(given.penalty,)) if given.penalty else ResidualConfig()
    config = MethodConfig(residuals=residuals)
    encoder = open_encoder("static")
    for name in given.names:
        _, corpus = load_rows(name, given.directory, encoder)
        print(f"\n**{name}**: {corpus.n_users:,} users, {len(corpus):,} interactions")
        kinds = ((CAPS, SHORT, "cut short"), ((None,), FULL, "full histories"))
        for caps, buckets, what in kinds[: 1 if given.short_only else 2]:
            start = time.perf_counter()
            reasons = Reasoning(settings) if given.reasoning else None
            results = score_masked(
                corpus, encoder="static", config=config, caps=caps, reasons=reasons
            )
            print(f"\n*{what}*, five folds in {time.perf_counter() - start:.0f} s")
            for scores in results:
                print(
                    f"\nview *{scores.view}*, {len(scores.truth):,} masked facets, "
                    f"borrowed in {scores.borrowed.mean():.0%}\n"
                )
                table(scores, buckets)
            if reasons:
                reasons.tell()
            sys.stdout.flush()


if __name__ == "__main__":
    main()
