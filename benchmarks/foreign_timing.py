"""Whether the time of an answer tells a foreign id from one that nobody has.

python benchmarks/foreign_timing.py [--requests 2000] [--forgets 200]

A real service, asked over HTTP by one client: by a token for one user about other users of the same
namespace, and by a key of one namespace about users of another; and about ids that look alike and
are nobody's. The two kinds come in pairs, in an order that is drawn. Printed are the medians, their
difference with a bootstrap interval of 95 %, pair by pair, and their ratio. Of an administrator's
forgets, which read every file each, there are fewer, and they come last: they change what is there.
"""

import argparse
import http.client
import json
import random
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import copersona
from copersona.records import Interaction
from copersona.service.keys import Keys

PORT = 8611
TEXT = "What about a kettle?"
TOPICS = ["bread", "kettles", "trains", "tulips", "chess", "rain", "novels", "soup"]
ROUTES = {
    "persona": lambda user: ("GET", f"/v1/users/{user}", None),
    "export": lambda user: ("GET", f"/v1/users/{user}/export", None),
    "explain": lambda trace: ("GET", f"/v1/explain/{trace}", None),
    "DELETE": lambda user: ("DELETE", f"/v1/users/{user}", None),
    "context": lambda user: ("POST", "/v1/context", {"user": user, "text": TEXT}),
}


def names(n):
    return [secrets.token_hex(8) for _ in range(n)]


def stocked(folder, namespace, users, n_traces):
    """Fills a namespace, and gives back traces of its users; its keys and tokens come with it."""
    rng = random.Random(0)
    with copersona.open(folder / "people.db", namespace=namespace, encoder="hashing") as engine:
        engine.add(
            Interaction(user, f"What about {topic}?", f"I like {topic}, {rng.random():.3f}.")
            for user in users for topic in rng.choices(TOPICS, k=6)
        )  # fmt: skip
        engine.fit()
        traces = [engine.prompt(user, TEXT).trace_id for user in users[:n_traces]]
        keys = Keys(engine.store.keys)
        token = keys.create(namespace, ["read", "write"], user=users[-1])[1]
        return traces, token, keys.create(namespace, ["admin"])[1]


def took(connection, key, method, path, body):
    """Milliseconds of one request, and its status."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    text = None if body is None else json.dumps(body)
    start = time.perf_counter()
    connection.request(method, path, text, headers)
    answer = connection.getresponse()
    answer.read()
    return (time.perf_counter() - start) * 1e3, answer.status


def compared(connection, key, route, foreign, unknown):
    """Milliseconds of both kinds, in turns; the first of twenty pairs do not count."""
    found, statuses = ([], []), set()
    for pair in zip(foreign, unknown, strict=True):
        for kind in random.sample((0, 1), 2):
            ms, status = took(connection, key, *ROUTES[route](pair[kind]))
            found[kind].append(ms)
            statuses.add(status)
    (status,) = statuses
    return [np.array(one[20:]) for one in found], status


def row(asker, route, found, status):
    rng = np.random.default_rng(0)
    pairs = rng.integers(len(found[0]), size=(2_000, len(found[0])))
    drawn = [np.median(one[pairs], axis=1) for one in found]
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    foreign, unknown = map(np.median, found)
    print(f"| {asker} | {route} | {status} | {len(found[0]):,} | {foreign:.3f} | {unknown:.3f} | "
          f"{foreign - unknown:+.3f} ({low:+.3f} to {high:+.3f}) | {foreign / unknown:.3f} |",
          flush=True)  # fmt: skip


def ready(connection):
    for _ in range(300):
        try:
            if took(connection, "", "GET", "/readyz", None)[1] == 200:
                return
        except OSError:
            connection.close()
            time.sleep(0.2)
    raise SystemExit("the service did not start")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--forgets", type=int, default=200)
    options = parser.parse_args()
    n = options.requests + 20
    folder = Path(tempfile.mkdtemp())
    here, there = names(n), names(n)
    traces_here, token, key = stocked(folder, "here", here, 500)
    traces_there, _, _ = stocked(folder, "there", there, 500)
    service = subprocess.Popen(
        [sys.executable, "-m", "copersona", "--store", folder / "people.db", "--encoder",
         "hashing", "--llm", "echo", "serve", "--port", str(PORT), "--refit-after", "0"],
        stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"),
    )  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    try:
        ready(connection)
        print(
            "| asker | route | status | n of each | foreign ms | unknown ms | difference | ratio |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for asker, secret, users, traces in (
            ("token", token, here[:-1] + here[:1], traces_here),
            ("key", key, there, traces_there),
        ):
            unknown = names(n)
            for route in ROUTES:
                if route == "DELETE" and asker == "key":
                    continue
                foreign = random.choices(traces, k=n) if route == "explain" else users
                row(asker, route, *compared(connection, secret, route, foreign, unknown))
        n_forgets = options.forgets + 20
        # Not those whom the contexts made known.
        _, _, key = stocked(folder, "third", names(50), 0)
        found = compared(connection, key, "DELETE", there[:n_forgets], names(n_forgets))
        row("key", "DELETE", *found)
    finally:
        service.terminate()
        service.wait()


if __name__ == "__main__":
    main()
