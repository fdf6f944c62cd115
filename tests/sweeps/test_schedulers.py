"""Whoever runs a sweep, its dataset is the same; a scheduler that cannot is told in one line."""

import asyncio
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import backends
import colosim
from colosim import parallel, store, sweeps
from colosim.sweeps import schedulers
from colosim.sweeps.dataset import Piece
from colosim.sweeps.schedulers import WorkerLost
from colosim.sweeps.working import OtherCode, run_pieces
from tests.sweeps.workers import BASE, SWEEP, contents, die, square, wait_for, workers

DASK_SCHEDULER = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
DASK_WORKER = [
    *(sys.executable, "-m", "distributed.cli.dask_worker"),
    *("--nthreads", "1", "--no-dashboard"),
]

needs_dask = pytest.mark.skipif(not find_spec("distributed"), reason="there is no Dask")
needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="there is no Ray")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "out"
    sweeps.run(sweeps.plan(SWEEP), out, 1)
    return contents(out)


@pytest.fixture(scope="module")
def dask():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ray():
    """Ray gives itself 30 s to start, which a busy machine may take."""
    import ray

    for last in (False, False, True):
        try:
            ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
            break
        except Exception:
            ray.shutdown()
            if last:
                raise
    yield ray
    ray.shutdown()


# -- the same dataset ----------------------------------------------------------------------------


def test_two_processes(reference, tmp_path):
    sweeps.run(sweeps.plan(SWEEP), tmp_path / "out", 2)
    assert contents(tmp_path / "out") == reference


@needs_dask
def test_a_dask_cluster(dask, reference, tmp_path):
    outcome = sweeps.run(sweeps.plan(SWEEP), tmp_path / "out", scheduler=dask.scheduler_address)
    assert (outcome.finished, outcome.failures) == (6, {})
    assert contents(tmp_path / "out") == reference


@needs_dask
def test_a_dask_worker_that_is_killed_costs_nothing_but_time(dask, tmp_path):
    from distributed import Client

    with Client(dask.scheduler_address, set_as_default=False) as client:
        pids = client.run(os.getpid)
    killed: list[int] = []

    def kill(done, total):
        if done == 2 and not killed:
            killed.append(next(iter(pids.values())))
            os.kill(killed[0], signal.SIGKILL)

    grid = SWEEP | {"axes": {"seed": list(range(8))}}
    outcome = sweeps.run(
        sweeps.plan(grid), tmp_path / "out", progress=kill, scheduler=dask.scheduler_address
    )
    assert killed
    assert (outcome.finished, outcome.failures) == (16, {})
    sweeps.run(sweeps.plan(grid), tmp_path / "undisturbed", 1)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


@needs_ray
@pytest.mark.campaign
def test_ray(ray, reference, tmp_path):
    outcome = sweeps.run(sweeps.plan(SWEEP), tmp_path / "out", scheduler="ray")
    assert (outcome.finished, outcome.failures) == (6, {})
    assert contents(tmp_path / "out") == reference
    assert ray.is_initialized()  # it is not ours to end


@needs_ray
@pytest.mark.campaign
def test_a_ray_worker_that_is_killed_is_a_lost_one(ray):
    with schedulers.opened("ray") as scheduler:
        lost, well = scheduler.submit(die), scheduler.submit(square, 3)
        _wait_for_all(scheduler, [lost, well])
        assert scheduler.result(well) == 9
        with pytest.raises(WorkerLost):
            scheduler.result(lost)


def _wait_for_all(scheduler, handles):
    left = list(handles)
    while left:
        done = list(scheduler.wait(left))
        left = [handle for handle in left if handle not in done]


# -- workers that are lost -----------------------------------------------------------------------


def test_a_killed_process_is_a_lost_worker_and_another_takes_its_place():
    with schedulers.opened("processes", 2) as scheduler:
        lost = scheduler.submit(die)
        _wait_for_all(scheduler, [lost])
        with pytest.raises(WorkerLost):
            scheduler.result(lost)
        well = scheduler.submit(square, 3)
        _wait_for_all(scheduler, [well])
        assert scheduler.result(well) == 9


def test_what_was_lost_with_a_worker_is_run_again(reference, tmp_path):
    killed: list[int] = []

    def kill(done, total):
        if done == 1 and not killed:
            killed.extend(wait_for(_workers))
            os.kill(killed[0], signal.SIGKILL)

    outcome = sweeps.run(sweeps.plan(SWEEP), tmp_path / "out", 2, progress=kill)
    assert killed
    assert (outcome.finished, outcome.failures) == (6, {})
    assert contents(tmp_path / "out") == reference


def _workers():
    """Worker processes of loky below this one."""
    return workers(os.getpid())


@dataclass(eq=False)
class _Handle:
    function: Any
    versions: Any
    blob: bytes


class _Losing:
    """A scheduler that loses the worker of every task that a point is in."""

    workers = slots = 2

    def __init__(self, point):
        self.point = point
        self.lost = []

    def submit(self, function, versions, blob):
        return _Handle(function, versions, blob)

    def wait(self, handles):
        return handles[:1]

    def result(self, handle):
        points = [piece.point for _, piece in pickle.loads(handle.blob)[1]]
        if self.point in points:
            self.lost.append(points)
            raise WorkerLost("killed")
        return handle.function(handle.versions, handle.blob)


def test_a_point_that_kills_its_worker_fails_alone(tmp_path, monkeypatch):
    losing = _Losing(3)
    monkeypatch.setattr(schedulers, "opened", lambda name, jobs: nullcontext(losing))
    outcome = sweeps.run(sweeps.plan(SWEEP), tmp_path / "out")
    [(point, why)] = outcome.failures.items()
    assert point == str(sweeps.plan(SWEEP).points[3])
    assert why == "its worker was lost, twice (killed)"
    assert outcome.finished == 5
    assert losing.lost[-1] == [3]


# -- other code ----------------------------------------------------------------------------------


def test_a_worker_with_other_code_refuses_before_it_reads_anything():
    versions = {**store.versions(), "code": "0123", "numpy": "1.0"}
    with pytest.raises(OtherCode, match=r"code \w+, numpy \S+ there and code 0123, numpy 1.0 here"):
        run_pieces(versions, b"not even a pickle")


@needs_dask
@pytest.mark.campaign
def test_a_dask_worker_with_other_code_is_refused(tmp_path):
    from distributed import LocalCluster

    for package in (colosim, backends):
        root = Path(str(package.__file__)).parent
        shutil.copytree(root, tmp_path / "other" / root.name)
    with (tmp_path / "other" / "colosim" / "units.py").open("a") as file:
        file.write("# another version\n")
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        worker = subprocess.Popen(
            [*DASK_WORKER, cluster.scheduler_address, "--local-directory", str(tmp_path / "w")],
            env=os.environ | {"PYTHONPATH": str(tmp_path / "other")},
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        try:
            with pytest.raises(sweeps.SweepError, match="a worker has other code: code ") as caught:
                sweeps.run(
                    sweeps.plan(SWEEP), tmp_path / "out", scheduler=cluster.scheduler_address
                )
        finally:
            worker.kill()
            worker.wait()
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "out") == {}


def test_a_part_of_other_code_is_not_mixed_in(tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    sweeps.run(sweeps.plan(SWEEP), out, 1)
    sweeps.run(sweeps.plan(SWEEP | {"seed": 7}), other, 1)
    name = Piece(1, 0, 3).file
    (other / name).replace(out / name)
    with pytest.raises(sweeps.SweepError, match=rf"{name}: is a part of another sweep"):
        sweeps.run(sweeps.plan(SWEEP), out, 1)


def test_a_part_that_is_not_whole_is_run_again(reference, tmp_path):
    out = tmp_path / "out"
    sweeps.run(sweeps.plan(SWEEP), out, 1)
    for number, cut in ((1, b""), (2, reference[Piece(2, 0, 3).file][:-20])):
        (out / Piece(number, 0, 3).file).write_bytes(cut)
    outcome = sweeps.run(sweeps.plan(SWEEP), out, 1)
    assert (outcome.reused, outcome.finished) == (4, 2)
    assert contents(out) == reference


def test_processes_are_as_many_as_this_one_may_use_cores(monkeypatch):
    monkeypatch.setattr(parallel, "WORTHWHILE_S", 0)  # processes are worth it at once
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with schedulers.opened("processes") as scheduler:
            assert (scheduler.workers, scheduler.slots) == (1, 1)
    finally:
        os.sched_setaffinity(0, allowed)


# -- schedulers that cannot be used --------------------------------------------------------------


@pytest.fixture
def mute():
    """A port where something listens that is no scheduler: it says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def refused(out, name, jobs=None):
    with pytest.raises(sweeps.SweepError) as caught:
        sweeps.run(sweeps.plan(SWEEP | {"scenario": BASE}), out, jobs, scheduler=name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_scheduler(tmp_path):
    text = refused(tmp_path / "out", "slurm")
    assert text.startswith("scheduler 'slurm' is unknown; use processes, tcp://HOST:PORT (Dask)")
    assert not (tmp_path / "out").exists()


def test_jobs_are_of_this_machine(tmp_path):
    assert "give one of the two" in refused(tmp_path / "out", "tcp://127.0.0.1:9", 2)


@needs_dask
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "tcp://127.0.0.1", "tcp://:x"])
def test_no_dask_there(tmp_path, address, monkeypatch):
    monkeypatch.setattr(schedulers, "CONNECT_S", 0.5)
    text = refused(tmp_path / "out", address)
    assert text.startswith(f"scheduler {address}: no Dask scheduler answers there: ")


@needs_dask
def test_something_else_there(tmp_path, mute, monkeypatch):
    monkeypatch.setattr(schedulers, "CONNECT_S", 0.5)
    assert "no Dask scheduler answers there" in refused(tmp_path / "out", f"tcp://{mute}")


@needs_dask
def test_a_cluster_without_workers(tmp_path, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(schedulers, "NO_WORKERS_S", 1.0)
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        text = refused(tmp_path / "out", cluster.scheduler_address)
    assert "no worker for 1 s; start some" in text


@needs_dask
@pytest.mark.campaign
def test_a_scheduler_that_is_killed_half_way(tmp_path):
    """The client tries for half a minute to find it again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    quiet = {"stderr": subprocess.DEVNULL, "cwd": tmp_path}
    address = f"tcp://127.0.0.1:{port}"
    scheduler = subprocess.Popen(
        [*DASK_SCHEDULER, "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], **quiet
    )
    path = os.pathsep.join(filter(None, sys.path))
    worker = subprocess.Popen(
        [*DASK_WORKER, address], env=os.environ | {"PYTHONPATH": path}, **quiet
    )
    try:
        wait_for(lambda: _listens(port))
        out = tmp_path / "out"
        plan = sweeps.plan(SWEEP | {"axes": {"seed": list(range(40))}})

        def kill(done, total):
            if done == 2:
                scheduler.kill()

        with pytest.raises(sweeps.SweepError, match=r"was lost .* the finished points are kept"):
            sweeps.run(plan, out, progress=kill, scheduler=address)
        kept = len(contents(out))
        assert kept >= 2
        assert sweeps.run(plan, out, 1).reused == kept
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()


def _listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "module"), [("tcp://127.0.0.1:9", "distributed"), ("ray", "ray"), ("ray://a:1", "ray")]
)
def test_a_missing_library_is_one_line(tmp_path, name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    text = refused(tmp_path / "out", name)
    assert text.startswith(f"scheduler {name}: {module} is missing here (")
    assert text.endswith("pip install 'colosim[cluster]'")


@needs_ray
@pytest.mark.campaign
@pytest.mark.skipif(not find_spec("grpc"), reason="ray[client] is not installed")
def test_no_ray_there(tmp_path):
    """In a process of its own: this one may be connected to one."""
    ask = "from colosim.sweeps import schedulers; schedulers._Ray('ray://127.0.0.1:9', None)"
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, capture_output=True, timeout=120, check=False
    )
    assert "SweepError: scheduler ray://127.0.0.1:9: no Ray answers there" in done.stderr.decode()


@needs_ray
@pytest.mark.campaign
def test_another_ray_than_the_one_there_is(ray, tmp_path):
    text = refused(tmp_path / "out", "ray://127.0.0.1:9")
    assert 'is connected to a Ray already; give "ray" for that one' in text


def test_a_ray_that_is_gone_is_not_waited_for(tmp_path, monkeypatch):
    """Ray itself waits for minutes."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert schedulers._address_for_ray("ray") is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "{}:{}".format(*server.getsockname())
        left = tmp_path / "ray" / "ray_current_cluster"
        left.parent.mkdir()
        left.write_text(address)
        assert schedulers._address_for_ray("ray") is None
    assert schedulers._address_for_ray("ray") == "local"
    assert schedulers._address_for_ray("ray://a:1") == "ray://a:1"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(sweeps.SweepError, match=f"nobody listens at {address}, which RAY_ADDRESS"):
        schedulers._address_for_ray("ray")
    for other in ("auto", "local", "ray://a:1"):
        monkeypatch.setenv("RAY_ADDRESS", other)
        assert schedulers._address_for_ray("ray") is None


def test_a_notebook_with_a_loop_of_its_own_may_ask_for_dask(tmp_path, monkeypatch):
    """`asyncio.run` does not work where a loop runs already."""
    if not find_spec("distributed"):
        pytest.skip("there is no Dask")
    monkeypatch.setattr(schedulers, "CONNECT_S", 0.5)

    async def cell():
        return refused(tmp_path / "out", "tcp://127.0.0.1:9")

    assert "no Dask scheduler answers there: Timed out" in asyncio.run(cell())
