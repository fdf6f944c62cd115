"""Fidelity ``packet``: clients and guests that talk real frames.

The comparator and the rewriter of the core see what they see live.  From the inside out:

* `backends.sim.packet.frames`: Ethernet frames, headers and checksums complete
* `backends.sim.packet.tcp`: one end of one connection, a pure state machine
* `backends.sim.packet.content`: what requests and responses say, and how a client checks it
* `backends.sim.packet.server`: a guest's network stack and its service; can be copied
* `backends.sim.packet.clients`: the clients, and the network between them and the guests
* `backends.sim.packet.way`: a network that loses, doubles and delays frames
* `backends.sim.packet.guest`: a guest with a stack
* `backends.sim.packet.output`: what becomes of the frames that guests make
"""
