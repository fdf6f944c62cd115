"""Who runs tasks: processes of this machine (loky), a Dask cluster, or Ray.  One interface.

All three are libraries that somebody keeps well.  Here is only what a sweep needs of them: no more
outstanding than keeps all workers busy, limits on waiting, and which errors mean what.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from colosim import parallel
from colosim.sweeps.errors import SweepError

#: longest wait for a scheduler to answer, and for it to have a worker
CONNECT_S = 10.0
NO_WORKERS_S = 60.0
#: how often it is asked whether it has
_LOOK_S = 2.0

#: outstanding tasks for each worker: one runs, the others are on their way
_AHEAD = 3

Function = Callable[..., Any]


class WorkerLost(Exception):
    """The process that ran a task is gone; the text says what is known."""


class Scheduler(Protocol):
    """Runs tasks somewhere.  Handles are its own; it is used by one thread."""

    @property
    def slots(self) -> int:
        """How many tasks should be outstanding now."""

    @property
    def workers(self) -> int:
        """How many run at a time."""

    def submit(self, function: Function, *arguments: Any) -> Any:
        """Start a task; its handle."""

    def wait(self, handles: Collection[Any]) -> Iterable[Any]:
        """Those that are done, at least one; `SweepError` if there will be none."""

    def result(self, handle: Any) -> Any:
        """What a task that is done returned, or raised; `WorkerLost` if its process was lost."""


@contextmanager
def opened(name: str, jobs: int | None = None) -> Iterator[Scheduler]:
    """The scheduler of that name, see `check`; what was started for it is ended with the block.

    Raises `SweepError`, one line, if there is none, or its library is missing.
    """
    check(name, jobs)
    kind = _kind(name)
    with _quiet(kind.logger):
        scheduler = kind(name, jobs)
        try:
            yield scheduler
        except BaseException:
            scheduler.close(True)
            raise
        else:
            scheduler.close(False)


def check(name: str, jobs: int | None) -> None:
    """Raise `SweepError` unless such a scheduler can be asked for, ValueError for bad ``jobs``."""
    parallel.check_jobs(jobs)
    kind = _kind(name)
    if jobs is not None and kind is not _Processes:
        raise SweepError(
            f"jobs: scheduler {name} has workers of its own; give one of the two, not both"
        )


def _kind(name: str) -> Any:
    for prefixes, kind in _KINDS:
        if name.startswith(prefixes) if prefixes[-1].endswith("/") else name in prefixes:
            return kind
    raise SweepError(
        f"scheduler {name!r} is unknown; use processes, tcp://HOST:PORT (Dask), ray or "
        "ray://HOST:PORT"
    )


def _library(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise SweepError(
            f"scheduler {name}: {module} is missing here ({error}); pip install 'colosim[cluster]'"
        ) from None


def _line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """What a library says beside its errors is not for users of a sweep."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


# --------------------------------------------------------------------------------------------
# Processes of this machine


class _Here:
    """A task that this process has run already."""

    def __init__(self, function: Function, arguments: tuple[Any, ...]) -> None:
        self.value = function(*arguments)


class _Processes:
    """joblib's loky; this process itself for ``jobs`` = 1, and until the work is worth more."""

    logger = "joblib"

    def __init__(self, name: str, jobs: int | None) -> None:
        self._jobs = jobs
        self._most = jobs or parallel.cores()
        self._executor: Any = None
        self._started_s = time.monotonic()

    @property
    def workers(self) -> int:
        return 1 if self._here else self._most

    @property
    def slots(self) -> int:
        return 1 if self._here else _AHEAD * self.workers

    @property
    def _here(self) -> bool:
        if self._most == 1:
            return True
        if self._jobs is not None or self._executor is not None:
            return False
        return time.monotonic() - self._started_s < parallel.WORTHWHILE_S / 2

    def submit(self, function: Function, *arguments: Any) -> Any:
        if self._here:
            return _Here(function, arguments)
        from joblib.externals import loky

        try:
            if self._executor is not None:
                return self._executor.submit(function, *arguments)
        except futures.BrokenExecutor:  # a worker was killed
            self._executor.shutdown(wait=True, kill_workers=True)
        # not loky's reusable one, which is joblib's own
        self._executor = loky.ProcessPoolExecutor(
            self.workers, initializer=parallel.prepare_worker, initargs=(os.getpid(),)
        )
        with parallel.no_ctrl_c():  # the first task starts the workers
            return self._executor.submit(function, *arguments)

    def wait(self, handles: Collection[Any]) -> Iterable[Any]:
        if done := [handle for handle in handles if isinstance(handle, _Here)]:
            return done
        return futures.wait(handles, return_when=futures.FIRST_COMPLETED).done

    def result(self, handle: Any) -> Any:
        if isinstance(handle, _Here):
            return handle.value
        try:
            return handle.result()
        except futures.BrokenExecutor as error:
            raise WorkerLost(_line(error)) from None

    def close(self, at_once: bool) -> None:
        if self._executor is not None:
            parallel.leave_loky_unheard()
            self._executor.shutdown(wait=True, kill_workers=at_once)


# --------------------------------------------------------------------------------------------
# Dask


class _Remote:
    """What a cluster's schedulers share: an eye on the number of workers."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen_s = time.monotonic()
        self._looked_s = 0.0
        self._workers = 0

    @property
    def workers(self) -> int:
        now_s = time.monotonic()
        if now_s - self._looked_s > _LOOK_S:
            self._workers = self._count()
            self._looked_s = time.monotonic()
        if self._workers:
            self._seen_s = now_s
        elif now_s - self._seen_s > NO_WORKERS_S:
            raise SweepError(
                f"scheduler {self._name}: no worker for {NO_WORKERS_S:.0f} s; start some, "
                "and run the same command again"
            )
        return max(self._workers, 1)

    @property
    def slots(self) -> int:
        return _AHEAD * self.workers

    def _count(self) -> int:
        raise NotImplementedError

    def _gone(self, error: object) -> SweepError:
        return SweepError(
            f"scheduler {self._name}: was lost ({error}); the finished points are kept, "
            "run the same command again"
        )

    def _broken(self, error: BaseException) -> SweepError:
        """A task never raises but `SweepError`: what else does is about the worker's code."""
        return SweepError(
            f"scheduler {self._name}: a worker could not begin: {type(error).__name__}: "
            f"{_line(error)}; install the same colosim on all machines"
        )


class _Dask(_Remote):
    """A running Dask cluster, through dask.distributed."""

    logger = "distributed"

    def __init__(self, name: str, jobs: int | None) -> None:
        super().__init__(name)
        self._dask = _library("distributed", name)
        try:
            self._answers()
            self._client = self._dask.Client(
                name, timeout=CONNECT_S, set_as_default=False, name="colosim-sweep"
            )
        except Exception as error:  # of whatever kind: this is not a Dask scheduler
            raise SweepError(
                f"scheduler {name}: no Dask scheduler answers there: {_line(error)}"
            ) from None

    def _answers(self) -> None:
        """Raise unless a scheduler is there.  A client that could not connect takes long to end."""

        async def ask() -> None:
            async with self._dask.rpc(self._name, timeout=CONNECT_S) as there:
                found = await there.identity()
                if found.get("type") != "Scheduler":
                    raise OSError(f"it is a Dask {found.get('type')}")

        # in a thread of its own, for a notebook has a loop already
        with futures.ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, asyncio.wait_for(ask(), CONNECT_S + 1)).result()

    def _count(self) -> int:
        with self._watched():
            return sum(self._client.nthreads().values())

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # also CommClosedError, and "no client found"
            raise self._gone(_line(error)) from None

    def submit(self, function: Function, *arguments: Any) -> Any:
        with self._watched():
            return self._client.submit(function, *arguments, pure=False)

    def wait(self, handles: Collection[Any]) -> Iterable[Any]:
        while True:
            if self._client.status not in ("running", "connecting"):
                raise self._gone(f"its client is {self._client.status}")
            with suppress(TimeoutError), self._cancelled(), self._client.as_current():
                found = self._dask.wait(
                    list(handles), timeout=_LOOK_S, return_when="FIRST_COMPLETED"
                )
                return list(found.done)
            _ = self.workers  # raises when there have been none for too long

    @contextmanager
    def _cancelled(self) -> Iterator[None]:
        try:
            yield
        except (futures.CancelledError, asyncio.CancelledError) as error:
            raise self._gone(_line(error)) from None

    def result(self, handle: Any) -> Any:
        try:
            with self._cancelled():
                return handle.result(timeout=CONNECT_S)
        except self._dask.KilledWorker as error:
            raise WorkerLost(_line(error)) from None
        except SweepError:
            raise
        except OSError as error:  # the connection's
            raise self._gone(_line(error)) from None
        except Exception as error:
            raise self._broken(error) from None
        finally:
            handle.release()

    def close(self, at_once: bool) -> None:
        with suppress(Exception):  # its futures go with it
            self._client.close(timeout=CONNECT_S)


# --------------------------------------------------------------------------------------------
# Ray


def _address_for_ray(name: str) -> str | None:
    """What Ray is told to connect to; None: it looks by itself, and starts one if there is none.

    It waits for minutes for one that is gone, and one that crashed leaves its address in a file.
    """
    if name != "ray":
        return name
    given = os.environ.get("RAY_ADDRESS")
    found = given or _left_by_ray()
    if not found or _listens(found):
        return None
    if given:
        raise SweepError(
            f"scheduler ray: nobody listens at {given}, which RAY_ADDRESS names; "
            "start Ray there, or unset it"
        )
    return "local"


def _left_by_ray() -> str:
    """The address of the cluster that was started last on this machine, where Ray looks for it."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    with suppress(OSError):
        return Path(folder, "ray", "ray_current_cluster").read_text("utf-8").strip()
    return ""


def _listens(address: str) -> bool:
    """Whether somebody does at HOST:PORT; of anything else Ray must say it."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError):
        return False
    return True


class _Ray(_Remote):
    """Ray: the one this process is connected to, else that of RAY_ADDRESS or of this machine, else
    one that is started here and ended with the sweep; with ray://, the cluster there.
    """

    logger = "ray"

    def __init__(self, name: str, jobs: int | None) -> None:
        super().__init__(name)
        # Before Ray is imported: do not retry for long, do not call home, leave accelerators be.
        os.environ.setdefault("RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S", "5")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._ray = _library("ray", name)
        self._mine = not self._ray.is_initialized()
        if self._mine:
            self._connect()
        elif name != "ray":
            raise SweepError(
                f"scheduler {name}: this process is connected to a Ray already; "
                'give "ray" for that one, or call ray.shutdown() first'
            )
        self._remote: dict[Function, Any] = {}

    def _connect(self) -> None:
        import warnings

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        options["address"] = _address_for_ray(self._name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._ray.init(**options)
        except ImportError as error:
            raise SweepError(
                f"scheduler {self._name}: {_line(error)}; pip install 'colosim[cluster]'"
            ) from None
        except Exception as error:  # of whatever kind: there is no cluster
            raise SweepError(
                f"scheduler {self._name}: no Ray answers there: {_line(error)}"
            ) from None

    def _count(self) -> int:
        try:
            return int(self._ray.cluster_resources().get("CPU", 0))
        except Exception as error:  # of whatever kind: the cluster does not answer
            raise self._gone(_line(error)) from None

    def submit(self, function: Function, *arguments: Any) -> Any:
        if function not in self._remote:
            # what was lost is run again by the sweep, alone
            self._remote[function] = self._ray.remote(num_cpus=1, max_retries=0)(function)
        try:
            return self._remote[function].remote(*arguments)
        except Exception as error:  # of whatever kind: the cluster does not answer
            raise self._gone(_line(error)) from None

    def wait(self, handles: Collection[Any]) -> Iterable[Any]:
        while True:
            try:
                done, _ = self._ray.wait(list(handles), num_returns=1, timeout=_LOOK_S)
            except Exception as error:  # of whatever kind: the cluster does not answer
                raise self._gone(_line(error)) from None
            if done:
                return list(done)
            _ = self.workers  # raises when there have been none for too long

    def result(self, handle: Any) -> Any:
        errors = self._ray.exceptions
        lost = (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError)
        try:
            return self._ray.get(handle, timeout=CONNECT_S)
        except lost as error:
            raise WorkerLost(_line(error)) from None
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", error)
            if isinstance(cause, SweepError):
                raise cause from None
            raise self._broken(cause) from None
        except Exception as error:
            raise self._gone(_line(error)) from None

    def close(self, at_once: bool) -> None:
        if self._mine:
            self._ray.shutdown()


_KINDS: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("processes",), _Processes),
    (("tcp://", "tls://"), _Dask),
    (("ray",), _Ray),
    (("ray://",), _Ray),
)
