"""How far everything is padded: a few sizes each, so that a stream of real text compiles a handful of programs.

What is padded to a bucket is a shape of a compiled program: fewer buckets compile less, more of them compute less
padding. Where a program takes long to compile (a decoder's) they are coarse; where it runs often and long (a training
step's), fine.
"""

from collections.abc import Sequence

LENGTH_BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Tokens a sequence in an encoder; longer ones go up in steps of 512."""
BATCH_BUCKETS = (1, 2, 4, 8, 16, 24, 32)
"""Sequences a batch in an encoder."""

DECODER_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)
"""Sequences a batch in a decoder."""
CAPACITY_BUCKETS = (256, 512, 1024, 2048, 4096, 8192)
"""Slots of the key/value cache a sequence; longer ones go up in steps of 8192."""
CONTINUATION_BUCKETS = (16, 64, 256, 512, 1024, 2048, 4096)
"""Tokens of a continuation to score."""

SURFACE_BUCKETS = (3, 7, 16, 64, 256)
"""Subwords of a surface form: most merged tokens have two or three."""
PREDICTED_ROW_BUCKETS = (64, 512)
"""Rows a prediction; more are predicted in several calls of the largest."""

TRAINING_SUBWORD_BUCKETS = (32, 64, 96, 128, 192, 256, 384, 512)
"""Subwords a sequence in training."""
TRAINING_TOKEN_BUCKETS = (24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)
"""Tokens a sequence in training: finer, for the student's passes forth and back cost more than the teacher's."""
TRAINING_ROW_BUCKETS = (128, 256, 384, 512)
"""New tokens a batch in training. On real text, 96 subwords at most, the three make some 20 programs to compile."""


def bucket(length: int, buckets: Sequence[int] = LENGTH_BUCKETS) -> int:
    """The smallest bucket that holds `length`, or the next multiple of the largest one.

    >>> bucket(17), bucket(513)
    (24, 1024)
    """
    for size in buckets:
        if length <= size:
            return size
    return -(-length // buckets[-1]) * buckets[-1]


def divided_buckets(buckets: Sequence[int], n_parts: int) -> tuple[int, ...]:
    """The buckets, rounded up to what `n_parts` devices divide.

    >>> divided_buckets((1, 2, 4, 8), 4)
    (4, 8)
    """
    return tuple(sorted({-(-size // n_parts) * n_parts for size in buckets}))


def buckets_up_to(longest: int, buckets: Sequence[int]) -> tuple[int, ...]:
    """The buckets where nothing is longer than `longest`, which is the last of them.

    >>> buckets_up_to(9, SURFACE_BUCKETS)
    (3, 7, 9)
    """
    return (*(size for size in buckets if size < longest), longest)
