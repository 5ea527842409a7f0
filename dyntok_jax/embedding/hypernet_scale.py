"""Scalers of a fresh hypernetwork, set from the model's tables as in ZeTT.

Minixhofer, Ponti, Vulić (ZeTT, arXiv 2405.07883), in the form of the reference implementation: source rows are scaled
to the standard deviation of fresh embeddings, predictions to the mean and standard deviation of the model's rows.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dyntok_jax.embedding.hypernet import Hypernet, Scaler, predict_embeddings, read_states
from dyntok_jax.models import INIT_STD, Decoder

N_ANCHORS = 2048
"""Pieces whose predictions give the mean and standard deviation before scaling."""
EPSILON = 1e-8


def with_table_scalers(hypernet: Hypernet, source_VM: Float[Array, "V M"], reader: Decoder | None = None) -> Hypernet:
    """The same hypernetwork with its scalers set from the tables; unchanged if its config has none.

    With `config.residual` the mean of the subwords already has the right level. Predictions then get the tables'
    standard deviation alone, and still start exactly at FVT.

    Args:
      hypernet: fresh parameters.
      source_VM: the model's table; where input and output tables differ, both concatenated, [input ‖ output].
      reader: the decoder that a hypernetwork with `config.read_layers` reads tokens with: its states are scaled to mean
        0 and standard deviation 1 over some pieces.

    >>> from dataclasses import replace
    >>> fresh = Hypernet(replace(hypernet_config, rescale=True, residual=True), jax.random.key(0))
    >>> source_VM = encoder.encoder.word_embeddings[...]
    >>> scaled = with_table_scalers(fresh, source_VM)
    >>> bool(jnp.allclose(scaled.scaler.scale[...], source_VM.std(axis=0)))
    True
    """
    scaled = _copy(hypernet)
    in_scaler, scaler, out_scaler = scaled.in_scaler, scaled.scaler, scaled.out_scaler
    if in_scaler is None or scaler is None:
        return hypernet
    config, wide_VM = hypernet.config, source_VM.astype(jnp.float32)
    mean_M, spread_M = wide_VM.mean(axis=0), wide_VM.std(axis=0)
    in_scale_M = INIT_STD / (spread_M + EPSILON)
    _set(in_scaler, in_scale_M, -in_scale_M * mean_M)
    width = config.width
    ids_U1 = jnp.arange(min(N_ANCHORS, config.vocab_size), dtype=jnp.int32)[:, None]
    if scaled.state_scaler is not None:
        states_UM = read_states(scaled, ids_U1, jnp.ones(ids_U1.shape, bool), reader).astype(jnp.float32)
        state_scale_M = 1 / (states_UM.std(axis=0) + EPSILON)
        _set(scaled.state_scaler, state_scale_M, -state_scale_M * states_UM.mean(axis=0))
    if config.residual:
        _set(scaler, spread_M[:width], jnp.zeros(width))
        if out_scaler is not None:
            _set(out_scaler, spread_M[width:], jnp.zeros(width))
        return scaled
    language = 0 if config.n_langs else None
    predicted = predict_embeddings(scaled, ids_U1, jnp.ones(ids_U1.shape, bool), source_VM, language, reader)
    _match(scaler, predicted.input_UD, mean_M[:width], spread_M[:width])
    if out_scaler is not None and predicted.output_UD is not None:
        _match(out_scaler, predicted.output_UD, mean_M[width:], spread_M[width:])
    return scaled


def _copy(hypernet: Hypernet) -> Hypernet:
    return jax.tree.unflatten(jax.tree.structure(hypernet), jax.tree.leaves(hypernet))


def _match(scaler: Scaler, rows_UD: Array, mean_D: Array, spread_D: Array) -> None:
    """Sets a scaler so that the rows get this mean and standard deviation."""
    rows_UD = rows_UD.astype(jnp.float32)
    scale_D = spread_D / (rows_UD.std(axis=0) + EPSILON)
    _set(scaler, scale_D, mean_D - scale_D * rows_UD.mean(axis=0))


def _set(scaler: Scaler, scale_D: Array, bias_D: Array) -> None:
    scaler.scale[...] = scale_D.astype(scaler.scale.dtype)
    scaler.bias[...] = bias_D.astype(scaler.bias.dtype)
