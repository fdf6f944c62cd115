"""The SimPy world."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backends.sim.sharing import Shared
from backends.sim.world import SimWorld
from colosim.model.results import RunRecord, together
from colosim.model.streams import Streams
from colosim.protocol.invariants import EachPair
from colosim.scenario import BatchJob, Scenario
from colosim.session import Observer

__all__ = ["SimWorld", "run_replication"]


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
    Of several VMs (`sharing.vms`) they are shown the first; the record is of all together, and has
    each one's own in ``vms``.
    Raises ModelError if a model is asked for what it refuses to say.
    """
    sharing = scenario.sharing
    if sharing.vms == 1 and sharing.cpus is None:
        world, invariants = _world(scenario, policy, Streams(seed, replication), observers, stepped)
        world.run()
        record = _record(world, invariants, scenario, policy, seed, replication)
        _end(world)
        return record
    shared = Shared(scenario)
    made = []
    for vm in range(sharing.vms):
        streams = Streams(seed, replication, vm)
        watching = (observers, stepped) if vm == 0 else ((), None)
        made.append(_world(scenario, policy, streams, *watching, shared, vm))
    for world, _ in made:
        world.begin()
    shared.clock.run(scenario.duration_ns)
    for world, _ in made:
        world.end()
    records = [_record(*each, scenario, policy, seed, replication) for each in made]
    for world, _ in made:
        _end(world)
    return together(records) if sharing.vms > 1 else records[0]


def _world(
    scenario: Scenario,
    policy: str,
    streams: Streams,
    observers: Sequence[Observer],
    stepped: Callable[[str, str], None] | None,
    shared: Shared | None = None,
    vm: int = 0,
) -> tuple[SimWorld, EachPair]:
    """The world of one VM, and what watches it."""
    invariants = EachPair()
    watchers = [*observers, *([invariants.see] if scenario.fault or observers else [])]
    world = SimWorld(scenario, policy, streams, watchers, stepped, shared, vm)
    return world, invariants


def _record(
    world: SimWorld,
    invariants: EachPair,
    scenario: Scenario,
    policy: str,
    seed: int,
    replication: int,
) -> RunRecord:
    network, recorder, disk, output = world.network, world.recorder, world.disk, world.output
    disk.end()
    violated = [str(found) for found in invariants.violations]
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
        violations=[*violated, *disk.violations()],
        flags=sorted(world.flags),
        counters={
            **recorder.counters,
            "lost_responses": output.lost_responses(),
            "duplicate_responses": network.duplicates,
            "link_bytes": world.link_bytes(),
            "simulated_events": world.clock.events,
            "node_events": sum(session.events for session in world.sessions),
            "cancelled_completions": sum(
                node.cancelled for session in world.sessions for node in session.nodes.values()
            ),
            **output.counters(),
            **disk.counters(),
        },
        completion_ns=network.released_ns[0] if batch and network.released_ns else -1,
        disk=disk.table(),
        overlays=disk.overlays(),
    )


def _end(world: SimWorld) -> None:
    """Free what is large at once: it is in rings, and the collector that finds those by and by
    counts objects, not their bytes.
    """
    guests = [host.guest for host in world.hosts.values()]
    parts = (world.output, world.foresight, world.network, world.clock.env)
    for part in (*guests, *parts, world):
        vars(part).clear()
