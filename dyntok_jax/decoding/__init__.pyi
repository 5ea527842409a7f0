from .batch_decoder import (
    CHUNK as CHUNK,
    COMPILED_STEPS as COMPILED_STEPS,
    PREFILL_CHUNK as PREFILL_CHUNK,
)
from .decode_loop import (
    GenerationState as GenerationState,
    Limits as Limits,
    advance as advance,
    sequence_keys as sequence_keys,
    start as start,
)
from .dynamic_decoder import (
    GREEDY as GREEDY,
    DynamicDecoder as DynamicDecoder,
)
from .loaded_vocabulary import (
    LoadedVocabulary as LoadedVocabulary,
)
from .prompts import (
    Prompt as Prompt,
    ReadPrompts as ReadPrompts,
    begin_id as begin_id,
    continuation_ids as continuation_ids,
    end_ids as end_ids,
)
from .query_states import (
    BATCH as BATCH,
    hidden_queries as hidden_queries,
    written_queries as written_queries,
)
from .results import (
    Choice as Choice,
    GeneratedText as GeneratedText,
    ScoredText as ScoredText,
)
from .sampling import (
    SamplingConfig as SamplingConfig,
    sampling_of as sampling_of,
)
from .vocabularies import (
    OWN as OWN,
    LargeVocabulary as LargeVocabulary,
    PromptVocabulary as PromptVocabulary,
    Vocabulary as Vocabulary,
)
from .vocabulary_choice import (
    VocabularyChoice as VocabularyChoice,
)
