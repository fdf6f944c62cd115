"""``python -m experiments.published.remus2008``: fit, predict, print the table, draw the figure."""

from experiments.published.command import command
from experiments.published.remus2008.experiment import STUDY

if __name__ == "__main__":
    command(STUDY)()
