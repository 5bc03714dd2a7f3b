"""What the gateway costs: open-loop latency and peak throughput, beside LiteLLM's proxy.

python benchmarks/gateway.py [--rate 100] [--seconds 20] [--users 1000] [--litellm PATH_TO_litellm]

All answer from the same fake model. Requests start on a clock, whether or not earlier ones have
been answered, so that waiting in line counts. The ways take turns, twice. Then as many as 32
clients that never pause get through. Everything runs on one machine: the load takes part of it.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import numpy as np

import copersona
from copersona.records import Interaction
from copersona.service.keys import Keys

THEIR_KEY = f"sk-{secrets.token_hex(16)}"
HERE = Path(__file__).parent
QUESTIONS = ["Which pan for eggs?", "How do I plan two days in Porto?", "What did you think of it?"]
TOPICS = ["bread", "kettles", "trains", "tulips", "chess", "rain", "novels", "soup"]
MANNERS = ["plain", "warm", "early", "often"]


def started(command, url, log, **extra):
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **extra}
    )
    for _ in range(600):
        try:
            if httpx2.get(url, timeout=1).status_code < 500:
                return process
        except httpx2.HTTPError:
            time.sleep(0.2)
        if process.poll() is not None:
            break
    raise SystemExit(f"{command[0]} did not start; see {log.name}")


def stocked(folder, n_users):
    """A store of made-up people, fitted with the `static` encoder, and an administrator's key."""
    rng = random.Random(0)
    with copersona.open(folder / "people.db", encoder="static") as engine:
        engine.add(
            Interaction(
                f"user{u}", f"What about {topic}?",
                f"I like {topic} {rng.choice(MANNERS)}, {rng.random():.3f}.",
            )
            for u in range(n_users) for topic in rng.choices(TOPICS, k=10)
        )  # fmt: skip
        engine.fit()
        return Keys(engine.store.keys).create(engine.namespace, ["admin"])[1]


async def one(client, url, headers, user):
    asked = f"{random.choice(QUESTIONS)} {random.choice(TOPICS)}"
    body = {"model": "fake", "user": user, "messages": [{"role": "user", "content": asked}]}
    start = time.perf_counter()
    answer = await client.post(f"{url}/chat/completions", json=body, headers=headers)
    answer.raise_for_status()
    return (time.perf_counter() - start) * 1e3


def client_of():
    return httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=1000))


async def open_loop(url, headers, rate, seconds, n_users):
    """Latencies in ms from the moment each request was due."""
    async with client_of() as client:
        start, tasks = time.perf_counter(), []

        async def due(at):
            await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
            behind = (time.perf_counter() - start - at) * 1e3
            return behind + await one(client, url, headers, f"user{random.randrange(n_users)}")

        tasks = [asyncio.create_task(due(n / rate)) for n in range(int(rate * seconds))]
        return [await task for task in tasks]


async def closed_loop(url, headers, seconds, n_users, n_clients=32):
    """Requests a second that so many clients get through."""
    end, n_done = time.perf_counter() + seconds, 0

    async def again(client):
        nonlocal n_done
        while time.perf_counter() < end:
            await one(client, url, headers, f"user{random.randrange(n_users)}")
            n_done += 1

    async with client_of() as client:
        await asyncio.gather(*(again(client) for _ in range(n_clients)))
    return n_done / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--litellm")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    key, log = stocked(folder, options.users), (folder / "log").open("w")
    model, ours, theirs = (f"http://127.0.0.1:{port}" for port in (8601, 8602, 8603))
    running = [started([sys.executable, HERE / "fake_model.py", "8601"], f"{model}/leaks", log)]
    try:
        running.append(started(
            [sys.executable, "-m", "copersona", "--store", folder / "people.db",
             "--encoder", "static", "--llm", f"openai:fake@{model}/v1",
             "serve", "--port", "8602", "--rate", "0"],
            f"{ours}/healthz", log,
        ))  # fmt: skip
        bearer = {"authorization": f"Bearer {key}"}
        ways = {
            "the model itself": (f"{model}/v1", {}),
            "gateway, off": (f"{ours}/v1", {**bearer, "x-copersona": "off"}),
            "gateway, personalised": (f"{ours}/v1", bearer),
        }
        if options.litellm:
            config = folder / "litellm.yaml"
            config.write_text(json.dumps({
                "model_list": [{"model_name": "fake", "litellm_params": {
                    "model": "openai/fake", "api_base": f"{model}/v1", "api_key": "none"}}],
                "general_settings": {"master_key": THEIR_KEY},
            }))  # fmt: skip
            running.append(started(
                [options.litellm, "--config", config, "--port", "8603", "--host", "127.0.0.1"],
                f"{theirs}/health/liveliness", log, LITELLM_LOCAL_MODEL_COST_MAP="True",
            ))  # fmt: skip
            ways["LiteLLM's proxy"] = (f"{theirs}/v1", {"authorization": f"Bearer {THEIR_KEY}"})
        show(ways, options)
    finally:
        for process in running:
            process.terminate()
            process.wait()


def show(ways, options):
    found = {name: [] for name in ways}
    peak = {name: [] for name in ways}
    for url, headers in ways.values():  # nobody's first requests count
        asyncio.run(open_loop(url, headers, 10, 3, options.users))
    for _ in range(2):
        for name, (url, headers) in ways.items():
            found[name] += asyncio.run(
                open_loop(url, headers, options.rate, options.seconds, options.users)
            )
            peak[name].append(asyncio.run(closed_loop(url, headers, 8, options.users)))
            print(f"[{name}]", file=sys.stderr, flush=True)
    print("| way | p50 ms | p95 ms | p99 ms | requests/s at most |\n|---|---|---|---|---|")
    for name, took in found.items():
        cells = " | ".join(f"{value:.1f}" for value in np.percentile(took, [50, 95, 99]))
        print(f"| {name} | {cells} | {statistics.mean(peak[name]):.0f} |")


if __name__ == "__main__":
    main()
