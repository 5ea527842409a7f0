"""What a run starts with: the frozen model, and a hypernetwork of the right shape."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dyntok_jax.convert import load_hypernet, load_masked_lm_head
from dyntok_jax.embedding import Hypernet, HypernetConfig, check_hypernet_fits, init_hypernet, with_table_scalers
from dyntok_jax.errors import ConfigError
from dyntok_jax.files import find_model, load_model
from dyntok_jax.models import Decoder
from dyntok_jax.sharding import placement
from dyntok_jax.text import ByteLevelTokenizer
from dyntok_jax.training.config import NetworkConfig
from dyntok_jax.training.objectives import FrozenModel, freeze

MASK_TOKENS = ("<mask>", "[MASK]")


def load_frozen(
    model: str, *, dtype: str = "float32", mesh: Mesh | None = None, with_head: bool = False
) -> tuple[FrozenModel, ByteLevelTokenizer]:
    """Loads the model that a hypernetwork is trained for, and its tokenizer.

    Args:
      model: a folder, a Hub id, or a packaged model's name.
      dtype: of its parameters and its computation.
      mesh: shards them by the rules in `sharding.py`.
      with_head: load an encoder's masked-LM head, too.

    Raises:
      ModelNotFoundError, CheckpointError, ConfigError, TokenizerError: see `hub`, `convert`, `text`.

    >>> model, model_tokenizer = load_frozen(str(encoder_folder), dtype="bfloat16")
    >>> model.source_VM.dtype, model_tokenizer.n_own == len(model.source_VM)
    (dtype(bfloat16), True)
    """
    loaded = load_model(model, dtype=jnp.dtype(dtype), mesh=mesh)
    body, tokenizer = loaded.parameters, loaded.tokenizer
    if isinstance(body, Decoder) or not with_head:
        return freeze(body), tokenizer
    mask_row = next((row for token in MASK_TOKENS if (row := tokenizer.own.token_to_id(token)) is not None), None)
    head = load_masked_lm_head(loaded.folder, dtype=jnp.dtype(dtype), shardings=placement(mesh))
    return freeze(body, head, mask_row), tokenizer


def fresh_hypernet(
    network: NetworkConfig, frozen: FrozenModel, tokenizer: ByteLevelTokenizer, *, max_subwords: int, seed: int
) -> Hypernet:
    """A hypernetwork for this model: random parameters, and scalers set from the model's tables.

    >>> network = NetworkConfig(layers=1, hidden=32, ffn=64, heads=4)
    >>> fresh = fresh_hypernet(network, frozen, tokenizer, max_subwords=7, seed=0)
    >>> fresh.config.residual, fresh.config.vocab_size == tokenizer.n_own
    (True, True)
    """
    width = frozen.body.config.width
    config = HypernetConfig(
        width=width,
        hidden_width=network.hidden,
        ffn_width=network.ffn,
        n_layers=network.layers,
        n_heads=network.heads,
        vocab_size=tokenizer.n_own,
        n_extra_tokens=tokenizer.vocab_size - tokenizer.n_own,
        pad_token_id=0,  # only the size of a table that nothing reads
        max_subwords=max_subwords,
        max_positions=max_subwords + 1,
        separate_output=frozen.source_VM.shape[1] > width,
        rescale=True,
        predict_bias=frozen.head is not None,
        residual=not network.plain,
        read_layers=network.read_layers,
        read_prefix=tuple(sorted(tokenizer.special_ids))[:1] if network.read_layers else (),
    )
    reader = frozen.body if isinstance(frozen.body, Decoder) else None
    return with_table_scalers(jax.jit(partial(init_hypernet, config))(jax.random.key(seed)), frozen.source_VM, reader)


def given_hypernet(name: str, frozen: FrozenModel, tokenizer: ByteLevelTokenizer) -> Hypernet:
    """A trained hypernetwork to start from.

    Raises:
      ConfigError: it was trained for another model, or predicts no bias where the model's masked-LM head has one.
    """
    config, hypernet = load_hypernet(find_model(name, kind="hypernetwork"))
    width = frozen.body.config.width
    check_hypernet_fits(
        config,
        width=width,
        vocab_size=tokenizer.n_own,
        n_appended=tokenizer.vocab_size - tokenizer.n_own,
        separate_output=frozen.source_VM.shape[1] > width,
    )
    if frozen.head is not None and not config.predict_bias:
        raise ConfigError(
            f"The hypernetwork {name} predicts no unigram bias, which the objective language_model needs: leave that "
            "objective out, or start with a fresh network."
        )
    return hypernet


def check_max_length(max_length: int, frozen: FrozenModel) -> None:
    """Checks that the longest text fits into the model's positions.

    Raises:
      ConfigError: the model has fewer.
    """
    body = frozen.body
    longest = body.config.max_positions if isinstance(body, Decoder) else body.config.max_tokens
    if max_length > longest:
        raise ConfigError(
            f"max_length is {max_length}, but the model has positions for {longest} subwords: give {longest} or less."
        )
