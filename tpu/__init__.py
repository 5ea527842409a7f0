"""Full-size programs compiled ahead of time for named TPU topologies."""
