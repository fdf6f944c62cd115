"""The network of a live run: a process of its own that outlives either host.

It joins passt (the way to the clients) and the hosts' guests by a hub, and the two hosts by a
link relay whose delay, bandwidth and cuts are set while it runs.

* `backends.qemu.net.port`: a guest's network, in the loop of its host's agent
* `backends.qemu.net.control`: how a run tells the network process what to do
* `backends.qemu.net.config`, `backends.qemu.net.passt`: what the two processes are started with
* `backends.qemu.net.hub`, `backends.qemu.net.relay`: what the network process is made of
"""
