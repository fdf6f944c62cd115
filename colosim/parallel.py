"""Many independent pieces of work on all cores, with progress and a clean Ctrl-C (joblib, rich)."""

from __future__ import annotations

import multiprocessing.resource_tracker
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread, current_thread, main_thread
from typing import Any, TypeVar

from colosim.progress import Progress, reporter

T = TypeVar("T")

#: starting worker processes takes about as long; less work than this is done here
WORTHWHILE_S = 3.0


def check_jobs(jobs: object) -> None:
    """Raise ValueError unless this is a number of processes, or None."""
    if jobs is not None and not (isinstance(jobs, int) and jobs >= 1):
        raise ValueError(f"jobs: {jobs!r} is no number of processes; give 1 or more, or None")


def cores() -> int:
    """How many cores this process may use: fewer than the machine's in a container or batch job."""
    from joblib import cpu_count

    return int(cpu_count())


def run(
    function: Callable[..., T],
    arguments: Sequence[tuple[Any, ...]],
    jobs: int | None = None,
    progress: Progress | None = None,
    what: str = "",
) -> Iterator[T]:
    """Yield ``function(*each)`` for each of ``arguments`` as they complete, in any order.

    jobs: processes; None takes all cores once the work turns out to be worth it.
    progress: told of every piece done; None draws a bar named ``what`` on stderr if that is a
    terminal.  Ctrl-C raises KeyboardInterrupt here; what was yielded before is complete.
    """
    with reporter(progress, what, len(arguments)) as report:
        report(0, len(arguments))
        for done, result in enumerate(_results(function, arguments, jobs), 1):
            report(done, len(arguments))
            yield result


def _results(
    function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int | None
) -> Iterator[T]:
    pending, done, started_s = deque(arguments), 0, time.monotonic()

    def is_worthwhile() -> bool:
        mean_s = (time.monotonic() - started_s) / max(done, 1)
        return mean_s * len(pending) > WORTHWHILE_S

    while pending and (jobs == 1 or (jobs is None and not (done and is_worthwhile()))):
        yield function(*pending.popleft())
        done += 1
    if pending:
        from joblib import Parallel, delayed

        parallel = Parallel(
            n_jobs=jobs or -1,
            return_as="generator_unordered",
            initializer=prepare_worker,
            initargs=(os.getpid(),),
        )
        # what Ctrl-C leaves undone is no news to who pressed it
        warnings.filterwarnings("ignore", r"\d+ tasks which were still being", UserWarning)
        leave_loky_unheard()
        with no_ctrl_c():
            results = parallel(delayed(function)(*each) for each in pending)
        yield from results


@contextmanager
def no_ctrl_c() -> Iterator[None]:
    """Workers that are started within never see Ctrl-C; this process does, at the end.

    `prepare_worker` is too late for those that it meets on their way up: each shows a traceback.
    So do those that are not told what they are to do, for Ctrl-C met this process meanwhile.
    """
    from joblib.externals.loky.backend import resource_tracker

    for tracker in (resource_tracker, multiprocessing.resource_tracker):
        tracker.ensure_running()  # which lets signals through again when it starts one
    is_main = current_thread() is main_thread()  # no other may say what a signal does
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda *_: came.append(1)) if is_main else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_main:
            signal.signal(signal.SIGINT, handler)
    if came:
        raise KeyboardInterrupt


class _ButLoky:
    """A hook for what ends threads, which passes on all but loky's own KeyError."""

    def __init__(self, before: Callable[[threading.ExceptHookArgs], Any]) -> None:
        self._before = before

    def __call__(self, told: threading.ExceptHookArgs) -> None:
        name = "" if told.thread is None else told.thread.name
        if told.exc_type is not KeyError or not name.startswith("ExecutorManagerThread"):
            self._before(told)


def leave_loky_unheard() -> None:
    """From now on nobody is told of the KeyError that ends a thread of loky.

    It comes where workers are killed while tasks wait, perhaps after all else has ended.
    """
    if not isinstance(threading.excepthook, _ButLoky):
        threading.excepthook = _ButLoky(threading.excepthook)


def prepare_worker(parent: int) -> None:
    """Ctrl-C is for the parent, which ends its workers; a parent that was killed cannot.

    parent: its process id.  It may have gone while this worker came up.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
