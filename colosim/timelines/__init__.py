"""A run on one clock, and as a timeline that Perfetto opens.

===============  ================================================================================
``aligning``     a run's trace with all nodes' lines on the clock of the run
``rows``         which row of the table of checkpoints a line of the trace began
``building``     trace and tables into tracks of slices, instants and counters
``perfetto``     tracks into Perfetto's own format
===============  ================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def export(directory: str | Path, out: str | Path | None = None, replication: int = 0) -> Path:
    """Write a run as a timeline for Perfetto; where it was written.

    directory: what ``simulate --out`` or ``live --out`` wrote, with a trace of ``replication``.
    out: file to write, compressed where its name ends with ``.gz``; default
    ``DIRECTORY.perfetto-trace.gz``.  Raises StoreError, one line, if there is no such run or trace,
    or the package ``perfetto`` is missing.
    """
    from colosim.timelines.perfetto import write

    return write(directory, out, replication)
