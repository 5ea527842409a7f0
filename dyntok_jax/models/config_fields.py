"""Which fields of a config change nothing, so that every other one is either computed or refused.

Names and meanings are those of `PretrainedConfig`, `BertConfig`, `LlamaConfig` and their kin in transformers 4 and 5.
"""

from collections.abc import Collection, Mapping
from typing import Any

from dyntok_jax.errors import ConfigError

INERT = frozenset(
    # where it comes from, and what its classes are called
    "model_type architectures transformers_version torch_dtype dtype _name_or_path name_or_path _commit_hash "
    "_from_auto _auto_class base_model pretrained_model_name_or_path unsloth_fixed unsloth_version tokenizer_class "
    "license author is_llama_config transformers.js_config "
    # how it is run, to the same numbers
    "use_cache _attn_implementation attn_implementation _attn_implementation_autoset _attn_implementation_internal "
    "_flash_attn_2_enabled _experts_implementation_internal use_flash_attention flash_attention torchscript "
    "cache_implementation use_bfloat16 chunk_size_feed_forward pretraining_tp low_cpu_mem_usage "
    # what its methods return
    "output_attentions output_hidden_states return_dict use_return_dict output_past output_scores "
    # how it is or was trained
    "attention_dropout attention_probs_dropout_prob hidden_dropout_prob hidden_dropout resid_dropout embd_dropout "
    "embedding_dropout residual_dropout classifier_dropout initializer_range initializer_factor "
    "gradient_checkpointing use_gradient_checkpointing loss_type "
    # heads of tasks, which are passed over
    "id2label label2id num_labels _num_labels problem_type finetuning_task task_specific_params pooler_fc_size "
    "pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type directionality "
    "sentence_transformers "
    # special tokens and the defaults of `generate`, which are read from generation_config.json
    "bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id prefix "
    "bad_words_ids begin_suppress_tokens "
    "diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty "
    "forced_bos_token_id forced_eos_token_id length_penalty max_length min_length max_new_tokens "
    "no_repeat_ngram_size num_beam_groups num_beams num_return_sequences remove_invalid_values repetition_penalty "
    "suppress_tokens temperature top_k top_p typical_p".split()
)
"""Fields that change nothing of what is computed here, whatever they hold."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "is_decoder": (False,),
    "is_causal": (),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "tf_legacy_loss": (False,),
    "pruned_heads": ({}, []),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "qkv_bias": (False,),
    "use_qkv_bias": (False,),
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "rope_interleaved": (False,),
    "rope_traditional": (False,),
    "use_sliding_window": (False,),
    "use_bidirectional_attention": (False,),
    "use_mrope": (False,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "qk_norm": (False,),
    "use_qk_norm": (False,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "logit_scale": (1,),
}
"""Fields that change what is computed, and the values at which they do not; null is always one."""


def check_fields(config: Mapping[str, Any], what: str, *, read: Collection[str], also: Collection[str] = ()) -> None:
    """Checks that no field asks for something that is not computed.

    Args:
      config: the JSON object.
      what: whose it is, for the error.
      read: names of the fields that the caller reads.
      also: names of fields that change nothing in this family alone.

    Raises:
      ConfigError: fields that are unknown, or known and not supported; all are listed.

    >>> check_fields({"use_cache": True, "attention_bias": False}, "a model", read=())
    >>> check_fields({"mlp_bias": True, "depth_scale": 2.0}, "a model", read=())
    Traceback (most recent call last):
        ...
    dyntok_jax.errors.ConfigError: config.json of a model asks for what is not supported: mlp_bias = True, ...
    """
    asked = []
    for name, value in config.items():
        if value is None or name in INERT or name in read or name in also:
            continue
        if any(type(value) is type(one) and value == one for one in NEUTRAL.get(name, ())):
            continue
        if isinstance(value, float) and value in NEUTRAL.get(name, ()):
            continue
        said = repr(value)
        asked.append(f"{name} = {said if len(said) <= 60 else said[:57] + '...'}")
    if asked:
        raise ConfigError(
            f"config.json of {what} asks for what is not supported: {', '.join(asked)}. Take a model without it; "
            "or, if it changes nothing of what the model computes, take it out of the file."
        )


def read_flag(config: Mapping[str, Any], name: str, default: bool, what: str) -> bool:
    """A field that is true or false; null and absent are the default.

    Raises:
      ConfigError: it is something else, such as the text "false".

    >>> read_flag({"tie_word_embeddings": None}, "tie_word_embeddings", True, "a model")
    True
    """
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"{name} of {what} is {value!r}: it must be true or false.")
    return default if value is None else value
