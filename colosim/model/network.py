"""What a network does to frames on their way: loss in bursts or not, doubles, and late ones.

Loss is Gilbert's and Elliott's chain (Gilbert, Bell System Technical Journal 39, 1960; Elliott,
ibid. 42, 1963): a good and a bad state, each with a chance that a frame is lost; after each frame
the state may change.  Parameters as those of tc-netem's ``gemodel p r 1-h 1-k``:
``burst_begins`` is p, ``burst_ends`` r, ``burst_loss`` 1-h and ``loss`` 1-k.  With ``burst_begins``
0 each frame is lost on its own (Bernoulli).  It begins in its steady state, bad with chance
p / (p + r), so

    mean loss = (r loss + p burst_loss) / (p + r)

and the bad state lasts 1 / r frames on average, geometrically.
"""

from __future__ import annotations

from dataclasses import dataclass

from colosim.model.errors import check_range


@dataclass(frozen=True, slots=True)
class Impairments:
    """Chances in [0, 1] for each frame; a mean delay (ns); else ModelError."""

    loss: float = 0.0
    burst_begins: float = 0.0
    burst_ends: float = 1.0
    burst_loss: float = 1.0
    duplicated: float = 0.0
    reordered: float = 0.0
    reorder_delay_ns: int = 1_000_000

    def __post_init__(self) -> None:
        for name in ("loss", "burst_begins", "burst_ends", "burst_loss", "duplicated", "reordered"):
            check_range(name, getattr(self, name), high=1.0)
        check_range("reorder_delay_ns", self.reorder_delay_ns)

    @property
    def harm(self) -> bool:
        """Whether anything can happen to a frame."""
        return bool(self.loss or self.burst_begins or self.duplicated or self.reordered)

    @property
    def bad_part(self) -> float:
        """Part of the frames that meet the bad state."""
        p, r = self.burst_begins, self.burst_ends
        return p / (p + r) if p else 0.0

    @property
    def mean_loss(self) -> float:
        return (1 - self.bad_part) * self.loss + self.bad_part * self.burst_loss

    def is_lost(self, is_bad: bool, u: float) -> bool:
        """``u`` is a uniform variate in [0, 1)."""
        return u < (self.burst_loss if is_bad else self.loss)

    def next_is_bad(self, is_bad: bool, u: float) -> bool:
        """The state that the next frame meets; ``u`` as above."""
        return u >= self.burst_ends if is_bad else u < self.burst_begins
