"""Experiments on real input: published numbers and measured curves; `make demo` runs them."""
