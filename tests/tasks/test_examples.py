"""Labelled examples: what is read, and what is refused with its file and line."""

import gzip
import json

import pytest

from dyntok_jax.errors import InputError
from dyntok_jax.tasks import Examples, read_examples


def write(path, *rows):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return [str(path)]


def test_pairs_texts_and_words_are_read(tmp_path):
    pairs = write(tmp_path / "a.jsonl.gz", {"premise": "p", "hypothesis": "h", "label": "neutral", "id": 1}, "")
    assert read_examples(pairs, "nli") == Examples([("p", "h")], ["neutral"])
    texts = write(tmp_path / "b.jsonl", {"text": "t", "category": "sports"})
    assert read_examples(texts, "classify") == Examples(["t"], ["sports"])
    words = write(tmp_path / "c.jsonl", {"tokens": ["Anna", "sang"], "tags": ["B-PER", "O"]})
    assert read_examples(words, "ner") == Examples([["Anna", "sang"]], [["B-PER", "O"]])


def test_tags_of_an_entity_are_labels_even_if_one_does_not_occur():
    examples = Examples([["Anna"], ["Oslo"]], [["B-PER"], ["B-LOC"]])
    assert examples.label_names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert examples.numbers(examples.label_names) == [[3], [1]]


@pytest.mark.parametrize(
    ("task", "row", "told"),
    [
        ("nli", {"premise": "p", "label": "x"}, "line 1 lacks hypothesis"),
        ("nli", {"premise": "p", "hypothesis": 3, "label": "x"}, "hypothesis must be text"),
        ("classify", {"text": "t"}, "has no label"),
        ("classify", {"text": "t", "label": 3}, "a label must be text, got 3"),
        ("classify", "[1]", "must be a JSON object with text"),
        ("classify", "{", "is not JSON"),
        ("ner", {"tokens": ["a", "b"], "tags": ["O"]}, "has 2 tokens and 1 tags"),
        ("ner", {"tokens": ["a"], "tags": ["X"]}, "must be O, B-KIND or I-KIND, got 'X'"),
        ("ner", {"tokens": ["a", "b"], "tags": ["B-PER", "I-LOC"]}, "I-LOC follows B-PER"),
        ("ner", {"tokens": "Anna", "tags": ["O"]}, "tokens must be a list of words"),
    ],
)
def test_a_bad_example_is_refused_with_its_line(tmp_path, task, row, told):
    with pytest.raises(InputError, match=told):
        read_examples(write(tmp_path / "bad.jsonl", row), task)


def test_a_file_without_examples_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no example"):
        read_examples(write(tmp_path / "blank.jsonl", "  "), "nli")


def test_labels_that_the_model_does_not_have_are_all_listed():
    with pytest.raises(InputError, match=r"'a', 'c' are not among those of the model: b"):
        Examples(["1", "2", "3"], ["c", "a", "b"]).numbers(("b",))


def test_data_sets_are_read_with_the_names_of_their_labels(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    pairs = {"premise": ["p", "q"], "hypothesis": ["h", "i"], "label": [1, -1]}
    features = Features(premise=Value("string"), hypothesis=Value("string"), label=ClassLabel(names=["yes", "no"]))
    Dataset.from_dict(pairs, features).save_to_disk(tmp_path / "pairs")
    found = read_examples([f"hf:{tmp_path / 'pairs'}"], "nli", needs_labels=False)
    assert found == Examples([("p", "h"), ("q", "i")], ["no", None])
    with pytest.raises(InputError, match="row 2 has no label"):
        read_examples([f"hf:{tmp_path / 'pairs'}"], "nli")
    tagged = {"tokens": [["Anna", "sang"]], "ner_tags": [[1, 0]]}
    features = Features(tokens=Sequence(Value("string")), ner_tags=Sequence(ClassLabel(names=["O", "B-PER"])))
    Dataset.from_dict(tagged, features).save_to_disk(tmp_path / "tagged")
    assert read_examples([f"hf:{tmp_path / 'tagged'}"], "ner") == Examples([["Anna", "sang"]], [["B-PER", "O"]])
