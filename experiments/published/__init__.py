"""Published results, fitted where they say enough and predicted where they do not.

A package for each source of the table that colosim ships; each has a ``STUDY``, one figure and one
command.  ``python -m experiments.published`` runs all of them.

``table``       the published numbers
``rows``        the result: one row per number: measured, fitted, predicted or unmodelled
``study``       what a source is to the command
``simulation``  many scenarios on all cores
``closed``      clients that wait, in closed form
``curves``      pages over time, as a file
``silence``     failover
``figures``     what figures share
"""
