from .bert_checkpoint import (
    BERT_EXTRAS as BERT_EXTRAS,
    BERT_HEAD_NAMES as BERT_HEAD_NAMES,
    load_encoder as load_encoder,
    load_masked_lm_head as load_masked_lm_head,
    load_sequence_head as load_sequence_head,
    load_token_head as load_token_head,
    plain_name as plain_name,
    save_encoder as save_encoder,
)
from .decoder_checkpoint import (
    load_decoder as load_decoder,
    load_tables as load_tables,
    save_decoder as save_decoder,
)
from .hypernet_checkpoint import (
    HYPERNET_EXTRAS as HYPERNET_EXTRAS,
    load_hypernet as load_hypernet,
    save_hypernet as save_hypernet,
)
from .peft_folder import (
    load_adapter as load_adapter,
    save_adapter as save_adapter,
)
from .safetensors import (
    DTYPES as DTYPES,
    INDEX as INDEX,
    Checkpoint as Checkpoint,
    open_checkpoint as open_checkpoint,
    read_config as read_config,
)
from .safetensors_writer import (
    MAX_SHARD_BYTES as MAX_SHARD_BYTES,
    LazyTensor as LazyTensor,
    write_weights as write_weights,
)
