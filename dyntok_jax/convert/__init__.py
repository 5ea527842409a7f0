"""Hugging Face checkpoints in and out: a strict reader and one name table a model family."""
