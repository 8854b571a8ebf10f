"""What does the gateway add to a request? Beside LiteLLM's proxy, on the same stub upstream, in one run.

    python bench/gateway.py            # about five minutes; writes bench/results/gateway.json
    python bench/gateway.py --quick    # half a minute, the same code

300 requests a second arrive at random moments (open loop: a slow answer delays no other request) at the stub itself and
at the gateway with every interaction logged, in turns. The overhead is the difference of the quantiles. LiteLLM's proxy
does not keep up with that on two cores: the three are compared at 30 a second, and a burst tells the most it can do.
It is installed into an environment of its own (bench/peers/litellm-requirements.txt); where that fails a line says so.
`--json` prints one object on the last line.
"""

import argparse
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import uvloop
import yaml
from open_loop import load
from reporting import finish

HERE = Path(__file__).parent
RATE, PEER_RATE = 300, 30
"""Requests a second: what the targets are about, and what a peer can keep up with."""

PROMPT = "This Agreement is made between Silicon Valley Bank, a California corporation, and the Borrower. " * 2
TARGETS = {"gateway overhead p50 ms": "< 2", "gateway overhead p99 ms": "< 15", "gateway errors": "0"}


@dataclass
class Place:
    """A server that answers chats, and what became of those sent to it."""

    url: str
    model: str
    key: str
    keeps_up: bool = True
    sent: int = 0
    errors: int = 0

    def send(self, rate: float, seconds: float) -> list[float]:
        """Latencies in ms of chat completions that arrive at random moments."""
        body = orjson.dumps({"model": self.model, "messages": [{"role": "user", "content": PROMPT}], "temperature": 0})
        times, failed = uvloop.run(load(f"{self.url}/v1/chat/completions", self.key, body, rate, seconds))
        self.sent += len(times) + failed
        self.errors += failed
        return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rounds, without LiteLLM")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as name:
        folder = Path(name)
        with ExitStack() as stack:
            places = start(stack, folder, with_litellm=not args.quick)
            result = measure(places, 2 if args.quick else 5, 4 if args.quick else 12)
        # The gateway has ended: what it logged is in the lake.
        rows = result["figures"]["gateway interactions logged"] = logged(folder)
        result["ok"] &= rows == result["figures"]["gateway requests"]
    finish(result, args.quick, args.json, ("fastapi", "uvicorn", "httptools", "orjson", "pydantic"))


def start(stack: ExitStack, folder: Path, with_litellm: bool) -> dict[str, Place]:
    """Starts the stub, the gateway and LiteLLM."""
    stub = free_port()
    stack.enter_context(running([sys.executable, str(HERE / "stub_upstream.py"), str(stub)], {}, folder, "stub"))
    wait_for(f"http://127.0.0.1:{stub}/v1/models")
    places = {"stub": Place(f"http://127.0.0.1:{stub}", "stub", "none")}
    places["gateway"] = stack.enter_context(our_gateway(folder, stub))
    peer = litellm_environment() if with_litellm else None
    if peer is not None:
        places["litellm"] = stack.enter_context(litellm(peer, folder, stub))
    return places


def measure(places: dict[str, Place], rounds: int, seconds: int) -> dict[str, Any]:
    """What the gateway adds; beside it what the peer adds, where there is one."""
    for place in places.values():
        place.send(rate=50 if place.keeps_up else 10, seconds=2)
    fast = {name: place for name, place in places.items() if place.keeps_up}
    figures: dict[str, Any] = {"requests a second": RATE, **overheads(fast, RATE, rounds, seconds)}
    if "litellm" in places:
        slow = overheads(places, PEER_RATE, 3, seconds)
        figures |= {f"{what}, {PEER_RATE} a second": figure for what, figure in slow.items()}
        for q in ("p50", "p99"):
            ratio = slow[f"litellm overhead {q} ms"] / slow[f"gateway overhead {q} ms"]
            figures[f"litellm overhead / gateway overhead, {q}, {PEER_RATE} a second"] = round(ratio, 1)
        started = time.perf_counter()
        answered = len(places["litellm"].send(RATE, seconds=3))
        figures["litellm requests a second at most"] = round(answered / (time.perf_counter() - started))
    for name, place in places.items():
        figures |= {f"{name} requests": place.sent, f"{name} errors": place.errors}
    met = figures["gateway overhead p50 ms"] < 2 and figures["gateway overhead p99 ms"] < 15
    return {
        "name": "gateway",
        "figures": figures,
        "targets": TARGETS,
        "ok": met and places["gateway"].errors == 0,
    }


def overheads(places: dict[str, Place], rate: float, rounds: int, seconds: int) -> dict[str, float]:
    """Rounds of every place in turns: medians of the rounds' quantiles, and what they exceed the stub's by."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in places}
    for number in range(rounds):
        for name, place in places.items():
            times = place.send(rate, seconds)
            seen[name].append({"p50": quantile(times, 0.5), "p99": quantile(times, 0.99)})
            print(f"{rate} a second, round {number + 1}/{rounds}, {name}: {seen[name][-1]} ms", flush=True)
    figures: dict[str, float] = {}
    middle = {n: {q: statistics.median(r[q] for r in rs) for q in ("p50", "p99")} for n, rs in seen.items()}
    for name in places:
        for q in ("p50", "p99"):
            figures[f"{name} {q} ms"] = round(middle[name][q], 2)
            if name != "stub":
                figures[f"{name} overhead {q} ms"] = round(middle[name][q] - middle["stub"][q], 2)
    return figures


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)


@contextmanager
def our_gateway(folder: Path, stub: int) -> Iterator[Place]:
    """`finetune serve` on an installation of its own, every interaction logged, and a key for it."""
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "entities.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "entities",
                "description": "Lists entities.",
                "base_model": "./none",
                "system_prompt": "List the entities.",
                "baseline_prompt": "List the named entities of the sentence.",
                "sources": [{"uri": "none.jsonl", "format": "messages"}],
                "evaluation": {"output_pattern": r"^\[.*\]$"},
                "serving": {
                    "engine": {"kind": "openai", "urls": [f"http://127.0.0.1:{stub}/v1"], "model": "stub"},
                    "log_share": 1.0,
                },
            }
        )
    )
    environment = {"FINETUNE_HOME": str(folder / "home"), "TASKS_DIR": str(tasks)}
    command = [sys.executable, "-m", "finetune_platform.cli"]
    made = subprocess.run(
        [*command, "key", "create", "bench", "--task", "entities"],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    key = made.stdout.splitlines()[0]
    port = free_port()
    with running([*command, "serve", "--port", str(port)], environment, folder, "gateway"):
        wait_for(f"http://127.0.0.1:{port}/readyz")
        yield Place(f"http://127.0.0.1:{port}", "entities", key)


def litellm_environment() -> Path | None:
    """Python of an environment with LiteLLM's proxy; made at the first run, None where it cannot be."""
    home = HERE.parent / ".finetune" / "peers" / "litellm"
    python = home / "bin" / "python"
    if not (home / "done").is_file():
        print("installing LiteLLM into an environment of its own", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        requirements = str(HERE / "peers" / "litellm-requirements.txt")
        made = subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", requirements])
        if made.returncode != 0:
            print("LiteLLM does not install here: it is left out")
            return None
        (home / "done").touch()
    return python


@contextmanager
def litellm(python: Path, folder: Path, stub: int) -> Iterator[Place]:
    """LiteLLM's proxy in front of the same stub, with a master key and its logging as it comes."""
    config = folder / "litellm.yaml"
    upstream = {"model": "openai/stub", "api_base": f"http://127.0.0.1:{stub}/v1", "api_key": "none"}
    key = f"sk-{secrets.token_hex(8)}"
    config.write_text(
        yaml.safe_dump(
            {
                "model_list": [{"model_name": "entities", "litellm_params": upstream}],
                "general_settings": {"master_key": key},
            }
        )
    )
    port = free_port()
    command = [str(python.parent / "litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    with running(command, {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}, folder, "litellm"):
        wait_for(f"http://127.0.0.1:{port}/health/liveliness", 120)
        yield Place(f"http://127.0.0.1:{port}", "entities", key, keeps_up=False)


@contextmanager
def running(command: list[str], environment: dict[str, str], folder: Path, name: str) -> Iterator[None]:
    """A server in a process group of its own, stopped at the end."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(url: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def logged(folder: Path) -> int:
    """Rows in the interactions table, once the gateway has told them."""
    from deltalake import DeltaTable

    table = folder / "home" / "lake" / "entities" / "interactions"
    return DeltaTable(str(table)).to_pyarrow_table(columns=["interaction_id"]).num_rows if table.exists() else 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
