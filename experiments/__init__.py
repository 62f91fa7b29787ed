"""Experiments: what a paper's section of results would be made of."""
