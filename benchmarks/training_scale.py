"""How long graph reasoning takes to train and how much memory; prints Markdown.

python benchmarks/training_scale.py [--users 1000,10000,100000] [--epochs 3] [--device cpu]

A planted population: eight facets, each user seen in about half of them with 2.75 interactions,
one group in all facets, which is what there is to learn. Each size runs in a process of its own, so
that its peak of memory is its own; *before* is the peak of drawing the population. Masking,
learning and stopping are medians of the passes. On a busy machine seconds on the processor say
more.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from unittest import mock

from copersona.method.facets import FacetConfig
from copersona.method.fitted import MethodConfig, fit_state
from copersona.reasoning import training
from copersona.testing import WorldSpec, planted_world

HEAD = ("users", "interactions", "fit, s", "neighbourhoods, s", "a pass, s: masking", "learning",
        "stopping", "training in all, s", "of it on the processor", "before, MB", "fit, MB",
        "peak, MB", "gain on deciding users: text")  # fmt: skip


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Watch:
    """Seconds of calls, by name."""

    def __init__(self):
        self.seconds = {}

    def timed(self, name, call, *args, **options):
        start = time.perf_counter()
        result = call(*args, **options)
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    def on(self, owner, name):
        """Time all calls of a function or method."""
        call = getattr(owner, name)

        def timed(*args, **options):
            return self.timed(name, call, *args, **options)

        return mock.patch.object(owner, name, timed)


def one_size(n_users, epochs, device):
    corpus = planted_world(WorldSpec(
        n_users=n_users, n_facets=8, n_groups=8, links=(0,) * 8, per_facet=2.75, missing=0.5,
        dim=64, noise=0.4,
    )).corpus  # fmt: skip
    found = {"users": n_users, "rows": len(corpus), "before": peak_mb()}
    watch = Watch()
    config = MethodConfig(facets=FacetConfig(n_facets=8))
    fit = partial(fit_state, corpus, encoder="planted", cut=2e9, config=config)
    state = watch.timed("fit", fit)
    found["fit_mb"] = peak_mb()
    settings = training.TrainingConfig(epochs=epochs, patience=epochs)
    lesson = training._Lesson  # noqa: SLF001 - its steps are timed apart
    start = time.process_time()
    with (watch.on(training, "of_lenders"), watch.on(training, "hide"), watch.on(lesson, "learn"),
          watch.on(lesson, "stopping_loss")):  # fmt: skip
        trained = watch.timed("train", training.train, state, corpus, settings, device=device)
    processor, seconds = time.process_time() - start, watch.seconds
    masking = statistics.median(seconds["hide"][2:])  # after those to stop and to decide by
    text = trained.decisions[0]
    return {
        **found, "fit": seconds["fit"][0], "peak": peak_mb(), "train": seconds["train"][0],
        "processor": processor,
        "neighbourhoods": seconds["of_lenders"][0], "masking": masking,
        "learning": statistics.median(seconds["learn"]) - masking,
        "stopping": statistics.median(seconds["stopping_loss"]),
        "gain": f"{text.gain:+.3f} (≥ {text.lower:+.3f}, {text.n_users:,} users)",
    }  # fmt: skip


def line(found):
    cells = [f"{found[name]:,}" for name in ("users", "rows")]
    cells += [f"{found[name]:,.1f}" for name in ("fit", "neighbourhoods", "masking", "learning",
                                                 "stopping", "train", "processor")]  # fmt: skip
    return [*cells, *(f"{found[name]:,.0f}" for name in ("before", "fit_mb", "peak")),
            found["gain"]]  # fmt: skip


def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--users", type=lambda text: [int(part) for part in text.split(",")],
                       default=[1_000, 10_000, 100_000])  # fmt: skip
    words.add_argument("--epochs", type=int, default=3)
    words.add_argument("--device", default="cpu")
    words.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.one:
        print(json.dumps(one_size(given.users[0], given.epochs, given.device)))
        return
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{os.cpu_count()} cores, {threads} threads for linear algebra, Python "
          f"{sys.version.split()[0]}, load {os.getloadavg()[0]:.1f} at the start\n")  # fmt: skip
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
    for n_users in given.users:
        done = subprocess.run(
            [sys.executable, __file__, "--one", "--users", str(n_users), "--epochs",
             str(given.epochs), "--device", given.device],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        print("| " + " | ".join(line(json.loads(done.stdout.splitlines()[-1]))) + " |", flush=True)


if __name__ == "__main__":
    main()
