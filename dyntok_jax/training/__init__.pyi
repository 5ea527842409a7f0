from .objectives import (
    FrozenModel as FrozenModel,
    Objectives as Objectives,
)
from .setup import (
    NetworkConfig as NetworkConfig,
    check_max_length as check_max_length,
    fresh_hypernet as fresh_hypernet,
    given_hypernet as given_hypernet,
    load_frozen as load_frozen,
)
from .step import (
    OptimizerConfig as OptimizerConfig,
    init_state as init_state,
    make_optimizer as make_optimizer,
    make_step as make_step,
    state_shardings as state_shardings,
)
from .train_loop import (
    Job as Job,
    Outcome as Outcome,
    Report as Report,
    RunConfig as RunConfig,
    Validate as Validate,
    train as train,
)
from .validation import (
    validator as validator,
)
