"""Subwords to tokens: the merging algorithm on the device and on the host, its goals, learnt merge lists."""
