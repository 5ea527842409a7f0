"""Labels of classification heads: their names, their numbers, and heads that do not fit them."""

import json

import jax
import pytest

from dyntok_jax.convert import load_sequence_head, load_token_head, save_encoder
from dyntok_jax.errors import CheckpointError, ConfigError, InputError
from dyntok_jax.models import SequenceHead, TokenHead, label_ids, labels_of_hf
from tests.models.test_bert import fresh, small_config

CONFIG = small_config()
NAMES = ("O", "B-PER", "I-PER")


def test_a_label_that_the_model_does_not_have_is_refused():
    head = TokenHead(CONFIG, NAMES, jax.random.key(0))
    with pytest.raises(InputError, match=r"no label 'B-LOC', 'I-LOC': its labels are O, B-PER, I-PER\.$"):
        label_ids(head, ["O", "I-LOC", "B-LOC"])


@pytest.mark.parametrize("named", [{"0": "a", "2": "b"}, ["a", "b"], {"0": "a", "1": "a"}, {}])
def test_labels_that_are_not_numbered_from_0_or_share_a_name_are_refused(named):
    with pytest.raises(ConfigError):
        labels_of_hf({"id2label": named})


def test_labels_of_another_number_than_the_head_s_are_refused(tmp_path):
    save_encoder(tmp_path, CONFIG, fresh(CONFIG), TokenHead(CONFIG, NAMES, jax.random.key(0)))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {"0": "O", "1": "B-PER"}}))
    with pytest.raises(CheckpointError, match=r"has 3 labels and id2label in config.json names 2 \(O, B-PER\)"):
        load_token_head(tmp_path)


def test_a_head_of_another_task_or_none_is_refused(tmp_path):
    save_encoder(tmp_path / "tokens", CONFIG, fresh(CONFIG), TokenHead(CONFIG, NAMES, jax.random.key(0)))
    save_encoder(tmp_path / "body", CONFIG, fresh(CONFIG))
    save_encoder(tmp_path / "sequences", CONFIG, fresh(CONFIG), SequenceHead(CONFIG, NAMES, jax.random.key(0)))
    with pytest.raises(CheckpointError, match="no head ForSequenceClassification: it is a BertForTokenClassification"):
        load_sequence_head(tmp_path / "tokens")
    with pytest.raises(CheckpointError, match="no head ForTokenClassification: it is a BertForSequenceClassification"):
        load_token_head(tmp_path / "sequences")
    with pytest.raises(CheckpointError, match="no head ForTokenClassification: it lacks classifier"):
        load_token_head(tmp_path / "body")
