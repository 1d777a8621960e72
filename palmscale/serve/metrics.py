"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from palmscale.serve.served import Served

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server, apart from those of other servers in the process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "palmscale_requests", "Requests, by path and status.", ["path", "status"],
            registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter(
            "palmscale_prompt_tokens", "Tokens of prompts.", registry=registry
        )
        self.reused_tokens = Counter(
            "palmscale_reused_prompt_tokens", "Those taken from the cache.", registry=registry
        )
        self.generated_tokens = Counter(
            "palmscale_generated_tokens", "Tokens that were drawn.", registry=registry
        )
        self.first_token_seconds = Histogram(
            "palmscale_time_to_first_token_seconds", "From a request to its first token.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.gap_seconds = Histogram(
            "palmscale_inter_token_seconds", "From one output of a sequence to the next.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "palmscale_request_seconds", "From a request to the end of its answer.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip

    def watch(self, served: Served) -> None:
        """Adds what the engine itself counts."""
        engine = served.engine
        for name, help, value in (
            ("palmscale_slots", "Sequences decoded together at most.", lambda: engine.slots),
            ("palmscale_running_sequences", "Sequences in a slot.", lambda: engine.active),
            ("palmscale_waiting_sequences", "Sequences without a slot.", lambda: engine.queued),
        ):
            Gauge(name, help, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Returns all of them in Prometheus' text format, as of `CONTENT_TYPE_LATEST`."""
        return generate_latest(self._registry)
