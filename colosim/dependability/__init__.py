"""Downtime and lost work over years (numpy, pandas).

``takeovers``  what clients see of each fault, from simulated runs of the scenario
``years``      `availability`: the long run of each policy, exactly and by simulated cycles
"""

from __future__ import annotations

from colosim.dependability.years import AvailabilityResult, availability

__all__ = ["AvailabilityResult", "availability"]
