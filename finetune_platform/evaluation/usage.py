"""What answering costs: tokens, latency, throughput and money, from what was measured.

Prices come from the task file; nothing here judges an answer.
"""

from finetune_platform.evaluation.predictions import ArmAnswers
from finetune_platform.manifests import Record
from finetune_platform.task import Cost

PERCENTILES = (50, 95, 99)


class Usage(Record):
    """Of one arm on one benchmark.

    Attributes:
        prompt_tokens: Mean of a request.
        completion_tokens: Mean of a request.
        latency_ms: By percentile (`p50`, `p95`, `p99`), with `in_flight` requests at a time; empty without a model.
        in_flight: Requests at a time during the measurement.
        tokens_per_second: Generated tokens, all requests together.
        requests_per_second: Answers, all requests together.
        cut_off: Share of answers that ended at the token limit.
        cost_per_1000: Money for 1,000 requests; None where the task file has no prices.
        cost_per_month: Money for the task's requests of a month; None without prices or traffic.
        device: Where it was measured.
        measured_at: When.
        reused: Measured for an earlier evaluation.
    """

    prompt_tokens: float
    completion_tokens: float
    latency_ms: dict[str, float]
    in_flight: int
    tokens_per_second: float
    requests_per_second: float
    cut_off: float
    cost_per_1000: float | None
    cost_per_month: float | None
    device: str
    measured_at: str
    reused: bool


def usage_of(answers: ArmAnswers, cost: Cost) -> Usage:
    """Sums one arm up. Latency percentiles are linear interpolations of the observed ones (Hyndman & Fan's type 7)."""
    import numpy as np

    table, measured = answers.table, answers.measurement
    requests = max(table.num_rows, 1)
    prompt = float(np.sum(table.column("prompt_tokens").to_numpy()))
    completion = float(np.sum(table.column("completion_tokens").to_numpy()))
    seconds = measured.seconds if measured else 0.0
    latencies = table.column("latency_ms").drop_null().to_numpy()
    percentiles = np.percentile(latencies, PERCENTILES) if len(latencies) else []
    per_1000 = _cost_per_1000(cost, prompt / requests, completion / requests, seconds / requests)
    return Usage(
        prompt_tokens=prompt / requests,
        completion_tokens=completion / requests,
        latency_ms={f"p{p}": float(v) for p, v in zip(PERCENTILES, percentiles, strict=False)},
        in_flight=measured.batch_size if measured else 0,
        tokens_per_second=completion / seconds if seconds else 0.0,
        requests_per_second=table.num_rows / seconds if seconds else 0.0,
        cut_off=table.column("finish_reason").to_pylist().count("length") / requests,
        cost_per_1000=per_1000,
        cost_per_month=_monthly(cost, per_1000),
        device=measured.device if measured else "",
        measured_at=measured.measured_at if measured else "",
        reused=answers.reused,
    )


def _cost_per_1000(cost: Cost, prompt_tokens: float, completion_tokens: float, seconds: float) -> float | None:
    """Token prices where there are any, else machine time at full use; an arm without a model is free."""
    if cost.input_tokens_per_million or cost.output_tokens_per_million:
        tokens = prompt_tokens * cost.input_tokens_per_million + completion_tokens * cost.output_tokens_per_million
        return tokens / 1000
    return 1000 * seconds / 3600 * cost.serving_hour if cost.serving_hour else None


def _monthly(cost: Cost, per_1000: float | None) -> float | None:
    return per_1000 * cost.requests_per_month / 1000 if per_1000 is not None and cost.requests_per_month else None
