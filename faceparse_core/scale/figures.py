"""What the endpoint tells of itself to Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Figures:
    """Counters of one endpoint. ``inside``: what says how many pictures are waiting or being worked at."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, paths: tuple[str, ...]):
        self._paths = paths
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "faceparse_requests", "Requests that were answered", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "faceparse_request_seconds",
            "From a request to its answer",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.pictures = Counter("faceparse_pictures", "Pictures that were parsed", registry=self.registry)
        self.batch = Histogram(
            "faceparse_batch_pictures", "Pictures in a batch", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.batch_seconds = Histogram(
            "faceparse_batch_seconds", "The network at a batch", buckets=_SECONDS, registry=self.registry
        )
        self.inside = Gauge("faceparse_pictures_inside", "Pictures waiting or being worked at", registry=self.registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        path = path if path in self._paths else "other"  # callers are not to make up series
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def of_batch(self, pictures: int, seconds: float) -> None:
        self.pictures.inc(pictures)
        self.batch.observe(pictures)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
