from .dynamic_encoder import (
    COMPILED_STEPS as COMPILED_STEPS,
    DynamicEncoder as DynamicEncoder,
    default_prompt as default_prompt,
    encode_batch as encode_batch,
)
from .encoded_texts import (
    EncodedTexts as EncodedTexts,
    Timings as Timings,
)
