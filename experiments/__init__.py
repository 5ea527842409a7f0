"""One script a result: run one as `python -m experiments.NAME`."""
