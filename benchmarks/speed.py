"""How long things take and how much memory, beside the bare library calls; prints Markdown.

python benchmarks/speed.py [--users 1000,10000,100000] [--rows 30000,300000] [--held 1000,1000000]
                           [--rows-per-user 10] [--only fit,prompt,ingest,add] [--repeats 3]

Ours and bare take turns in one process, because machines are noisy; medians are printed. Each size
runs in a process of its own (speed_cases.py), so that a peak of memory belongs to it alone. One
number of users takes a line in each table; tables come as soon as they are there. At 100,000 users
with 10 rows each a million rows are stored: allow an hour, or give fewer rows a user.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

CASES = Path(__file__).with_name("speed_cases.py")
STAGES = ("facets", "residuals", "profiles", "graph", "transfer", "calibration")
BARE = {"facets": "k-means", "residuals": "ridge", "graph": "kNN of every layer"}


def run(case, **options):
    """One case in a process of its own; None, and a line on standard error, where it failed."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(CASES), case, json.dumps(options)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    print(f"[{case} {options}: {seconds:.0f} s]", file=sys.stderr, flush=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"[{case} {options} failed ({done.returncode}): {last}]", file=sys.stderr, flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def table(title, head, rows):
    """Each row is printed as soon as it is there."""
    print(f"\n**{title}**\n\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


def ms(values):
    return " / ".join(f"{value:.2f}" for value in values)


def fit_tables(options):
    memory = []
    for users in options.users:
        found = run("fit", users=users, repeats=options.repeats if users <= 20_000 else 1)
        if not found:
            continue
        runs = found["runs"]
        total = statistics.median(r["ours"] for r in runs)
        bare_total = statistics.median(sum(r["bare"].values()) for r in runs)
        rows = []
        for stage in STAGES:
            ours = statistics.median(r["stages"][stage] for r in runs)
            cells = [stage, f"{ours:.2f}", f"{ours / total:.0%}", "–", "–", "–"]
            if stage in BARE:
                bare = statistics.median(r["bare"][stage] for r in runs)
                cells[3:] = [BARE[stage], f"{bare:.2f}", f"{ours / bare:.2f}"]
            rows.append(cells)
        rows.append(["**all**", f"{total:.2f}", "", "together", f"{bare_total:.2f}",
                     f"**{total / bare_total:.2f}**"])  # fmt: skip
        table(f"Fit, {users:,} users, {found['rows']:,} interactions, median of {len(runs)}",
              ("stage", "ours, s", "share", "bare call", "bare, s", "ratio"), rows)  # fmt: skip
        memory.append((f"{users:,}", *(f"{found[name]:,.0f}" for name in
                                       ("arrays_mb", "before_mb", "peak_mb")),
                       f"{found['peak_mb'] / found['arrays_mb']:.2f}"))  # fmt: skip
    head = ("users", "input arrays, MB", "before the fit, MB", "peak, MB", "peak / arrays")
    table("Fit, peak memory of the process", head, memory)


def prompt_tables(options):
    setup = []
    head = ("rows", "lend", "first after opening", "cold", "warm", "of it the encoder",
            "bare cosine top 20", "warm / bare, p50")  # fmt: skip
    title = f"Context for one request, ms, p50 / p95 / p99 over {options.requests} requests"
    table(title, head, prompt_rows(options, setup))
    table("What it took to get there, s", ("rows", "lend", "ingest", "encode and fit"), setup)


def prompt_rows(options, setup):
    for users, lend in product(options.users, options.lend):
        found = run("prompt", users=users, rows_per_user=options.rows_per_user, lend=lend,
                    requests=options.requests)  # fmt: skip
        if found:
            case = (f"{found['rows']:,}", lend)
            times = (ms(found[name]) for name in ("cold", "warm", "encoding", "bare"))
            ratio = f"{found['warm'][0] / found['bare'][0]:.2f}"
            setup.append((*case, f"{found['ingest_s']:.1f}", f"{found['fit_s']:.1f}"))
            yield (*case, f"{found['first'][0]:.0f}", *times, ratio)


def ingest_table(options):
    head = ("rows", "`add`, s", "rows/s", "`ingest` of JSON lines, s", "rows/s",
            "bare executemany, s", "rows/s", "add / bare")  # fmt: skip
    title = f"Bulk ingest into an empty SQLite store, median of {options.repeats}"
    table(title, head, ingest_rows(options))


def ingest_rows(options):
    for size in options.rows:
        found = run("ingest", rows=size, repeats=options.repeats)
        if found:
            seconds = [statistics.median(found[name]) for name in ("ours", "file", "bare")]
            cells = [cell for s in seconds for cell in (f"{s:.2f}", f"{found['rows'] / s:,.0f}")]
            yield (f"{found['rows']:,}", *cells, f"{seconds[0] / seconds[2]:.2f}")


def add_table(options):
    head = ("rows held", "`add` of one", "bare insert and commit", "ratio p50", "ratio p95")
    title = f"Single durable add, ms, p50 / p95 / p99 of {options.adds}"
    table(title, head, add_rows(options))


def add_rows(options):
    for held in options.held:
        found = run("add", rows=held, adds=options.adds)
        if found:
            ours, bare = found["ours"], found["bare"]
            ratios = [f"{ours[i] / bare[i]:.2f}" for i in (0, 1)]
            yield (f"{held:,}", ms(ours), ms(bare), *ratios)


def numbers(text):
    return [int(part) for part in text.split(",")]


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=numbers, default=[1_000, 10_000, 100_000])
    parser.add_argument("--rows", type=numbers, default=[30_000, 300_000])
    parser.add_argument("--held", type=numbers, default=[1_000, 1_000_000])
    parser.add_argument("--rows-per-user", type=int, default=10)
    parser.add_argument("--lend", type=lambda t: t.split(","), default=["aggregate", "text"])
    parser.add_argument("--only", type=lambda t: t.split(","), default=list(TABLES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--adds", type=int, default=500)
    return parser.parse_args()


TABLES = {"fit": fit_tables, "prompt": prompt_tables, "ingest": ingest_table, "add": add_table}


def main():
    options = parsed()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    machine = f"{os.cpu_count()} cores, {threads} threads for linear algebra"
    print(f"{machine}, Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f} at the start")
    for name in options.only:
        TABLES[name](options)


if __name__ == "__main__":
    main()
