"""``python -m experiments.published.plover2018``."""

from experiments.published.command import command
from experiments.published.plover2018.study import STUDY

if __name__ == "__main__":
    command(STUDY)()
