"""Coverage-guided fuzzing of everything that reads a file; needs `pip install atheris`.

python benchmarks/fuzz_files.py TARGET [CASES]      TARGET is one of those below, or `all`

Every case must end well or in one of our own errors: no traceback, no hang above ten seconds, no
more than two gigabytes. What does not is kept in the working folder by libFuzzer, with its bytes.
Each target starts from a few made-up files of every form it reads.
"""

import contextlib
import functools
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["copersona"]):
    import copersona
    from copersona import artifacts
    from copersona.backups import restore
    from copersona.commands.settings import read_settings
    from copersona.errors import CoPersonaError
    from copersona.exporting import UserExport, export_namespace, open_export
    from copersona.reading.readers import FORMATS, read
    from copersona.records import Consent, Interaction
    from copersona.service.gateway import read_prices
    from copersona.tasks.benchmark_files import BENCHMARKS, benchmark_task

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".csv", ".jsonl", ".json", ".parquet")
ROW = {"user": "ann", "input": "Red kettle", "response": "Boils fast.", "rating": 4, "at": 1.5e9}
TURNS = [{"role": "user", "content": "Which pan?"}, {"role": "assistant", "content": "Iron."}]
CHAT = {"user": "ann", "messages": TURNS}
NODES = {
    "r": {"message": None, "parent": None},
    "a": {"message": {"author": {"role": "user"}, "content": {"parts": ["Hi."]}}, "parent": "r"},
}
SHARED = {"id": "s", "conversations": [{"from": "human", "value": "Hi."}]}
QUESTION = {
    "id": "1", "input": "Generate a headline for the following article: Rain.", "output": "Wet",
    "profile": [{"id": "2", "text": "Sun.", "title": "Dry"}],
}  # fmt: skip
REVIEW = {
    "userID": "u", "profile": [{"title": "T", "text": "Good.", "rating": 5, "pid": "p"}],
    "query": {"title": "T", "text": "Bad.", "rating": 1, "pid": "q"}, "neighbors": [],
}  # fmt: skip
EXPORTED = ("manifest.json", "consent.json", "instructions.json", "aliases.json")
MEMORY = {
    "id": "m", "memory": "Likes tea.", "user_id": "ann", "created_at": "2026-05-01T10:00:00Z",
    "updated_at": None, "metadata": None, "role": "user",
}  # fmt: skip
SESSION = {
    "session_id": "s", "user_id": "ann",
    "messages": [{"uuid": "1", "role": "Ann", "role_type": "user", "content": "Hi.",
                  "created_at": "2026-05-01T10:00:00Z"}],
    "facts": [{"uuid": "2", "fact": "Ann likes tea.", "valid_at": None}],
}  # fmt: skip
WORK = Path(tempfile.mkdtemp())


def as_json(*values):
    return [json.dumps(values).encode(), "\n".join(map(json.dumps, values)).encode()]


def parquet():
    held = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([ROW, ROW]), held)
    return held.getvalue()


def rows(data):
    """The first byte chooses suffix and owner, the second the format."""
    if len(data) < 2:
        return
    path = WORK / f"rows{SUFFIXES[data[0] % len(SUFFIXES)]}"
    path.write_bytes(data[2:])
    formats = [None, *FORMATS]
    for _ in read(
        path,
        accept_derived=bool(data[0] & 8),
        format=formats[data[1] % len(formats)],
        user="ann" if data[0] & 4 else None,
    ):
        pass


def benchmark(data):
    """The first byte chooses the task."""
    if not data:
        return
    path = WORK / "benchmark.json"
    path.write_bytes(data[1:])
    benchmark_task(list(BENCHMARKS)[data[0] % len(BENCHMARKS)], path).load(WORK)


def export(data):
    """The first byte chooses the file of the folder that is damaged."""
    if not data:
        return
    folder = WORK / "export"
    if not folder.exists():
        rows = [Interaction("ann", response="Boils fast.", id="1")]
        ann = UserExport("ann", Consent(), ("Always grams.",), (), {}, ("ann-phone",), {})
        export_namespace(folder, "a", rows, {"ann": Consent()}, [ann])
    damaged = folder / EXPORTED[data[0] % len(EXPORTED)]
    sound = damaged.read_bytes()
    try:
        damaged.write_bytes(data[1:])
        open_export(folder)
    finally:
        damaged.write_bytes(sound)


def state(data):
    """The first byte chooses manifest or arrays; hashes are not asked, so that more is read."""
    if not data:
        return
    folder = state_folder()
    name = ("manifest.json", "arrays.safetensors")[data[0] % 2]
    sound = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(data[1:])
        artifacts.open_version(WORK, "fuzz", folder.name, verify=False)
    finally:
        (folder / name).write_bytes(sound)


def state_folder():
    known = artifacts.versions(WORK, "fuzz")
    if not known:
        arrays = {"vectors": np.eye(3, dtype=np.float32), "rows": np.arange(3)}
        known = [artifacts.publish(WORK, "fuzz", arrays, {"encoder": "hashing"})]
    return next(WORK.rglob(f"{known[-1]}/manifest.json")).parent


def backup(data):
    """The first byte chooses the manifest, or the list of who was forgotten since."""
    if not data:
        return
    damaged = backup_folder() / ("manifest.json", "forgotten")[data[0] % 2]
    sound, again = damaged.read_bytes(), WORK / "again"
    again.mkdir()
    try:
        damaged.write_bytes(data[1:])
        restore(backup_folder(), again / "people.db", again / "state", [])
    finally:
        damaged.write_bytes(sound)
        shutil.rmtree(again)


@functools.cache
def backup_folder():
    with copersona.open(WORK / "people.db", encoder="hashing") as engine:
        engine.add([Interaction("ann", response="Boils fast.", id="1")])
        engine.back_up(WORK / "backup")
    return WORK / "backup"


def prices(data):
    path = WORK / "prices.json"
    path.write_bytes(data)
    read_prices(path)


def settings(data):
    path = WORK / "settings.toml"
    path.write_bytes(data)
    read_settings({}, file=path)


def seeds_of(name):
    csv, json_lines, whole, columns = (bytes([n, 0]) for n in (0, 5, 6, 3))
    chats = (
        MEMORY,
        {"results": [MEMORY]},
        SESSION,
        CHAT,
        {"user": "ann", "mapping": NODES, "current_node": "a"},
        SHARED,
    )
    nested = [one for record in (ROW, QUESTION, REVIEW, *chats) for one in as_json(record)]
    asked = [*as_json(QUESTION), *as_json(REVIEW)]
    folder = state_folder()
    return {
        "rows": [csv + b"user,text\nann,Boils fast.\n", columns + parquet(),
                 *(kind + one for one in nested for kind in (json_lines, whole))],
        "benchmark": [bytes([n]) + one for n in range(len(BENCHMARKS)) for one in asked],
        "export": [
            b'\x00{"n_interactions": 1, "namespace": "a"}',
            b'\x01{"a": {"learn": true, "lend": "no", "remember": true, "train": false}}',
            b'\x02{"ann": ["Always grams."]}',
        ],
        "state": [bytes([n]) + (folder / file).read_bytes()
                  for n, file in enumerate(("manifest.json", "arrays.safetensors"))],
        "backup": [bytes([n]) + (backup_folder() / file).read_bytes()
                   for n, file in enumerate(("manifest.json", "forgotten"))],
        "prices": [b'{"gpt-4o-mini": {"input": 0.15, "output": 0.6}}'],
        "settings": [b'store = "a.db"\nencoder = "hashing"\n'],
    }[name]  # fmt: skip


TARGETS = {
    "rows": rows,
    "benchmark": benchmark,
    "export": export,
    "state": state,
    "backup": backup,
    "prices": prices,
    "settings": settings,
}


def main():
    name, cases = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    if name == "all":  # one process each: libFuzzer ends its own
        for one in TARGETS:
            subprocess.run([sys.executable, __file__, one, str(cases)], check=True)
        return
    corpus = WORK / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds_of(name)):
        (corpus / str(number)).write_bytes(seed)
    target = TARGETS[name]

    def one(data):
        with contextlib.suppress(CoPersonaError):
            target(data)

    limits = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=8192", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], f"-runs={cases}", *limits, str(corpus)], one)
    print(f"{name}: {cases} cases", flush=True)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
