"""Disks: a guest's requests to its own, and what replicates the primary's to the other host.

After its CPU time a request of the workload reads, then writes, then flushes, and only then is
answered (`GuestIo`).  The primary's disk is its own device and, over the link, the secondary's; a
write is done when both have it.  The secondary's guest sees `colosim.model.disk.Overlaid`.  As in
QEMU a guest that is stopped begins nothing, and counts as stopped when what it had begun has ended.

==============  =================================================================================
``requests``    what requests ask for, and the device of a host
``guest``       a guest's own half: what it has begun
``volumes``     the two disks, and the link between them
``replicated``  what the world knows: a cut, a load, a takeover, a fault; and the judge
==============  =================================================================================
"""

from backends.sim.disk.guest import GuestIo
from backends.sim.disk.replicated import NoDisk, ReplicatedDisk
from backends.sim.disk.requests import CHANNEL
from backends.sim.disk.volumes import PrimaryVolume, SecondaryVolume

__all__ = ["CHANNEL", "GuestIo", "NoDisk", "PrimaryVolume", "ReplicatedDisk", "SecondaryVolume"]
