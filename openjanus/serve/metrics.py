"""The metrics for Prometheus (`/metrics`). Compute rates in PromQL, such as rate(openjanus_ids_total[1m])."""

from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from openjanus.sequence import Kind

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
KINDS = {Kind.TEXT: "text", Kind.GENERATE: "image"}


def _sum(of_workers: Sequence[Callable[[], int]]) -> int:
    return sum(of_worker() for of_worker in of_workers)


class Metrics:
    """One registry for each server. Labels are from fixed sets, so requests cannot make the registry grow."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self.requests = Counter("openjanus_requests", "Requests answered", ["endpoint", "status"], registry=r)
        self.errors = Counter("openjanus_errors", "Answers that are errors", ["code"], registry=r)
        self.ids = Counter("openjanus_ids", "Ids decoded, of text and of images", ["kind"], registry=r)
        self.images = Counter("openjanus_images", "Pictures drawn to their end", registry=r)
        self.first = Histogram(
            "openjanus_time_to_first_id_seconds", "From arrival to the first id", ["kind"], registry=r, buckets=SECONDS
        )
        self.seconds = Histogram(
            "openjanus_request_seconds",
            "From head to end, of requests that were answered",
            ["endpoint"],
            registry=r,
            buckets=SECONDS,
        )
        self.waiting = Gauge("openjanus_requests_waiting", "Requests without rows in the batch yet", registry=r)
        self.open = Gauge("openjanus_requests_open", "Requests waiting or in the batch", registry=r)
        self.rows = Gauge("openjanus_batch_rows", "Rows of the batch in use", registry=r)
        self.slots = Gauge("openjanus_batch_slots", "Rows of the batch there are", registry=r)
        self._watched: dict[Gauge, list[Callable[[], int]]] = {}

    def watch(
        self, waiting: Callable[[], int], open: Callable[[], int], rows: Callable[[], int], num_slots: int
    ) -> None:
        """Connects the gauges to functions of a worker. rows: rows of the batch in use; num_slots: all rows.

        With several workers, a gauge shows their sum.
        """
        for gauge, of_worker in ((self.waiting, waiting), (self.open, open), (self.rows, rows)):
            self._watched.setdefault(gauge, []).append(of_worker)
            gauge.set_function(partial(_sum, self._watched[gauge]))
        self.slots.inc(num_slots)

    def add_ids(self, kind: Kind, count: int) -> None:
        self.ids.labels(KINDS[kind]).inc(count)

    def first_id(self, kind: Kind, seconds: float) -> None:
        self.first.labels(KINDS[kind]).observe(seconds)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Counts a request. The latency histogram excludes errors, which are fast."""
        self.requests.labels(endpoint, str(status)).inc()
        if status < 400:
            self.seconds.labels(endpoint).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
