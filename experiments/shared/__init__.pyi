from .decoders import (
    LongestPrefixDecoder as LongestPrefixDecoder,
    decoders_by_method as decoders_by_method,
    entries_of as entries_of,
    with_predicted_letters as with_predicted_letters,
)
from .fastchat import (
    N_TURNS as N_TURNS,
    TEMPERATURES as TEMPERATURES,
    MtQuestion as MtQuestion,
    Turns as Turns,
    answer_row as answer_row,
    read_lines_of_json as read_lines_of_json,
    read_mt_questions as read_mt_questions,
    write_json_lines as write_json_lines,
)
from .intervals import (
    paired_half_percent as paired_half_percent,
    wilson_percent as wilson_percent,
)
from .judge import (
    Judge as Judge,
    judge_prompts as judge_prompts,
)
from .labelled import (
    LabelledOptions as LabelledOptions,
    adapters_by_name as adapters_by_name,
    read_sets as read_sets,
    reference_lengths as reference_lengths,
    run_labelled as run_labelled,
    score_adapters as score_adapters,
)
from .labelled_scores import (
    Task as Task,
)
from .programs import (
    clear_programs as clear_programs,
    count_programs as count_programs,
)
from .prompt_settings import (
    PromptSetting as PromptSetting,
    large_vocabulary_setting as large_vocabulary_setting,
    reference_settings as reference_settings,
    share_settings as share_settings,
)
from .questions import (
    GROUP_OF as GROUP_OF,
    GROUPS as GROUPS,
    Question as Question,
    context_of as context_of,
    read_questions as read_questions,
)
from .reference_figures import (
    UNER_TOKENS as UNER_TOKENS,
    XNLI_ACCURACY as XNLI_ACCURACY,
    XNLI_TOKENS as XNLI_TOKENS,
)
from .reporting import (
    Figures as Figures,
    report as report,
    run_script as run_script,
)
from .settings import (
    STATIC as STATIC,
    UNMERGED as UNMERGED,
    Encode as Encode,
    EncodingOptions as EncodingOptions,
    Setting as Setting,
    all_settings as all_settings,
    by_method as by_method,
    encode_in_settings as encode_in_settings,
    encoders_by_method as encoders_by_method,
    loss as loss,
    mean_of as mean_of,
    pooled as pooled,
    progress_bar as progress_bar,
    spaced as spaced,
    with_fvt as with_fvt,
)
from .translations import (
    Rows as Rows,
    Score as Score,
    Scores as Scores,
    Texts as Texts,
    accuracy as accuracy,
    count_texts as count_texts,
    english_rows as english_rows,
    load_pairs as load_pairs,
    score_translations as score_translations,
)
from .turns import (
    Rounds as Rounds,
    best_seconds as best_seconds,
    ratio as ratio,
    round_seconds as round_seconds,
    take_turns as take_turns,
)
