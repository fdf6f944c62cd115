"""The sans-IO core of COLO, Remus and micro-checkpointing: standard library only."""
