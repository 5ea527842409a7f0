from .contexts import (
    Answer as Answer,
    ContextDecoder as ContextDecoder,
    Request as Request,
)
from .decoder_arguments import (
    DecoderArguments as DecoderArguments,
)
from .generation_settings import (
    GenerationSettings as GenerationSettings,
)
from .lm_eval_decoder import (
    LmEvalDecoder as LmEvalDecoder,
)
from .mteb_encoder import (
    MtebEncoder as MtebEncoder,
)
