"""The worlds that drive the protocol core: simulated (`sim`) and, from issue 3 on, live."""
