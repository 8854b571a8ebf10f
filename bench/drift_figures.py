"""`evidence.py drift`: what the alarm is asked, on Banking77 and on the demo's own rows.

Some of the streams go through Evidently's text drift and daily tests of descriptors too.
"""

import csv
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drift_simulations import NO_CHANGE, YEAR, Change, Question, Stream, Texts, World, answers
from scipy.stats import ks_2samp

from finetune_platform.drift.evidence import Evidence, categories_of
from finetune_platform.drift.null_bounds import Ints
from finetune_platform.drift.reference import Reference
from finetune_platform.inference.embedder import Embedder, fetch_embedder
from finetune_platform.lake import Lake
from finetune_platform.model_ref import DEFAULT_EMBEDDER
from finetune_platform.packages import package_file
from finetune_platform.repeats import counted

ROOT = Path(__file__).parent.parent
PEER = ROOT / ".finetune" / "peers" / "evidently" / "bin" / "python"
EVALS = "package://evals==3.0.1.post1/evals/registry/data/{}/samples.jsonl"
EVALS_SHA256 = "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78"

HEADLINES, AGREEMENTS = "sarcasm", "ner_finance"
REFERENCE_ROWS, AGREEMENT_REFERENCE = 5000, 600
SIZES = (50, 200, 2000)

NAMES = {
    Change("20% headlines mixed in", HEADLINES, 0.2): 1,
    Change("10% headlines mixed in", HEADLINES, 0.1): 1,
    Change("5% headlines mixed in", HEADLINES, 0.05): 2,
    Change("2% headlines mixed in", HEADLINES, 0.02): 10,
    Change("10 of 77 intents three times as frequent", factor=3.0): 5,
}
"""Changes, and the most ticks of 200 rows that their median may take."""

TICK_MS, GROWTH = 50.0, 0.1
MOST_TICKS = 60
FALSE_YEARS = 0.05

TARGETS = {
    **{f"median ticks, {change.name}": f"<= {most}" for change, most in NAMES.items()},
    "years with a false alarm": f"<= {FALSE_YEARS}",
    "CPU ms a tick of 200 rows": f"< {TICK_MS}",
    "CPU ms after 1,000 ticks over those of the first": f"<= {1 + GROWTH}",
}


def figures(quick: bool, data: Path) -> dict[str, Any]:
    """All figures of the alarm; `data` holds Banking77."""
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as temp:
        folder = Path(temp)
        embedder = Embedder(fetch_embedder(DEFAULT_EMBEDDER, ROOT, Lake(str(folder / "lake")), _cache(), print))
        banking = _texts(embedder, *_banking(data, 3000 if quick else None))
        foreign = {HEADLINES: _texts(embedder, *_evals(HEADLINES, 300 if quick else 1500))}
        reference_rows = 1500 if quick else REFERENCE_ROWS
        found = _alarms(quick, folder, "", banking, foreign, reference_rows, SIZES, NAMES)
        agreements = _texts(embedder, *_evals(AGREEMENTS, None))
        few = {change: most for change, most in NAMES.items() if change.text}
        found |= _alarms(quick, folder, "loan agreements, ", agreements, foreign, AGREEMENT_REFERENCE, (50,), few)
        found |= _cost(World.of(0, banking, foreign, reference_rows).reference, banking)
        found |= _beside_peers(quick, folder, banking, foreign, reference_rows)
    return {"name": "evidence_drift", "figures": found, "targets": TARGETS, "ok": _met(found)}


def _alarms(
    quick: bool,
    folder: Path,
    where: str,
    traffic: Texts,
    foreign: Mapping[str, Texts],
    reference_rows: int,
    sizes: Sequence[int],
    changes: Mapping[Change, int],
) -> dict[str, Any]:
    worlds, years, streams = (2, 1, 2) if quick else (40, 10, 5)
    quiet = [Question(rows, NO_CHANGE, 40 if quick else YEAR, years) for rows in sizes]
    loud = [Question(50 if where else 200, change, MOST_TICKS, streams) for change in changes]
    workers = os.cpu_count() or 1
    told = answers(worlds, [*quiet, *loud], folder, traffic, foreign, reference_rows, workers)
    found: dict[str, Any] = {}
    for question in quiet:
        alarms = told[question]
        rate = sum(alarm is not None for alarm in alarms) / len(alarms)
        found[f"years with a false alarm, {where}{question.rows} rows a tick"] = round(rate, 4)
    for question in loud:
        ticks = [MOST_TICKS + 1 if alarm is None else alarm for alarm in told[question]]
        found[f"median ticks, {where}{question.change.name}"] = statistics.median(ticks)
        found[f"ticks of nine in ten, {where}{question.change.name}"] = float(np.quantile(ticks, 0.9, method="higher"))
    for name, figure in found.items():
        print(f"{name}: {figure}", flush=True)
    return found


def _cost(reference: Reference, traffic: Texts) -> dict[str, Any]:
    """Milliseconds that processors work on a tick of 200 rows whose vectors are there, on all cores together."""
    rng, rows = np.random.default_rng(0), traffic.rows()

    def tick() -> Ints:
        return rng.choice(len(rows), 200, replace=False)

    def after(evidence: Evidence, drawn: Ints) -> Evidence:
        some, vectors = [rows[i] for i in drawn], traffic.vectors[drawn]
        kept = counted(some, vectors)
        return evidence.seen(reference, categories_of(reference, [some[i] for i in kept], vectors[kept]))

    old = Evidence.none(reference)
    for _ in range(1000):
        old = after(old, tick())
    # In turns, on the same rows: what else the machine does then falls on both alike.
    fresh = Evidence.none(reference)
    spent: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(300):
        drawn = tick()
        for is_old in (True, False) if turn % 2 else (False, True):
            started = time.process_time()
            after(old if is_old else fresh, drawn)
            spent[is_old].append(1000 * (time.process_time() - started))
    return {
        "CPU ms a tick of 200 rows": round(statistics.median(spent[True]), 2),
        "CPU ms after 1,000 ticks over those of the first": round(
            statistics.median(spent[True]) / statistics.median(spent[False]), 3
        ),
    }


def _beside_peers(
    quick: bool, folder: Path, traffic: Texts, foreign: Mapping[str, Texts], reference_rows: int
) -> dict[str, Any]:
    """First alarms of ours, of Evidently's text drift and of daily tests of descriptors, on the same streams."""
    streams, ticks = (1, 2) if quick else (4, 10)
    made: list[dict[str, Any]] = []
    ours: dict[str, list[int | None]] = {}
    for seed in range(streams):
        world = World.of(seed, traffic, foreign, reference_rows)
        order = np.random.default_rng(seed).permutation(len(traffic.questions))
        known, rest = traffic.questions[order[:reference_rows]], traffic.questions[order[reference_rows:]]
        for change in (NO_CHANGE, *NAMES):
            stream = Stream(world, 200, change, np.random.default_rng(seed))
            texts, evidence, alarm = [], Evidence.none(world.reference), None
            for number in range(1, ticks + 1):
                home, other = stream.drawn()
                own = {name: categories[home] for name, categories in world.home.items()}
                if change.share:
                    instead = world.foreign[change.text]
                    own = {name: np.where(other < 0, mine, instead[name][other]) for name, mine in own.items()}
                strange = foreign[change.text].questions if change.share else rest
                texts.append([str(rest[h] if o < 0 else strange[o]) for h, o in zip(home, other, strict=True)])
                evidence = evidence.seen(world.reference, own)
                alarm = number if alarm is None and evidence.is_alarm else alarm
            made.append({"change": change.name, "reference": known.tolist(), "ticks": texts})
            ours.setdefault(change.name, []).append(alarm)
    judged = {
        "ours": ours,
        "KS and PSI": _first(made, [[_descriptors(m["reference"], t) for t in m["ticks"]] for m in made]),
    }
    if PEER.is_file():
        (folder / "streams.json").write_text(json.dumps(made))
        script = Path(__file__).parent / "peers" / "evidently_drift.py"
        told = subprocess.run([PEER, script, folder / "streams.json"], check=True, capture_output=True, text=True)
        judged["Evidently"] = _first(made, json.loads(told.stdout.splitlines()[-1]))
    found: dict[str, Any] = {}
    for who, alarms in judged.items():
        for name, firsts in alarms.items():
            late = [ticks + 1 if first is None else first for first in firsts]
            if name == NO_CHANGE.name:
                rung = sum(first is not None for first in firsts)
                found[f"{who}: alarms without a change, streams of {ticks} ticks"] = f"{rung} of {len(firsts)}"
            else:
                found[f"{who}: median ticks of {ticks}, {name}"] = statistics.median(late)
    return found


def _first(made: Sequence[Mapping[str, Any]], verdicts: Sequence[Sequence[bool]]) -> dict[str, list[int | None]]:
    found: dict[str, list[int | None]] = {}
    for stream, verdict in zip(made, verdicts, strict=True):
        first = next((number for number, alarm in enumerate(verdict, 1) if alarm), None)
        found.setdefault(stream["change"], []).append(first)
    return found


def _descriptors(reference: Sequence[str], tick: Sequence[str]) -> bool:
    """What a folder of scripts does each day: a KS test at 0.05 and a PSI over 0.2 on lengths in letters and words."""
    for measure in (len, lambda text: len(text.split())):
        before, now = [measure(text) for text in reference], [measure(text) for text in tick]
        edges = np.unique(np.quantile(before, np.linspace(0.1, 0.9, 9)))
        p, q = (np.bincount(np.searchsorted(edges, v), minlength=len(edges) + 1) / len(v) + 1e-4 for v in (before, now))
        if ks_2samp(before, now).pvalue < 0.05 or float(((q - p) * np.log(q / p)).sum()) > 0.2:
            return True
    return False


def _met(found: Mapping[str, Any]) -> bool:
    quick_enough = all(found[f"median ticks, {change.name}"] <= most for change, most in NAMES.items())
    quiet = all(rate <= FALSE_YEARS for name, rate in found.items() if name.startswith("years with a false alarm"))
    cheap = found["CPU ms a tick of 200 rows"] < TICK_MS
    return bool(
        quick_enough and quiet and cheap and found["CPU ms after 1,000 ticks over those of the first"] <= 1 + GROWTH
    )


def _texts(embedder: Embedder, questions: list[str], labels: list[str]) -> Texts:
    return Texts(np.array(questions), np.array(labels), embedder.embed(questions))


def _banking(data: Path, most: int | None) -> tuple[list[str], list[str]]:
    rows = [row for name in ("train", "test") for row in csv.DictReader((data / f"{name}.csv").open(encoding="utf-8"))]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:most]]
    return [row["text"] for row in rows], [row["category"] for row in rows]


def _evals(name: str, most: int | None) -> tuple[list[str], list[str]]:
    lines = package_file(EVALS.format(name), EVALS_SHA256, _cache(), print).read_text(encoding="utf-8").splitlines()
    inputs = [json.loads(line)["input"] for line in lines]
    questions = sorted({row if isinstance(row, str) else row[-1]["content"] for row in inputs})
    questions = [questions[i] for i in np.random.default_rng(0).permutation(len(questions))[:most]]
    return questions, [""] * len(questions)


def _cache() -> Path:
    return ROOT / ".finetune" / "cache"
