"""Numbers and distributions that the simulated world is made of (numpy).

``streams``     random draws by (seed, replication, purpose, key, index)
``memory``      distinct dirty pages as a function of exposure
``divergence``  when the two guests start to differ
``cost``        durations and sizes of the steps of a checkpoint; slow-down at first write
``delta``       what is left of a page as a difference
``schedule``    rates that change in time
``network``     frames that are lost, doubled or late
``disk``        how long a disk takes, what blocks hold, overlays, the judge of a survivor's disk
``results``     what one replication returns, its fingerprint and its metrics
``errors``      :class:`~colosim.model.errors.ModelError`

Units are in the names: ``_ns`` integer nanoseconds, ``_pages`` pages of guest memory, ``_per_s``.
Nothing here draws a random number except ``streams``: models take the variate as an argument.
"""
