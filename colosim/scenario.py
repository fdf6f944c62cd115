"""Scenario files: TOML in, one validated and frozen `Scenario` out.

A field's Python name ends in its unit (``service_time_ns``); the key in a file is the name without
it and the value carries the unit (``service_time = "2 ms"``).  Every problem of a file is told in
one line, ``FILE: key: what is wrong; what would be right``, all of them at once where possible.

The tables ``[policy.NAME]`` are made from `POLICIES` and ``[cost]`` from `Costs`: whoever adds a
parameter there need not come here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field as DataclassField
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args

import numpy as np
from pydantic import Field, ValidationError, create_model, model_validator

from colosim import markup
from colosim.guest import Client, Guest, Hosts
from colosim.model import delta, schedule
from colosim.model.cost import Costs
from colosim.model.delta import DeltaRatio
from colosim.model.disk import BLOCK_BYTES, Device
from colosim.model.errors import ModelError
from colosim.model.memory import (
    MeasuredCurve,
    MemoryModel,
    SequentialTouch,
    Touched,
    UniformTouch,
    ZipfTouch,
    curve_names,
)
from colosim.model.network import Impairments
from colosim.model.schedule import Schedule
from colosim.protocol.checkpoint import P, Quirks, S, Transfer, primary_machine, secondary_machine
from colosim.protocol.combinations import refusals
from colosim.protocol.compare import ELSEWHERE, MODES
from colosim.protocol.dialect import DIALECTS
from colosim.protocol.policies import POLICIES
from colosim.protocol.types import Arbiter, Output
from colosim.section import (
    Bandwidth,
    Count,
    Duration,
    Frequency,
    OneOf,
    Problem,
    Quantity,
    Rate,
    Ratio,
    Section,
    Size,
    Time,
    invalid,
    join,
    number,
    option,
    plain,
    shape,
    shown,
)
from colosim.units import RATE, SIZE, dimension_of

#: A scenario takes about 2 KiB.  tomllib's time and memory grow with the square of a key's length.
_LARGEST_FILE_BYTES = 64 * 1024
_LONGEST_LINE = 2_000
_MOST_PROBLEMS = 20
#: at fidelity packet: its head and what may differ of it; and what a datagram has room for
LEAST_RESPONSE_BYTES = 20
LARGEST_DATAGRAM_BYTES = 1464


class ScenarioError(ValueError):
    """What is wrong with a scenario, one line for each problem."""


AnySection = TypeVar("AnySection", bound=Section)


def validated(section: type[AnySection], mapping: Mapping[str, Any], where: str) -> AnySection:
    """The section made of a mapping; `ScenarioError` tells its problems, ``where`` in front."""
    try:
        return section.model_validate(mapping)
    except ValidationError as error:
        (detail,) = error.errors(include_url=False)
    problems = detail["ctx"]["problems"]
    lines = [": ".join(filter(None, (where, key, text))) for key, text in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        lines.append(f"{where}: and {len(problems) - _MOST_PROBLEMS} more problems")
    raise ScenarioError("\n".join(lines))


# --------------------------------------------------------------------------------------------
# Policy


def _policy_table(name: str) -> type[Section]:
    """``[policy.NAME]``: what is not given there is the dialect's, else the policy's own."""
    made: dict[str, Any] = {}
    for parameter in fields(POLICIES[name].Params):
        kind, default = shape(parameter)
        made[parameter.name] = (kind | None, option(None, _policy_help(name, parameter, default)))
    return create_model(f"{name.title()}Policy", __base__=Section, __module__=__name__, **made)


def _policy_help(policy: str, parameter: DataclassField[Any], default: str) -> str:
    dimension = dimension_of(parameter.name)
    others = "".join(
        f", in dialect {dialect.name} {dimension.format(value) if dimension else value}"
        for dialect in DIALECTS.values()
        for name, value in dialect.policy_defaults.get(policy, {}).items()
        if name == parameter.name
    )
    return f"{parameter.metadata['help']}; default {default}{others}"


class _PolicyName(Section):
    name: Annotated[str, OneOf(tuple(POLICIES))] = option("colo", "the policy that protects")


if TYPE_CHECKING:  # the tables are reached by `Scenario.policy_params`
    Policy = _PolicyName
else:
    Policy = create_model(
        "Policy",
        __base__=_PolicyName,
        __module__=__name__,
        **{
            name: (table, option(table(), POLICIES[name].summary))
            for name, table in ((name, _policy_table(name)) for name in POLICIES)
        },
    )


# --------------------------------------------------------------------------------------------
# Workload


class _Workload(Section):
    """What the guest does."""


class Service(_Workload):
    """Request and response: clients outside, one service in the guest."""

    kind: Literal["service"] = option(..., "the workload is a service")
    service_time_ns: Duration = option(..., "mean CPU time of one request")
    service_distribution: Literal["exponential", "deterministic"] = option(
        "exponential", "distribution of the CPU time of a request"
    )
    vcpus: Count = option(1, "requests served at the same time")
    response_bytes: Size = option("1500 B", "size of a response on the network")
    client_delay_ns: Time = option("100 us", "one way from client to host and back, each")
    client_jitter_ns: Time = option(
        "0 s", "mean of a further, exponential time on the way of each response"
    )
    retransmit_ns: Time = option(
        "200 ms", "when a guest that took over repeats unacknowledged output (Linux TCP's minimum)"
    )


class OpenService(Service):
    """Requests arrive by a Poisson process, whatever the service does."""

    load: Literal["open"] = option(..., "clients do not wait for responses")
    rate_per_s: Frequency = option(..., "mean arrivals of requests, all connections together")
    connections: Count = option(64, "connections that the arrivals are spread over")
    pipelined: bool = option(
        True,
        "a connection sends its next request before it has the answer to the last; "
        "clients of a live run never do",
    )


class ClosedService(Service):
    """A fixed number of clients, each of which waits for its response, then thinks."""

    load: Literal["closed"] = option(..., "clients wait for responses")
    clients: Count = option(..., "number of clients")
    think_time_ns: Time = option(..., "mean time from a response to the client's next request")


class BatchJob(_Workload):
    """One job on one CPU, from the start of the run to its own end; no clients."""

    kind: Literal["batch"] = option(..., "the workload is a job that ends")
    work_ns: Duration = option(..., "CPU time of the whole job without protection")


Workload = Annotated[
    Annotated[OpenService | ClosedService, Field(discriminator="load")] | BatchJob,
    Field(discriminator="kind"),
]

# --------------------------------------------------------------------------------------------
# Memory


class _Memory(Section):
    """Which pages the guest dirties as it runs."""

    guest_memory_bytes: Size = option("256 MiB", "RAM of the guest")


class MeasuredMemory(_Memory):
    """A measured curve: dirty pages over exposure (guest running time since the last cut)."""

    kind: Literal["measured"] = option(..., "dirty pages as measured")
    curve: Annotated[str, OneOf(tuple(c.name for c in curve_names()))] | None = option(
        None, "name of a curve that comes with colosim; instead of file"
    )
    file: str | None = option(None, "CSV of your own, relative to the scenario's folder")
    workload: str | None = option(None, "rows of the file to use: column workload")
    setting: str | None = option(None, "rows of the file to use: column setting")
    outside: Literal["refuse", "extrapolate"] = option(
        "refuse", "beyond the longest measured exposure: end the run, or go on and mark the result"
    )
    pages_per_request: Annotated[float, number("pages per request")] | None = option(
        None, "further distinct pages for each request beyond the measured load"
    )
    secondary_overlap: Ratio = option(
        1.0, "part of the smaller guest's dirty pages that are dirty in the other guest too"
    )

    def model(self, page_bytes: int) -> MeasuredCurve:
        """The curve; `ModelError` if there is none that fits."""
        options: dict[str, Any] = {
            "pages_per_request": self.pages_per_request,
            "outside": self.outside,
            "guest_pages": self.guest_memory_bytes // page_bytes,
            "secondary_overlap": self.secondary_overlap,
        }
        if self.curve is not None:
            return MeasuredCurve.named(self.curve, **options)
        return MeasuredCurve.from_csv(
            self.file or "", self.workload or "", self.setting or "", **options
        )


class TouchedMemory(_Memory):
    """A closed form: touches of a working set, and perhaps the background of an idle kernel."""

    # 2^24 pages are 64 GiB; the zipf form keeps a table of them.
    working_set_pages: Annotated[int, number("pages", 1, 2**24)] = option(
        ..., "pages that are touched at all"
    )
    touches_per_s: Rate = option(..., "touches while the guest runs, requests or not")
    touches_per_request: Annotated[float, number("touches per request")] = option(
        0.0, "further touches for each request"
    )
    background: Literal["none", "idle", "idle-services"] = option(
        "none", "measured curve of an idle guest to add; extrapolated where it ends"
    )

    def _common(self, page_bytes: int) -> dict[str, Any]:
        guest_pages = self.guest_memory_bytes // page_bytes
        return {
            "working_set_pages": self.working_set_pages,
            "touches_per_s": self.touches_per_s,
            "touches_per_request": self.touches_per_request,
            "guest_pages": guest_pages,
            "background": None
            if self.background == "none"
            else MeasuredCurve.named(
                self.background, outside="extrapolate", guest_pages=guest_pages
            ),
        }


class UniformMemory(TouchedMemory):
    """Every touch hits any page of the working set with equal chance."""

    kind: Literal["uniform"] = option(..., "touches hit all pages alike")

    def model(self, page_bytes: int) -> UniformTouch:
        return UniformTouch(**self._common(page_bytes))


class ZipfMemory(TouchedMemory):
    """The page of rank i is touched with a chance proportional to i^-exponent."""

    kind: Literal["zipf"] = option(..., "touches prefer some pages")
    exponent: Annotated[float, number("exponent", high=10.0)] = option(
        ..., "0: all pages alike; 1: the classical Zipf law"
    )

    def model(self, page_bytes: int) -> ZipfTouch:
        return ZipfTouch(exponent=self.exponent, **self._common(page_bytes))


class SequentialMemory(TouchedMemory):
    """Touches walk through the working set in order, round and round."""

    kind: Literal["sequential"] = option(..., "touches go through the pages in order")

    def model(self, page_bytes: int) -> SequentialTouch:
        return SequentialTouch(**self._common(page_bytes))


Memory = Annotated[
    MeasuredMemory | UniformMemory | ZipfMemory | SequentialMemory, Field(discriminator="kind")
]

# --------------------------------------------------------------------------------------------
# The pair


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


class Fault(Section):
    """One fault, at a time or when a step is entered for the nth time."""

    target: Literal["primary", "secondary", "link", "arbiter"] = option(..., "what fails")
    scope: Literal["vm", "node", "host", "disk"] | None = option(
        None,
        "how much of it: the guest's process, the node, the whole host, or in simulation its disk; "
        "not for link",
    )
    kind: Literal["crash", "hang", "cut", "slow", "corrupt", "full", "error"] = option(
        ...,
        "crash (for ever) or hang of primary or secondary; cut, slow or corrupt of the link; in "
        "simulation cut of the way to the arbiter, and the secondary's disk is full (its overlays "
        "cannot grow), or has an error at every request",
    )
    at_ns: Time | None = option(None, "when, from the start of the run; instead of step")
    step: Annotated[str, OneOf(tuple(dict.fromkeys((*P, *S))))] | None = option(
        None, "in which step of the target's checkpoint (link: of side's); instead of at"
    )
    occurrence: Count = option(1, "which time that step is entered")
    duration_ns: Duration | None = option(
        None, "how long a hang, cut, slow link or full disk lasts; default for ever"
    )
    bandwidth_bps: Bandwidth | None = option(
        None, "of a slow link, each direction; default as it was"
    )
    delay_ns: Time | None = option(None, "of a slow link, one way; default as it was")
    part: Literal["framing", "payload"] | None = option(
        None,
        "in simulation, of a corrupt link: one byte of the next control bytes of the checkpoint "
        "stream is another one, or one of the next state, where no checksum notices",
    )
    sender: Literal["primary", "secondary"] | None = option(
        None, "of a corrupt link: whose bytes; default the primary's"
    )
    side: Literal["primary", "secondary"] | None = option(
        None,
        "of an arbiter's cut: whose way to it; default both; of a link's fault in a step: whose "
        "step; default the primary's",
    )

    @property
    def steps_of(self) -> str:
        """Whose steps it waits for, if it waits for one."""
        if self.target == "link":
            return self.side or "primary"
        return "primary" if self.target == "arbiter" else self.target


_Factor = Annotated[float, number("factor", high=1e6)]


class Phase(Section):
    """A time in which rates are others: factors on those of the scenario."""

    duration_ns: Duration = option(..., "how long it lasts")
    load: _Factor = option(
        1.0, "of arrivals, or of the rate at which clients end their thinking; 0: nobody asks"
    )
    clients: Annotated[int, number("clients")] | None = option(
        None, "closed load: how many of the clients ask, the others' thinking stands; default all"
    )
    touches: _Factor = option(1.0, "of memory.touches")
    divergence: _Factor = option(
        1.0, "of all rates and chances of divergence but the clocks'; a chance stays at most 1"
    )


class TimeLaw(Section):
    """A recovery time: its mean, and how it is distributed around it."""

    mean_ns: Time = option(..., "mean")
    law: Literal["exponential", "deterministic", "lognormal", "weibull"] = option(
        "exponential", "distribution"
    )
    spread: Annotated[float, number("relative standard deviation", 0.01, 50.0)] = option(
        1.0, "of lognormal and weibull"
    )


def _law(mean: str, law: str = "exponential", spread: float = 1.0) -> TimeLaw:
    return TimeLaw.model_validate({"mean": mean, "law": law, "spread": spread})


class Availability(Section):
    """For `colosim availability`: how often things fail, and how long it takes to mend them.

    Where the defaults come from, and which are placeholders, is in ``docs/availability.md``.
    """

    host_crashes_per_s: Rate = option("0.5 /year", "a host fails for good, until it is repaired")
    host_hangs_per_s: Rate = option("0.1 /year", "a host hangs, until it is fenced or reset")
    vm_crashes_per_s: Rate = option("0.1 /year", "a QEMU or node ends and its host goes on")
    link_cuts_per_s: Rate = option("0.05 /year", "the replication link is lost, until repaired")
    false_failovers_per_s: Rate = option(
        "0 /year", "heartbeats of a healthy primary are too late, so it is taken over and fenced"
    )
    guest_crashes_per_s: Rate = option(
        "0 /year", "the guest's own software fails: a copy of it fails too"
    )
    common_cause: Ratio = option(0.01, "part of a host's crashes that take the other with them")
    failure_exponent: Annotated[float, number("exponent", 0.3, 5.0)] = option(
        1.0, "Weibull exponent of the time to a failure, from when protection was complete"
    )
    host_repair: TimeLaw = option(
        _law("6 h", "lognormal", 2.0), "until a crashed host, or another in its place, is there"
    )
    host_reboot: TimeLaw = option(_law("5 min"), "until a fenced or reset host is there again")
    link_repair: TimeLaw = option(_law("1 h", "lognormal", 2.0), "until a cut link is mended")
    restart_delay: TimeLaw = option(
        _law("30 s"), "until the end of a guest without copy is acted on"
    )
    cold_boot: TimeLaw = option(_law("60 s"), "from then on until the started guest serves")
    operator: TimeLaw = option(
        _law("15 min"), "until somebody starts a guest whose fence has failed"
    )
    split_brain: TimeLaw = option(_law("15 min"), "until one of two sides that both serve is ended")
    takeover: TimeLaw | None = option(
        None, "silence of clients after each fault, as measured; default: the faults are simulated"
    )
    resync: TimeLaw | None = option(
        None, "until a survivor is protected again; default from guest_memory, load and link"
    )
    fencing_fails: Ratio = option(
        0.001,
        "chance that fencing fails, so that nobody takes over (manager.fencing: if it is done)",
    )
    standby: bool = option(
        True, "policy none: a guest that was lost is started on the other host, if that is up"
    )
    saved_every_ns: Time = option(
        "1 h", "the guest's state is safe elsewhere this often: what a loss throws back to"
    )
    fault_runs: Annotated[int, number("runs", 1, 10_000)] = option(
        10, "simulated runs of each fault, for what clients see of a takeover"
    )


# --------------------------------------------------------------------------------------------
# The whole


class Scenario(Section):
    """One question to the simulator: workload, machine, protection, faults, and how to run it.

    Made by `load_scenario` or `from_mapping`, which raise `ScenarioError`; `replace` changes it.
    """

    name: str = option(
        ..., "name in results", max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$"
    )
    description: str = option("", "what it is about", max_length=10_000)
    duration_ns: Duration = option(..., "simulated time of a run; for a job the longest")
    warm_up_ns: Time = option("0 s", "start of each run that is left out of the metrics")
    seed: Annotated[int, number("seed", 0, 2**63 - 1)] = option(1, "what all chance comes from")
    replications: Annotated[int, number("runs", 1, 1_000_000)] = option(
        10, "independent runs; intervals come from them"
    )
    fidelity: Literal["response", "packet", "epoch"] = option(
        "response",
        "in simulation: a response is one object, or the frames that the core compares live, or "
        "all responses between two points of synchronisation are arrays",
    )
    dialect: Annotated[str, OneOf(tuple(DIALECTS))] = option("upstream", "wire dialect of COLO")
    quirks: Annotated[Quirks, Field(strict=False)] = option(
        Quirks.NONE, "defects of a QEMU version to reproduce"
    )
    transfer: Annotated[Transfer, Field(strict=False)] | None = option(
        None,
        "send the state while the guest is stopped, a copy of it later, or most of it ahead; "
        "default the policy's own, which is stop-and-send but for microcheckpoint",
    )
    commit: Literal["received", "loaded"] | None = option(
        None, "message after which a checkpoint counts as safe; default the dialect's own"
    )
    policy: Policy = option(Policy(), "what protects, and its parameters")
    workload: Workload = option(..., "a table [workload]: what the guest does")
    memory: Memory = option(..., "a table [memory]: which pages it dirties")
    execution: Execution = option(Execution(), "how the two guests run beside each other")
    divergence: Divergence = option(Divergence(), "when their responses differ")
    compare: Compare = option(
        Compare(), "live and at fidelity packet: how both guests' packets are compared"
    )
    packet: Packet = option(Packet(), "at fidelity packet: what clients and guests say")
    network: ClientNetwork = option(
        ClientNetwork(), "at fidelity packet: what happens to frames between clients and guests"
    )
    cost: Cost = option(Cost(), "what the steps of a checkpoint cost")
    link: Link = option(Link(), "replication link")
    stream: Stream = option(Stream(), "how the state of a checkpoint is put on it")
    sharing: Sharing = option(
        Sharing(), "in simulation: several VMs that share hosts and link, and how"
    )
    disk: Disk | None = option(None, "in simulation: the guests' disks; default none")
    guest: Guest = option(Guest(), "for a live run: the guest that is booted")
    client: Client = option(Client(), "for a live run: who talks to the guest")
    hosts: Hosts = option(Hosts(), "for a live run: on which machines its two hosts are")
    manager: Manager = option(Manager(), "failure detection and arbitration")
    clocks: Clocks = option(Clocks(), "in simulation: how the hosts' clocks differ")
    limits: Limits = option(Limits(), "longest wait in each step")
    availability: Availability = option(
        Availability(), "for colosim availability: failures and repairs over years"
    )
    phase: Annotated[tuple[Phase, ...], Field(strict=False)] = option(
        (), "phases in turn, one table [[phase]] each; none: rates never change", max_length=1_000
    )
    after_phases: Literal["repeat", "stay"] = option(
        "repeat", "after the last phase: begin again, or stay as it was"
    )
    fault: Annotated[tuple[Fault, ...], Field(strict=False)] = option(
        (), "faults, one table [[fault]] each", max_length=1_000
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if found := [*_part_conflicts(self)]:  # there would be no costs to look at
            raise invalid(found)
        found = [
            *_conflicts(self),
            *_disk_conflicts(self),
            *_fault_conflicts(self),
            *_memory_conflicts(self),
            *_phase_conflicts(self),
        ]
        if found:
            raise invalid(found)
        return self

    @classmethod
    def _problems_of(cls, detail: Any) -> Iterator[Problem]:
        """Told of a key that is known elsewhere: where."""
        for key, text in super()._problems_of(detail):
            homes = _homes(key) if text.startswith("unknown key") else []
            yield key, f"unknown key here; did you mean {' or '.join(homes)}?" if homes else text

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "scenario") -> Scenario:
        """The scenario of a mapping shaped like a file; ``where`` stands for the file in errors."""
        return validated(cls, mapping, where)

    def replace(self, changes: Mapping[str, Any], where: str = "scenario") -> Scenario:
        """A changed scenario: {"workload.clients": 20, "fault.0.at": "3 s"}, values as in a file.

        None takes a key away, so that its default holds again.
        """
        mapping = self._given()
        for dotted, value in changes.items():
            path = dotted.split(".")
            _put(mapping, path, value, f"{where}: {join(*map(plain, path))}")
        return self.from_mapping(mapping, where)

    def to_mapping(self) -> dict[str, Any]:
        """All values, defaults too, as in a file: `from_mapping` reads the same scenario back."""
        mapping = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        for name in POLICIES:
            table = type(getattr(self.policy, name))
            complete = table.model_construct(**asdict(self.policy_params(name)))
            mapping["policy"][name] = complete.model_dump(mode="json", by_alias=True)
        return mapping

    def _repr_html_(self) -> str:
        """What was given, and below it, folded, all else that holds."""
        given = dict(markup.leaves(self._given()))
        rest = [each for each in markup.leaves(self.to_mapping()) if each[0] not in given]
        about = f"{given.pop('name', self.name)}: {given.pop('description', 'a scenario')}"
        defaults = markup.more("defaults that hold besides", markup.table(rest))
        return markup.verdict(about) + markup.table(given.items()) + defaults

    def policy_params(self, name: str) -> Any:
        """``POLICIES[name].Params``: the file's values, else the dialect's, else the policy's."""
        table = getattr(self.policy, name)
        given = {key: value for key, value in table if value is not None}
        defaults = DIALECTS[self.dialect].policy_defaults.get(name, {})
        return POLICIES[name].Params(**{**defaults, **given})

    def transfer_of(self, policy: str) -> Transfer:
        """How state gets across under a policy."""
        return POLICIES[policy].transfer if self.transfer is None else self.transfer

    def choices(self, policy: str) -> dict[str, str]:
        """What was chosen, for `colosim.protocol.combinations`."""
        return {
            "policy": policy,
            "transfer": self.transfer_of(policy).value,
            "dialect": self.dialect,
            "quirks": self.quirks.value,
            "compare": self.compare.mode,
            "compression": self.stream.compression,
            "channel_bandwidth": "link" if self.stream.channel_bandwidth_bps is None else "limited",
            "channels": "one channel" if self.stream.channels == 1 else "several channels",
            "fidelity": self.fidelity,
            "load": self.workload.load if isinstance(self.workload, Service) else "batch",
        }

    def costs(self) -> Costs:
        """The table ``[cost]`` as the model takes it."""
        return Costs(**self.cost.model_dump())

    def delta_ratio(self) -> DeltaRatio:
        """What is left of a page as a difference."""
        costs, memory = self.costs(), self.memory_model()
        if self.stream.delta_size == "age" and isinstance(memory, MeasuredCurve):
            return delta.by_age(memory)
        if self.stream.delta_size == "writes" and isinstance(memory, Touched):
            return delta.by_writes(memory, costs.delta_write_bytes, costs.page_bytes)
        return delta.constant(costs.delta_ratio)

    def schedule(self) -> Schedule:
        """How rates change in time."""
        phases = (schedule.Phase(*(value for _, value in phase)) for phase in self.phase)
        return Schedule(tuple(phases), self.after_phases == "repeat")

    def impairments(self) -> Impairments:
        """What happens to frames between clients and guests."""
        return Impairments(**self.network.model_dump())

    def memory_model(self) -> MemoryModel:
        """The memory model of this scenario."""
        return self.memory.model(self.costs().page_bytes)

    def _given(self) -> dict[str, Any]:
        """Only what was given, so that defaults can follow a change."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)

    def __reduce__(self) -> tuple[Any, ...]:  # the generated tables have no importable name
        return type(self).from_mapping, (self._given(),)


def _homes(key: str) -> list[str]:
    """Where in a scenario a key of this name is known, dotted; beside or below what was given."""
    above, _, name = key.rpartition(".")
    known = dict.fromkeys(_dotted(Scenario))
    found = [dotted for dotted in known if dotted.rpartition(".")[2] == name]
    return [dotted for dotted in found if dotted.startswith(f"{above}.")] or found[:3]


def _dotted(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Keys of all tables; of a table with several forms more than once."""
    for name, info in section._fields().items():
        below = [*_sections(info.annotation)]
        for table in below:
            yield from _dotted(table, f"{prefix}{name}.")
        if not below:
            yield f"{prefix}{name}"


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """The tables that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _put(mapping: dict[str, Any], path: Sequence[str], value: Any, where: str) -> None:
    """Set (None: remove) one value by its path; a list's items go by number."""
    place: Any = mapping
    for i, part in enumerate(path):
        if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
            key: Any = int(part)
        elif isinstance(place, dict):
            key = part
        else:
            raise ScenarioError(f"{where}: no such key; {plain(path[i - 1])} is no table")
        if i + 1 < len(path):
            place = place[key] if isinstance(place, list) else place.setdefault(key, {})
        elif value is not None:
            place[key] = value.item() if isinstance(value, np.generic) else value
        elif isinstance(place, list) or key in place:
            del place[key]


# --------------------------------------------------------------------------------------------
# Impossible combinations: (holds, key, "what is wrong; what would be right")


def _is_remote(scenario: Scenario) -> bool:
    return not (scenario.hosts.primary is None and scenario.hosts.secondary is None)


def _response_bytes(scenario: Scenario) -> int | None:
    """The size of a response where it is made of packets."""
    workload = scenario.workload
    if scenario.fidelity == "packet" and isinstance(workload, Service):
        return workload.response_bytes
    return None


def _datagrams_fit(scenario: Scenario) -> bool:
    size, count = _response_bytes(scenario), scenario.packet.datagrams
    if size is None or scenario.packet.transport != "udp":
        return True
    return count <= min(size, 65_535) and size <= count * LARGEST_DATAGRAM_BYTES


def _is_pipelined(scenario: Scenario) -> bool:
    return not isinstance(scenario.workload, OpenService) or scenario.workload.pipelined


def _compares_packets(scenario: Scenario) -> bool:
    witnessed = POLICIES[scenario.policy.name].output is Output.WITNESS
    return scenario.fidelity == "packet" and witnessed


_Conflict = tuple[Callable[[Scenario], bool], str, str]

_CONFLICTS: tuple[_Conflict, ...] = (
    (
        lambda s: (
            s.policy_params("adaptive").minimum_interval_ns
            > s.policy_params("adaptive").maximum_interval_ns
        ),
        "policy.adaptive.minimum_interval",
        "more than maximum_interval, so there is no interval; give less",
    ),
    (
        lambda s: s.warm_up_ns >= s.duration_ns,
        "warm_up",
        "leaves nothing to measure; give less than duration",
    ),
    (
        lambda s: isinstance(s.workload, BatchJob) and s.warm_up_ns > 0,
        "warm_up",
        "a batch job is measured from its start; give 0 s or leave it out",
    ),
    (
        lambda s: isinstance(s.workload, BatchJob) and s.workload.work_ns > s.duration_ns,
        "workload.work",
        "the job cannot end within the run; give at most duration",
    ),
    (
        lambda s: s.dialect == "rfc2014" and s.commit == "received",
        "commit",
        "rfc2014 releases output once the state is loaded; leave commit out",
    ),
    (
        lambda s: s.dialect == "rfc2014" and s.quirks is not Quirks.NONE,
        "quirks",
        'defects of QEMU 7.2, which speaks upstream; give dialect = "upstream" or quirks = "none"',
    ),
    (
        lambda s: POLICIES[s.policy.name].output is Output.WITNESS and not s.execution.executes,
        "execution.executes",
        "the policy compares both guests' output; give true or another policy",
    ),
    (
        lambda s: s.fidelity == "packet" and isinstance(s.workload, BatchJob),
        "fidelity",
        'a batch job sends no packets; give "response" or another workload',
    ),
    (
        lambda s: s.fidelity == "epoch" and isinstance(s.workload, BatchJob),
        "fidelity",
        'a batch job is one request, no array of them; give "response" or another workload',
    ),
    (
        lambda s: (
            s.fidelity == "epoch"
            and isinstance(s.workload, ClosedService)
            and s.costs().release_spread > 0
        ),
        "cost.release_spread",
        'fidelity "epoch" foresees when a closed load\'s clients ask; give 0, or '
        'fidelity = "response"',
    ),
    (
        lambda s: s.fidelity == "epoch" and not _is_pipelined(s),
        "workload.pipelined",
        'fidelity "epoch" has arrivals that wait for nobody; give true, or fidelity = "response"',
    ),
    (
        lambda s: (
            s.fidelity == "epoch" and isinstance(s.workload, Service) and s.workload.vcpus > 1
        ),
        "workload.vcpus",
        'fidelity "epoch" has one server; give 1, or fidelity = "response"',
    ),
    (
        lambda s: s.fidelity == "epoch" and s.costs().first_write_ns > 0,
        "cost.first_write",
        'fidelity "epoch" has guests that nothing slows; give 0 s, or fidelity = "response"',
    ),
    (
        lambda s: s.fidelity == "epoch" and s.costs().witness_ns > 0,
        "cost.witness",
        'fidelity "epoch" has witnesses that only the link delays; give 0 s, or '
        'fidelity = "response"',
    ),
    (
        lambda s: s.fidelity == "epoch" and s.divergence.unprompted_per_s > 0,
        "divergence.unprompted",
        'fidelity "epoch" has no output but responses; give 0 /s, or fidelity = "response"',
    ),
    (
        lambda s: s.fidelity == "epoch" and s.divergence.timed > 0,
        "divergence.timed",
        'fidelity "epoch" draws what differs before it knows when; give 0, or '
        'fidelity = "response"',
    ),
    (
        lambda s: s.stream.delta_size != "ratio" and s.stream.compression != "delta",
        "stream.delta_size",
        'nothing is sent as differences; give compression = "delta", or leave it out',
    ),
    (
        lambda s: s.stream.delta_size == "age" and not isinstance(s.memory, MeasuredMemory),
        "stream.delta_size",
        'ages are those of a measured curve; give "ratio" or "writes", or memory.kind = "measured"',
    ),
    (
        lambda s: s.stream.delta_size == "writes" and not isinstance(s.memory, TouchedMemory),
        "stream.delta_size",
        'a measured curve does not say how often a page is touched; give "age" or "ratio"',
    ),
    (
        lambda s: (
            s.stream.delta_size == "writes"
            and isinstance(s.memory, TouchedMemory)
            and s.memory.background != "none"
        ),
        "stream.delta_size",
        'nobody knows how the background\'s pages change; give "ratio", or background = "none"',
    ),
    (
        lambda s: not 1 <= s.costs().delta_write_bytes <= s.costs().page_bytes,
        "cost.delta_write",
        "a touch changes a byte to a page; give 1 B to cost.page",
    ),
    (
        lambda s: _shares(s) and s.fidelity == "epoch",
        "sharing",
        'fidelity "epoch" has guests and links of one VM; leave it out, or give '
        'fidelity = "response"',
    ),
    (
        lambda s: _shares(s) and len(s.fault) > 0,
        "sharing",
        "what a fault does to the other VMs of a host is not modelled; leave out sharing or faults",
    ),
    (
        lambda s: s.sharing.vms == 1 and (s.sharing.link != "fair" or s.sharing.stagger_ns > 0),
        "sharing.vms",
        "one VM shares with nobody; give more, or leave link and stagger out",
    ),
    (
        lambda s: (
            s.sharing.link == "fifo"
            and (s.stream.channels > 1 or s.stream.channel_bandwidth_bps is not None)
        ),
        "sharing.link",
        'one queue has no channels; give "fair", or leave out stream.channels and '
        "channel_bandwidth",
    ),
    (
        lambda s: s.sharing.vms * s.sharing.stagger_ns > s.duration_ns,
        "sharing.stagger",
        "not all VMs would start within the run; give at most duration / vms",
    ),
    (
        lambda s: s.fidelity != "packet" and s.impairments().harm,
        "network",
        'only frames are lost, doubled or late; leave it out, or give fidelity = "packet"',
    ),
    (
        lambda s: s.network.burst_begins > 0 and s.network.burst_ends == 0,
        "network.burst_ends",
        "a burst would never end; give more than 0",
    ),
    (
        lambda s: s.network.burst_begins == 0 and s.network.burst_loss < 1,
        "network.burst_loss",
        "there are no bursts; give burst_begins too, or loss instead",
    ),
    (
        lambda s: s.divergence.timed == 0 and s.divergence.clock_offset_ns > 0,
        "divergence.clock_offset",
        "no response says what time it is, so nobody would notice; give timed too",
    ),
    (
        lambda s: s.execution.start_skew_ns == 0 and s.execution.start_skew_spread > 0,
        "execution.start_skew_spread",
        "there is no start_skew to vary; give start_skew too",
    ),
    (
        lambda s: s.fidelity == "epoch" and s.divergence.connection_probability > 0,
        "divergence.connection_probability",
        'fidelity "epoch" knows no connections\' beginnings; give 0, or fidelity = "response"',
    ),
    (
        lambda s: _compares_packets(s) and s.compare.mode == ELSEWHERE,
        "compare.mode",
        'colo-compare is QEMU\'s, so live only; give strict or qemu, or fidelity = "response"',
    ),
    (
        lambda s: _compares_packets(s) and s.compare.rewriter == "qemu",
        "compare.rewriter",
        'filter-rewriter is QEMU\'s, so live only; give strict, or fidelity = "response"',
    ),
    (
        lambda s: (_response_bytes(s) or LEAST_RESPONSE_BYTES) < LEAST_RESPONSE_BYTES,
        "workload.response",
        f"too small to say whose it is; give at least {LEAST_RESPONSE_BYTES} B",
    ),
    (
        lambda s: s.packet.window_bytes < s.packet.mss_bytes or s.packet.window_bytes > 65_535,
        "packet.window",
        "a window holds a segment at least, and there is no scaling; give packet.mss to 65535 B",
    ),
    (
        lambda s: s.packet.mss_bytes > 1460,
        "packet.mss",
        "does not fit a frame of 1514 B; give at most 1460 B",
    ),
    (
        lambda s: not _datagrams_fit(s),
        "packet.datagrams",
        f"a datagram has 1 B to {LARGEST_DATAGRAM_BYTES} B of the response; change it or response",
    ),
    (
        lambda s: s.packet.transport == "udp" and s.packet.request_bytes > 1472,
        "packet.request",
        "does not fit a datagram; give at most 1472 B",
    ),
    (
        lambda s: s.manager.heartbeat_timeout_ns <= s.manager.heartbeat_interval_ns,
        "manager.heartbeat_timeout",
        "every peer would be suspected; give more than heartbeat_interval",
    ),
    (
        lambda s: s.manager.vote_delay_ns >= s.manager.vote_timeout_ns,
        "manager.vote_delay",
        "no vote would come in time; give less than vote_timeout",
    ),
    (
        lambda s: (
            s.manager.arbiter is Arbiter.LEASE
            and s.manager.lease_renewal_ns + s.manager.vote_delay_ns >= s.manager.lease_term_ns
        ),
        "manager.lease_term",
        "a lease would end before it is renewed; give more than lease_renewal and vote_delay",
    ),
    (
        lambda s: s.manager.arbiter is not Arbiter.WITNESS and not DIALECTS[s.dialect].failover,
        "manager.arbiter",
        'rfc2014 knows no failover, so nobody asks; give "witness" or dialect = "upstream"',
    ),
    (
        lambda s: not s.manager.fencing and (s.manager.fence_fails or s.manager.fence_failure > 0),
        "manager.fencing",
        "what is not done cannot fail; give true, or no failures of fencing",
    ),
    (
        lambda s: s.manager.reprotect and s.fidelity != "response",
        "manager.reprotect",
        'protects again at fidelity "response" and live; give that, or false',
    ),
    (
        lambda s: (
            s.manager.reprotect
            and (
                s.disk is not None
                or _shares(s)
                or s.execution.secondary_speed != 1.0
                or bool(s.phase)
            )
        ),
        "manager.reprotect",
        "not modelled with [disk], [sharing], [[phase]] or execution.secondary_speed; give false",
    ),
    (
        lambda s: s.manager.failback_after_ns is not None and not s.manager.reprotect,
        "manager.failback_after",
        "nobody would be there to go back to; give reprotect = true",
    ),
    (
        lambda s: s.costs().fence_ns >= s.manager.fence_timeout_ns,
        "cost.fence",
        "fencing would never end in time; give less than manager.fence_timeout, "
        "or manager.fence_fails = true",
    ),
    (
        lambda s: (
            isinstance(s.memory, TouchedMemory)
            and s.memory.working_set_pages * s.costs().page_bytes > s.memory.guest_memory_bytes
        ),
        "memory.working_set_pages",
        "does not fit the guest; give fewer pages or more guest_memory",
    ),
    (
        lambda s: s.guest.secondary_qemu is not None and s.guest.machine.isalnum(),
        "guest.machine",
        "two versions of QEMU need the same machine; give a versioned one, like pc-i440fx-7.2",
    ),
    (
        lambda s: s.guest.kernel is None and s.guest.initrd is not None,
        "guest.initrd",
        "there is no kernel for it; give guest.kernel too",
    ),
    (
        lambda s: (s.client.kind == "command") != (s.client.command is not None),
        "client.command",
        'goes with kind = "command", and only with it; give both or none',
    ),
    (
        lambda s: s.client.kind != "none" and isinstance(s.workload, BatchJob),
        "client.kind",
        'a batch job has no clients; give "none" or another workload',
    ),
    (
        lambda s: s.client.tap is not None and s.client.network != "tap",
        "client.tap",
        'goes with network = "tap", and only with it; give both or leave it out',
    ),
    (
        lambda s: s.client.host_port is not None and s.client.network == "tap",
        "client.host_port",
        "by a TAP clients use the guest's own port; leave it out",
    ),
    (
        lambda s: _is_remote(s) and s.hosts.listen in (None, "", "0.0.0.0", "::"),
        "hosts.listen",
        "hosts of other machines connect to it; give the address of this machine that they reach",
    ),
    (
        lambda s: _is_remote(s) and s.hosts.secret_file is None,
        "hosts.secret_file",
        "missing; give the file with the secret that colosim agent was started with",
    ),
    (
        lambda s: isinstance(s.memory, MeasuredMemory) and s.costs().page_bytes != 4096,
        "cost.page",
        "the curves were measured in pages of 4 KiB; give 4 KiB",
    ),
)


_DiskConflict = tuple[Callable[[Scenario, Disk], bool], str, str]

_DISK_CONFLICTS: tuple[_DiskConflict, ...] = (
    (
        lambda s, d: s.fidelity != "response",
        "fidelity",
        'guests have disks at fidelity "response" only; give that, or leave [disk] out',
    ),
    (
        lambda s, d: _shares(s),
        "disk",
        "VMs that share their hosts have none here; leave out disk or sharing",
    ),
    (
        lambda s, d: isinstance(s.workload, BatchJob),
        "disk",
        "a batch job makes no requests that would use it; leave it out or give another workload",
    ),
    (
        lambda s, d: not d.reads_per_request and not (d.writes_per_request and d.writing_requests),
        "disk",
        "nothing uses it; give reads_per_request, writes_per_request, or leave it out",
    ),
    (
        lambda s, d: d.cluster_bytes < BLOCK_BYTES or d.cluster_bytes % BLOCK_BYTES > 0,
        "disk.cluster",
        "blocks are of 4 KiB; give a multiple of that",
    ),
    (
        lambda s, d: (
            d.working_set_bytes < max(d.read_bytes, d.write_bytes, d.cluster_bytes) + BLOCK_BYTES
        ),
        "disk.working_set",
        "does not hold what is read and written at once; give more than read, write and cluster",
    ),
    (
        lambda s, d: d.timeout_ns >= s.limits.stop_ns,
        "disk.timeout",
        "the primary's guest could not be stopped in time while the secondary's disk hangs; give "
        "less than limits.stop",
    ),
    (
        lambda s, d: max(d.failover_ns, d.detach_ns) + s.costs().resume_ns >= s.limits.resume_ns,
        "limits.resume",
        "a survivor would not run in time; give more than disk.failover and disk.detach",
    ),
)


def _disk_conflicts(scenario: Scenario) -> Iterator[Problem]:
    disk = scenario.disk
    if disk is not None:
        rows = _DISK_CONFLICTS
        yield from ((key, text) for holds, key, text in rows if holds(scenario, disk))


def _conflicts(scenario: Scenario) -> Iterator[Problem]:
    yield from ((key, text) for holds, key, text in _CONFLICTS if holds(scenario))
    chosen = scenario.choices(scenario.policy.name)
    yield from ((row.key, f"{row.what(chosen)}: {row.why}") for row in refusals(chosen))


_HOST = ("crash", "hang")
_DISK = ("full", "error")
_KINDS = {
    "primary": _HOST,
    "secondary": _HOST,
    "link": ("cut", "slow", "corrupt"),
    "arbiter": ("cut",),
}

_FaultConflict = tuple[Callable[[Scenario, Fault], bool], str, str]

_FAULT_CONFLICTS: tuple[_FaultConflict, ...] = (
    (
        lambda s, f: (f.scope == "disk") != (f.kind in _DISK),
        "kind",
        'full and error are those of scope = "disk", and it has no others; change kind or scope',
    ),
    (
        lambda s, f: f.scope == "disk" and f.target != "secondary",
        "target",
        "only the secondary's disk fails in simulation; give secondary",
    ),
    (
        lambda s, f: f.scope == "disk" and s.disk is None,
        "scope",
        "there is no disk; add a table [disk], or give vm, node or host",
    ),
    (
        lambda s, f: f.kind not in (*_DISK, *_KINDS[f.target]),
        "kind",
        "a link is cut, slow or corrupt, an arbiter is cut, a primary or secondary crashes or "
        "hangs; change kind or target",
    ),
    (
        lambda s, f: f.target not in ("arbiter", "link") and f.side is not None,
        "side",
        'whose way to the arbiter is cut; give target = "arbiter", or leave it out',
    ),
    (
        lambda s, f: f.target == "link" and f.side is not None and f.step is None,
        "side",
        "whose step a link's fault waits for; give step, or leave it out",
    ),
    (
        lambda s, f: f.target == "arbiter" and s.manager.arbiter is Arbiter.NONE,
        "target",
        "there is no arbiter; give manager.arbiter, or another target",
    ),
    (
        lambda s, f: f.target == "arbiter" and f.step is not None and f.side == "secondary",
        "step",
        "steps are the primary's here; give at, or another side",
    ),
    (
        lambda s, f: f.kind != "slow" and (f.bandwidth_bps, f.delay_ns) != (None, None),
        "kind",
        'bandwidth and delay are those of a slow link; give kind = "slow", or leave them out',
    ),
    (
        lambda s, f: (
            f.kind == "slow"
            and f.target == "link"
            and (f.bandwidth_bps, f.delay_ns) == (None, None)
        ),
        "kind",
        "how slow? give bandwidth, delay or both",
    ),
    (
        lambda s, f: f.kind != "corrupt" and (f.part, f.sender) != (None, None),
        "kind",
        'part and sender are those of a corrupt link; give kind = "corrupt", or leave them out',
    ),
    (
        lambda s, f: f.kind == "corrupt" and f.target == "link" and f.part is None,
        "part",
        "missing; give framing or payload",
    ),
    (
        lambda s, f: f.part == "payload" and f.sender == "secondary",
        "sender",
        "only the primary sends a state; leave it out",
    ),
    (
        lambda s, f: f.kind == "corrupt" and f.duration_ns is not None,
        "duration",
        "one byte is corrupt, once; leave it out",
    ),
    (
        lambda s, f: f.target in ("link", "arbiter") and f.scope is not None,
        "scope",
        "a link has none, nor has an arbiter; leave it out",
    ),
    (
        lambda s, f: f.target not in ("link", "arbiter") and f.scope is None,
        "scope",
        "missing; give one of vm, node, host, disk",
    ),
    (
        lambda s, f: f.kind == "crash" and f.duration_ns is not None,
        "duration",
        'a crash is for ever; leave it out, or give kind = "hang"',
    ),
    (
        lambda s, f: f.at_ns is None and f.step is None,
        "at",
        "neither at nor step is given; give one of them",
    ),
    (
        lambda s, f: f.at_ns is not None and f.step is not None,
        "at",
        "both at and step are given; give one of them",
    ),
    (
        lambda s, f: f.at_ns is not None and f.occurrence != 1,
        "occurrence",
        "a time comes only once; leave it out, or give step instead of at",
    ),
    (
        lambda s, f: f.at_ns is not None and f.at_ns >= s.duration_ns,
        "at",
        "after the end of the run; give less than duration",
    ),
    (
        lambda s, f: f.target != "primary" and not POLICIES[s.policy.name].protects(),
        "target",
        "without protection there is only the primary; give another policy or target",
    ),
    (
        lambda s, f: f.step is not None and not POLICIES[s.policy.name].protects(),
        "step",
        "without protection there are no checkpoints; give another policy, or at instead of step",
    ),
)


def _fault_conflicts(scenario: Scenario) -> Iterator[Problem]:
    for i, fault in enumerate(scenario.fault):
        for holds, key, text in _FAULT_CONFLICTS:
            if holds(scenario, fault):
                yield f"fault.{i}.{key}", text
        steps = _steps(scenario, fault)
        if fault.step is not None and fault.step not in steps:
            yield (
                f"fault.{i}.step",
                f"{fault.step} is no step there with this dialect, transfer and quirks; "
                f"use one of {', '.join(steps)}",
            )


def _steps(scenario: Scenario, fault: Fault) -> list[str]:
    """The steps that a fault of this target can wait for."""
    dialect = DIALECTS[scenario.dialect]
    machine = (
        secondary_machine(dialect)
        if fault.steps_of == "secondary"
        else primary_machine(dialect, scenario.transfer_of(scenario.policy.name), scenario.quirks)
    )
    return list(dict.fromkeys(state.value for state, _ in machine.rows))


def _memory_conflicts(scenario: Scenario) -> Iterator[Problem]:
    """Is there such a curve, and was it measured at the load of this workload?"""
    memory = scenario.memory
    if not isinstance(memory, MeasuredMemory):
        return
    named = memory.curve is not None
    own = ("file", "workload", "setting")
    wrong = [key for key in own if (getattr(memory, key) is not None) == named]
    if wrong:
        text = (
            "given beside curve; leave out one of the two"
            if named
            else "missing; give curve, or file, workload and setting of your own measurement"
        )
        yield from ((f"memory.{key}", text) for key in wrong)
        return
    try:
        curve = memory.model(scenario.costs().page_bytes)
    except ModelError as error:
        key, right = (
            ("guest_memory", "give more")
            if named
            else ("file", "give a CSV file with such rows, and enough guest_memory")
        )
        yield f"memory.{key}", f"{error}; {right}"
        return
    if scenario.stream.delta_size == "age" and not curve.deltas:
        yield (
            "stream.delta_size",
            f'{curve.label} has no column delta_ratio; measure it too, or give "ratio"',
        )
    load = _load_unlike(scenario.workload, curve.load_per_s)
    if load and memory.pages_per_request is None:
        yield (
            "memory.pages_per_request",
            f"missing; {curve.label} was measured at {curve.load_per_s:.6g} /s and the workload "
            f"has {load}; give how many distinct pages a further request dirties, or that load",
        )


def _part_conflicts(scenario: Scenario) -> Iterator[Problem]:
    parts = scenario.cost.model_dump()
    if parts["zero_pages"] + parts["duplicate_pages"] > 1:
        yield (
            "cost.duplicate_pages",
            "more than all pages with zero_pages; give 1 less those at most",
        )


def _shares(scenario: Scenario) -> bool:
    """VMs share something."""
    return scenario.sharing.vms > 1 or scenario.sharing.cpus is not None


_PhaseConflict = tuple[Callable[[Scenario, Phase], bool], str, str]

_PHASE_CONFLICTS: tuple[_PhaseConflict, ...] = (
    (
        lambda s, p: isinstance(s.workload, BatchJob) and p.load != 1.0,
        "load",
        "a batch job asks for nothing; leave it out",
    ),
    (
        lambda s, p: p.clients is not None and not isinstance(s.workload, ClosedService),
        "clients",
        'a number of clients needs workload.load = "closed"; give load instead',
    ),
    (
        lambda s, p: (
            isinstance(s.workload, ClosedService)
            and p.clients is not None
            and p.clients > s.workload.clients
        ),
        "clients",
        "more than there are; give at most workload.clients",
    ),
    (
        lambda s, p: p.touches != 1.0 and not isinstance(s.memory, TouchedMemory),
        "touches",
        "a measured curve has one rate of its own; leave it out, or give another memory.kind",
    ),
    (
        lambda s, p: (
            p.touches != 1.0
            and isinstance(s.memory, TouchedMemory)
            and s.memory.background != "none"
        ),
        "touches",
        'the background is measured at one rate; leave it out, or give memory.background = "none"',
    ),
    (
        lambda s, p: p.touches != 1.0 and s.costs().first_write_ns > 0,
        "touches",
        "what first writes cost is reckoned at one rate; leave it out, or cost.first_write",
    ),
    (
        lambda s, p: p.divergence != 1.0 and s.fidelity == "epoch",
        "divergence",
        'fidelity "epoch" draws what differs before it knows when; leave it out, or give '
        'fidelity = "response"',
    ),
    (
        lambda s, p: (
            p.load != 1.0
            and isinstance(s.memory, MeasuredMemory)
            and s.memory.pages_per_request is None
        ),
        "load",
        "the curve was measured at one load; give memory.pages_per_request",
    ),
)


def _phase_conflicts(scenario: Scenario) -> Iterator[Problem]:
    for i, phase in enumerate(scenario.phase):
        for holds, key, text in _PHASE_CONFLICTS:
            if holds(scenario, phase):
                yield f"phase.{i}.{key}", text
    asking = [phase.load > 0 and phase.clients != 0 for phase in scenario.phase]
    if asking and not any(asking):
        yield "phase.0.load", "nobody ever asks, in none of the phases; give more than 0 in one"
    if not scenario.phase and scenario.after_phases != "repeat":
        yield "after_phases", "there are no phases; give some [[phase]], or leave it out"


def _load_unlike(workload: Workload, measured_per_s: float) -> str:
    """The workload's load in words if it is not the measured one, else nothing."""
    if isinstance(workload, ClosedService):
        return "a closed load, which follows from the responses"
    load_per_s = workload.rate_per_s if isinstance(workload, OpenService) else 0.0
    same = abs(load_per_s - measured_per_s) <= 0.01 * measured_per_s
    return "" if same else RATE.format(load_per_s)


# --------------------------------------------------------------------------------------------
# Files


def load_scenario(path: str | Path) -> Scenario:
    """Read a scenario file; `ScenarioError` with one line for each problem.

    ``memory.file`` is taken relative to the file's folder.
    """
    path = Path(path)
    mapping, where = read_toml(path)
    memory = mapping.get("memory")
    if isinstance(memory, dict) and isinstance(memory.get("file"), str):
        memory["file"] = str(path.parent.absolute() / memory["file"])
    return Scenario.from_mapping(mapping, where)


def read_toml(path: Path, kind: str = "scenario") -> tuple[dict[str, Any], str]:
    """What a TOML file holds, and what to call it in errors; `ScenarioError` if it is none.

    ``kind`` is what the file should be, for messages.
    """
    where = str(path) if str(path).isprintable() else shown(str(path))
    mapping = _parse(_read(path, where, kind), where, kind)
    for other, keys, right in _OTHER_FILES:
        if other != kind and keys <= mapping.keys():
            raise ScenarioError(f"{where}: is a {other} file, not a {kind} file; {right}")
    return mapping, where


#: kind of a file, what tells it from others, and what to do with it
_OTHER_FILES = (
    ("scenario", {"workload", "memory"}, "a sweep file names it: scenario = ..., and has [axes]"),
    ("sweep", {"scenario", "axes"}, "give it to colosim sweep, or give the scenario that it names"),
)


def _read(path: Path, where: str, kind: str) -> str:
    try:
        if path.is_dir():
            raise ScenarioError(f"{where}: is a directory; give a {kind} file")
        size = path.stat().st_size
        if not path.is_file():  # a pipe may never end
            raise ScenarioError(f"{where}: is not a regular file; give a {kind} file")
        if size > _LARGEST_FILE_BYTES:
            most = f"{_LARGEST_FILE_BYTES >> 10} KiB"
            raise ScenarioError(f"{where}: larger than {most}; give a {kind} file")
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ScenarioError(f"{where}: is not text in UTF-8; give a {kind} file") from None
    except OSError as error:
        raise ScenarioError(f"{where}: {error.strerror}; give a file that can be read") from None


def _parse(text: str, where: str, kind: str) -> dict[str, Any]:
    if not text.strip():
        raise ScenarioError(f"{where}: is empty; give a {kind} file")
    longest = max(text.splitlines(), key=len)
    if len(longest) > _LONGEST_LINE:
        raise ScenarioError(
            f"{where}: has a line of {len(longest)} characters; give at most {_LONGEST_LINE}"
        )
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ScenarioError(f"{where}: is not TOML: {why}; correct it there") from None


# --------------------------------------------------------------------------------------------
# Schema

_UNITS = {"boolean": "true or false", "string": "text", "array": "list of tables"}


def json_schema() -> dict[str, Any]:
    """JSON Schema of a scenario file; every property has a description and a unit."""
    schema = Scenario.model_json_schema()
    words = {f"#/$defs/{name}": each for name, each in schema["$defs"].items() if "enum" in each}
    for ref in words:
        del schema["$defs"][ref.rpartition("/")[2]]
    for table in (schema, *schema["$defs"].values()):
        for key, prop in table["properties"].items():
            table["properties"][key] = _described(prop, words)
    return schema


def _described(prop: dict[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """A property with its unit, and without null, which TOML does not have."""
    forms = [form for form in prop.get("anyOf", ()) if form != {"type": "null"}]
    if len(forms) == 1:
        prop = {**forms[0], **prop}
        del prop["anyOf"], prop["default"]
    prop = {**words.get(prop.get("$ref", ""), {}), **prop}
    if "enum" in prop or "const" in prop:
        prop.pop("$ref", None)
        unit = "one word"
    elif "$ref" in prop or "oneOf" in prop:
        for derived in ("default", "discriminator"):  # said by the table's own fields
            prop.pop(derived, None)
        unit = "table"
    else:
        unit = _UNITS.get(prop["type"], "")
    return {"unit": unit, **prop} if unit else prop
