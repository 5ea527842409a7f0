"""What users choose is checked when it is made, and says what it should have been."""

import subprocess
import sys

import pytest

from dyntok_jax import Merges, Merging, Share
from dyntok_jax.errors import InputError
from dyntok_jax.options import FULL, STATIC, one_merging

WITHOUT_TYPE_CHECKS = """
from dyntok_jax import Budget, DyntokError, Merges, Merging, Share
from dyntok_jax.options import check_list, one_merging

for options in ({"goal": 10}, {"goal": "static"}, {"boundary": "letter"}, {"scope": "bacth"}, {"max_subwords": 0}):
    try:
        Merging(**options)
    except DyntokError as error:
        print(error)
for make in (
    lambda: Merges(1.5),
    lambda: Share("100"),
    lambda: Budget("9"),
    lambda: one_merging(None, Share(50), None),
    lambda: check_list("texts", (text for text in "ab")),
):
    try:
        make()
    except DyntokError as error:
        print(error)
"""


def test_what_cannot_be_merged_is_refused_without_type_checks_too():
    said = subprocess.run([sys.executable, "-c", WITHOUT_TYPE_CHECKS], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [
        "goal must be a Merges, Share or Budget, or None for static tokenization, got 10.",
        "goal must be a Merges, Share or Budget, or None for static tokenization, got 'static'.",
        "boundary must be one of pretoken, word, word_hyphen, sentence, got 'letter'.",
        "scope must be one of batch, example, auto, got 'bacth'.",
        "max_subwords must be 1 or more, None for no limit, or 'auto', got 0.",
        "The number of merges must be a whole number, 0 or more, got 1.5.",
        "The share of the maximum reduction must be from 0 to 100 %, got '100'.",
        "The token budget must be a whole number, 1 or more, got '9'.",
        "merging must be a Merging, got Share(percent=50): goal=Share(50) is short for Merging(Share(50)).",
        "texts must be a list, got generator: give list(texts).",
    ]


@pytest.mark.parametrize("default", [FULL, None])
def test_goal_is_short_for_merging_and_both_are_one_too_many(default):
    assert one_merging(Share(50), None, default) == Merging(Share(50))
    assert one_merging(None, None, default) == STATIC
    assert one_merging(default, Merging(Merges(3), "word"), default) == Merging(Merges(3), "word")
    with pytest.raises(InputError, match="not both"):
        one_merging(Merges(3), Merging(), default)
