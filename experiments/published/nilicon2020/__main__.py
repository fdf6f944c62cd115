"""``python -m experiments.published.nilicon2020``."""

from experiments.published.command import command
from experiments.published.nilicon2020.study import STUDY

if __name__ == "__main__":
    command(STUDY)()
