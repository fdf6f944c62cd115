"""``python -m experiments.published.rrc2022``."""

from experiments.published.command import command
from experiments.published.rrc2022.study import STUDY

if __name__ == "__main__":
    command(STUDY)()
