"""``python -m experiments.published.gannet2017``."""

from experiments.published.command import command
from experiments.published.gannet2017.study import STUDY

if __name__ == "__main__":
    command(STUDY)()
