"""Text that follows prompts: the decoding loop, sampling, log-probabilities."""
