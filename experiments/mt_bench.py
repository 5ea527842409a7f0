"""MT-Bench with prompts of fewer tokens: answers in FastChat's format, judged by a model, or compared without one.

    python -m experiments.mt_bench FOLDER --output answers --json mt_bench.json --table mt_bench.md
    python -m experiments.mt_bench FOLDER --output answers --judge-url http://localhost:8000/v1 --judge-model NAME

FOLDER has `question.jsonl.gz` and `reference_answer_gpt4.jsonl.gz`. Every setting answers both turns, the second after
its own first answer, sampled as FastChat does by category, with min-p 0.1 and a repetition penalty of 1.1 (the
reference's, Feher et al. 2024). The output folder gets `model_answer/MODEL-SETTING.jsonl`, which FastChat's tools read;
answers that are there already, made with the same options, are taken as they are.

With a judge, its judgments go to `model_judgment/JUDGE_single.jsonl`, and the table shows mean scores. Any endpoint of
OpenAI's chat completions will do; a key is taken from the environment variable that `--judge-key` names. Scores compare
with published ones only with the published judge and `--judge-prompts`, FastChat's file.

Without a judge three figures stand in, none of which is a score of quality. *Reference bits per byte*: GPT-4's answers
after the question, as the setting reads it. *Own bits per byte*: the setting's answers after the unmerged question, by
which garbled text shows. *Agreement with static*: words before the first difference from static's answer, and F1 of
the words of both. The setting *static, other seed* shows how far two static answers agree.

Two CPU cores, busy with other work, SmolLM2, 2 questions of each of 8 categories, 128 tokens a turn: some 20 minutes.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dyntok_jax import Merging, SamplingConfig
from dyntok_jax.decoding import VocabularyChoice
from dyntok_jax.errors import InputError
from dyntok_jax.options import AUTO, DEFAULT_DECODER, FULL, Positions
from experiments.shared import (
    N_TURNS,
    STATIC,
    TEMPERATURES,
    Figures,
    Judge,
    MtQuestion,
    PromptSetting,
    Turns,
    answer_row,
    decoders_by_method,
    judge_prompts,
    read_lines_of_json,
    read_mt_questions,
    report,
    run_script,
    share_settings,
    write_json_lines,
)

MIN_P, PENALTY = 0.1, 1.1
AGAIN = "static_other_seed"
MADE_BY = "dyntok"
"""A field of answers beside FastChat's: the options that they were made with."""


@dataclass(frozen=True)
class Options:
    """Answers of two turns with prompts of fewer tokens.

    Attributes:
      data: folder with question.jsonl.gz and, for reference answers, reference_answer_gpt4.jsonl.gz.
      output: folder for answers and judgments.
      limit: the most questions a category.
      model: a folder, a Hub id, or a packaged model.
      hypernet: a folder or Hub id, beside FVT; by default the one that comes with the model.
      language: code of the questions' language, for a multilingual hypernetwork.
      shares: percentages of the maximum reduction.
      positions: what the model's positions count.
      vocabulary: folder of `dyntok build-vocab`, to write in, with all prompts merged fully; needs rows.
      rows: folder of `dyntok embed-vocab`.
      index: folder of `dyntok build-index`.
      max_tokens: the most tokens an answer.
      seed: of sampling.
      batch_size: questions a batch.
      judge_url: of an API of chat completions; none compares without a judge.
      judge_model: the judge's name there.
      judge_key: environment variable with the key to send.
      judge_prompts: FastChat's judge_prompts.jsonl; by default prompts of our own.
      json: where the figures go.
      table: where the Markdown table goes.
    """

    data: tyro.conf.Positional[Path]
    output: Path = Path("mt-bench")
    limit: int | None = None
    model: str = DEFAULT_DECODER
    hypernet: str | None = AUTO
    language: str = "en"
    shares: tuple[float, ...] = (50, 100)
    positions: Positions = "tokens"
    vocabulary: Path | None = None
    rows: Path | None = None
    index: Path | None = None
    max_tokens: int = 1024
    seed: int = 0
    batch_size: int = 8
    judge_url: str | None = None
    judge_model: str | None = None
    judge_key: str = "OPENAI_API_KEY"
    judge_prompts: Path | None = None
    json: Path | None = None
    table: Path | None = None


Answers = dict[int, Turns]
"""The answers of both turns, by the question's number."""


def limited(questions: Sequence[MtQuestion], limit: int | None) -> list[MtQuestion]:
    """The first questions of each category."""
    return [q for category in TEMPERATURES for q in [q for q in questions if q.category == category][:limit]]


def conversation(question: MtQuestion, answers: Sequence[str]) -> list[dict[str, str]]:
    """The chat before the next answer."""
    said = [{"role": "user", "content": question.turns[0]}]
    for answer, turn in zip(answers, question.turns[1:], strict=False):
        said += [{"role": "assistant", "content": answer}, {"role": "user", "content": turn}]
    return said


def written_answers(
    setting: PromptSetting,
    questions: Sequence[MtQuestion],
    options: Options,
    vocabulary: VocabularyChoice,
    on_progress: Callable[[int], None],
) -> Answers:
    """What a setting answers in both turns; questions of one temperature go together."""
    answers: dict[int, list[str]] = {question.number: [] for question in questions}
    for temperature in dict.fromkeys(TEMPERATURES.values()):
        some = [question for question in questions if TEMPERATURES[question.category] == temperature]
        for _ in range(N_TURNS if some else 0):
            texts = setting.decoder.generate(
                [conversation(question, answers[question.number]) for question in some],
                merging=setting.merging,
                language=setting.language(options.language),
                max_tokens=options.max_tokens,
                sampling=SamplingConfig(temperature, min_p=MIN_P if temperature else None, repetition_penalty=PENALTY),
                seed=options.seed + (setting.name == AGAIN),
                vocabulary=vocabulary,
                batch_size=options.batch_size,
                on_progress=on_progress,
            )
            for question, text in zip(some, texts, strict=True):
                answers[question.number].append(text.text)
    return {number: (first, second) for number, (first, second) in answers.items()}


def known_answers(path: Path, questions: Sequence[MtQuestion], made_by: Figures) -> Answers | None:
    """The answers of a file, if it has them to all questions and they were made in the same way."""
    if not path.is_file():
        return None
    try:
        rows = [row for row in read_lines_of_json(path) if row.get(MADE_BY) == made_by]
        found = {int(row["question_id"]): tuple(row["choices"][0]["turns"]) for row in rows}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no answers of FastChat's format ({error!r}): remove it.") from error
    if any(len(found.get(question.number, ())) != N_TURNS for question in questions):
        return None
    return {question.number: found[question.number] for question in questions}


def same_words(one: str, other: str) -> tuple[float, float]:
    """Words before the first difference, in percent of the shorter text's; and F1 of the words of both, in percent."""
    words, others = one.split(), other.split()
    shorter = min(len(words), len(others))
    if not shorter:
        return (100.0, 100.0) if words == others else (0.0, 0.0)
    n_alike = next((at for at in range(shorter) if words[at] != others[at]), shorter)
    n_common = sum((Counter(words) & Counter(others)).values())
    return 100 * n_alike / shorter, 200 * n_common / (len(words) + len(others))


def bits_per_byte(setting: PromptSetting, chats: Sequence[Any], texts: Sequence[str], options: Options) -> float:
    """Of texts after chats, as a setting reads them."""
    pairs = [(chat, text) for chat, text in zip(chats, texts, strict=True) if text]
    if not pairs:
        return float("nan")
    scored = setting.decoder.score(
        [chat for chat, _ in pairs],
        [text for _, text in pairs],
        merging=setting.merging,
        language=setting.language(options.language),
        batch_size=1,  # answers are long, and each has a copy of its prompt's cache
    )
    return -sum(text.total for text in scored) / np.log(2) / sum(len(text.text.encode()) for text in scored)


def compared(
    setting: PromptSetting,
    static: PromptSetting,
    answers: dict[str, Answers],
    questions: Sequence[MtQuestion],
    options: Options,
) -> Figures:
    """The figures without a judge."""
    own, of_static = answers[setting.name], answers[STATIC]
    alike = [
        same_words(text, other)
        for question in questions
        for text, other in zip(own[question.number], of_static[question.number], strict=True)
    ]
    chats, texts = [], []
    for question in questions:
        turns = own[question.number]
        chats += [conversation(question, turns[:turn]) for turn in range(N_TURNS)]
        texts += turns
    with_reference = [question for question in questions if question.reference is not None]
    references = [
        (conversation(question, question.reference[:turn]), question.reference[turn])
        for question in with_reference
        for turn in range(N_TURNS)
        if question.reference is not None
    ]
    figures: Figures = {
        "same_beginning_percent": float(np.mean([same for same, _ in alike])),
        "word_f1_percent": float(np.mean([f1 for _, f1 in alike])),
        "same_answers_percent": 100 * float(np.mean([same == 100 and f1 == 100 for same, f1 in alike])),
        "own_bits_per_byte": bits_per_byte(static, chats, texts, options),
    }
    if references:
        figures["reference_bits_per_byte"] = bits_per_byte(
            setting, [chat for chat, _ in references], [text for _, text in references], options
        )
    return figures


def judged(
    judge: Judge, name: str, answers: Answers, questions: Sequence[MtQuestion], on_progress: Callable[[int], None]
) -> tuple[list[dict[str, Any]], Figures]:
    """The judgments of a setting's answers, and mean scores by turn and category of those with a rating."""
    rows = []
    for question in questions:
        for turn in range(1, N_TURNS + 1):
            rows.append({"model": name, **judge.judge(question, answers[question.number], turn)})
            on_progress(1)
    category = {question.number: question.category for question in questions}
    rated = [row for row in rows if row["score"] >= 0]
    figures: Figures = {"unrated": len(rows) - len(rated)}
    groups = {"score": rated}
    groups |= {f"score_turn{turn}": [row for row in rated if row["turn"] == turn] for turn in (1, 2)}
    groups |= {f"score_{one}": [row for row in rated if category[row["question_id"]] == one] for one in TEMPERATURES}
    figures |= {name: float(np.mean([row["score"] for row in some])) for name, some in groups.items() if some}
    return rows, figures


def markdown_table(figures: Figures, settings: Sequence[PromptSetting], columns: dict[str, str]) -> str:
    """A row a setting; `columns` are the figures' names and their titles with a format."""
    titles = {name: title.partition("|")[0] for name, title in columns.items()}
    lines = [f"| setting | {' | '.join(titles.values())} |", "|:--|" + "--:|" * len(columns)]
    for setting in settings:
        cells = []
        for name, title in columns.items():
            value = figures.get(f"{setting.name}_{name}")
            cells.append("" if value is None else format(value, title.partition("|")[2]))
        lines.append(f"| {setting.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


WITHOUT_JUDGE = {
    "reference_bits_per_byte": "reference, bits per byte|.3f",
    "own_bits_per_byte": "own answers, bits per byte|.3f",
    "same_beginning_percent": "same beginning as static, %|.1f",
    "word_f1_percent": "word F1 with static, %|.1f",
    "same_answers_percent": "same answers, %|.1f",
}
WITH_JUDGE = {
    "score": "score|.2f",
    "score_turn1": "first turn|.2f",
    "score_turn2": "second turn|.2f",
    **{f"score_{category}": f"{category}|.2f" for category in TEMPERATURES},
}


def settings_of(options: Options) -> list[PromptSetting]:
    """Static with two seeds, and each method at its shares."""
    decoders = decoders_by_method(options.model, options.hypernet)
    if next(iter(decoders.values())).chat is None:
        raise InputError(f"{options.model} has no chat template, and MT-Bench is conversations: choose another model.")
    static, *merged = share_settings(decoders, options.shares, Merging(positions=options.positions))
    return [static, replace(static, name=AGAIN, title="static, other seed"), *merged]


def run(options: Options, console: Console) -> Figures:
    """Writes answers, judges or compares them, writes what was asked for, and returns the figures."""
    started = time.perf_counter()
    if options.judge_url is not None and options.judge_model is None:
        raise InputError("--judge-url needs the judge's name there: give --judge-model too.")
    if options.vocabulary is not None and options.rows is None:
        raise InputError("--vocabulary needs its entries' rows: give --rows too, a folder of `dyntok embed-vocab`.")
    prompts = judge_prompts(options.judge_prompts)
    questions = limited(read_mt_questions(options.data), options.limit)
    settings = settings_of(options)
    static = settings[0]
    vocabularies: dict[str, VocabularyChoice] = {}
    if options.vocabulary is not None and options.rows is not None:
        last = settings[-1]
        full = replace(last.merging, goal=FULL)
        large = replace(last, name="large_vocabulary", title="large vocabulary, share 100 %", merging=full)
        vocabularies[large.name] = large.decoder.load_vocabulary(options.vocabulary, options.rows, options.index)
        settings.append(large)
    model, figures = Path(options.model).name, Figures()
    made_by: Figures = {
        name: str(getattr(options, name))
        for name in ("model", "hypernet", "language", "positions", "vocabulary", "rows", "index", "max_tokens", "seed")
    }
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    answers: dict[str, Answers] = {}
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("answers", total=N_TURNS * len(questions) * len(settings))
        for setting in settings:
            path = options.output / "model_answer" / f"{model}-{setting.name}.jsonl"
            found = known_answers(path, questions, made_by)
            if found is None:
                found = written_answers(
                    setting, questions, options, vocabularies.get(setting.name), lambda n: bars.advance(bar, n)
                )
                rows = [answer_row(q, f"{model}-{setting.name}", found[q.number], time.time()) for q in questions]
                write_json_lines(path, [row | {MADE_BY: made_by} for row in rows])
            answers[setting.name] = found
        judgments: list[dict[str, Any]] = []
        bar = bars.add_task("judging", total=N_TURNS * len(questions) * len(settings))
        for setting in settings:
            if options.judge_url is None:
                more = compared(setting, static, answers, questions, options)
                bars.advance(bar, N_TURNS * len(questions))
            else:
                key = os.environ.get(options.judge_key)
                judge = Judge(options.judge_url, str(options.judge_model), key, prompts)
                name = f"{model}-{setting.name}"
                rows, more = judged(judge, name, answers[setting.name], questions, lambda n: bars.advance(bar, n))
                judgments += rows
            figures |= {f"{setting.name}_{what}": value for what, value in more.items()}
    if judgments:
        path = options.output / "model_judgment" / f"{Path(str(options.judge_model)).name}_single.jsonl"
        write_json_lines(path, judgments)
    figures = {
        "model": model,
        "judge": options.judge_model or "none: reference bits per byte and agreement with static answers",
        "questions": len(questions),
        "max_tokens": options.max_tokens,
        "positions": options.positions,
        **figures,
        "run_seconds": time.perf_counter() - started,
    }
    table = markdown_table(figures, settings, WITHOUT_JUDGE if options.judge_url is None else WITH_JUDGE)
    return report(figures, table, options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)
