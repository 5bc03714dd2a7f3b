"""What a service process holds in memory while what is stored stays the same.

python benchmarks/memory.py [--users 400] [--rows 120] [--traces 10000] [--against OTHER/src]

Made-up people in PostgreSQL, fitted. A service is asked for as many contexts as are kept as traces,
then others publish new states under it, then users join it and are forgotten, eight at a time, in
two rounds. With `--against` a second service, of another version of this program, does the same
over the same database, in turns. RssAnon, RssFile and the most that was ever held, in MiB.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

import httpx2
from gateway import TOPICS, started
from soak import Postgres

import copersona
from copersona.published import States
from copersona.records import Interaction
from copersona.service.keys import Keys

PORTS = {"this": 8631, "the other": 8632}
N_CLIENTS, N_SWAPS, N_FORGETS = 8, 30, 60


def rows_of(user, n):
    return [
        Interaction(user, f"About {topic}?", f"I like {topic}, says {user}: {random.random():.6f}.")
        for topic in random.choices(TOPICS, k=n)
    ]


def held(process):
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    sizes = dict(line.split(":") for line in lines if line.startswith(("RssAnon", "RssF", "VmHWM")))
    return " | ".join(
        f"{int(sizes[kind].split()[0]) / 1024:.0f}" for kind in ("RssAnon", "RssFile", "VmHWM")
    )


async def each(client, calls):
    """All calls, so many at a time."""
    calls = iter(calls)

    async def again():
        for call in calls:
            answer = await call(client)
            answer.raise_for_status()

    await asyncio.gather(*(again() for _ in range(N_CLIENTS)))


def context_of(user):
    body = {"user": user, "text": "Which bread?"}
    return lambda client: client.post("/v1/context", json=body)


def gone(user):
    async def call(client):
        rows = [{"user": user, "input": "Who?", "response": f"I am {user}, {n}."} for n in range(3)]
        (await client.post("/v1/interactions", json={"interactions": rows})).raise_for_status()
        answer = await client.delete(f"/v1/users/{user}")
        assert not answer.json()["traces_found"]
        return answer

    return call


async def measure(users, states, processes, key, options):
    print("| after | service | RssAnon | RssFile | most |\n|---|---|---|---|---|")

    def say(what):
        for name, process in processes.items():
            print(f"| {what} | {name} | {held(process)} |", flush=True)

    clients = {
        name: httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{PORTS[name]}", timeout=120,
            headers={"authorization": f"Bearer {key}"},
        )
        for name in processes
    }  # fmt: skip
    say("the start")
    n_each = options.traces // len(clients)
    for client in clients.values():
        await each(client, (context_of(random.choice(users)) for _ in range(n_each)))
    say(f"{n_each:,} contexts")
    for _ in range(N_SWAPS):
        published = states.in_force()
        with states.replacing():
            states.publish(*published[1:])
            states.prune()
        for client in clients.values():
            await each(client, map(context_of, users[:N_CLIENTS]))
    say(f"{N_SWAPS} new states")
    for turn in ("first", "second"):
        for number, client in enumerate(clients.values()):
            names = (f"{turn} leaver {number} {n}" for n in range(N_FORGETS))
            await each(client, map(gone, names))
        say(f"the {turn} {N_FORGETS} forgets")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--traces", type=int, default=10_000)
    parser.add_argument("--against")
    parser.add_argument("--postgres", default="/usr/lib/postgresql/15/bin")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    database = Postgres(folder, options.postgres)
    database.control("start")
    sources = {"this": str(Path(copersona.__file__).parents[1]), "the other": options.against}
    processes, log = {}, (folder / "log").open("w")
    state = folder / "state"
    try:
        with copersona.open(database.url, encoder="static", state_dir=state) as engine:
            for n in range(options.users):
                engine.add(rows_of(f"user{n}", options.rows))
            engine.fit()
            key = Keys(engine.store.keys).create(engine.namespace, ["admin"])[1]
            for name, source in sources.items():
                if source:
                    processes[name] = started(
                        [sys.executable, "-m", "copersona", "--store", database.url, "--encoder",
                         "static", "serve", "--port", str(PORTS[name]), "--rate", "0",
                         "--refit-after", "0"],
                        f"http://127.0.0.1:{PORTS[name]}/readyz", log,
                        COPERSONA_STATE=str(state), PYTHONPATH=source,
                    )  # fmt: skip
            users, states = engine.store.users(engine.namespace), States(state, engine.namespace)
            asyncio.run(measure(users, states, processes, key, options))
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()
        database.control("stop")


if __name__ == "__main__":
    main()
