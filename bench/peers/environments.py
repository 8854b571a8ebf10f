"""Environments beside the repository's own, for servers and peers whose pins do not agree with ours.

Each lies in `.finetune/peers/` and is made anew when its requirements change. What goes into one belongs in the script
that is named after it.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HOME = Path(__file__).parents[2] / ".finetune" / "peers"


def environment(name: str, requirements: Path, install: Callable[[Path], None]) -> Path:
    """The interpreter of a complete environment, made if there is none for these requirements.

    Args:
        name: Its folder in `HOME`.
        requirements: A change of this file makes it anew.
        install: Puts everything into a new environment, whose interpreter it is given.
    """
    home = HOME / name
    python = home / "bin" / "python"
    made = home / "made-from"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if made.exists() and made.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    print(f"making {home} (minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    install(python)
    made.write_text(wanted, encoding="utf-8")
    return python


def pip(python: Path, *arguments: str) -> None:
    """Installs into an environment; what pip says goes to stderr."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)
