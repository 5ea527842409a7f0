"""Tokens to embeddings: surface forms, FVT, the hypernetwork, the cache."""
