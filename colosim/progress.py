"""Progress of long work on stderr, where a person looks at it (rich)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

#: told (done, total) of pieces of work
Progress = Callable[[int, int], None]
#: told how a live run goes: (seconds since its begin, seconds that it lasts, a few words)
Watch = Callable[[float, float, str], None]


class Looker(Protocol):
    """Who looks at a live run as it goes on (`colosim.watching.onlooker`)."""

    def looking(self, directory: Path, name: str, duration_ns: int) -> AbstractContextManager[None]:
        """Around a run whose files grow in ``directory``."""
        ...

    def told(self, at_ns: int, node: str, what: str, detail: str) -> None:
        """An event of the run; at_ns by the runner's clock."""
        ...


@contextmanager
def reporter(progress: Progress | None, what: str, total: int) -> Iterator[Progress]:
    """``progress``, or a bar named ``what`` if stderr is a terminal and there is more than one."""
    if progress is not None:
        yield progress
        return
    from rich import progress as rich

    bar = None if total < 2 else _bar(rich.MofNCompleteColumn(), rich.TimeRemainingColumn())
    if bar is None:
        yield lambda done, total: None
        return
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def watcher(watch: Watch | None, what: str) -> Iterator[Watch]:
    """``watch``, or a bar that fills as time passes and says what is known, on a terminal."""
    if watch is not None:
        yield watch
        return
    from rich import progress as rich

    bar = _bar(rich.TextColumn("{task.completed:.0f}/{task.total:.0f} s  {task.fields[words]}"))
    if bar is None:
        yield lambda elapsed_s, duration_s, words: None
        return
    with bar:
        task = bar.add_task(what, total=None, words="", visible=False)

        def show(elapsed_s: float, duration_s: float, words: str) -> None:
            bar.update(task, completed=elapsed_s, total=duration_s, words=words, visible=True)

        yield show


def _bar(*columns: Any) -> Bar | None:
    from rich import progress as rich
    from rich.console import Console

    console = Console(file=sys.stderr)
    # In a notebook rich draws with ipywidgets, and warns at every bar where there is none.
    in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None
    if not (console.is_terminal or in_notebook):
        return None
    first = (rich.TextColumn("{task.description}"), rich.BarColumn())
    return rich.Progress(*first, *columns, console=console, transient=True, refresh_per_second=4)
