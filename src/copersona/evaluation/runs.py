"""A run: all parts that a plan asks for, judged by a language model where one is named, and kept.

Parts are computed task by task in worker processes, each kept as soon as it is done; then the
language model judges the contexts of the chosen requests, through a cache of its own; then all is
gathered into a folder of Parquet files, from which the report is made. What is there is not
computed again, so that a killed run goes on where it was, and the same command costs seconds.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer

from copersona.contenders import baselines, dual, ladder, vote_baselines
from copersona.contenders.systems import Entry, find_systems
from copersona.contenders.tutoring import Tutor
from copersona.contenders.world import TextVectors, Write
from copersona.errors import ConfigError, DataError
from copersona.evaluation.cache import ResultCache
from copersona.evaluation.gather import gather
from copersona.evaluation.judging import judge
from copersona.evaluation.masked_parts import masked_rows
from copersona.evaluation.part_jobs import PartJob, TaskJobs, Verdicts
from copersona.evaluation.parts import (
    Bench,
    PartStore,
    Row,
    Setting,
    code_fingerprint,
    data_fingerprint,
    part_key,
)
from copersona.evaluation.plans import PLANS, Plan, is_judged, seeds_of, settings_of
from copersona.evaluation.scoring import Scorer, answers, embeddings, open_scorer
from copersona.language import models
from copersona.language.encoders import open_encoder
from copersona.language.generation import approximate_tokens
from copersona.language.softened import SoftScorer
from copersona.tasks.cases import Case, Task
from copersona.tasks.registry import find_tasks
from copersona.tasks.splits import Side, SplitConfig

Progress = Callable[[str, int, int], None]
Say = Callable[[int], None]

RESULTS = "results.db"
"""What a language model said and what was encoded, in the cache folder."""
REGISTERED = (ladder, dual, baselines, vote_baselines)
"""Modules whose systems are known."""
SUMMARY_TOKENS = 64
KEPT_BYTES = 2 * 2**30
"""Keys and values of beginnings that a training holds, in each worker."""
_WAIT_S = 0.5
_TEST_LOG = "test-runs.jsonl"


@dataclass(frozen=True)
class RunConfig:
    """One run.

    Attributes:
        data: folder of the data sets; not needed for the bundled people.
        out: folder of the run; what is there already is written anew from the cache.
        cache: folder of parts and of the language model's answers.
        plan: what is run.
        n_judged, budget_tokens: in the place of the plan's, where not None.
        tasks, systems: in the place of the plan's, where not empty; systems also `module:Class`.
        extra: further tasks, such as those of benchmark files.
        side: whose requests; `test` needs a reason, which is logged.
        unseen: whoever is asked is not fitted on.
        llm: `local:NAME` judges and answers, `openai:MODEL@URL` answers; None leaves both out.
        summaries: the language model also writes the profiles of PAG.
        jobs: worker processes.
    """

    out: Path
    cache: Path
    data: Path = Path()
    size: str = "small"
    plan: Plan | None = None
    n_judged: int | None = None
    budget_tokens: int | None = None
    tasks: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    extra: tuple[Task, ...] = ()
    side: Side = "dev"
    reason: str = ""
    unseen: bool = False
    encoder: str = "static"
    llm: str | None = None
    api_key: str | None = field(default=None, repr=False)
    device: str = "cpu"
    threads: int | None = None
    summaries: bool = False
    jobs: int = 1
    command: str = ""

    def __post_init__(self) -> None:
        if self.plan is None and self.size not in PLANS:
            raise ConfigError(f"no size is called {self.size!r}; known: {', '.join(PLANS)}")
        if self.side == "test" and not self.reason.strip():
            raise ConfigError("a run on test needs a reason, which is logged: --reason '…'")

    @property
    def planned(self) -> Plan:
        """The plan in force."""
        plan = self.plan or PLANS[self.size]
        if self.n_judged is not None:
            plan = replace(plan, n_judged=self.n_judged)
        if self.budget_tokens is not None:
            plan = replace(plan, budget_tokens=self.budget_tokens)
        return plan

    @property
    def chosen_tasks(self) -> list[Task]:
        """The tasks in force."""
        if self.extra and not self.tasks:
            return list(self.extra)
        return [*find_tasks(self.tasks or self.planned.tasks), *self.extra]

    @property
    def chosen_systems(self) -> list[Entry]:
        """The systems in force."""
        return find_systems(self.systems or self.planned.systems)


def run(config: RunConfig, progress: Progress | None = None) -> Path:
    """Run what is not there yet, store everything, and give back the folder of the run.

    Raises:
        ConfigError: an unknown name, or no reason for a run on test.
        DataError: data are missing or damaged.
        LeakageError: a system saw what it must not.
    """
    report = progress or _say_nothing
    _log_test(config)
    parts = PartStore(config.cache / "parts")
    planned = [jobs_of(config, task) for task in config.chosen_tasks]
    _compute(config, planned, parts, report)
    verdicts = _judged(config, planned, parts, report)
    config.out.mkdir(parents=True, exist_ok=True)
    gather(config.out, planned, parts, verdicts)
    told = json.dumps(_facts(config, planned, parts), indent=1, ensure_ascii=False)
    (config.out / "run.json").write_text(told + "\n", "utf-8")
    return config.out


def _judged(
    config: RunConfig, planned: Sequence[TaskJobs], parts: PartStore, report: Progress
) -> Verdicts:
    plan, llm = config.planned, config.llm
    if llm is None:
        return Verdicts({}, {})
    with ResultCache(config.cache / RESULTS) as cache:
        return judge(planned, parts, cache, lambda: _scorer(config, llm), plan.n_judged,
                     plan.n_written, report)  # fmt: skip


def _scorer(config: RunConfig, llm: str) -> Scorer:
    return open_scorer(llm, device=config.device, threads=config.threads, api_key=config.api_key)


def _log_test(config: RunConfig) -> None:
    """Every look at the test side is written down beside the cache, before it is taken."""
    if config.side != "test":
        return
    config.cache.mkdir(parents=True, exist_ok=True)
    line = {"at": _now(), "reason": config.reason, "command": config.command, "size": config.size}
    with (config.cache / _TEST_LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(line, ensure_ascii=False) + "\n")


# ---- parts -------------------------------------------------------------------------------------


def jobs_of(config: RunConfig, task: Task) -> TaskJobs:
    """All parts that a run needs of a task."""
    plan, place = config.planned, config.data / task.dataset
    data = data_fingerprint(place) if place.exists() else ""
    fixed = {
        "data": data, "split": asdict(_split(config)), "encoder": config.encoder,
        "tokens": config.llm or "approximate", "summaries": config.summaries,
        "soft_steps": plan.soft_steps,
    }  # fmt: skip
    found: list[PartJob] = []
    wanted: dict[Setting, None] = {}
    for entry in config.chosen_systems:
        for setting in settings_of(plan, task, entry):
            wanted[setting] = None
            for seed in seeds_of(plan, entry):
                key = part_key("predictions", task, fixed, setting, entry, seed)
                judged = is_judged(plan, task, entry, setting) and seed == plan.seeds[0]
                found.append(PartJob("predictions", key, setting, entry, seed, judged))
    for setting in wanted:
        found.append(PartJob("cases", part_key("cases", task, fixed, setting), setting))
    whats = ["facts", "transfer", *(["masked"] if task.name in plan.masked else [])]
    found += [PartJob(what, part_key(what, task, fixed)) for what in whats]
    return TaskJobs(task, data, tuple(found))


def _split(config: RunConfig) -> SplitConfig:
    return SplitConfig(config.side, unseen=config.unseen, most=config.planned.most)


def _compute(
    config: RunConfig, planned: Sequence[TaskJobs], parts: PartStore, report: Progress
) -> None:
    """Compute what is missing, and report parts done."""
    total = sum(len(one.jobs) for one in planned)
    missing = [job for one in planned for job in one.jobs if not parts.has(job.key)]

    def say(n_missing: int) -> None:
        report("predictions", total - n_missing, total)

    say(len(missing))
    if missing and config.jobs > 1 and len(planned) > 1:
        _in_workers(config, missing, parts, say)
        return
    n_missing = len(missing)
    for one in planned:
        for _ in compute_task(config, one, parts):
            n_missing -= 1
            say(n_missing)


def _in_workers(config: RunConfig, missing: list[PartJob], parts: PartStore, say: Say) -> None:
    """One task after the other in each worker; what is done is seen by its file."""
    context, parent = get_context("spawn"), os.getpid()
    pool = ProcessPoolExecutor(config.jobs, context, threadpool_limits, (1,))
    running: set[Future[None]] = {
        pool.submit(_work, config, place, parent) for place in range(len(config.chosen_tasks))
    }
    try:
        while running:
            done, running = wait(running, timeout=_WAIT_S)
            for future in done:
                future.result()
            missing = [job for job in missing if not parts.has(job.key)]
            say(len(missing))
        if missing:
            raise DataError(
                f"{len(missing)} parts are missing though everything was computed: the program or "
                "the data changed meanwhile; run the same command again"
            )
    finally:  # after an error nobody waits for the other tasks
        pool.shutdown(wait=False, cancel_futures=True)


def _work(config: RunConfig, place: int, parent: int) -> None:
    """What a worker does: nothing is handed over but the configuration, which it reads again.

    It ends with the part at hand when the run was killed, so that nobody computes for nobody.
    """
    parts = PartStore(config.cache / "parts")
    for _ in compute_task(config, jobs_of(config, config.chosen_tasks[place]), parts):
        if os.getppid() != parent:
            return


def compute_task(config: RunConfig, wanted: TaskJobs, parts: PartStore) -> Iterator[PartJob]:
    """Compute and keep those parts of one task that are missing, one after the other."""
    missing = [job for job in wanted.jobs if not parts.has(job.key)]
    if not missing:
        return
    with ResultCache(config.cache / RESULTS) as cache:
        bench = _bench(config, wanted.task, cache)
        for job in missing:
            parts.put(job.key, _rows(bench, job))
            yield job


def _bench(config: RunConfig, task: Task, cache: ResultCache) -> Bench:
    encoder = open_encoder(config.encoder)
    vectors = TextVectors(config.encoder, lambda texts: embeddings(texts, encoder, cache))
    return Bench(
        task, config.data, _split(config), vectors, _token_counter(config.llm),
        _writer(config, cache), _tutor_of(config, task),
    )  # fmt: skip


def _tutor_of(
    config: RunConfig, task: Task
) -> Callable[[Callable[[], Sequence[Case]]], Tutor] | None:
    """What trains soft prompts and the gate; None where no local language model is named."""
    kind, _, name = (config.llm or "").partition(":")
    if kind != "local":
        return None

    def opened() -> SoftScorer:
        return SoftScorer(name, device=config.device, threads=config.threads, kept_bytes=KEPT_BYTES)

    folder, steps = config.cache / "training" / task.name, config.planned.soft_steps
    return lambda lessons: Tutor(opened, lessons, folder, steps)


def _token_counter(llm: str | None) -> Callable[[str], int]:
    """The tokenizer of a local model, without the model; an estimate for others."""
    kind, _, name = (llm or "").partition(":")
    if kind != "local":
        return approximate_tokens
    folder = Path(name) if Path(name).is_dir() else models.locate(name)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _writer(config: RunConfig, cache: ResultCache) -> Write | None:
    if not (config.summaries and config.llm):
        return None
    scorer = _scorer(config, config.llm)
    return lambda messages: answers([messages], scorer, cache, SUMMARY_TOKENS)[0]


def _rows(bench: Bench, job: PartJob) -> list[Row]:
    if job.what == "facts":
        return [bench.facts()]
    if job.what == "transfer":
        return bench.transfer()
    if job.what == "masked":
        return masked_rows(bench.training.corpus, bench.training.vectors.name)
    setting = job.setting or Setting()
    if job.entry is None:
        return bench.features(setting)
    return bench.predictions(job.entry, job.seed, setting)


# ---- what is said of a run ---------------------------------------------------------------------


def _facts(config: RunConfig, planned: Sequence[TaskJobs], parts: PartStore) -> dict[str, Any]:
    """What run.json holds; see `stored`."""
    tasks = []
    for one in planned:
        facts = next(job for job in one.jobs if job.what == "facts")
        told = ("name", "dataset", "kind", "description", "note", "has_dates", "has_peers")
        tasks.append({name: getattr(one.task, name) for name in told} | parts.get(facts.key)[0])
    return {
        "name": config.out.name, "command": config.command, "commit": _commit(),
        "code": code_fingerprint(), "started_at": _now(), "size": config.size,
        "split": config.side, "unseen": config.unseen, "reason": config.reason,
        "encoder": config.encoder, "llm": config.llm or "", "device": config.device,
        "generation": bool(config.llm and config.planned.n_written),
        "seeds": list(config.planned.seeds), "budget_tokens": config.planned.budget_tokens,
        "n_llm": config.planned.n_judged if config.llm else 0, "versions": _versions(),
        "masked": [one.task.name for one in planned if one.task.name in config.planned.masked],
        "data_dir_fingerprint": {one.task.dataset: one.data for one in planned},
        "tasks": tasks,
        "systems": [
            {"name": entry.name, "family": entry.family, "source": entry.source,
             "kinds": sorted(entry.kinds), "is_random": entry.is_random}
            for entry in config.chosen_systems
        ],
    }  # fmt: skip


def _versions() -> dict[str, str]:
    names = ("copersona", "numpy", "scipy", "scikit-learn", "rouge-score", "bm25s")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _commit() -> str:
    """The commit this program was run from; empty outside of a checkout."""
    here = Path(__file__).parent
    asked = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git at all
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _say_nothing(what: str, done: int, total: int) -> None:
    del what, done, total
