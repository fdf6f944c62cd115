"""Fidelity ``epoch``: requests between two points of synchronisation are numpy arrays.

`log` has the requests, `lane` moves them through a server, `guest` and `world` tie that to the
protocol.  The same core decides, by the same events; output enters it as ranges of many responses.
"""
