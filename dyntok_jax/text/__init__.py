"""Texts to subwords: byte-level tokenizers, boundaries, padded batches. Numpy only."""
