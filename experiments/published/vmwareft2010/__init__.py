"""VMware FT (Scales et al., OSR 2010): record and replay, which colosim does not model.

Run it with ``python -m experiments.published.vmwareft2010``.
"""
