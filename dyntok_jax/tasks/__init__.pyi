from .classifier import (
    Labels as Labels,
    TaskModel as TaskModel,
    word_spans as word_spans,
)
from .config import (
    Draw as Draw,
    LabelKind as LabelKind,
    LoraOptions as LoraOptions,
    TaskConfig as TaskConfig,
    TaskKind as TaskKind,
)
from .drawn_batches import (
    DrawnBatches as DrawnBatches,
)
from .examples import (
    Examples as Examples,
    read_examples as read_examples,
)
from .job import (
    FrozenEncoder as FrozenEncoder,
    prepare_task as prepare_task,
    read_task as read_task,
    save_task as save_task,
    saved_modules as saved_modules,
    task_loss as task_loss,
)
from .labelled_batch import (
    LabelledBatch as LabelledBatch,
    labelled_batch as labelled_batch,
    labelled_batch_maker as labelled_batch_maker,
)
from .lm_batch import (
    AnsweredPrompts as AnsweredPrompts,
    LmBatch as LmBatch,
    lm_batch_maker as lm_batch_maker,
)
from .lm_job import (
    lm_loss as lm_loss,
)
from .lm_texts import (
    LmTexts as LmTexts,
    lm_texts as lm_texts,
    read_lm_examples as read_lm_examples,
)
from .metrics import (
    Entity as Entity,
    accuracy as accuracy,
    entities as entities,
    entity_f1 as entity_f1,
    macro_f1 as macro_f1,
)
