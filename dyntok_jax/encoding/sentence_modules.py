"""What a model's folder says of its sentence embeddings, in the files of sentence-transformers.

`modules.json` lists the steps: a transformer, `1_Pooling`, sometimes `2_Dense`, `Normalize`.
`sentence_bert_config.json` has the longest sequence, `config_sentence_transformers.json` the prompts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp

from dyntok_jax.convert import open_checkpoint
from dyntok_jax.errors import CheckpointError, ConfigError
from dyntok_jax.models import DENSE_ACTIVATIONS, SentenceDense, SentenceHead, is_number
from dyntok_jax.storage import check_not_lfs_pointer, read_json
from dyntok_jax.text import ByteLevelTokenizer

MODULES_FILE, TRANSFORMER_FILE = "modules.json", "sentence_bert_config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
POOLINGS = {
    "cls": "first",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
"""Their poolings by our names, in the order in which several are laid end to end."""
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How older files ask for them."""
_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")


@dataclass(frozen=True)
class SentenceModules:
    """How a model was trained to make sentence embeddings.

    Attributes:
      head: from hidden states to embeddings; by default the mean, scaled to length 1.
      max_tokens: the longest sequence, special tokens included; None for as many as the model has positions.
      prompts: what goes before texts, by name: `query`, `document`.
      default_prompt: what goes before a text for which nothing else is said.

    >>> SentenceModules.load(encoder_folder, encoder.tokenizer, model_width=32).head.poolings  # it says nothing
    ('mean',)
    """

    head: SentenceHead = field(default_factory=SentenceHead)
    max_tokens: int | None = None
    prompts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    default_prompt: str = ""

    @classmethod
    def load(cls, folder: Path, tokenizer: ByteLevelTokenizer, model_width: int) -> "SentenceModules":
        """Reads a model folder.

        Args:
          folder: of the model.
          tokenizer: of the model.
          model_width: width of its hidden states.

        Raises:
          ConfigError: a file asks for something that is not supported, which is named, or cannot be read.
          CheckpointError: the weights of a dense layer are missing or damaged.
        """
        head, max_tokens = SentenceHead(), None
        if (folder / MODULES_FILE).is_file():
            head = _head(folder, _modules(folder / MODULES_FILE), model_width)
            max_tokens = _max_tokens(folder, tokenizer)
        return cls(head, max_tokens, _prompts(folder), default_prompt(folder))


def default_prompt(folder: Path) -> str:
    """The text that a model expects before each text, from its sentence-transformers config; empty without one.

    >>> path = folder / "config_sentence_transformers.json"
    >>> _ = path.write_text('{"prompts": {"query": "query: "}, "default_prompt_name": "query"}')
    >>> default_prompt(folder)
    'query: '
    """
    return _prompts(folder).get(_read_object(folder / PROMPTS_FILE).get("default_prompt_name") or "", "")


def _prompts(folder: Path) -> Mapping[str, str]:
    path = folder / PROMPTS_FILE
    prompts = _read_object(path).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ConfigError(f"{path} is not a JSON object with prompts: mend it, or delete it.")
    return MappingProxyType(prompts)


def _modules(path: Path) -> list[tuple[str, str]]:
    """The steps: kind and folder of each, checked to be those that we do, in their order."""
    check_not_lfs_pointer(path, ConfigError)
    try:
        listed = [(str(one["type"]), str(one.get("path", ""))) for one in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a list of modules ({error!r}): fetch it again.") from error
    steps = [(name.rsplit(".", 1)[-1], where) for name, where in listed]
    steps = [(kind, where) for kind, where in steps if kind != "Dropout"]  # nothing is dropped outside of training
    if unknown := [kind for kind, _ in steps if kind not in _ORDER]:
        raise ConfigError(
            f"{path} asks for {', '.join(unknown)}, which is not supported: only {', '.join(_ORDER)} are."
        )
    kinds = [kind for kind, _ in steps]
    is_once = all(kinds.count(kind) == 1 for kind in _ORDER[:2]) and kinds.count("Normalize") <= 1
    if kinds != sorted(kinds, key=_ORDER.index) or not is_once:
        raise ConfigError(
            f"{path} chains {' → '.join(kinds)}, which is not supported: only one Transformer, one Pooling, any number "
            "of Dense and at most one Normalize are, in this order."
        )
    return steps


def _head(folder: Path, steps: Sequence[tuple[str, str]], model_width: int) -> SentenceHead:
    width, poolings, dense = model_width, (), []
    for kind, where in steps:
        path = folder / where / "config.json"
        if kind == "Pooling":
            poolings = _poolings(path)
            width *= len(poolings)
        elif kind == "Dense":
            dense.append(_dense(path, width))
            width = dense[-1].kernel_DE.shape[1]
        elif kind == "Normalize":
            _check_in_place(path, _read_object(path))
    return SentenceHead(poolings, tuple(dense), normalize=steps[-1][0] == "Normalize")


def _poolings(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise ConfigError(f"{path} is missing, so that nothing says how tokens are pooled: fetch the model again.")
    config = _read_object(path)
    if config.get("include_prompt") is False:
        raise ConfigError(f"{path} sets include_prompt to false: leaving prompts out of the pooling is not supported.")
    asked = config.get("pooling_mode")
    if asked is None:
        unknown = [name for name in config if name.startswith("pooling_mode_") and name not in POOLING_FLAGS]
        if asked_unknown := [name for name in unknown if config[name]]:
            raise ConfigError(f"{path} asks for {', '.join(asked_unknown)}, which is not supported.")
        asked = [mode for flag, mode in POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    modes = [asked] if isinstance(asked, str) else asked
    if not isinstance(modes, list) or not modes or any(mode not in POOLINGS for mode in modes):
        raise ConfigError(f"{path} asks for pooling_mode {asked!r}: supported are {', '.join(POOLINGS)}.")
    return tuple(POOLINGS[mode] for mode in modes)


def _dense(path: Path, width: int) -> SentenceDense:
    config = _read_object(path)
    _check_in_place(path, config)
    if config.get("use_residual"):
        raise ConfigError(f"{path} sets use_residual, which is not supported.")
    activation = str(config.get("activation_function") or "torch.nn.modules.linear.Identity")
    module, _, name = activation.rpartition(".")
    if not module.startswith("torch.nn.") or name not in DENSE_ACTIVATIONS:
        known = ", ".join(DENSE_ACTIVATIONS)
        raise ConfigError(f"{path} asks for activation_function {activation!r}: supported are torch.nn's {known}.")
    checkpoint = open_checkpoint(path.parent)
    names = ["linear.weight", *(["linear.bias"] if config.get("bias", True) else [])]
    if sorted(checkpoint.files) != sorted(names):
        raise CheckpointError(f"{path.parent} holds {', '.join(checkpoint.files)} instead of {', '.join(names)}.")
    kernel_DE = checkpoint.read("linear.weight", jnp.float32).T
    bias_E = checkpoint.read("linear.bias", jnp.float32) if len(names) == 2 else None
    if (
        kernel_DE.ndim != 2
        or kernel_DE.shape[0] != width
        or (bias_E is not None and bias_E.shape != kernel_DE.shape[1:])
    ):
        raise CheckpointError(
            f"{path.parent} maps rows of another width (weights {kernel_DE.shape[::-1]}) than the {width} it is given."
        )
    return SentenceDense(jnp.asarray(kernel_DE), None if bias_E is None else jnp.asarray(bias_E), name)


def _check_in_place(path: Path, config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a step on anything but the sentence embedding."""
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, "sentence_embedding"):
            raise ConfigError(f"{path} sets {name} to {config[name]!r}: only sentence_embedding is supported.")


def _max_tokens(folder: Path, tokenizer: ByteLevelTokenizer) -> int | None:
    path = folder / TRANSFORMER_FILE
    config = _read_object(path)
    normalizer = tokenizer.own.normalizer
    if config.get("do_lower_case") and (normalizer is None or normalizer.normalize_str("A") != "a"):
        raise ConfigError(
            f"{path} sets do_lower_case, and the model's tokenizer keeps capitals: lower the texts yourself and set it "
            "to false."
        )
    longest = config.get("max_seq_length")
    if longest is None:  # newer folders leave it to the tokenizer, which has a huge number for no limit
        longest = _read_object(folder / "tokenizer_config.json").get("model_max_length")
        return longest if isinstance(longest, int) and 1 <= longest < 2**31 else None
    if not is_number(longest, takes_fractions=False) or longest < 1:
        raise ConfigError(f"{path} has max_seq_length {longest!r}, which is no number of tokens: mend it.")
    return longest


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.is_file():
        return {}
    return read_json(path, ConfigError, "repair it, or delete it")
