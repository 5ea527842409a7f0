from .dynamic_encoder import (
    BATCH_BUCKETS as BATCH_BUCKETS,
    COMPILED_STEPS as COMPILED_STEPS,
    DynamicEncoder as DynamicEncoder,
    default_prompt as default_prompt,
    encode_batch as encode_batch,
)
from .encoded_texts import (
    EncodedTexts as EncodedTexts,
    Timings as Timings,
)
