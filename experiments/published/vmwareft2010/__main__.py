"""``python -m experiments.published.vmwareft2010``."""

from experiments.published.command import command
from experiments.published.vmwareft2010.study import STUDY

if __name__ == "__main__":
    command(STUDY)()
