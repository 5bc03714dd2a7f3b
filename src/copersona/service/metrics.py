"""What is counted, in the form that Prometheus reads.

Counters are this application's own. Labels are route templates, methods, statuses and names of
namespaces: nothing of a user, and no value of a path. Who asks sees the numbers of the process, and
of namespaces those of their own only.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from copersona.errors import NotFittedError
from copersona.pipeline import CoPersona
from copersona.records import Status


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "copersona_requests", "Requests answered.", ["route", "method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "copersona_request_seconds", "Time to answer.", ["route", "method"],
            registry=self._registry,
        )  # fmt: skip
        self.in_flight = self._gauge("copersona_requests_in_flight", "Requests being answered.")
        self.rate_limited = self._counter("copersona_rate_limited", "Requests above a limit.")
        self.no_key = self._counter("copersona_auth_failures", "Requests with no key that fits.")
        self._contexts = self._counter(
            "copersona_contexts", "Contexts made.", "namespace", "personalised"
        )
        self._interactions = self._counter(
            "copersona_interactions", "What became of interactions.", "namespace", "outcome"
        )

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request; `route` is the template, empty where there is none."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(seconds)

    def context(self, namespace: str, *, is_personalised: bool) -> None:
        """Count a context."""
        self._contexts.labels(namespace, "yes" if is_personalised else "no").inc()

    def interactions(self, namespace: str, outcomes: Mapping[Status, int]) -> None:
        """Count outcomes of interactions."""
        for outcome, count in outcomes.items():
            self._interactions.labels(namespace, outcome).inc(count)

    def page(self, engine: CoPersona) -> bytes:
        """All numbers that who may see a front door may see."""
        return generate_latest(_Page(self._registry, engine))

    def _counter(self, name: str, said: str, *labels: str) -> Counter:
        return Counter(name, said, labels, registry=self._registry)

    def _gauge(self, name: str, said: str) -> Gauge:
        return Gauge(name, said, registry=self._registry)


class _Page(Collector):
    """What was counted, without other namespaces, and what is looked up when read."""

    def __init__(self, registry: CollectorRegistry, engine: CoPersona) -> None:
        self._registry, self._engine = registry, engine

    def collect(self) -> Iterable[Metric]:
        name = self._engine.namespace
        for family in self._registry.collect():
            family.samples = [
                sample for sample in family.samples if sample.labels.get("namespace", name) == name
            ]
            yield family
        yield from self._jobs()
        yield from self._state()

    def _jobs(self) -> Iterable[Metric]:
        name = self._engine.namespace
        jobs = GaugeMetricFamily("copersona_jobs", "Jobs by state.", labels=["namespace", "state"])
        for state, count in self._engine.store.jobs.counts(name).items():
            jobs.add_metric([name, state], count)
        yield jobs

    def _state(self) -> Iterable[Metric]:
        name = self._engine.namespace
        try:
            version, cut = self._engine.state_version(), self._engine.state().cut
        except NotFittedError:
            return
        info = GaugeMetricFamily(
            "copersona_state_info", "Fitted state in force.", labels=["namespace", "version"]
        )
        info.add_metric([name, version], 1)
        age = GaugeMetricFamily("copersona_state_age_seconds", "Its age.", labels=["namespace"])
        age.add_metric([name], time.time() - cut)
        yield from (info, age)
