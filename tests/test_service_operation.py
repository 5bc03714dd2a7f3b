"""What a service says of itself: metrics, spans, logs, limits, and audit lines that stay."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from copersona.commands import cli
from copersona.errors import MissingExtraError, StoreError
from copersona.service import trail as gathering
from copersona.service.limits import Buckets
from copersona.service.logs import _Json
from copersona.service.tracing import Tracing, provider_to
from copersona.service.trail import Trail
from copersona.storage.audit_log import AuditLine, AuditLog
from service_people import (
    ANA,
    BANK,
    SHOP,
    Served,
    check_problem,
    opened,
    served,
    stocked,
    until,
)  # fmt: skip

SECRET, WORDS = "zenobia nowhere", "magenta harpsichord"
"""A user and a text that must not be found where they do not belong."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stocked(tmp_path_factory.mktemp("people") / "x")


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def service(folder: Path, spans: InMemorySpanExporter) -> Iterator[Served]:
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    with served(folder, tracers=tracers, refit_after=0) as running:
        yield running


@pytest.fixture
def shop(service: Served) -> Iterator[httpx2.Client]:
    with service.client(service.key("admin")) as client:
        yield client


def asked(client: httpx2.Client) -> None:
    """Requests with something to hide in path, query and body; answered, refused and unknown."""
    row = {"user": SECRET, "response": WORDS}
    client.post("/v1/interactions", json={"interactions": [row, {"user": ""}]})
    client.post("/v1/context", json={"user": SECRET, "text": WORDS})
    client.get(f"/v1/users/{SECRET}")
    client.get("/v1/audit", params={"user": SECRET})
    client.get(f"/v1/{WORDS}", params={"q": WORDS})
    client.request(WORDS.split()[0].upper(), f"/v1/users/{SECRET}")


Numbers = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def numbers(client: httpx2.Client) -> Numbers:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def n_requests(found: Numbers) -> float:
    """How many were counted that did not ask for metrics."""
    return sum(
        value
        for (name, labels), value in found.items()
        if name == "copersona_requests_total" and ("route", "/metrics") not in labels
    )


def test_metrics_are_read_by_the_parser_and_count_what_happened(
    service: Served, shop: httpx2.Client
) -> None:
    before = numbers(shop)
    asked(shop)
    shop.post("/v1/context", json={"user": ANA, "text": "kitchen tool: kettle"})
    with service.client("wrong") as nobody:
        nobody.get("/v1/jobs")
    # The asker has the answer a moment before it is counted.
    after = until(lambda: n_requests(found := numbers(shop)) == n_requests(before) + 8 and found)

    def more(name: str, **labels: str) -> float:
        key = (f"copersona_{name}", tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0)

    assert more("requests_total", route="/v1/users/{user}", method="GET", status="200") == 1
    assert more("requests_total", route="", method="GET", status="404") == 1
    assert more("requests_total", route="/metrics", method="GET", status="200") >= 1
    assert more("request_seconds_count", route="/v1/context", method="POST") == 2
    assert more("contexts_total", namespace=SHOP, personalised="yes") == 1
    assert more("interactions_total", namespace=SHOP, outcome="stored") == 1
    assert more("interactions_total", namespace=SHOP, outcome="rejected") == 1
    assert more("auth_failures_total") == 1
    assert after["copersona_requests_in_flight", ()] == 1  # the asking itself
    version = shop.get(f"/v1/users/{ANA}").json()["state"]
    assert after["copersona_state_info", (("namespace", SHOP), ("version", version))] == 1
    assert after["copersona_state_age_seconds", (("namespace", SHOP),)] > 0
    assert after["copersona_jobs", (("namespace", SHOP), ("state", "waiting"))] == 0


def test_metrics_name_nobody_and_no_other_namespace(service: Served, shop: httpx2.Client) -> None:
    asked(shop)
    with service.client(service.key("admin", namespace=BANK)) as bank:
        asked(bank)
        pages = [bank.get("/metrics").text, shop.get("/metrics").text]
    for page, other in zip(pages, (SHOP, BANK), strict=True):
        assert f'"{other}"' not in page
        assert not [
            word for text in (SECRET, WORDS) for word in text.split() if word in page.lower()
        ]


def test_a_request_is_a_span_with_its_parts_and_says_nothing_of_users(
    shop: httpx2.Client, spans: InMemorySpanExporter
) -> None:
    spans.clear()
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    answer = shop.post("/v1/context", json={"user": SECRET, "text": WORDS},
                       headers={"traceparent": f"00-{trace}-{parent}-01"})  # fmt: skip
    # The asker has the answer a moment before its span has ended.
    inner, outer = until(lambda: len(found := spans.get_finished_spans()) == 2 and found)
    assert (inner.name, outer.name) == ("context", "request")
    assert inner.parent
    assert outer.parent
    assert outer.context
    assert inner.parent.span_id == outer.context.span_id
    assert f"{outer.context.trace_id:032x} {outer.parent.span_id:016x}" == f"{trace} {parent}"
    attributes = dict(outer.attributes or {})
    assert attributes.pop("copersona.key")
    assert attributes == {
        "copersona.method": "POST", "copersona.route": "/v1/context", "copersona.status": 200,
        "copersona.trace_id": answer.json()["trace_id"],
    }  # fmt: skip
    asked(shop)
    said = " ".join(span.to_json() for span in spans.get_finished_spans()).lower()
    assert not [word for text in (SECRET, WORDS) for word in text.split() if word in said]


def test_an_error_is_no_part_of_its_span(spans: InMemorySpanExporter) -> None:
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    spans.clear()
    with pytest.raises(ValueError, match=WORDS), Tracing(tracers).span("x"):
        raise ValueError(WORDS)
    (span,) = spans.get_finished_spans()
    assert WORDS not in span.to_json()


def test_without_opentelemetry_only_who_asks_for_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with Tracing(None).span("x", {}) as note:
        note("a", 1)
    with pytest.raises(MissingExtraError, match=r"copersona\[otel\]"):
        provider_to("http://127.0.0.1:1/v1/traces")


def test_the_log_of_requests_has_routes_and_no_paths(
    shop: httpx2.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "copersona"):
        asked(shop)
    records = [record for record in caplog.records if record.name == "copersona.requests"]
    lines = [json.loads(_Json().format(record)) for record in records]
    context = next(line for line in lines if line["route"] == "/v1/context")
    assert set(context) == {
        "at", "level", "logger", "method", "route", "status", "key", "trace_id", "ms",
    }  # fmt: skip
    assert (context["status"], bool(context["key"]), len(context["trace_id"])) == (200, True, 16)
    assert "route=/v1/context status=200" in records[1].getMessage()
    said = json.dumps(lines).lower()
    assert not [word for text in (SECRET, WORDS) for word in text.split() if word in said]


def test_a_key_that_asks_too_much_is_told_when_to_ask_again(folder: Path) -> None:
    with served(folder, requests_per_minute=12) as service:
        with service.client(service.key()) as eager, service.client(service.key()) as other:
            statuses = [eager.get("/v1/users/bo").status_code for _ in range(2)]
            assert statuses == [200, 200]
            answer = eager.get("/v1/users/bo")
            assert check_problem(answer, 429)["type"].endswith(":too-many")
            assert 1 <= int(answer.headers["retry-after"]) <= 5
            assert other.get("/v1/users/bo").status_code == 200
        with service.client(service.key("admin")) as admin:
            assert numbers(admin)["copersona_rate_limited_total", ()] == 1


def test_each_process_counts_for_itself_and_the_page_on_operations_says_so(folder: Path) -> None:
    with served(folder, requests_per_minute=6) as one, served(folder, requests_per_minute=6) as two:
        key = one.key()
        statuses = []
        for service in (one, one, two):
            with service.client(key) as client:
                statuses.append(client.get("/v1/users/bo").status_code)
    assert statuses == [200, 429, 200]
    page = (Path(__file__).parents[1] / "docs" / "operations.md").read_text("utf-8")
    assert "each process counts for itself" in page


def test_wrong_keys_are_slowed_and_right_ones_beside_them_are_not(folder: Path) -> None:
    with served(folder, failures_per_minute=3) as service:
        with service.client("wrong") as guesser:
            answers = [guesser.get("/v1/jobs") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
        assert 1 <= int(answers[3].headers["retry-after"]) <= 20
        with service.client(service.key()) as honest:
            assert honest.get("/v1/users/bo").status_code == 200


def test_a_bucket_fills_again_and_many_full_ones_are_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    buckets = Buckets(per_minute=60, burst=2)
    assert [buckets.take("a"), buckets.take("a"), buckets.take("a")] == [0, 0, 1]
    now += 1
    assert [buckets.take("a"), buckets.take("a")] == [0, 1]
    for number in range(10_005):
        buckets.take(str(number))
        now += 0.01
    assert len(buckets._left) < 10_000
    assert Buckets(per_minute=0, burst=0).take("a") == 0


# ── the audit log ─────────────────────────────────────────────────────────────────────────────

A_LINE = AuditLine(1.0, SHOP, "key", "persona", ("0f",), is_allowed=True)


def test_what_is_gathered_is_written_within_a_moment_and_at_the_end(tmp_path: Path) -> None:
    with opened(stocked(tmp_path / "x", fits=False), SHOP) as engine:
        log = engine.store.audit
        trail = Trail(log, 100_000)
        trail.add(A_LINE, at_once=False)
        assert log.lines(SHOP) == []
        trail.start()
        while not log.lines(SHOP):
            threading.Event().wait(0.02)
        trail.add(A_LINE, at_once=False)
        trail.stop()
        assert log.lines(SHOP) == [A_LINE] * 2


def test_lines_wait_while_the_database_fails_and_a_change_fails_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with opened(stocked(tmp_path / "x", fits=False), SHOP) as engine:
        trail = Trail(engine.store.audit, 90)
        with monkeypatch.context() as broken:

            def fail(*_: object) -> None:
                raise StoreError("the disk is full")

            broken.setattr(AuditLog, "append", fail)
            with pytest.raises(StoreError):
                trail.add(A_LINE, at_once=True)
        trail.flush()
        assert engine.store.audit.lines(SHOP) == [A_LINE]


KILLED_AFTER_A_CHANGE = """
import os, signal, sys
from functools import partial
from pathlib import Path
from service_people import SHOP, opened, served

folder = Path(sys.argv[1])
with served(folder) as service, service.client(service.key("write")) as client:
    row = {"user": "late", "response": "Aha."}
    assert client.post("/v1/interactions", json={"interactions": [row]}).json()["stored"] == 1
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_line_of_a_verdict_is_not_gathered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "GATHERED_S", 600.0)
    with served(folder) as service, opened(folder, SHOP) as engine:
        with service.client(service.key()) as client:
            asked = {"user": "bo", "text": "kitchen tool: kettle"}
            trace = client.post("/v1/context", json=asked).json()["trace_id"]
            given = {"trace_id": trace, "verdict": "accept"}
            assert client.post("/v1/feedback", json=given).status_code == 200
        assert engine.store.audit.lines(SHOP)[0].action == "feedback"


def test_an_acknowledged_change_and_its_line_outlive_the_process(tmp_path: Path) -> None:
    folder = stocked(tmp_path / "x", fits=False)
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_A_CHANGE, str(folder)], check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL
    with opened(folder, SHOP) as engine:
        assert len(engine.store.history(SHOP, "late")) == 1
        assert [line.action for line in engine.store.audit.lines(SHOP, user="late")] == ["add"]


def test_the_command_line_shows_who_asked_also_after_a_forget(
    folder: Path, service: Served, shop: httpx2.Client
) -> None:
    shop.get("/v1/users/leaving")
    receipt = shop.delete("/v1/users/leaving").json()
    assert receipt["traces_found"] == []
    head = ["--store", str(folder / "people.db"), "--namespace", SHOP, "audit"]
    run = partial(CliRunner().invoke, cli.app)
    lines: list[dict[str, Any]] = json.loads(run([*head, "--user", "leaving", "--json"]).stdout)
    assert [line["action"] for line in lines] == ["forget", "persona"]
    assert "leaving" not in json.dumps(lines)
    shown = run([*head, "--limit", "1"])
    assert shown.exit_code == 0
    assert run([*head, "--since", "2099-01-01", "--json"]).stdout.strip() == "[]"
    assert run([*head, "--since", "whenever"]).exit_code == 2
