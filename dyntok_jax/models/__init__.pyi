from .attention import (
    block_size as block_size,
)
from .bert import (
    Encoder as Encoder,
    EncoderConfig as EncoderConfig,
    encode as encode,
    encode_ids as encode_ids,
)
from .config_fields import (
    check_fields as check_fields,
    read_flag as read_flag,
)
from .config_numbers import (
    check_at_least as check_at_least,
    check_epsilon as check_epsilon,
    is_number as is_number,
    read_numbers as read_numbers,
)
from .decoder import (
    Decoder as Decoder,
    empty_cache as empty_cache,
    extend as extend,
    forward as forward,
    logits as logits,
    prefill as prefill,
    unstacked as unstacked,
)
from .decoder_config import (
    DecoderConfig as DecoderConfig,
)
from .decoder_families import (
    MODEL_TYPES as MODEL_TYPES,
)
from .heads import (
    MaskedLmHead as MaskedLmHead,
    SequenceHead as SequenceHead,
    TokenHead as TokenHead,
    classify_sequences as classify_sequences,
    classify_tokens as classify_tokens,
    l2_normalize as l2_normalize,
    label_ids as label_ids,
    labels_of_hf as labels_of_hf,
    mean_pool as mean_pool,
    mlm_features as mlm_features,
    mlm_logits as mlm_logits,
)
from .kv_cache import (
    KeyValueCache as KeyValueCache,
)
from .layer_states import (
    states_after as states_after,
)
from .layers import (
    INIT_STD as INIT_STD,
    Dense as Dense,
    LayerNorm as LayerNorm,
    dense as dense,
    embed_ids as embed_ids,
    layer_norm as layer_norm,
    normal_param as normal_param,
    post_norm_layer as post_norm_layer,
    stacked_layers as stacked_layers,
)
from .low_rank import (
    LowRank as LowRank,
)
from .module_names import (
    DECODER_MAPS as DECODER_MAPS,
    ENCODER_MAPS as ENCODER_MAPS,
    head_map_names as head_map_names,
    layer_map_names as layer_map_names,
)
from .rotary_config import (
    DynamicScaling as DynamicScaling,
    LinearScaling as LinearScaling,
    Llama3Scaling as Llama3Scaling,
    Rope as Rope,
    YarnScaling as YarnScaling,
)
from .sentence_head import (
    DENSE_ACTIVATIONS as DENSE_ACTIVATIONS,
    SentenceDense as SentenceDense,
    SentenceHead as SentenceHead,
    embed_sentences as embed_sentences,
)
