"""Confidence intervals of shares that were counted."""

from math import sqrt

Z_95 = 1.959964
"""The normal quantile of a two-sided interval of 95 %."""


def wilson_percent(n_successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """The interval of a share, in percent (Wilson 1927; eq. 4 of Brown, Cai & DasGupta 2001).

    >>> [round(end, 1) for end in wilson_percent(25, 100)]
    [17.5, 34.3]
    """
    share, shrunk = n_successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrunk
    half = z / shrunk * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # exactly 0 and 100 at the ends, which rounding may miss
    return 100 * (centre - half if n_successes else 0.0), 100 * (centre + half if n_successes < n else 1.0)


def paired_half_percent(n_lost: int, n_won: int, n: int, z: float = Z_95) -> float:
    """Half the interval of the difference of two shares of the same n, in percentage points (Wald, paired).

    Args:
      n_lost: right only in the first.
      n_won: right only in the second.
      n: all of them.
      z: normal quantile.

    >>> round(paired_half_percent(6, 4, 100), 1)
    6.2
    """
    return 100 * z * sqrt(n_lost + n_won - (n_lost - n_won) ** 2 / n) / n
