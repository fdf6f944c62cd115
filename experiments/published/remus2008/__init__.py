"""Remus (Cully et al., NSDI 2008): which of its numbers does the simulator explain?

``pauses``        pause and transmit as lines over dirty pages
``kernel_build``  a batch job: pauses bound its overhead, slow-down at first write is fitted
``specweb``       a web server: achieved rate, delay by output buffering, score
``failover``      the time clients see nothing when the primary's host is lost
``experiment``    all of it together
``figure``        the one figure

Run it with ``python -m experiments.published.remus2008``; README.md says how to read the result.
"""
