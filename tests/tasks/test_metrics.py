"""Scores, against a plain definition."""

from hypothesis import given, strategies as st

from dyntok_jax.tasks import entities, entity_f1, macro_f1

tags = st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), min_size=1, max_size=12)


def chunks_by_boundaries(sequence: list[str]) -> set[tuple[str, int, int]]:
    """Entities by conlleval's rules: where does one begin, where does one end."""
    found, begin = set(), 0
    padded = ["O", *sequence, "O"]
    for at in range(1, len(padded)):
        before, tag = padded[at - 1], padded[at]
        ends = before != "O" and (tag[0] in "OB" or tag[2:] != before[2:])
        begins = tag != "O" and (tag[0] == "B" or before == "O" or tag[2:] != before[2:])
        if ends:
            found.add((before[2:], begin, at - 1))
        if begins:
            begin = at - 1
    return found


@given(tags)
def test_entities_are_those_of_conlleval(sequence):
    assert {tuple(one) for one in entities(sequence)} == chunks_by_boundaries(sequence)


@given(tags)
def test_the_right_tags_have_an_f1_of_100_or_no_entity(sequence):
    assert entity_f1([sequence], [sequence]) == (100.0 if entities(sequence) else 0.0)


def test_macro_f1_weighs_rare_labels_like_frequent_ones():
    assert macro_f1(["a"] * 9 + ["a"], ["a"] * 9 + ["b"]) < 50
