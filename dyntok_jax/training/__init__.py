"""Training hypernetworks: batches from text, objectives, the run."""
