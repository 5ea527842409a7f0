"""From the options of a run to everything it needs: the model, the network, batches and validation."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from jax.sharding import Mesh

from dyntok_jax.convert import save_hypernet
from dyntok_jax.embedding import Hypernet, languages_of
from dyntok_jax.encoding import default_prompt
from dyntok_jax.errors import InputError
from dyntok_jax.files import find_model
from dyntok_jax.models import Decoder
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder
from dyntok_jax.training.config import FOR_DECODERS, FOR_ENCODERS, UNDECIDED, Objectives, TrainingConfig
from dyntok_jax.training.data import batches_held_out, batches_of_files, digest_of, training_batches, with_pieces
from dyntok_jax.training.objectives import FrozenModel, total_loss
from dyntok_jax.training.run_folder import HYPERNET
from dyntok_jax.training.setup import check_max_length, fresh_hypernet, given_hypernet, load_frozen
from dyntok_jax.training.train_loop import Batches, Job, Validate
from dyntok_jax.training.validation import validator

MASK_PROBABILITY = 0.15


def prepare_job(config: TrainingConfig, mesh: Mesh | None = None) -> Job:
    """Loads everything that a run needs.

    Args:
      config: its options.
      mesh: shards the model by the rules in `sharding.py`.

    Raises:
      DyntokError: options contradict each other or do not fit the model, or files cannot be read.

    >>> from dyntok_jax.training import NetworkConfig
    >>> from dyntok_jax.training.data import DataConfig
    >>> small = NetworkConfig(layers=1, hidden=32, ffn=64, heads=4)
    >>> data = DataConfig(max_length=48, pieces_per_batch=16)
    >>> config = TrainingConfig(str(encoder_folder), data, Objectives(pieces=1.0), small)
    >>> job = prepare_job(config)
    >>> job.parameters.config.hidden_width, job.decisive["data"]["prefix"]
    (32, '')
    """
    _check_sources(config)
    with_head = config.objectives.language_model > 0
    frozen, tokenizer = load_frozen(config.model, dtype=config.run.compute_dtype, mesh=mesh, with_head=with_head)
    check_max_length(config.data.max_length, frozen)
    data, network = config.data, config.network
    if network.start_from is None:
        hypernet = fresh_hypernet(network, frozen, tokenizer, max_subwords=data.max_subwords, seed=data.seed)
    else:
        hypernet = given_hypernet(network.start_from, frozen, tokenizer)
    of_model = FOR_DECODERS if isinstance(frozen.body, Decoder) else FOR_ENCODERS
    config = resolved(
        config,
        of_model if config.objectives == UNDECIDED else config.objectives,
        max_subwords=hypernet.config.max_subwords,
        prefix=default_prompt(find_model(config.model)),
    )
    languages = languages_of(hypernet.config.n_langs, hypernet.config.langs)
    batches = training_batches(config.data, tokenizer, languages)
    validate, contents = _validation(config, frozen, tokenizer, languages)
    return job_of(hypernet, frozen, batches, validate, config, contents)


def job_of(
    hypernet: Hypernet,
    frozen: FrozenModel,
    batches: Batches,
    validate: Validate | None,
    config: TrainingConfig,
    contents_of_validation: str = "",
) -> Job:
    """The job of training a hypernetwork with completed options; `contents_of_validation` is a digest of its data."""
    return Job(
        parameters=hypernet,
        frozen=frozen,
        loss=partial(total_loss, weights=config.objectives),
        batches=batches,
        validate=validate,
        run=config.run,
        optimizer=config.optimizer,
        decisive=config.decisive()
        | {"contents of the validation": contents_of_validation, "hypernet": hypernet.config.to_hf()},
        result=HYPERNET,
        save=_save,
    )


def _save(folder: Path, hypernet: Hypernet) -> None:
    save_hypernet(folder, hypernet.config, hypernet)


def resolved(config: TrainingConfig, objectives: Objectives, *, max_subwords: int, prefix: str) -> TrainingConfig:
    """The options completed: those of the data that follow from objectives, model and network are filled in.

    Args:
      config: the options as given.
      objectives: of the training.
      max_subwords: S of the network.
      prefix: the text that the model expects before each text, used unless the options set one.

    Raises:
      ConfigError: there is nothing left to train on.
    """
    data = config.data
    if not objectives.needs_texts:
        data = replace(data, text={}, words={}, words_share={}, language_weights={})
    data = replace(
        data,
        max_subwords=max_subwords,
        prefix=prefix if data.prefix is None else data.prefix,
        mask_probability=MASK_PROBABILITY if objectives.language_model else 0.0,
        pieces_per_batch=data.pieces_per_batch if objectives.pieces else 0,
        identity_batches=config.run.identity_steps * config.optimizer.accumulate,
        held_out=0 if data.validation else data.held_out,
    )
    return replace(config, objectives=objectives, data=data)


def _check_sources(config: TrainingConfig) -> None:
    objectives, data = config.objectives, config.data
    if not (data.text or data.words) and (objectives == UNDECIDED or objectives.needs_texts):
        raise InputError("There is nothing to train on: give text files (--text FILE ...).")
    if config.run.identity_steps and not objectives.pieces:
        raise InputError("--identity-steps trains on vocabulary pieces alone: add pieces to --objectives.")


def _validation(
    config: TrainingConfig, frozen: FrozenModel, tokenizer: ByteLevelTokenizer, languages: Sequence[str]
) -> tuple[Validate | None, str]:
    """The validation function, on the files given or on texts held out of training; and a digest of its data."""
    data, encoder, translations = config.data, TextEncoder(tokenizer), []
    if data.validation:
        batches, translations = batches_of_files(data, encoder, languages)
    elif data.held_out and data.text:
        batches = batches_held_out(data, encoder, languages)
    else:
        return None, ""
    complete = with_pieces(batches, data, tokenizer, languages)
    return validator(frozen, config.objectives, complete, translations), digest_of(complete)
