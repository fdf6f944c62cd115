"""The table ``[availability]``: failures and repairs over years."""

from __future__ import annotations

from typing import Annotated, Literal

from colosim.section import Rate, Ratio, Section, Time, number, option


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
