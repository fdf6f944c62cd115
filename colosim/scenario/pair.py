"""The tables of the pair: how two guests run, differ, are compared, linked and managed."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, create_model

from colosim.model.cost import Costs
from colosim.model.disk import Device
from colosim.protocol.compare import ELSEWHERE, MODES
from colosim.protocol.types import Arbiter
from colosim.section import (
    Bandwidth,
    Count,
    Duration,
    OneOf,
    Quantity,
    Rate,
    Ratio,
    Section,
    Size,
    Time,
    number,
    option,
    shape,
)
from colosim.units import SIZE


class Execution(Section):
    """How the two guests run beside each other."""

    jitter: Annotated[float, number("relative standard deviation", high=10.0)] = option(
        0.05, "spread of the secondary's service times around the primary's (lognormal, mean 1)"
    )
    executes: bool = option(True, "the secondary's guest runs between checkpoints")
    secondary_speed: Annotated[float, number("times the primary's", 0.01, 100.0)] = option(
        1.0, "speed of the secondary's CPU: its guest needs 1/speed of the primary's time"
    )
    start_skew_ns: Time = option(
        "0 s", "how much later than the protocol holds the secondary's guest really runs, mean"
    )
    start_skew_spread: Annotated[float, number("relative standard deviation", high=10.0)] = option(
        0.0, "of start_skew from one start to the next (lognormal)"
    )


class Divergence(Section):
    """When the secondary's responses differ from the primary's."""

    probability: Ratio = option(0.0, "chance that a response differs, each on its own")
    hazard_per_s: Rate = option(
        "0 /s", "rate at which the guests' states part for good, until the next synchronisation"
    )
    connection_probability: Ratio = option(
        0.0,
        "chance that the first response of a connection differs (packet.requests_per_connection)",
    )
    unprompted_per_s: Rate = option(
        "0 /s",
        "rate at which the guests say different things that nobody asked for, while both run",
    )
    pair_hazard_per_s: Rate = option(
        "0 /s",
        "rate at which the states part by two requests that are served at once, for each pair of "
        "them: with b vCPUs busy, b (b - 1) / 2 times this beside hazard; to be fitted",
    )
    timed: Ratio = option(0.0, "part of the responses that say what time it is")
    clock_offset_ns: Time = option("0 s", "by how much the secondary's clock is ahead")
    clock_resolution_ns: Duration = option(
        "1 s", "step of the time that a response says (1 s: as in HTTP's Date)"
    )


class Compare(Section):
    """How the packets of both guests are compared, for a policy that wants it."""

    mode: Annotated[str, OneOf((*MODES, ELSEWHERE))] = option(
        "strict",
        "strict: colosim's rules; qemu: those of QEMU's colo-compare, defects included; "
        "colo-compare: QEMU's object itself",
    )
    rewriter: Literal["strict", "qemu"] = option(
        "strict",
        "who translates the secondary's TCP sequence numbers: colosim or QEMU's filter-rewriter",
    )
    queue_frames: Count = option(1024, "most frames held of one connection and guest")
    scan_cycle_ns: Duration | None = option(
        None,
        "colo-compare and mode qemu: how often they look for output older than compare_timeout; "
        "default a quarter of that, and 1 s in mode qemu",
    )


class Packet(Section):
    """What clients and guests say at fidelity packet, and how alike two guests say it."""

    transport: Literal["tcp", "udp"] = option("tcp", "what requests and responses go by")
    request_bytes: Annotated[int, Quantity(SIZE, 12)] = option("100 B", "size of a request")
    requests_per_connection: Annotated[int, number("requests")] = option(
        0, "TCP: requests of a connection before it is closed; 0: it is kept"
    )
    closes: Literal["client", "guest"] = option("client", "TCP: who closes first")
    mss_bytes: Annotated[int, Quantity(SIZE, 64)] = option("1448 B", "TCP: largest segment")
    window_bytes: Size = option("65535 B", "TCP: most that may be under way to either end")
    delayed_ack_ns: Time = option(
        "40 ms", "TCP: longest wait before an acknowledgement; every second segment gets one"
    )
    ack_jitter_ns: Time = option(
        "0 s", "TCP: mean of a further, exponential wait, drawn by each guest for itself"
    )
    split: Ratio = option(
        0.0, "TCP: chance that a guest writes a response in two parts, each guest for itself"
    )
    datagrams: Count = option(1, "UDP: datagrams of a response, which share its size")
    gap_ns: Time = option("10 us", "UDP: guest's time from one datagram of a client to the next")
    retry_ns: Duration = option("1 s", "UDP: when a client without an answer asks again")


class ClientNetwork(Section):
    """What happens to frames between clients and guests, at fidelity packet; each way alike."""

    loss: Ratio = option(0.0, "chance that a frame is lost")
    burst_begins: Ratio = option(
        0.0, "chance, after each frame, that a time of burst_loss begins (Gilbert and Elliott)"
    )
    burst_ends: Ratio = option(1.0, "chance, after each frame of it, that it ends")
    burst_loss: Ratio = option(1.0, "chance that a frame is lost meanwhile")
    duplicated: Ratio = option(
        0.0, "chance that a frame arrives a second time, reorder_delay later"
    )
    reordered: Ratio = option(0.0, "chance that a frame is late, so that later ones overtake it")
    reorder_delay_ns: Time = option("1 ms", "how late, mean of an exponential time")


if TYPE_CHECKING:  # its fields are reached by `Scenario.costs`
    Cost = Section
else:
    Cost = create_model(
        "Cost",
        __base__=Section,
        __module__=__name__,
        **{
            parameter.name: (kind, option(default, parameter.metadata["help"]))
            for parameter in fields(Costs)
            for kind, default in [shape(parameter)]
        },
    )


class Link(Section):
    """The replication link between the hosts, shared by all that crosses it."""

    bandwidth_bps: Bandwidth = option("1 Gbit/s", "bandwidth, each direction")
    delay_ns: Time = option("50 us", "delay, one way")
    heartbeat_loss: Ratio = option(0.0, "in simulation: part of the heartbeats that are lost")
    blips_per_s: Rate = option(
        "0 /s", "in simulation: how often nothing crosses it for a short while, both ways"
    )
    blip_ns: Duration = option("200 ms", "mean length of such a blip (exponential)")


class Stream(Section):
    """How the state of a checkpoint is put on the replication link."""

    channels: Annotated[int, number("streams", 1, 255)] = option(
        1, "parallel streams that the pages of a state are dealt to, as QEMU's multifd does"
    )
    channel_bandwidth_bps: Bandwidth | None = option(
        None,
        "most that one stream gets through, for it has one thread (about 6 to 12 Gbit/s: 8 to 16 "
        "fill 100 Gbit/s); default as much as the link",
    )
    compression: Literal["none", "delta"] = option(
        "none", "delta: pages as compressed differences to what the other side has; see cost.delta"
    )
    delta_size: Literal["ratio", "age", "writes"] = option(
        "ratio",
        "delta: what is left of a page: cost.delta_ratio, or by exposure as measured with the "
        "curve, or by the bytes that a touch changes (cost.delta_write)",
    )
    precopy_threshold_bytes: Size = option(
        "256 KiB", "transfer precopy: the guest is stopped when no more than this is new"
    )
    precopy_rounds: Count = option(4, "transfer precopy: ... or after so many rounds")


class Sharing(Section):
    """Several VMs, each a pair of its own as the scenario says, on the same two hosts."""

    vms: Annotated[int, number("VMs", 1, 256)] = option(
        1, "VMs of the primary host, each with its secondary on the other host"
    )
    cpus: Annotated[float, number("CPUs", 0.01, 4096.0)] | None = option(
        None,
        "CPUs of each host, shared by its guests and the work of their checkpoints; "
        "default as many as anybody wants",
    )
    link: Literal["fair", "fifo"] = option(
        "fair", "how the VMs share the link: equally, or one queue, first in, first out"
    )
    stagger_ns: Time = option(
        "0 s", "each VM is started so much later than the one before, which sets epochs apart"
    )


class Disk(Section):
    """In simulation: a disk that requests of the workload use, replicated to the secondary's.

    Without this table guests have no disk.  LR: ``live-recipes.md``, by section.
    """

    reads_per_request: Annotated[int, number("reads", 0, 1000)] = option(
        0, "reads of a request, all at once, after its CPU time"
    )
    read_bytes: Annotated[int, Quantity(SIZE, 1)] = option("4 KiB", "mean size of a read")
    writes_per_request: Annotated[int, number("writes", 0, 1000)] = option(
        1, "writes of a request, all at once, after its reads"
    )
    write_bytes: Annotated[int, Quantity(SIZE, 1)] = option("4 KiB", "mean size of a write")
    writing_requests: Ratio = option(1.0, "part of the requests that write")
    size_distribution: Literal["deterministic", "exponential"] = option(
        "deterministic", "distribution of both sizes"
    )
    working_set_bytes: Size = option("64 MiB", "what reads and writes are spread over")
    pattern: Literal["uniform", "append"] = option(
        "uniform", "where: anywhere, or each client through a file of its own, round and round"
    )
    flush: Literal["request", "group", "none"] = option(
        "request",
        "what a request that has written waits for before it is answered: a flush of its own, one "
        "that all who wait share, or nothing, which then promises nothing",
    )
    read_latency_ns: Time = option("200 us", "mean latency of a read; assumed, not measured")
    write_latency_ns: Time = option("200 us", "mean latency of a write; assumed, not measured")
    flush_latency_ns: Time = option(
        "1.4 ms", "of a flush: with a write 1.6 ms, as an O_DSYNC append takes (LR 6)"
    )
    latency_distribution: Literal["deterministic", "exponential", "lognormal"] = option(
        "lognormal", "distribution of all latencies"
    )
    latency_spread: Annotated[float, number("relative standard deviation", high=50.0)] = option(
        0.5, "of lognormal; assumed, not measured"
    )
    bandwidth_bps: Bandwidth = option(
        "19.8 Gbit/s",
        "what all requests share; by the time to commit 46 MiB, read and written (LR 6)",
    )
    queue_depth: Annotated[int, number("requests", 1, 65_535)] = option(
        32, "requests that are in the device at a time; others wait"
    )
    cluster_bytes: Size = option(
        "64 KiB", "what is copied at once to an overlay, and by what it grows (QEMU's default)"
    )
    replicate_ns: Time = option(
        "0 s",
        "the hosts' own time to get a request to the other disk and its answer back, on top of the "
        "link's and the disk's; not measured, to be fitted",
    )
    timeout_ns: Duration = option(
        "500 ms",
        "longest wait for the secondary's disk; then the primary goes on without it, and the pair "
        "parts (QEMU: yank of the NBD node)",
    )
    empty_fixed_ns: Time = option(
        "1 ms", "empty both overlays at a checkpoint; assumed, not measured"
    )
    empty_per_cluster_ns: Time = option("2 us", "the same for each cluster in them; assumed")
    failover_ns: Time = option("11 ms", "secondary: from promotion until its guest may run (LR 6)")
    detach_ns: Time = option(
        "4 ms", "primary: take the secondary's disk off before it goes on alone (LR 6: 2 to 6 ms)"
    )
    commit_fixed_ns: Time = option(
        "7 ms", "commit the overlays after a takeover, beside the running guest (LR 6)"
    )

    def device(self) -> Device:
        """A host's own device as the model takes it."""
        return Device(
            read_ns=self.read_latency_ns,
            write_ns=self.write_latency_ns,
            flush_ns=self.flush_latency_ns,
            law=self.latency_distribution,
            spread=self.latency_spread,
            bandwidth_bps=self.bandwidth_bps,
            queue_depth=self.queue_depth,
        )


class Manager(Section):
    """Failure detection and arbitration."""

    heartbeat_interval_ns: Duration = option("100 ms", "time from one heartbeat to the next")
    heartbeat_timeout_ns: Duration = option("500 ms", "silence after which the peer is suspected")
    heartbeat_grace_ns: Time = option(
        "0 s", "for so much longer a silent peer is only doubted: it may be a short blip"
    )
    arbiter: Annotated[Arbiter, Field(strict=False)] = option(
        Arbiter.WITNESS,
        "who says which side may go on alone: a witness that both ask; a lock service whose lease "
        "the primary needs to speak at all; the first claim in a total order of messages; nobody",
    )
    vote_delay_ns: Time = option("1 ms", "to the arbiter and back")
    vote_timeout_ns: Duration = option(
        "1 s", "longest wait for the arbiter; then it is asked again"
    )
    lease_term_ns: Duration = option("2 s", "arbiter lease: how long a lease lasts")
    lease_renewal_ns: Duration = option(
        "500 ms", "arbiter lease: time from one renewal to the next"
    )
    lease_drift_bound: Annotated[float, number("ratio", 0.0, 0.5)] = option(
        0.01,
        "arbiter lease: by what part of it a host's clock may run slower than the lock service's",
    )
    further_members: Annotated[int, number("members", 0, 100)] = option(
        1, "arbiter messages: members of the group beside both hosts; a claim needs a majority"
    )
    fencing: bool = option(True, "the other host is fenced before one goes on alone")
    fence_timeout_ns: Duration = option("5 s", "longest wait for fencing")
    fence_fails: bool = option(False, "fencing the other host fails")
    fence_failure: Ratio = option(0.0, "in simulation: chance that one try to fence fails")
    fence_retries: Annotated[int, number("tries", 0, 1_000)] = option(
        0, "how often a fence that fails is tried again; then there is no takeover"
    )
    fence_backoff_ns: Duration = option(
        "1 s", "until it is tried again; doubled with each try, up to 64 times as long"
    )
    reprotect: bool = option(
        False, "after a takeover start a fresh secondary, copy all memory and protect again"
    )
    reprotect_delay_ns: Time = option(
        "1 s",
        "how long after the takeover; in simulation doubled with each pair that did not last",
    )
    reprotect_stable_ns: Time = option(
        "60 s", "in simulation: a pair that ends sooner, but the first, did not last"
    )
    failback_after_ns: Time | None = option(
        None,
        "in simulation: planned switchover to where the first primary was, so long after the "
        "survivor is protected there again; default never",
    )
    switchover_at_ns: Time | None = option(
        None, "planned switchover: when the primary is told to hand over; default never"
    )


class Clocks(Section):
    """In simulation: how the hosts' clocks differ from the true one, which an arbiter has."""

    primary_rate: Annotated[float, number("rate", 0.1, 10.0)] = option(
        1.0, "seconds that the primary's clock shows in one"
    )
    secondary_rate: Annotated[float, number("rate", 0.1, 10.0)] = option(
        1.0, "seconds that the secondary's clock shows in one"
    )
    primary_offset_ns: Time = option("0 s", "what the primary's clock shows at the start")
    secondary_offset_ns: Time = option("0 s", "what the secondary's clock shows at the start")

    @property
    def are_one(self) -> bool:
        """They all show the true time."""
        return self == Clocks()

    def of(self, site: str) -> tuple[float, int]:
        """(rate, offset in ns) of the clock at "a", where the first primary is, or at "b"."""
        if site == "a":
            return self.primary_rate, self.primary_offset_ns
        return self.secondary_rate, self.secondary_offset_ns


class Limits(Section):
    """The longest wait in each step of a checkpoint; beyond it the step has failed."""

    ready_ns: Duration = option(
        "10 s",
        "until the other side is ready; by so much, and resume, may the first heartbeat be late",
    )
    quiesce_ns: Duration = option("1 s", "primary: until client input is held back")
    request_ns: Duration = option("1 s", "primary: until the secondary has stopped and replied")
    stop_ns: Duration = option("1 s", "until the guest is stopped")
    cut_ns: Duration = option("1 s", "until the stopped guest's last output is in")
    save_ns: Duration = option("10 s", "primary: until the state is saved or copied")
    send_ns: Duration = option("30 s", "primary: until the state is sent")
    received_ns: Duration = option("30 s", "primary: until the secondary has received it")
    loaded_ns: Duration = option("30 s", "primary: until the secondary has loaded it")
    resume_ns: Duration = option("1 s", "until the guest runs again")
    load_ns: Duration = option("30 s", "secondary: until the state is loaded")
    receive_ns: Duration = option("30 s", "secondary: until the state is received")
    precopy_ns: Duration = option("30 s", "primary: until all rounds of a pre-copy are over")
