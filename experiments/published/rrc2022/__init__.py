"""RRC (Zhou and Tamir, ATC 2022): replays that end without a divergence, by length of epoch.

Run it with ``python -m experiments.published.rrc2022``.
"""
