"""Score weights of retrieval, fitted on half of the users and judged on the other half.

python benchmarks/fit_weights.py DATA_DIR [--requests N] [--bar-same-item] [NAME…]

Two Markdown tables: the fitted weights, and the mean likeness of the four interactions shown to
the response held out, with the stated and with the fitted weights. *Own* weights were fitted on
the other half of the same data set, *others'* on the fitting halves of the other data sets, and
*all* on the fitting halves of all of them. Rows are read at run time, nothing is kept.
"""

import argparse
import sys
import time
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
from masked_facets import load_rows

from copersona.answering.retrieval import TERMS, RetrievalConfig
from copersona.evaluation.weights import (
    Population,
    fit_weights,
    gain,
    halves,
    last_responses,
    moments,
    shown_likeness,
)
from copersona.language.encoders import open_encoder
from copersona.method.fitted import MethodConfig, fit_state

NAMES = ("rotten_tomatoes_critics", "acl_anthology", "amazon_2023_multicategory_sample")
SHOWN = 4


def cases_of(name, directory, encoder, n_requests):
    start = time.perf_counter()
    interactions, corpus = load_rows(name, directory, encoder)
    held_out = last_responses(corpus)
    kept = np.ones(len(corpus), bool)
    kept[held_out] = False
    state = fit_state(corpus.take(kept), encoder="static", cut=float("inf"), config=MethodConfig())
    population = Population(state, corpus, interactions, held_out)
    asked = np.random.default_rng(0).permutation(held_out)[:n_requests]
    cases = [population.case(row) for row in np.sort(asked).tolist()]
    n = [len(case.candidates) for case in cases]
    own = [sum(c.origin == "own" for c in case.candidates) for case in cases]
    peers = [sum(c.origin == "peer" for c in case.candidates) for case in cases]
    print(
        f"{name}: {corpus.n_users:,} users, {len(corpus):,} interactions, {len(cases):,} requests "
        f"with {np.mean(n):.0f} candidates ({np.mean(own):.1f} own, {np.mean(peers):.1f} of peers; "
        f"own: median {np.median(own):.0f}); {time.perf_counter() - start:.0f} s",
        file=sys.stderr,
    )
    return cases


def weights_line(name, config):
    values = " | ".join(f"{getattr(config, f'beta_{term}'):.2f}" for term in TERMS[1:])
    print(f"| {name} | {values} |")


def signed(found):
    return f"{found.difference:+.4f} ± {found.error:.4f}"


def judge(name, cases, stated, weights, reserve):
    few = {"max_evidence": SHOWN, "reserve_own": reserve}
    before = stated.model_copy(update=few)
    plain = {f"beta_{term}": 0.0 for term in TERMS[1:]}
    configs = {
        "relevance": before.model_copy(update=plain),
        **{what: w.model_copy(update=few) for what, w in weights.items()},
    }
    base = shown_likeness(cases, before)
    residual = shown_likeness(cases, before, residual=True)
    cells = [signed(gain(base, shown_likeness(cases, config))) for config in configs.values()]
    last = shown_likeness(cases, configs["all"], residual=True)
    of_residuals = gain(residual, last)
    print(
        f"| {name} | {reserve} | {np.isfinite(base).sum()} | {np.nanmean(base):.4f} | "
        f"{' | '.join(cells)} | {of_residuals.before:.4f} | {signed(of_residuals)} |"
    )


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("directory", type=Path)
    words.add_argument("names", nargs="*", default=NAMES)
    words.add_argument("--requests", type=int, default=1000, help="of each data set, at most")
    words.add_argument("--bar-same-item", action="store_true", help="show nothing on that item")
    given = words.parse_args()
    stated = RetrievalConfig(allow_same_item=not given.bar_same_item)
    encoder = open_encoder("static")
    split = {
        name: halves(cases_of(name, given.directory, encoder, given.requests))
        for name in given.names
    }
    sums = {name: moments(first, stated) for name, (first, _) in split.items()}
    print("| weights fitted on | " + " | ".join(TERMS[1:]) + " |\n" + "|---" * len(TERMS) + "|")
    own = {name: fit_weights(found, stated) for name, found in sums.items()}
    of_all = fit_weights(reduce(add, sums.values()), stated)
    weights_line("(stated)", stated)
    for name, config in own.items():
        weights_line(name, config)
    weights_line("all", of_all)
    print(
        "\n| judged on | kept for own | requests | stated | relevance alone | own weights | "
        "others' weights | weights of all | residuals: stated | residuals: all |\n"
        + "|---" * 10
        + "|"
    )
    for name, (_, second) in split.items():
        rest = [found for other, found in sums.items() if other != name]
        others = fit_weights(reduce(add, rest), stated) if rest else own[name]
        weights = {"own": own[name], "others": others, "all": of_all}
        for reserve in (0, SHOWN // 2):
            judge(name, second, stated, weights, reserve)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
