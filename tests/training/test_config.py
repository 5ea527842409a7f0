"""The options of a run: read without JAX, completed by what model and objectives decide, compared by what matters."""

import subprocess
import sys
from dataclasses import replace

import pytest

from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.training import Objectives, OptimizerConfig, RunConfig, TrainingConfig
from dyntok_jax.training.data import DataConfig
from dyntok_jax.training.job import MASK_PROBABILITY, prepare_job, resolved

DATA = DataConfig({"de": ("de.txt",)}, words={"de": ("words.txt",)}, words_share={"de": 0.3})
CONFIG = TrainingConfig(data=DATA)


def data_of(objectives: Objectives, config: TrainingConfig = CONFIG) -> DataConfig:
    found = resolved(config, objectives, max_subwords=5, prefix="query: ")
    assert found.objectives == objectives
    return found.data


def test_options_need_no_jax():
    program = (
        "import sys; from dyntok_jax.training import TrainingConfig; TrainingConfig(); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_objectives_decide_about_the_data():
    texts = data_of(Objectives(hidden=1.0))
    assert (texts.text, texts.pieces_per_batch, texts.mask_probability) == (DATA.text, 0, 0.0)
    both = data_of(Objectives(language_model=1.0, pieces=0.5))
    assert (both.words, both.pieces_per_batch, both.mask_probability) == (DATA.words, 128, MASK_PROBABILITY)
    pieces = data_of(Objectives(pieces=1.0))
    assert (pieces.text, pieces.words, pieces.words_share, pieces.pieces_per_batch) == ({}, {}, {}, 128)


def test_model_and_network_decide_what_was_left_open():
    data = data_of(Objectives(hidden=1.0))
    assert (data.max_subwords, data.prefix) == (5, "query: ")
    given = replace(CONFIG, data=replace(DATA, prefix=""))
    assert data_of(Objectives(hidden=1.0), given).prefix == ""


def test_nothing_is_held_out_where_files_validate():
    given = replace(CONFIG, data=replace(DATA, validation=("aligned.jsonl",)))
    assert data_of(Objectives(hidden=1.0)).held_out == 32
    assert data_of(Objectives(hidden=1.0), given).held_out == 0


def test_steps_of_identities_are_batches():
    given = replace(CONFIG, optimizer=OptimizerConfig(accumulate=3), run=RunConfig(identity_steps=2))
    assert data_of(Objectives(pieces=1.0), given).identity_batches == 6


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (TrainingConfig(), "nothing to train on"),
        (TrainingConfig(objectives=Objectives(hidden=1.0)), "nothing to train on"),
        (replace(CONFIG, run=RunConfig(identity_steps=2)), "add pieces to --objectives"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_is_loaded(config, told):
    with pytest.raises(InputError, match=told):
        prepare_job(replace(config, model="no such model"))


def test_where_texts_lie_and_what_is_written_does_not_decide():
    others = [
        replace(CONFIG, data=replace(DATA, text={"de": ("moved.txt",)}, threads=0)),
        replace(CONFIG, run=RunConfig(keep=5, checkpoint_every=7, export_dtype="bfloat16")),
    ]
    assert all(other.decisive() == CONFIG.decisive() for other in others)
    assert replace(CONFIG, run=RunConfig(steps=7)).decisive() != CONFIG.decisive()
    assert replace(CONFIG, data=replace(DATA, seed=1)).decisive() != CONFIG.decisive()


def test_numbers_for_a_language_that_is_not_there_are_refused():
    with pytest.raises(
        ConfigError, match=r"language_weights names fr, but nothing is in that language; there are de\."
    ):
        replace(DATA, language_weights={"": 2.0, "fr": 3.0})
    assert replace(DATA, language_weights={"": 2.0}).weight_of("de") == 2.0
    assert (DATA.words_share_of("de"), DataConfig().words_share_of("de")) == (0.3, 0.5)
