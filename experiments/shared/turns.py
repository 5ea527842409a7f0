"""Timing of rivals in turns: a busy machine drifts within seconds, so separate runs are not comparable."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from rich.progress import track

Rounds = list[list[tuple[float, Any]]]
"""Seconds and result, [round][item]."""


def take_turns(modes: dict[str, Callable], items: list, rounds: int, title: str) -> dict[str, Rounds]:
    """Seconds and result of each mode for each item in each round, [round][item]; the modes take turns on each item."""
    runs: dict[str, Rounds] = {mode: [[] for _ in range(rounds)] for mode in modes}
    for number in track(range(rounds), description=title, transient=True):
        for at, item in enumerate(items):
            # no mode always goes first
            for mode in list(modes) if (at + number) % 2 else list(modes)[::-1]:
                started = time.perf_counter()
                result = modes[mode](item)
                runs[mode][number].append((time.perf_counter() - started, result))
    return runs


def best_seconds(rounds: Rounds) -> float:
    """The sum over items of the best round: the time on an idle machine."""
    return sum(min(seconds for seconds, _ in of_item) for of_item in zip(*rounds, strict=True))


def round_seconds(rounds: Rounds) -> list[float]:
    return [sum(seconds for seconds, _ in of_round) for of_round in rounds]


def ratio(slow: Rounds, fast: Rounds) -> tuple[float, float]:
    """The speed-up by best times, and the median ratio of whole rounds."""
    pairs = zip(round_seconds(slow), round_seconds(fast), strict=True)
    return best_seconds(slow) / best_seconds(fast), median(a / b for a, b in pairs)
