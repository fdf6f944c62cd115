"""COLO with multifd (L. Straub, qemu-devel, 2026-01-17): RAM transfer by one stream and by four.

Run it with ``python -m experiments.published.straub2026``.
"""
