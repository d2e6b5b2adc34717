"""Figures for Prometheus: what the engine says of itself when it is asked, and what answers took."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from vlmlab.generate.answers import Answer
from vlmlab.generate.engine import Engine

_GAUGES = {
    "waiting": ("requests_waiting", "Requests that wait for a place."),
    "reading": ("requests_reading", "Requests whose prompts are being read."),
    "rows": ("requests_writing", "Rows being written to: the batch."),
    "slots": ("slots", "Rows that there are."),
    "held_tokens": ("kv_tokens_held", "Tokens of requests under way in the cache of keys and values."),
    "room_tokens": ("kv_tokens", "Tokens that there is room for in that cache."),
    "adapters": ("adapters", "Adapters that may be asked for by name."),
    "adapter_bytes": ("adapter_bytes", "What they take, those included that go when their last request has ended."),
}
_COUNTERS = {
    "finished": ("requests_finished", "Requests answered."),
    "cancelled": ("requests_cancelled", "Requests given up."),
    "failed": ("requests_failed", "Requests that failed in the engine."),
    "refused": ("requests_refused", "Requests turned away because too many waited."),
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts, image tokens included."),
    "reused_tokens": ("prompt_tokens_reused", "Of those, not computed because another prompt began alike."),
    "written_tokens": ("written_tokens", "Tokens written."),
    "images": ("images", "Images in prompts; a split picture is several."),
    "image_hits": ("images_reused", "Of those, seen before and not computed again."),
}
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_RATES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


class Engines(Collector):
    """The engine's own figures, read when they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        """Every gauge and counter of the engine."""
        now = vars(self.engine.gauges())
        for field, (name, told) in _GAUGES.items():
            yield GaugeMetricFamily(f"vlmlab_{name}", told, value=now[field])
        for field, (name, told) in _COUNTERS.items():
            yield CounterMetricFamily(f"vlmlab_{name}", told, value=now[field])


def responses(registry: CollectorRegistry) -> Counter:
    """The counter of answers, in a register."""
    return Counter("vlmlab_http_responses", "Answers by path and status.", ("path", "status"), registry=registry)


class Metrics:
    """The figures of one server, in a register of its own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Engines(engine))
        self.first = Histogram(
            "vlmlab_first_token_seconds",
            "From a request to its first token, getting its pictures included.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.whole = Histogram(
            "vlmlab_answer_seconds", "From a request to its last token.", buckets=_SECONDS, registry=self.registry
        )
        self.rate = Histogram(
            "vlmlab_tokens_per_second", "Tokens that an answer got a second.", buckets=_RATES, registry=self.registry
        )
        self.looks = Histogram(
            "vlmlab_attention_seconds",
            "What it took to see where an answer looked.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def answered(self, answer: Answer, opening: float) -> None:
        """Note an answer whose pictures took `opening` seconds to get."""
        cost = answer.cost
        self.first.observe(opening + cost.first_token_seconds)
        self.whole.observe(opening + cost.first_token_seconds + cost.decode_seconds)
        if cost.written_tokens > 1 and cost.decode_seconds > 0:
            self.rate.observe((cost.written_tokens - 1) / cost.decode_seconds)

    def page(self) -> bytes:
        """All of it, in Prometheus' text form."""
        return generate_latest(self.registry)


class Together(Collector):
    """Pages of figures as one: each figure with the name of the replica whose page it was on.

    Their answers are left out: whoever puts the pages together counts what clients were told.
    """

    def __init__(self, pages: Mapping[str, str]) -> None:
        self.pages = pages

    def collect(self) -> Iterator[Metric]:
        """Every figure."""
        found: dict[str, Metric] = {}
        for replica, page in sorted(self.pages.items()):
            for family in text_string_to_metric_families(page):
                if family.name.startswith("vlmlab_http_responses"):
                    continue
                metric = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    metric.add_sample(sample.name, sample.labels | {"replica": replica}, sample.value)
        yield from found.values()
