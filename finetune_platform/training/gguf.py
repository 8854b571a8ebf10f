"""A merged model as one GGUF file, by llama.cpp's own converter, and what the file answers when it is read back.

Reading other people's GGUF files belongs in `inference/gguf_conversion.py`.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_platform.errors import BadInput, PermanentError
from finetune_platform.training.merge import Tokens, answers, quiet

CONVERTER = "convert_hf_to_gguf.py"
OUT_TYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
TOLD_LINES = 5


def find_converter(setting: str) -> list[str]:
    """The command that llama.cpp's converter starts by: as the setting says, else what is on PATH.

    Args:
        setting: `GGUF_CONVERTER`: a script, which runs in this Python, or a Python and the script; "" if not set.

    Raises:
        BadInput: It is at neither place.
    """
    words = shlex.split(setting) if setting else [shutil.which(CONVERTER) or ""]
    missing = [word for word in words if shutil.which(word) is None and not Path(word).is_file()]
    if missing:
        place = f"GGUF_CONVERTER: {missing[0]}: no such file" if setting else f"{CONVERTER} is not on PATH"
        raise BadInput(
            f"{place}, and GGUF files are written by llama.cpp's converter",
            f"get llama.cpp's sources (github.com/ggml-org/llama.cpp) and set GGUF_CONVERTER=…/llama.cpp/{CONVERTER}",
        )
    return words if len(words) > 1 else [sys.executable, *words]


def write_gguf(converter: Sequence[str], merged: Path, file: Path, dtype: str) -> None:
    """Converts a merged model's folder, without quantising it.

    Args:
        converter: As `find_converter` gave it; the `gguf` package is its own.
        merged: The folder, tokenizer included.
        file: To write.
        dtype: The number format of the merged weights.

    Raises:
        PermanentError: The converter failed; with the last lines of what it said.
    """
    command = [*converter, str(merged), "--outfile", str(file), "--outtype", OUT_TYPES[dtype]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.is_file():
        last = " | ".join([line for line in done.stderr.splitlines() if line.strip()][-TOLD_LINES:])
        raise PermanentError(
            f"{' '.join(converter)}: ended with {done.returncode}: {last}",
            "a module is missing: GGUF_CONVERTER='PYTHON SCRIPT' takes a Python with llama.cpp's own requirements; the "
            "architecture is not known: update llama.cpp, or export with --as merged",
        )


def read_back(file: Path, tokenizer: Path, golden: Sequence[Mapping[str, Any]]) -> Tokens | None:
    """What the file answers to the golden prompts, by transformers in float32; None where it cannot read this kind."""
    import torch
    from transformers import AutoModelForCausalLM

    quiet()
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except ValueError as error:
        if "not supported" in str(error):
            return None
        raise
    return answers(model, tokenizer, golden)
