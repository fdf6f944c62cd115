"""Fidelity ``epoch``: requests between two points of synchronisation are numpy arrays.

`log` has the requests, and `feedback` those of clients that wait for answers; `lane` moves them
through a server; `guest`, `traffic` and `output` tie that to the protocol.  The same core decides,
by the same events; output enters it as ranges of many responses.
"""
