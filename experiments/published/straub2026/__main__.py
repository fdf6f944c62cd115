"""``python -m experiments.published.straub2026``."""

from experiments.published.command import command
from experiments.published.straub2026.study import STUDY

if __name__ == "__main__":
    command(STUDY)()
