from .average import (
    average_embeddings as average_embeddings,
    average_with_filler as average_with_filler,
    filler_row as filler_row,
)
from .cache import (
    EmbeddingCache as EmbeddingCache,
)
from .device_cache import (
    WAYS as WAYS,
    DeviceCache as DeviceCache,
    empty_device_cache as empty_device_cache,
    look_up as look_up,
    with_rows as with_rows,
)
from .embedder import (
    COMPILED_STEPS as COMPILED_STEPS,
    DEFAULT_CACHE_ROWS as DEFAULT_CACHE_ROWS,
    DEFAULT_MAX_SUBWORDS as DEFAULT_MAX_SUBWORDS,
    TokenEmbedder as TokenEmbedder,
)
from .hypernet import (
    Hypernet as Hypernet,
    HypernetOutput as HypernetOutput,
    init_hypernet as init_hypernet,
    predict_embeddings as predict_embeddings,
)
from .hypernet_config import (
    HypernetConfig as HypernetConfig,
    check_hypernet_fits as check_hypernet_fits,
)
from .hypernet_scale import (
    with_table_scalers as with_table_scalers,
)
from .language_codes import (
    language_index as language_index,
    languages_of as languages_of,
)
from .new_tokens import (
    distinct_forms as distinct_forms,
    wants_row as wants_row,
)
from .predict import (
    collect as collect,
    predict_in_buckets as predict_in_buckets,
)
from .row_predictor import (
    RowPredictor as RowPredictor,
)
from .surface import (
    constituents as constituents,
    unique_tokens as unique_tokens,
    unique_tokens_on_host as unique_tokens_on_host,
)
from .token_inputs import (
    TokenInputs as TokenInputs,
    embed_tokens as embed_tokens,
)
