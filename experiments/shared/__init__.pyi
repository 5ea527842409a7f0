from .decoders import (
    LongestPrefixDecoder as LongestPrefixDecoder,
    decoders_by_method as decoders_by_method,
    entries_of as entries_of,
    with_predicted_letters as with_predicted_letters,
)
from .intervals import (
    paired_half_percent as paired_half_percent,
    wilson_percent as wilson_percent,
)
from .programs import (
    clear_programs as clear_programs,
    count_programs as count_programs,
)
from .prompt_settings import (
    STATIC as STATIC,
    Setting as Setting,
    large_vocabulary_setting as large_vocabulary_setting,
    reference_settings as reference_settings,
    share_settings as share_settings,
)
from .reporting import (
    Figures as Figures,
    report as report,
    run_script as run_script,
)
from .turns import (
    Rounds as Rounds,
    best_seconds as best_seconds,
    ratio as ratio,
    round_seconds as round_seconds,
    take_turns as take_turns,
)
