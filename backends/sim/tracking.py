"""What guests dirty, and what that takes on the link: the memory model, drawn once a checkpoint."""

from __future__ import annotations

from typing import NamedTuple

from backends.nodes import role_of
from backends.sim.guest import Meter
from backends.sim.host import Host
from colosim.model.cost import varied_ratio
from colosim.model.streams import Streams
from colosim.scenario import Scenario


class Dirtied(NamedTuple):
    """What a guest has dirtied since tracking began.

    written_ns: the exposure as the memory model takes it.  served: requests meanwhile.
    pages: distinct ones.
    """

    exposure_ns: int
    written_ns: int
    served: int
    pages: int


class DirtyTracking:
    """Of all guests of a world; whatever is asked about a checkpoint has the same draw."""

    def __init__(self, scenario: Scenario, streams: Streams) -> None:
        self._streams = streams
        self._memory = scenario.memory_model()
        self._costs = scenario.costs()
        self._is_delta = scenario.stream.compression == "delta"
        self._delta_ratio = scenario.delta_ratio() if self._is_delta else None
        self._touches = scenario.schedule().touches()
        self.is_extrapolated = False  # the model was asked for more than it was measured for

    def watch(self, host: Host) -> None:
        """Have what the schedule says of writes added up while the host's guest runs."""
        if touches := self._touches:
            host.touched = Meter(
                lambda from_ns, to_ns, done_ns, busy: (
                    (touches.done(to_ns) - touches.done(from_ns)) * done_ns / (to_ns - from_ns)
                )
            )
            host.guest.meters.append(host.touched)

    def dirtied(self, host: Host, checkpoint: int) -> Dirtied:
        """Since the cut, or since tracking began anew."""
        guest = host.guest
        exposure_ns = guest.exposure_ns
        touched_ns = exposure_ns if host.touched is None else host.touched.value
        written_ns = round(touched_ns * guest.speed)  # a slow guest writes slowly
        served = guest.served_since_cut
        pages = self.distinct(host, written_ns, served, checkpoint)
        return Dirtied(exposure_ns, written_ns, served, pages)

    def distinct(self, host: Host, written_ns: int, served: int, checkpoint: int) -> int:
        """Distinct pages that so much dirties."""
        purpose = f"pages-{role_of(host.id)}"
        u = self._streams.uniform(purpose, host.pair - 1).at(checkpoint)
        pages, is_extrapolated = self._memory.draw(written_ns, served, u)
        self.is_extrapolated |= is_extrapolated
        return pages

    def restored(self, pages: int, own: int) -> int:
        """Pages to restore where a state has so many, and the guest that takes it has its own."""
        return self._memory.union(pages, own)

    def ram_bytes(self, host: Host, dirtied: Dirtied, checkpoint: int) -> int:
        """What pages are on the link; how well they compress is drawn once a checkpoint."""
        costs, ratio = self._costs, 1.0
        if self._delta_ratio is not None:
            draws = self._streams.normal("delta-ratio", host.pair - 1)
            z = draws.at(checkpoint) if costs.delta_spread else 0.0
            mean = self._delta_ratio(dirtied.written_ns, dirtied.served)
            ratio = varied_ratio(mean, costs.delta_spread, z)
        return costs.state_bytes(dirtied.pages, ratio) - costs.device_state_bytes

    def encode_ns(self, pages: int) -> int:
        """What making pages smaller takes: as the state is taken, but of a copy as it is sent."""
        return self._costs.encode_ns(pages, self._is_delta)

    def load_ns(self, pages: int, restored: int) -> int:
        """What loading a state of so many pages takes, where so many are to be restored."""
        mean_ns = self._costs.load_ns(restored)
        if self._is_delta:
            mean_ns += self._costs.delta_load_per_page_ns * self._costs.parts(pages).content
        return mean_ns
