"""Jobs as rows: claimed by one, lost and taken up again, ended once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from copersona.errors import UnknownUserError
from copersona.storage.job_log import LOST, Job
from copersona.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "s.db") as opened:
        yield opened


def taken(store: Store, *, lost_after_s: float = 60) -> Job:
    found = store.jobs.take(lost_after_s=lost_after_s)
    assert found is not None
    return found


def test_a_job_waits_runs_and_is_done(store: Store) -> None:
    made = store.jobs.add("n", "train", {"graph": True})
    assert (made.state, made.options, made.attempts) == ("waiting", {"graph": True}, 0)
    job = taken(store)
    assert (job.id, job.namespace, job.state, job.attempts) == (made.id, "n", "running", 1)
    assert store.jobs.beat(job, "residuals", 1, 6)
    assert store.jobs.finish(job, {"state": "000001"})
    ended = store.jobs.get("n", made.id)
    assert (ended.state, ended.result, ended.stage) == ("done", {"state": "000001"}, "residuals")
    assert ended.ended_at is not None
    assert store.jobs.take(lost_after_s=60) is None


def test_many_at_once_never_take_the_same_one(tmp_path: Path, store: Store) -> None:
    made = {store.jobs.add(f"n{number}", "fit", {}).id for number in range(8)}
    others = [Store.open(tmp_path / "s.db") for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: taken(others[number % 4]).id, range(8)))
    for other in others:
        other.close()
    assert sorted(found) == sorted(made)


def test_of_one_namespace_one_runs_at_a_time_and_the_oldest_first(store: Store) -> None:
    first, second = (store.jobs.add("n", "fit", {}).id for _ in range(2))
    other = store.jobs.add("m", "fit", {}).id
    job = taken(store)
    assert (job.id, taken(store).id) == (first, other)
    assert store.jobs.take(lost_after_s=60) is None
    store.jobs.finish(job, {})
    assert taken(store).id == second


def test_a_job_without_heartbeat_is_taken_again_and_the_old_claim_counts_no_more(
    store: Store,
) -> None:
    store.jobs.add("n", "fit", {})
    lost = taken(store)
    again = taken(store, lost_after_s=-1)
    assert (again.id, again.attempts) == (lost.id, 2)
    assert not store.jobs.beat(lost, "late", 1, 2)
    assert not store.jobs.finish(lost, {})
    assert not store.jobs.give_back(lost, counts=False)
    assert store.jobs.get("n", lost.id).state == "running"


def test_after_three_attempts_it_has_failed(store: Store) -> None:
    job_id = store.jobs.add("n", "fit", {}).id
    assert [taken(store, lost_after_s=-1).attempts for _ in range(3)] == [1, 2, 3]
    assert store.jobs.take(lost_after_s=-1) is None
    found = store.jobs.get("n", job_id)
    assert (found.state, found.error) == ("failed", LOST)


def test_what_is_given_back_waits_and_counts_as_an_attempt_where_it_should(store: Store) -> None:
    job_id = store.jobs.add("n", "fit", {}).id
    assert store.jobs.give_back(taken(store), counts=False)
    assert store.jobs.get("n", job_id).attempts == 0
    for _ in range(3):
        assert store.jobs.give_back(taken(store), counts=True)
    assert store.jobs.get("n", job_id).state == "failed"


def test_cancelled_is_done_by_nobody_and_what_ended_stays(store: Store) -> None:
    job_id = store.jobs.add("n", "fit", {}).id
    job = taken(store)
    assert store.jobs.cancel("n", job_id).state == "cancelled"
    assert not store.jobs.beat(job, "", 0, 0)
    assert store.jobs.take(lost_after_s=-1) is None
    store.jobs.add("n", "fit", {})
    store.jobs.finish(done := taken(store), {})
    assert store.jobs.cancel("n", done.id).state == "done"
    assert store.jobs.counts("n") == {
        "waiting": 0, "running": 0, "done": 1, "failed": 0, "cancelled": 1,
    }  # fmt: skip


def test_another_namespace_has_no_such_job(store: Store) -> None:
    job_id = store.jobs.add("n", "fit", {}).id
    for look in (store.jobs.get, store.jobs.cancel):
        with pytest.raises(UnknownUserError, match="no such job"):
            look("m", job_id)
    assert store.jobs.all("m") == []
    assert [job.id for job in store.jobs.all("n")] == [job_id]


def test_one_that_is_only_made_where_none_is_there(store: Store) -> None:
    assert store.jobs.add_if_idle("n", "fit")
    assert store.jobs.add_if_idle("n", "fit") is None
    job = taken(store)
    assert store.jobs.add_if_idle("n", "fit") is None
    store.jobs.finish(job, {})
    assert store.jobs.add_if_idle("n", "fit")
