"""A run, looked at: as it happens, or again at any speed.

``model`` makes of what happened what is to be seen, and knows no clock, file or screen. ``sources``
say what happened and when: the files of a run that goes on, a run directory, a simulation.
``terminal`` and ``page`` show it, ``widget`` does so in a notebook. ``shipped`` is a live run
that comes with colosim.
"""
