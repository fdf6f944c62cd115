"""The SimPy world."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backends.sim.epoch.world import EpochWorld
from backends.sim.packet.world import PacketWorld
from backends.sim.world import SimWorld
from colosim.model.results import RunRecord
from colosim.model.streams import Streams
from colosim.protocol.invariants import EachPair
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
    invariants = EachPair()
    watchers = [*observers, *([invariants.see] if scenario.fault or observers else [])]
    world = WORLDS[scenario.fidelity](
        scenario, policy, Streams(seed, replication), watchers, stepped
    )
    world.run()
    network, recorder = world.network, world.recorder
    batch = isinstance(scenario.workload, BatchJob)
    return RunRecord(
        policy=policy,
        seed=seed,
        replication=replication,
        duration_ns=scenario.duration_ns,
        warm_up_ns=scenario.warm_up_ns,
        responses=network.table(),
        checkpoints=recorder.table(),
        events=recorder.events,
        violations=[str(found) for found in invariants.violations],
        flags=sorted(world.flags),
        counters={
            **recorder.counters,
            "lost_responses": world.lost_responses(),
            "duplicate_responses": network.duplicates,
            "link_bytes": world.link_bytes(),
            "simulated_events": world.clock.events,
            "node_events": sum(session.events for session in world.sessions),
            "cancelled_completions": sum(
                node.cancelled for session in world.sessions for node in session.nodes.values()
            ),
            **world.counters(),
        },
        completion_ns=network.released_ns[0] if batch and network.released_ns else -1,
    )
