"""What Prometheus scrapes: requests, latencies, tokens, fallbacks and the state of this gateway's own parts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The gateway's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._parts: dict[tuple[str, str, str, str], tuple[Counter, Histogram, Counter, Counter]] = {}
        arm = ("task", "arm", "adapter")
        self.requests = Counter(
            "finetune_requests", "Requests that an arm answered or failed.", (*arm, "outcome"), registry=self.registry
        )
        self.latency = Histogram(
            "finetune_latency_seconds", "From the request to the whole answer.", arm[:2], registry=self.registry,
            buckets=LATENCY_BUCKETS_S,
        )  # fmt: skip
        self.tokens = Counter("finetune_tokens", "Tokens read and written.", ("task", "kind"), registry=self.registry)
        self.fallbacks = Counter(
            "finetune_fallbacks", "Arms that did not answer, so that another did.", arm, registry=self.registry
        )
        self.retrievals = Counter(
            "finetune_retrievals",
            "Searches for passages; all but `found` were answered without any.",
            ("task", "outcome"),
            registry=self.registry,
        )
        self.retrieval_seconds = Histogram(
            "finetune_retrieval_seconds", "From a question to its passages.", ("task",), registry=self.registry,
            buckets=LATENCY_BUCKETS_S,
        )  # fmt: skip
        self.cache = Counter(
            "finetune_response_cache", "Requests whose answers are kept: hits and misses.", ("task", "outcome"),
            registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "finetune_refused", "Requests refused before an engine was asked.", ("status",), registry=self.registry
        )
        self.log_lost = Gauge(
            "finetune_interactions_lost", "Interactions that could not be logged.", registry=self.registry
        )
        self.log_waiting = Gauge(
            "finetune_interactions_waiting_bytes",
            "Logged here, not in the lake yet.",
            registry=self.registry,
        )
        self.log_flushing = Gauge(
            "finetune_interactions_flushing", "1 while the log is moved to the lake.", registry=self.registry
        )
        self.shadow_dropped = Gauge(
            "finetune_shadow_dropped", "Shadow copies dropped under load.", registry=self.registry
        )
        self.routes_age = Gauge(
            "finetune_routes_age_seconds", "Since the database last told the routes.", registry=self.registry
        )

    def count(
        self,
        task: str,
        arm: str,
        adapter: str,
        outcome: str,
        latency_s: float,
        prompt_tokens: int,
        completion_tokens: int,
    ) -> None:
        """Counts a finished request."""
        key = (task, arm, adapter, outcome)
        if (parts := self._parts.get(key)) is None:
            parts = self._parts[key] = (
                self.requests.labels(*key),
                self.latency.labels(task, arm),
                self.tokens.labels(task, "prompt"),
                self.tokens.labels(task, "completion"),
            )
        requests, latency, prompt, completion = parts
        requests.inc()
        latency.observe(latency_s)
        prompt.inc(prompt_tokens)
        completion.inc(completion_tokens)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
