"""`evidence.py ppi`: what intervals of quality in production and the alarm on them are asked.

The same numbers come from the peer `ppi_py` too.
"""

import json
import os
import statistics
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from degradation_simulations import METRIC, Year
from ppi_simulations import World, simulate

from finetune_platform.drift.prediction_powered import Labelled, Unlabelled, prediction_powered_mean

PEER = Path(__file__).parent.parent / ".finetune" / "peers" / "ppi" / "bin" / "python"

COVERAGE, SAVED, LOST = 0.93, 0.20, 0.03
"""The targets: least coverage of 95% intervals, least part of the standard error that a judge of kappa 0.6 saves, most
that a useless one costs."""

HELPFUL, USELESS = "graded judge, kappa 0.6", "useless judge"
THIRDS: dict[str, Any] = {"quality": (0.9, 0.6, 0.2), "shares": (0.5, 0.3, 0.2)}
WORLDS = {
    HELPFUL: World(),
    "judge of yes and no, kappa 0.6": World(judge="yes or no"),
    "perfect judge": World(judge="perfect"),
    USELESS: World(judge="useless"),
    "no judge": World(judge="none"),
    "scores between 0 and 1": World(partial=True),
    "2% failures": World(quality=(0.98,)),
    "2% failures, perfect judge": World(quality=(0.98,), judge="perfect"),
    "strata": World(**THIRDS),
    "strata, labels 1:2:4": World(**THIRDS, drawn=(1.0, 2.0, 4.0)),
}
LOPSIDED = World(quality=(0.95, 0.6, 0.2), shares=(0.7, 0.2, 0.1), judge="yes or no", drawn=(1.0, 2.0, 4.0))
SIZES, OTHERS = (20, 60, 150, 500), 3000

FALSE_YEARS = 0.05
YEARS = {
    "exact match 0.6": Year(World()),
    "exact match 0.6, no judge": Year(World(judge="none")),
    "exact match 0.95": Year(World(quality=(0.95,))),
    "exact match 0.3": Year(World(quality=(0.3,))),
}
DAY, LAST = 60, 240
FALLS = {
    "0.6 to 0.45": Year(World(), World(quality=(0.45,)), DAY, LAST),
    "0.6 to 0.45, no judge": Year(World(judge="none"), World(quality=(0.45,), judge="none"), DAY, LAST),
    "0.9 to 0.7": Year(World(quality=(0.9,)), World(quality=(0.7,)), DAY, LAST),
    "0.6 to 0.3": Year(World(), World(quality=(0.3,)), DAY, LAST),
}
"""Champions whose answers become worse on a day, with five labels and a hundred judged answers a day."""

TARGETS = {
    "coverage": f">= {COVERAGE}",
    "standard error saved, graded judge, kappa 0.6": f">= {SAVED} from 60 labels on",
    "standard error saved, useless judge": f">= -{LOST}",
    "years with a false alarm": f"<= {FALSE_YEARS}",
}


def figures(quick: bool) -> dict[str, Any]:
    """Coverage, and how much less the estimates scatter than those of the labels alone."""
    count, sizes = (60, (20, 150)) if quick else (1000, SIZES)
    found: dict[str, Any] = {}
    ok = True
    for name, world in WORLDS.items():
        for labels in sizes:
            seen = simulate(world, labels, OTHERS, count)
            found[f"coverage, {labels} labels, {name}"] = round(seen.coverage, 4)
            ok &= seen.coverage >= COVERAGE
            if labels > min(SIZES):
                found[f"standard error saved, {labels} labels, {name}"] = round(seen.saved, 3)
                ok &= name != HELPFUL or seen.saved >= SAVED
                ok &= name != USELESS or seen.saved >= -LOST
    for labels in sizes[1:]:
        seen = simulate(LOPSIDED, labels, OTHERS, count)
        found[f"coverage with lopsided strata, {labels} labels"] = round(seen.coverage, 4)
    for name in (HELPFUL, "judge of yes and no, kappa 0.6"):
        found[f"kappa, {name}"] = round(WORLDS[name].kappa, 3)
    found |= _beside_peer(10 if quick else 100)
    found |= _alarms(2 if quick else 400, 2 if quick else 50)
    ok &= all(rate <= FALSE_YEARS for name, rate in found.items() if name.startswith("years with a false alarm"))
    return {"name": "evidence_ppi", "figures": found, "targets": TARGETS, "ok": bool(ok)}


def _alarms(years: int, falls: int) -> dict[str, Any]:
    """Daily looks: years in which a champion that stayed as it was is called degraded, and days until one that fell."""
    found: dict[str, Any] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name, year in YEARS.items():
            rung = sum(bool(alarms) for alarms in pool.map(year.alarms, range(years)))
            found[f"years with a false alarm, {name}"] = round(rung / years, 4)
        for name, year in FALLS.items():
            told = list(pool.map(year.alarms, range(falls)))
            days = [alarms.get(METRIC, LAST + 1) - DAY for alarms in told]
            first = [min(alarms.values(), default=LAST + 1) - DAY for alarms in told]
            found[f"median days to the alarm of exact match, {name}"] = statistics.median(days)
            found[f"median days to the first alarm, {name}"] = statistics.median(first)
    return found


def _beside_peer(samples: int) -> dict[str, Any]:
    """Largest difference to `ppi_py` on the same rows, with our lambda and with its own."""
    if not PEER.is_file():
        return {"ppi_py": "not installed"}
    rng = np.random.default_rng(0)
    asked, ours = [], []
    for _ in range(samples):
        rows = WORLDS[HELPFUL].rows(1150, rng)
        none, alike = np.full(1150, ""), np.ones(1150)
        known = Labelled(rows.scores[:150], rows.judged[:150], alike[:150], none[:150])
        told = prediction_powered_mean(known, Unlabelled(rows.judged[150:], alike[150:], none[150:]))
        ours.append((told.estimate.value, told.estimate.standard_error))
        parts = {"scores": known.scores, "judged": known.judged, "others": rows.judged[150:]}
        asked.append({**{k: v.tolist() for k, v in parts.items()}, "slope": told.slopes[""]})
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as temp:
        file = Path(temp) / "samples.json"
        file.write_text(json.dumps(asked))
        script = Path(__file__).parent / "peers" / "ppi.py"
        done = subprocess.run([PEER, script, file], check=True, capture_output=True, text=True)
    theirs = np.array(json.loads(done.stdout.splitlines()[-1]))
    values, errors = np.array(ours).T
    return {
        "ppi_py: largest difference of estimates, same lambda": float(f"{np.abs(values - theirs[:, 0]).max():.2g}"),
        "ppi_py: largest difference of estimates, own lambda": float(f"{np.abs(values - theirs[:, 1]).max():.2g}"),
        "ppi_py: median ratio of standard errors, own lambda": round(float(np.median(errors / theirs[:, 2])), 4),
    }
