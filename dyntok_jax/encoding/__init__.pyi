from .device_runs import (
    CACHE_ROWS as CACHE_ROWS,
    LEAST_LOOPED as LEAST_LOOPED,
)
from .dynamic_encoder import (
    COMPILED_STEPS as COMPILED_STEPS,
    DynamicEncoder as DynamicEncoder,
)
from .encoded_texts import (
    EncodedTexts as EncodedTexts,
    Timings as Timings,
)
from .model_step import (
    encode_batch as encode_batch,
)
from .on_device import (
    OnDeviceMerging as OnDeviceMerging,
    OnDeviceModel as OnDeviceModel,
    Room as Room,
    encode_subwords as encode_subwords,
)
from .sentence_modules import (
    SentenceModules as SentenceModules,
    default_prompt as default_prompt,
)
