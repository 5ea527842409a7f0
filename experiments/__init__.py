"""One script per result: run one as `python -m experiments.NAME`."""
