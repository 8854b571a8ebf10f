"""A real vLLM server on this machine, from the environment that `bench/peers/vllm.py` makes."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
START_S = 600.0
# On a CPU, computing what these adapters do not have (other layers, a higher rank) takes three times as long, bfloat16
# that is not native five times.
OPTIONS = (
    *("--served-model-name", "smollm2", "--dtype", "float32", "--max-model-len", "512", "--enforce-eager"),
    *("--enable-lora", "--max-loras", "4", "--max-lora-rank", "1", "--lora-target-modules", "down_proj"),
)


class RealVllm:
    """One server; `start` after `stop` is a restart on the same port.

    Args:
        model: Folder of the base model.
        log: Where it writes.
    """

    def __init__(self, model: Path, log: Path) -> None:
        script = REPOSITORY / "bench" / "peers" / "vllm.py"
        made = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE, text=True)
        self.python = made.stdout.splitlines()[-1]
        self.model = model
        self.log = log
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> float:
        """Starts it; the seconds until it answered."""
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        command = [self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model), *address]
        environment = {
            **os.environ,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # Pinned to a core that somebody else uses, or with two threads that wait for each other at every barrier
            # on busy cores, a request of 20 ms takes ten seconds.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *OPTIONS],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() - started > START_S:
                raise RuntimeError(f"vLLM did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.5)
        return time.monotonic() - started

    def stop(self) -> None:
        """Kills it with all its processes."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False
