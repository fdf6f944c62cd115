"""The SimPy world."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backends.sim.epoch.world import EpochWorld
from backends.sim.packet.world import PacketWorld
from backends.sim.world import SimWorld
from colosim.model.results import RunRecord
from colosim.model.streams import Streams
from colosim.protocol.invariants import ALL
from colosim.scenario import BatchJob, Scenario
from colosim.session import Observer

__all__ = ["SimWorld", "run_replication"]

#: by fidelity
WORLDS: dict[str, type[SimWorld]] = {
    "response": SimWorld,
    "packet": PacketWorld,
    "epoch": EpochWorld,
}


def run_replication(
    scenario: Scenario,
    policy: str,
    seed: int,
    replication: int,
    observers: Sequence[Observer] = (),
    stepped: Callable[[str, str], None] | None = None,
) -> RunRecord:
    """Simulate one replication; the same arguments give the same record, bit for bit.

    Invariants are watched where something can break them or somebody looks: in scenarios with
    faults, and whenever there are ``observers`` (each is called with every trace line).
    ``stepped`` is called with (node, step) for every step that a node enters or passes through.
    Raises ModelError if a model is asked for what it refuses to say.
    """
    invariants = [invariant() for invariant in ALL] if scenario.fault or observers else []
    watchers = [*observers, *(invariant.see for invariant in invariants)]
    world = WORLDS[scenario.fidelity](
        scenario, policy, Streams(seed, replication), watchers, stepped
    )
    world.run()
    network, recorder = world.network, world.recorder
    batch = isinstance(scenario.workload, BatchJob)
    record = RunRecord(
        policy=policy,
        seed=seed,
        replication=replication,
        duration_ns=scenario.duration_ns,
        warm_up_ns=scenario.warm_up_ns,
        responses=network.table(),
        checkpoints=recorder.table(),
        events=recorder.events,
        violations=[str(found) for each in invariants for found in each.violations],
        flags=sorted(world.flags),
        counters={
            **recorder.counters,
            "lost_responses": world.lost_responses(),
            "duplicate_responses": network.duplicates,
            "link_bytes": world.link_bytes(),
            "simulated_events": world.clock.events,
            "node_events": world.session.events,
            "cancelled_completions": sum(n.cancelled for n in world.session.nodes.values()),
            **world.counters(),
        },
        completion_ns=network.released_ns[0] if batch and network.released_ns else -1,
    )
    _end(world)
    return record


def _end(world: SimWorld) -> None:
    """Free what is large at once: it is in rings, and the collector that finds those by and by
    counts objects, not their bytes.
    """
    guests = [host.guest for host in world.hosts.values()]
    for part in (*guests, world.network, world.clock.env, world):
        vars(part).clear()
