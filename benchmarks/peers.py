"""Peers from PyPI: each runs in a process of its own, in whatever Python has it.

So a peer's own requirements (cimba's numba holds numpy back) are not ours.  They come beside the
project with `pip install -e .[bench]`; `--peers PYTHON` names another interpreter.  The process
prints how many of what the model counts were done, seconds of its CPU time, and the peer's version.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks.rounds import Missing, Run

MODULES = {"cimba": "benchmarks.peer_cimba", "salabim": "benchmarks.peer_salabim"}
_ROOT = Path(__file__).resolve().parents[1]
_LIMIT_S = 300


def run_peer(python: str, peer: str, model: str, count: int) -> tuple[int, float, str]:
    """Count, seconds of CPU time, version.  Raises Missing, with the reason, if it is not there."""
    command = [python, "-m", MODULES[peer], model, str(count)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_LIMIT_S, cwd=_ROOT
        )
    except OSError as error:
        raise Missing(f"{python}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Missing(f"{python}: {peer} took longer than {_LIMIT_S} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if f"No module named '{peer}'" in last:
            raise Missing(f"{python} has no {peer}; pip install -e .[bench], or --peers PYTHON")
        raise SystemExit(f"{python}: {peer} does not run: {last}")
    made, spent_s, release = done.stdout.split()
    return int(made), float(spent_s), release


def peer_run(python: str, peer: str, model: str, count: int) -> tuple[Run, str]:
    """A case, and the peer's version; it has run once.  Raises Missing if it is not there."""
    release = run_peer(python, peer, model, max(1, count // 100))[2]

    def run() -> tuple[int, float]:
        return run_peer(python, peer, model, count)[:2]

    return run, release


def add_peers(
    cases: dict[str, Run],
    python: str,
    model: str,
    counts: dict[str, int],
    name: Callable[[str], str] = str,
) -> tuple[dict[str, str], dict[str, str]]:
    """Add a case for each peer of ``counts`` that is there; versions, and reasons of the others."""
    versions, skipped = {}, {}
    for peer, count in counts.items():
        try:
            cases[name(peer)], versions[peer] = peer_run(python, peer, model, count)
        except Missing as missing:
            skipped[peer] = str(missing)
    return versions, skipped
