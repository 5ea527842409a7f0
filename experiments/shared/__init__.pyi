from .programs import (
    clear_programs as clear_programs,
    count_programs as count_programs,
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
