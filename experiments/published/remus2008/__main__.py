"""``python -m experiments.published.remus2008``: fit, predict, print the table, draw the figure."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from experiments.published.remus2008 import experiment, published
from experiments.published.remus2008.rows import show

_WIDTH = 140  # where the output is no terminal


def main() -> int:
    """Exit status: 0, 2 for an ``--out`` that cannot be written, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m experiments.published.remus2008")
    parser.add_argument("--out", type=Path, default=Path("out/remus2008"), help="directory")
    parser.add_argument("--quick", action="store_true", help="short runs, wide intervals")
    arguments = parser.parse_args()
    out: Path = arguments.out
    effort = experiment.QUICK if arguments.quick else experiment.FULL
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    try:
        out.mkdir(parents=True, exist_ok=True)
        result = experiment.run(published.load(), out, effort)
        files = experiment.write(result, out)
    except OSError as error:
        print(f"{out}: {error.strerror}; give a directory that can be written", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing is written", file=sys.stderr)
        return 130
    console.print(f"[bold]{published.SOURCE}[/bold]: what the simulator explains of it\n")
    show(result.rows, console)
    for file in files:
        print(f"written: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
