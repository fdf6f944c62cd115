"""PLOVER (Wang et al., NSDI 2018): eight services under micro-checkpointing and under COLO.

``fits``    what is fitted, in closed form, and the scenarios it makes
``study``   rows from the simulations
``figure``  the one figure

Run it with ``python -m experiments.published.plover2018``.
"""
