from .decoding import (
    Choice as Choice,
    DynamicDecoder as DynamicDecoder,
    GeneratedText as GeneratedText,
    SamplingConfig as SamplingConfig,
    ScoredText as ScoredText,
)
from .encoding import (
    DynamicEncoder as DynamicEncoder,
    EncodedTexts as EncodedTexts,
    Timings as Timings,
)
from .errors import (
    DyntokError as DyntokError,
)
from .merging import (
    MergeList as MergeList,
    TextTokens as TextTokens,
    learn_merges as learn_merges,
    load_merges as load_merges,
)
from .options import (
    Budget as Budget,
    Merges as Merges,
    Merging as Merging,
    Share as Share,
)

__version__: str
