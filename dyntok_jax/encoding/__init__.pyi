from .dynamic_encoder import (
    COMPILED_STEPS as COMPILED_STEPS,
    DynamicEncoder as DynamicEncoder,
    encode_batch as encode_batch,
)
from .encoded_texts import (
    EncodedTexts as EncodedTexts,
    Timings as Timings,
)
from .sentence_modules import (
    SentenceModules as SentenceModules,
    default_prompt as default_prompt,
)
