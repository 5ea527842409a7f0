from .config import (
    NOT_DECISIVE as NOT_DECISIVE,
    NetworkConfig as NetworkConfig,
    Objectives as Objectives,
    OptimizerConfig as OptimizerConfig,
    RunConfig as RunConfig,
    TrainingConfig as TrainingConfig,
)
from .job import (
    prepare_job as prepare_job,
)
from .objectives import (
    FrozenModel as FrozenModel,
    Metrics as Metrics,
    mean_by_chunks as mean_by_chunks,
    total_loss as total_loss,
)
from .run_folder import (
    ADAPTER as ADAPTER,
    check_run_folder as check_run_folder,
)
from .setup import (
    fresh_hypernet as fresh_hypernet,
    load_frozen as load_frozen,
)
from .step import (
    LossFunction as LossFunction,
    init_state as init_state,
    make_optimizer as make_optimizer,
    make_step as make_step,
    state_shardings as state_shardings,
)
from .train_loop import (
    Batches as Batches,
    Job as Job,
    Outcome as Outcome,
    Report as Report,
    Validate as Validate,
    train as train,
)
from .validation import (
    validator as validator,
)
