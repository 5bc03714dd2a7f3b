"""Half an hour of everything at once, with a killed service and a database that restarts.

python benchmarks/soak.py [--minutes 30] [--clients 50] [--postgres BIN_DIR]

Two service processes over one PostgreSQL and one folder of fitted states, in front of a model of
ours that looks for foreign words. Clients ingest, chat (captured), ask for contexts, take out what
is stored and forget, each over made-up users of its own; an administrator fits all the while. After
a third of the time one service process is killed with -9 and started again, after two thirds the
database is restarted. Checked: nothing that was acknowledged is lost, nobody's word reaches
anybody else, and a forgotten user is nowhere; ends with 1 where one of these fails. Memory is
printed by third of the time, beside what is stored, which grows meanwhile.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx2
import numpy as np
import psycopg
from fake_model import PLANTED
from gateway import TOPICS, started

HERE = Path(__file__).parent
MODEL, SERVICES, DATABASE = 8611, (8612, 8613), 8614
USERS_EACH = 8


class Postgres:
    """A real server of its own, on the loopback."""

    def __init__(self, folder, binaries):
        self.folder, self.binaries = folder / "postgres", Path(binaries)
        self.folder.mkdir()
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(self.folder, self.user)
        self.run("initdb", "-D", self.folder / "data", "-U", "copersona", "-A", "trust")
        self.url = f"postgresql://copersona@127.0.0.1:{DATABASE}/postgres"

    def run(self, program, *arguments):
        subprocess.run(
            [self.binaries / program, *arguments], check=True, user=self.user, cwd="/",
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def control(self, action):
        options = f"-p {DATABASE} -k {self.folder} -h 127.0.0.1"
        log = self.folder / "log"
        data = self.folder / "data"
        self.run("pg_ctl", action, "-D", data, "-l", log, "-o", options, "-m", "fast", "-w")

    def sizes(self):
        """What is stored; nothing while the server restarts."""
        asked = ("(SELECT count(*) FROM interactions)", "(SELECT count(*) FROM traces)",
                 "pg_database_size('postgres') / 1048576")  # fmt: skip
        try:
            with psycopg.connect(self.url) as connection:
                found = connection.execute(f"SELECT {', '.join(asked)}").fetchone()
        except psycopg.OperationalError:
            return ()
        return zip(("interactions", "traces", "database, MiB"), found, strict=True)


class Services:
    """The service processes."""

    def __init__(self, folder, url):
        self.folder, self.url, self.running = folder, url, {}

    def start(self, port):
        log = (self.folder / f"service-{port}.log").open("a")
        command = [
            sys.executable, "-m", "copersona", "--store", self.url, "--encoder", "static",
            "--llm", f"openai:fake@http://127.0.0.1:{MODEL}/v1",
            "serve", "--port", str(port), "--rate", "0", "--refit-after", "0",
        ]  # fmt: skip
        state = str(self.folder / "state")
        self.running[port] = started(
            command, f"http://127.0.0.1:{port}/readyz", log, COPERSONA_STATE=state
        )

    def kill(self, port):
        process = self.running.pop(port)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def memory(self):
        """What each process holds: of its own, and of files that are mapped."""
        for port, process in list(self.running.items()):
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssFile:")):
                    kind, size, _ = line.split()
                    yield f"service {port}, {kind[:-1]}, MiB", int(size) / 1024

    def state(self):
        """The newest fitted state, as a file; nothing where there is none yet."""
        files = (self.folder / "state").glob("*/[0-9]*/*.safetensors")
        with suppress(ValueError, FileNotFoundError):  # none yet; replaced at this moment
            yield "fitted state, MiB", max(files).stat().st_size / 2**20


class Client:
    """One application: its users, what it was told is stored, and what it saw that it must not."""

    def __init__(self, number, key, http, counts):
        self.key, self.http, self.counts, self.number = key, http, counts, number
        self.stored = {f"c{number}u{n}": set() for n in range(USERS_EACH)}
        self.gone, self.n_made, self.faults = [], USERS_EACH, []

    async def ask(self, method, path, **options):
        """Ask any service process until one answers; everything here may be asked twice."""
        headers = {"authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        for attempt in range(120):
            port = random.choice(SERVICES)
            try:
                answer = await self.http.request(
                    method, f"http://127.0.0.1:{port}{path}", headers=headers, **options
                )
            except httpx2.HTTPError as error:
                self.counts[f"tried again: {type(error).__name__}"] += 1
            else:
                if answer.status_code < 500:
                    return answer
                self.counts[f"tried again: {answer.status_code}"] += 1
            await asyncio.sleep(min(0.1 * 2**attempt, 2.0))
        self.faults.append(f"{method} {path.split('/')[2]}: no answer")
        return None

    async def live(self, end):
        doings = (self.ingest, self.chat, self.context, self.look, self.consent, self.forget)
        while time.monotonic() < end:
            doing = random.choices(doings, weights=(35, 45, 8, 8, 3, 1))[0]
            start = time.perf_counter()
            await doing(random.choice(list(self.stored)))
            self.counts[doing.__name__] += 1
            TOOK.setdefault(doing.__name__, []).append((time.perf_counter() - start) * 1e3)
            await asyncio.sleep(random.random() * 2)

    async def ingest(self, user):
        rows = [
            {"user": user, "id": f"{user}-{secrets.token_hex(6)}", "input": f"About {topic}?",
             "response": f"I like {topic}, zq{user}zq says so."}
            for topic in random.choices(TOPICS, k=random.randint(1, 5))
        ]  # fmt: skip
        answer = await self.ask("POST", "/v1/interactions", json={"interactions": rows})
        if answer is None:
            return
        if answer.status_code != 200 or answer.json()["rejected"]:
            self.faults.append(f"ingest: {answer.status_code} {answer.text[:200]}")
            return
        self.stored[user] |= {row["id"] for row in rows}

    async def chat(self, user):
        asked = f"I am {user}. What about {random.choice(TOPICS)}? It is {random.random()}."
        body = {"model": "fake", "user": user, "messages": [{"role": "user", "content": asked}]}
        is_streamed = random.random() < 0.5
        answer = await self.ask(
            "POST", "/v1/chat/completions", json={**body, "stream": is_streamed},
            headers={"x-copersona-capture": "on"},
        )  # fmt: skip
        if answer is not None and (answer.status_code != 200 or "Certainly" not in answer.text):
            self.faults.append(f"chat: {answer.status_code} {answer.text[:200]}")

    async def context(self, user):
        answer = await self.ask("POST", "/v1/context", json={"user": user, "text": "Which bread?"})
        if answer is not None and answer.status_code != 200:
            self.faults.append(f"context: {answer.status_code} {answer.text[:200]}")
        elif answer is not None:
            self.check_words(user, answer.text)

    def check_words(self, user, text):
        if set(PLANTED.findall(text)) - {user}:
            self.faults.append(f"a foreign word was shown to {user}")

    async def look(self, user):
        """What is stored holds all that was acknowledged, and nobody else's."""
        wanted = set(self.stored[user])
        answer = await self.ask("GET", f"/v1/users/{user}/export")
        if answer is None:
            return
        kept = {row["id"] for row in answer.json()["interactions"]}
        if lost := wanted - kept:
            self.faults.append(f"{len(lost)} acknowledged interactions of {user} are lost")
        self.check_words(user, answer.text)

    async def consent(self, user):
        await self.ask(
            "PATCH", f"/v1/users/{user}/consent", json={"lend": random.choice(["no", "aggregate"])}
        )

    async def forget(self, user):
        self.stored.pop(user)
        answer = await self.ask("DELETE", f"/v1/users/{user}")
        if answer is None:
            return
        if answer.status_code != 200 or answer.json()["traces_found"]:
            self.faults.append(f"forget: {answer.status_code} {answer.text[:300]}")
        self.gone.append(user)
        self.stored[f"c{self.number}u{self.n_made}"] = set()
        self.n_made += 1

    async def settle(self):
        """At the end: everything of everybody, and nothing of who is gone."""
        for user in list(self.stored):
            await self.look(user)
        for user in self.gone:
            answer = await self.ask("GET", f"/v1/users/{user}/export")
            if answer is not None and answer.json()["interactions"]:
                self.faults.append(f"{user} was forgotten and is there")


TOOK = {}


async def fits(administrator, end):
    while time.monotonic() < end:
        answer = await administrator.ask("POST", "/v1/jobs", json={"kind": "fit"})
        job = answer.json().get("id") if answer is not None else None
        while job and time.monotonic() < end:
            await asyncio.sleep(2)
            answer = await administrator.ask("GET", f"/v1/jobs/{job}")
            state = answer.json()["state"] if answer is not None else "unknown"
            if state not in ("waiting", "running"):
                administrator.counts[f"fit {state}"] += 1
                break
        await asyncio.sleep(10)


async def trouble(services, database, seconds):
    await asyncio.sleep(seconds / 3)
    services.kill(SERVICES[0])
    print(f"[{seconds / 3:.0f} s: killed a service]", flush=True)
    await asyncio.sleep(5)
    await asyncio.to_thread(services.start, SERVICES[0])
    await asyncio.sleep(seconds / 3)
    await asyncio.to_thread(database.control, "restart")
    print(f"[{2 * seconds / 3:.0f} s: restarted the database]", flush=True)


async def samples(services, database, seconds):
    """Sizes, with the third of the time they were seen in."""
    start, found = time.monotonic(), []
    while (at := time.monotonic() - start) < seconds:
        stored = await asyncio.to_thread(database.sizes)
        sizes = [*services.memory(), *stored, *services.state()]
        found += [(int(3 * at / seconds), name, size) for name, size in sizes]
        await asyncio.sleep(10)
    return found


async def soak(services, database, key, options):
    counts, seconds = Counter(), options.minutes * 60
    limits = httpx2.Limits(max_connections=200)
    async with httpx2.AsyncClient(timeout=60, limits=limits) as http:
        clients = [Client(n, key, http, counts) for n in range(options.clients)]
        end = time.monotonic() + seconds
        sizes, *_ = await asyncio.gather(
            samples(services, database, seconds), trouble(services, database, seconds),
            fits(Client(999, key, http, counts), end), *(client.live(end) for client in clients),
        )  # fmt: skip
        await asyncio.gather(*(client.settle() for client in clients))
        seen = (await http.get(f"http://127.0.0.1:{MODEL}/leaks")).json()
    return clients, counts, seen, sizes


def report(clients, counts, seen, sizes):
    faults = [fault for client in clients for fault in client.faults]
    n_stored = sum(len(ids) for client in clients for ids in client.stored.values())
    n_gone = sum(len(client.gone) for client in clients)
    print(f"{n_stored:,} acknowledged interactions are there, {n_gone} users were forgotten")
    print(f"the model saw {seen['requests']:,} requests, {seen['personalised']:,} with own words, "
          f"{seen['leaks']} with foreign ones")  # fmt: skip
    print("; ".join(f"{name} {n:,}" for name, n in sorted(counts.items())))
    print("| what | n | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|---|")
    for name, took in sorted(TOOK.items()):
        cells = " | ".join(f"{value:.0f}" for value in np.percentile(took, [50, 95, 99]))
        print(f"| {name} | {len(took):,} | {cells} |")
    print("| median of a third of the time | first | second | third |\n|---|---|---|---|")
    for name in sorted({name for _, name, _ in sizes}):
        thirds = [[size for at, one, size in sizes if (at, one) == (n, name)] for n in range(3)]
        cells = (f"{np.median(third):,.1f}" if third else "" for third in thirds)
        print(f"| {name} | {' | '.join(cells)} |")
    for fault, n in Counter(faults).most_common(20):
        print(f"FAULT, {n} times: {fault}")
    return not faults and not seen["leaks"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--postgres", default="/usr/lib/postgresql/15/bin")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    print(f"[logs are in {folder}]", flush=True)
    database = Postgres(folder, options.postgres)
    database.control("start")
    services, log = Services(folder, database.url), (folder / "model.log").open("w")
    model = started(
        [sys.executable, HERE / "fake_model.py", str(MODEL)], f"http://127.0.0.1:{MODEL}/leaks", log
    )
    try:
        made = subprocess.run(
            [sys.executable, "-m", "copersona", "--store", database.url,
             "keys", "create", "--scope", "admin", "--json"],
            env={**os.environ, "COPERSONA_STATE": str(folder / "state")},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        for port in SERVICES:
            services.start(port)
        key = json.loads(made.stdout)["key"]
        is_sound = report(*asyncio.run(soak(services, database, key, options)))
    finally:
        for process in (*services.running.values(), model):
            process.terminate()
            process.wait()
        database.control("stop")
    sys.exit(0 if is_sound else 1)


if __name__ == "__main__":
    main()
