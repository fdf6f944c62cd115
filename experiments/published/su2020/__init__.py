"""COLO's pause with and without dirty pages sent ahead (D. Su, qemu-devel, 2020).

Run it with ``python -m experiments.published.su2020``.
"""
