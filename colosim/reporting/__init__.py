"""One self-contained HTML file about a result: verdict, figures, tables, provenance.

============  ===================================================================================
``reading``   what a directory, or a result in memory, holds
``verdicts``  what it comes to, in a sentence or two, with intervals
``sections``  figures and tables
``page``      all of it as HTML, without anything from elsewhere
============  ===================================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from colosim.api import Comparison, Result


def report(source: str | Path | Result | Comparison, out: str | Path | None = None) -> Path:
    """Write a report, one HTML file that needs nothing else; where it was written.

    source: a directory that ``simulate``, ``compare``, ``live``, ``sweep``, ``explore``,
    ``availability`` or ``compare-pcap`` wrote, or a result of `colosim.simulate`, `compare` or
    `live`.
    out: file to write; default ``DIRECTORY-report.html`` beside the directory, or ``report.html``
    here for a result in memory.

    Raises StoreError, one line, for a directory that holds no result, or a damaged one, and for an
    ``out`` that is a file but no report.
    """
    from colosim import store
    from colosim.reporting.page import html
    from colosim.reporting.reading import of_result, read
    from colosim.reporting.sections import document

    if isinstance(source, str | Path):
        found, default = read(source), Path(f"{Path(source).resolve()}-report.html")
    else:
        found, default = of_result(source), Path("report.html")
    target = default if out is None else Path(out)
    store.refuse_other(target, b"<!DOCTYPE html>", "report")
    text = html(document(found))
    with store.new_file(target) as file:
        file.write(text.encode())
    return target


def verdict(result: Result | Comparison) -> str:
    """What came out, as a report says it first: some sentences, with intervals."""
    from colosim.reporting import verdicts
    from colosim.reporting.reading import of_result

    return " ".join(verdicts.of_runs(of_result(result)))
