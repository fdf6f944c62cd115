"""GANNET (Wang et al., ICPADS 2017): databases under COLO, FTP, a failover.

Run it with ``python -m experiments.published.gannet2017``.
"""
