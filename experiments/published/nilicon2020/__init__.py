"""NiLiCon (Zhou and Tamir, IPDPS 2020): its micro-checkpointing baseline, three programs.

Run it with ``python -m experiments.published.nilicon2020``.
"""
