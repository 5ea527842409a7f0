"""Dynamic tokenization for trained language models, in JAX."""
