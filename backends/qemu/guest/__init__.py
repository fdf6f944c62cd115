"""The guest of a live run: a small Linux with real services, built from Debian packages.

`build` makes an image, `cached` finds one that is there. `ground` is the host's view of the program
whose memory and answers are known in advance.
"""

from __future__ import annotations

from backends.qemu.guest.ground import GroundOptions
from backends.qemu.guest.image import GuestImage, build, cached
from backends.qemu.guest.services import SERVICES, Service

__all__ = ["SERVICES", "GroundOptions", "GuestImage", "Service", "build", "cached"]
