"""Failure exploration: every fault at every step, pairs, and swarms; judged, shrunk, explained.

`space` says what there is to try, `judging` what must hold, `running` runs many points, `shrinking`
makes a violation small and `report` readable.  `colosim.explore` and ``colosim explore`` are the
entries.
"""
