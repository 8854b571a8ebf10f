"""An environment with Label Studio, beside the repository's own: their pins do not agree.

    python bench/peers/label_studio.py      # a few minutes the first time; prints the environment's interpreter

It lies in `.finetune/peers/label-studio` and is made anew when `label-studio-requirements.txt` changes. Starting the
server belongs to whoever needs one: `BIN/label-studio start …`.
"""

from pathlib import Path

from environments import environment, pip

REQUIREMENTS = Path(__file__).with_name("label-studio-requirements.txt")


def main() -> None:
    print(environment("label-studio", REQUIREMENTS, install))


def install(python: Path) -> None:
    pip(python, "-r", str(REQUIREMENTS))


if __name__ == "__main__":
    main()
