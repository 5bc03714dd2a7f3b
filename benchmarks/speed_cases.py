"""Cases of speed.py, each run in a process of its own so that its peak memory is its own.

python benchmarks/speed_cases.py CASE '{"users": 1000, …}'   (prints one line of JSON)

Everything is made up: vectors drawn around eight facets, texts of words that mean nothing.
"""

import json
import resource
import sqlite3
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from copersona import CoPersona, CoPersonaConfig, Interaction, Store
from copersona.language.encoders import open_encoder
from copersona.method.corpus import N_FOLDS, Corpus
from copersona.method.fitted import MethodConfig, fit_state
from copersona.method.profiles import LowSupportWarning
from copersona.records import Consent
from copersona.style import HABITS

N_FACETS, DIM, PER_USER = 8, 256, 10
COLUMNS = ("user", "input", "response", "item", "rating", "at", "id")
_TABLE = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
CREATE TABLE rows (seq INTEGER PRIMARY KEY, user TEXT, input TEXT, response TEXT, item TEXT,
                   rating REAL, at REAL, id TEXT);
CREATE INDEX of_user ON rows (user, at);
"""
_INSERT = f"INSERT INTO rows ({','.join(COLUMNS)}) VALUES ({','.join('?' * len(COLUMNS))})"


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- fit ----------------------------------------------------------------------------------------


def draw_corpus(n_users, per_user=PER_USER, dim=DIM, seed=0):
    """A population drawn straight into arrays: every user is seen in up to four facets."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users, dtype=np.int32), 1 + rng.poisson(per_user - 1, n_users))
    n = len(users)
    facets = rng.integers(N_FACETS, size=(n_users, 4))[users, rng.integers(4, size=n)]
    groups = rng.integers(3, size=(n_users, N_FACETS))[users, facets]
    added = rng.normal(size=(N_FACETS, 3, dim)).astype(np.float32) / np.sqrt(dim)
    inputs = rng.standard_normal((n, dim), np.float32)
    inputs *= 0.5 / np.sqrt(dim)
    inputs[np.arange(n), facets] += 1
    responses = rng.standard_normal((n, dim), np.float32)
    responses *= 0.3
    mixing = rng.standard_normal((dim, dim), np.float32) / np.sqrt(4 * dim)
    for part in np.array_split(np.arange(n), 1 + n // 50_000):
        responses[part] += inputs[part] @ mixing + added[facets[part], groups[part]]
    items = rng.integers(max(n // 20, 1), size=n)
    return Corpus(
        user_ids=tuple(f"user-{u:07d}" for u in range(n_users)), users=users,
        folds=(np.arange(n_users, dtype=np.int8) % N_FOLDS)[users],
        inputs=inputs, responses=responses,
        styles=rng.standard_normal((n, len(HABITS)), np.float32) + groups[:, None],
        is_single=np.zeros(n, bool), has_own_words=np.ones(n, bool),
        ratings=3 + rng.normal(size=n), at=1.7e9 + 3600.0 * np.arange(n),
        id_hashes=np.arange(n), items=[f"item-{i}" for i in items.tolist()],
        labels=[None] * n, declared=[None] * n,
    )  # fmt: skip


def fit(users, repeats):
    """`fit_state`, stage by stage, and in turn with it the bare calls of its heavy parts."""
    corpus = draw_corpus(users)
    arrays = sum(a.nbytes for a in (corpus.inputs, corpus.responses, corpus.styles)) / 2**20
    before, runs, peak = peak_mb(), [], 0.0
    for _ in range(repeats):
        marks = []
        seconds, state = timed(lambda marks=marks: fit_state(
            corpus, encoder="none", cut=2e9, config=MethodConfig(),
            progress=lambda stage, *_: marks.append((stage, time.perf_counter())),
        ))  # fmt: skip
        peak = peak or peak_mb()
        ends = [at for _, at in marks[1:]] + [marks[0][1] + seconds]
        stages = {name: end - at for (name, at), end in zip(marks, ends, strict=True)}
        runs.append({"ours": seconds, "stages": stages, "bare": bare_fit(corpus, state)})
    return {"rows": len(corpus), "arrays_mb": arrays, "before_mb": before, "peak_mb": peak,
            "runs": runs}  # fmt: skip


def bare_fit(corpus, state):
    """What the heavy parts cost without us: k-means, one ridge, one kNN search a layer."""
    k = 2 * state.config.graph.k
    layers = [state.states.vectors[lends, layer] for layer, lends in enumerate(state.graph.lends)]
    return {
        "facets": timed(lambda: bare_kmeans(corpus.inputs))[0],
        "residuals": timed(lambda: bare_ridge(corpus.inputs, corpus.responses))[0],
        "graph": sum(timed(lambda v=v: bare_knn(v, min(k, len(v))))[0] for v in layers),
    }


def bare_kmeans(points):
    try:
        from sklearn.cluster import KMeans  # noqa: PLC0415 - optional
    except ImportError:
        from scipy.cluster.vq import kmeans2  # noqa: PLC0415

        return kmeans2(points, N_FACETS, iter=50, minit="++", rng=0)
    return KMeans(N_FACETS, max_iter=50, random_state=0).fit(points)


def bare_ridge(x, y):
    return np.linalg.solve(x.T @ x + np.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def bare_knn(vectors, k):
    """scikit-learn's brute force where there is one, else a blocked product."""
    try:
        from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415 - optional
    except ImportError:
        parts = np.array_split(np.arange(len(vectors)), 1 + len(vectors) ** 2 // 8_000_000)
        return [np.argpartition(-(vectors[p] @ vectors.T), k - 1)[:, :k] for p in parts]
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(vectors).kneighbors(vectors)


# ---- store --------------------------------------------------------------------------------------


def made_up_rows(n_users, per_user, seed=0):
    """Interactions of 20 + 30 words; the vocabulary leans to the facet."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i}" for i in range(4000)])
    for u in range(n_users):
        facets = rng.integers(N_FACETS, size=(per_user, 1))
        draws = rng.integers(500, size=(per_user, 50)) + 500 * facets
        draws[:, ::3] = rng.integers(4000, size=draws[:, ::3].shape)
        for n, line in enumerate(words[draws].tolist()):
            yield Interaction(
                f"user-{u:07d}", " ".join(line[:20]), " ".join(line[20:]),
                item=f"item-{draws[n, 1]}", rating=float(draws[n, 2] % 5 + 1),
                at=1.7e9 + 86_400 * n,
            )  # fmt: skip


def bare_store(path):
    connection = sqlite3.connect(path)
    connection.executescript(_TABLE)
    return connection


def bare_row(row):
    return tuple(getattr(row, name) for name in COLUMNS)


def spread(seconds):
    return [float(q) for q in 1000 * np.percentile(seconds, [50, 95, 99])]


def prompt(users, rows_per_user, lend, requests):
    """`CoPersona.prompt` on a real store, and a bare top 20 over the same vectors."""
    rows = list(made_up_rows(users, rows_per_user))
    out = {"rows": len(rows)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.db"
        with Store.open(path, default_consent=Consent(lend=lend)) as store:
            cp = CoPersona(store, namespace="default", state_root=Path(folder) / "state",
                           encoder="hashing", generator=None, config=CoPersonaConfig())  # fmt: skip
            out["ingest_s"] = timed(lambda: [cp.add(rows[i : i + 5000])
                                             for i in range(0, len(rows), 5000)])[0]  # fmt: skip
            out["fit_s"] = timed(cp.fit)[0]
        rng = np.random.default_rng(1)
        asked = [rows[i] for i in rng.choice(len(rows), size=requests, replace=False).tolist()]
        texts = [" ".join(rng.permutation(r.input.split())) for r in asked]
        encoder = open_encoder("hashing")
        vectors = encoder.encode([r.input for r in rows])
        with Store.open(path, default_consent=Consent(lend=lend)) as store:
            cp = CoPersona(store, namespace="default", state_root=Path(folder) / "state",
                           encoder="hashing", generator=None, config=CoPersonaConfig())  # fmt: skip
            times = {"first": [timed(lambda: cp.prompt(asked[0].user, texts[0]))[0]]}
            for name in ("cold", "warm"):
                ours, bare, encoding = [], [], []
                for row, text in zip(asked, texts, strict=True):
                    ours.append(timed(lambda r=row, t=text: cp.prompt(r.user, t))[0])
                    seconds, vector = timed(lambda t=text: encoder.encode([t])[0])
                    encoding.append(seconds)
                    bare.append(timed(lambda v=vector: top_20(vectors, v))[0])
                times |= {name: ours, "bare": bare, "encoding": encoding}
    return out | {name: spread(seconds) for name, seconds in times.items()}


def top_20(vectors, vector):
    similarity = vectors @ vector
    best = np.argpartition(-similarity, 19)[:20]
    return best[np.argsort(-similarity[best])]


def ingest(rows, repeats):
    """A batch into an empty store, ours and bare in turn, the same rows."""
    made = list(made_up_rows(rows // PER_USER, PER_USER))
    prepared = [{name: getattr(row, name) for name in COLUMNS[:-1]} for row in made]
    runs = {"ours": [], "file": [], "bare": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder, CoPersona.open(Path(folder, "a.db")) as cp:
            runs["ours"].append(timed(lambda cp=cp: cp.add(made))[0])
        with tempfile.TemporaryDirectory() as folder, CoPersona.open(Path(folder, "c.db")) as cp:
            file = Path(folder) / "rows.jsonl"
            file.write_text("\n".join(json.dumps(row) for row in prepared), encoding="utf-8")
            runs["file"].append(timed(lambda cp=cp, file=file: cp.ingest(file))[0])
        with tempfile.TemporaryDirectory() as folder:
            connection = bare_store(Path(folder) / "b.db")
            values = [bare_row(row) for row in made]
            runs["bare"].append(timed(lambda c=connection, v=values: _all_at_once(c, v))[0])
            connection.close()
    return {"rows": len(made), **runs}


def _all_at_once(connection, values):
    with connection:
        connection.executemany(_INSERT, values)


def add(rows, adds):
    """One durable interaction at a time into stores that hold many, ours and bare in turn."""
    made = list(made_up_rows((rows + adds) // PER_USER + 1, PER_USER))
    kept, single = made[:rows], made[rows : rows + adds]
    times = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder, CoPersona.open(Path(folder, "a.db")) as cp:
        connection = bare_store(Path(folder) / "b.db")
        cp.add(kept)
        _all_at_once(connection, [bare_row(row) for row in kept])
        for row in single:
            times["ours"].append(timed(lambda r=row: cp.add([r]))[0])
            times["bare"].append(timed(lambda r=row: _all_at_once(connection, [bare_row(r)]))[0])
        connection.close()
    return {"rows": rows} | {name: spread(seconds) for name, seconds in times.items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore", LowSupportWarning)
    cases = {case.__name__: case for case in (fit, prompt, ingest, add)}
    print(json.dumps(cases[sys.argv[1]](**json.loads(sys.argv[2]))))
