"""Hugging Face's names of the linear maps in layers and heads."""

from dyntok_jax.models.bert import EncoderConfig
from dyntok_jax.models.decoder_config import DecoderConfig
from dyntok_jax.models.heads import SequenceHead

ENCODER_MAPS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
}
"""Maps of a layer of BERT, RoBERTa or XLM-R: our name → theirs."""

DECODER_MAPS = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_out": "mlp.down_proj",
}
"""Maps of a decoder's layer."""


def layer_map_names(config: EncoderConfig | DecoderConfig) -> dict[str, str]:
    """Path of each linear map of a model's layers → Hugging Face's name of the module, with `{i}` for the layer.

    >>> layer_map_names(encoder.config)["layers.query"]
    'encoder.layer.{i}.attention.self.query'
    """
    if isinstance(config, EncoderConfig):
        return {f"layers.{ours}": f"encoder.layer.{{i}}.{theirs}" for ours, theirs in ENCODER_MAPS.items()}
    return {f"layers.{ours}": f"model.layers.{{i}}.{theirs}" for ours, theirs in DECODER_MAPS.items()}


def head_map_names(config: EncoderConfig, kind: type) -> dict[str, str]:
    """The same for the maps of a `SequenceHead` or a `TokenHead`.

    >>> from dyntok_jax.models import TokenHead
    >>> head_map_names(encoder.config, TokenHead)
    {'output': 'classifier'}
    """
    if kind is not SequenceHead:
        return {"output": "classifier"}
    if config.model_type == "bert":
        return {"dense": "pooler.dense", "output": "classifier"}
    return {"dense": "classifier.dense", "output": "classifier.out_proj"}
