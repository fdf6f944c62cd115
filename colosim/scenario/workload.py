"""The table ``[workload]``: what the guest does."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from colosim.section import Count, Duration, Frequency, Section, Size, Time, option


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
