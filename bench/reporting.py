"""What every bench script does with its figures: print them, keep those of a full run, exit by the targets."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def finish(result: dict[str, Any], quick: bool, as_json: bool, packages: Sequence[str]) -> None:
    """Ends a script.

    Args:
        result: `name`, `figures`, `targets` and `ok`.
        quick: A short run, which is not kept and whose targets decide nothing.
        as_json: One object on the last line.
        packages: Whose versions matter.
    """
    for name, figure in result["figures"].items():
        print(f"{name:<70} {figure}")
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{result['name']}.json"
        path.write_text(json.dumps({**result, "machine": machine(packages)}, indent=2) + "\n")
        print(f"written to {path}")
    print(json.dumps(result) if as_json else f"ok: {result['ok']}")
    sys.exit(0 if result["ok"] or quick else 1)


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        **{name: version(name) for name in packages},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
