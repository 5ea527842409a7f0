"""MMLU as prompts get fewer tokens: accuracy, agreement with static tokenization, tokens saved, time to first token.

    python -m experiments.mmlu FOLDER --shots 5 --limit 8 --json mmlu.json --table mmlu.md --plot mmlu.png

FOLDER has `dev.jsonl.gz`, whose questions are the solved examples, and `test.jsonl.gz`. Prompts are those of Hendrycks
et al. 2021. In style `letters` the most probable of ` A` to ` D` is the answer, in style `full` the option with the
fewest bits per byte.

The settings, with the names that the reference implementation (Feher et al. 2024) has for them: *static* (`plain`);
*FVT* and *hypernetwork* at shares of the maximum reduction (`dynamic_bpe`); *words*, full merging without a limit on
subwords (`word_tk_hypernet`); *all predicted*, static tokens with predicted rows (`original_tk_hypernet`); *longest
prefix*, the tokens of the model's own vocabulary that fit longest, and *large vocabulary*, the same in a folder of
`dyntok build-vocab` (`lp_tk_hypernet`, `--vocab_1M`). Like there, the last four predict the rows of single subwords
too. `--predict-letters` scores the letters by predicted output rows, the reference's setting without
`--use_original_emb_for_choices`; by default letters have the model's own.

Pairs are counted over a batch of questions of one subject (the reference: of 4), so that its prompts have the same
solved examples in the same tokens and these are read once; `--scope example` merges each prompt alone, as the library
does by default. Digits keep their own subwords. Accuracies have Wilson intervals of 95 %, losses paired ones.

Two CPU cores, busy with other work, SmolLM2, 8 questions of each of 29 subjects, 5 shots, 11 settings: 35 minutes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dyntok_jax import Merging
from dyntok_jax.errors import InputError
from dyntok_jax.options import AUTO, DEFAULT_DECODER, Boundary, Positions, Scope, Style
from experiments.shared import (
    GROUP_OF,
    GROUPS,
    STATIC,
    Figures,
    PromptSetting,
    Question,
    best_seconds,
    context_of,
    decoders_by_method,
    large_vocabulary_setting,
    paired_half_percent,
    read_questions,
    reference_settings,
    report,
    run_script,
    share_settings,
    take_turns,
    wilson_percent,
    with_predicted_letters,
)


@dataclass(frozen=True)
class Options:
    """Multiple-choice questions with fewer and fewer tokens.

    Attributes:
      data: folder with dev.jsonl.gz and test.jsonl.gz.
      shots: solved examples before each question.
      style: whether the answer is a letter or the option itself.
      subjects: which subjects; none for all of the file.
      limit: the most questions a subject, from the first on.
      model: a folder, a Hub id, or a packaged model.
      hypernet: a folder or Hub id, beside FVT; by default the one that comes with the model.
      language: code of the questions' language, for a multilingual hypernetwork.
      shares: percentages of the maximum reduction.
      others: the settings of the reference that need a hypernetwork, too: words, all predicted, longest prefix.
      vocabulary: folder of `dyntok build-vocab`, for the setting large vocabulary.
      predict_letters: score letters by output rows that the hypernetwork predicts.
      boundary: what merging may not cross.
      pretoken_merges: the first so many merges stay within pretokens.
      positions: what the model's positions count.
      scope: whether pairs are counted over a batch of questions or in each alone.
      batch_size: questions of one subject a batch.
      timed: prompts whose time to first token is measured in each setting, one of each subject from the first on.
      json: where the figures go.
      table: where the Markdown table goes.
      plot: where the plot goes (.png, .svg).
    """

    data: tyro.conf.Positional[Path]
    shots: int = 5
    style: Style = "letters"
    subjects: tuple[str, ...] = ()
    limit: int | None = None
    model: str = DEFAULT_DECODER
    hypernet: str | None = AUTO
    language: str = "en"
    shares: tuple[float, ...] = (0, 25, 50, 75, 100)
    others: bool = True
    vocabulary: Path | None = None
    predict_letters: bool = False
    boundary: Boundary = "pretoken"
    pretoken_merges: int = 0
    positions: Positions = "tokens"
    scope: Scope = "batch"
    batch_size: int = 8
    timed: int = 3
    json: Path | None = None
    table: Path | None = None
    plot: Path | None = None


@dataclass(frozen=True)
class Answers:
    """What a setting answered to all questions.

    Attributes:
      best_N: number of the option chosen.
      log_probs_NO: log-probability of each option, normalised over the options.
      n_tokens_N: of each prompt.
      n_static_N: of each prompt by the model's own tokenizer.
    """

    best_N: np.ndarray
    log_probs_NO: Float[np.ndarray, "N 4"]
    n_tokens_N: np.ndarray
    n_static_N: np.ndarray


def load_questions(options: Options) -> tuple[dict[str, list[Question]], dict[str, list[Question]]]:
    """The questions of each subject, and the solved examples.

    Raises:
      InputError: a subject is missing, or has too few solved examples.
    """
    test, dev = (read_questions(options.data / f"{part}.jsonl.gz") for part in ("test", "dev"))
    subjects = options.subjects or tuple(sorted(test))
    if missing := [subject for subject in subjects if subject not in test]:
        raise InputError(f"{options.data} has no {', '.join(missing)}: its subjects are {' '.join(sorted(test))}.")
    solved = {subject: dev.get(subject, [])[: options.shots] for subject in subjects}
    for subject, examples in solved.items():
        if len(examples) < options.shots:
            raise InputError(f"There are {len(examples)} solved examples of {subject}: ask for fewer --shots.")
    return {subject: test[subject][: options.limit] for subject in subjects}, solved


def settings_of(options: Options) -> list[PromptSetting]:
    """All settings, static first."""
    decoders = decoders_by_method(options.model, options.hypernet)
    if options.predict_letters and "hypernet" in decoders:
        decoders["hypernet"] = with_predicted_letters(decoders["hypernet"], options.language)
    merging = Merging(
        boundary=options.boundary,
        scope=options.scope,
        pretoken_merges=options.pretoken_merges,
        positions=options.positions,
    )
    found = share_settings(decoders, options.shares, merging)
    if options.others and "hypernet" in decoders:
        found += reference_settings(decoders["hypernet"], merging)
    if options.vocabulary is not None:
        found.append(large_vocabulary_setting(decoders, options.vocabulary, merging))
    return found


def batches(questions: dict[str, list[Question]], size: int) -> Iterator[tuple[str, list[Question]]]:
    """The questions of each subject, a batch at a time."""
    for subject, of_subject in questions.items():
        for at in range(0, len(of_subject), size):
            yield subject, of_subject[at : at + size]


def answered(
    settings: Sequence[PromptSetting],
    questions: dict[str, list[Question]],
    solved: dict[str, list[Question]],
    options: Options,
    on_progress: Callable[[int], None],
) -> dict[str, Answers]:
    """The answers of each setting, to the questions in order."""
    rows: dict[str, list[tuple]] = {setting.name: [] for setting in settings}
    for subject, some in batches(questions, options.batch_size):
        context = context_of(subject, solved[subject], options.style)
        for setting in settings:
            choices = setting.decoder.choose(
                [question.text for question in some],
                [question.options for question in some],
                style=options.style,
                context=context,
                merging=setting.merging,
                language=setting.language(options.language),
                batch_size=options.batch_size,
            )
            for choice, question in zip(choices, some, strict=True):
                log_probs = np.array(choice.scores, np.float64)
                if options.style == "full":  # from bits per byte to those of the whole text
                    log_probs *= [len(f" {option}".encode()) * np.log(2) for option in question.options]
                log_probs -= np.logaddexp.reduce(log_probs)
                rows[setting.name].append((choice.best, log_probs, choice.n_tokens, choice.n_static))
            on_progress(len(some))
    return {
        name: Answers(*(np.array(column) for column in zip(*of_setting, strict=True)))
        for name, of_setting in rows.items()
    }


def first_token_seconds(
    settings: Sequence[PromptSetting],
    questions: dict[str, list[Question]],
    solved: dict[str, list[Question]],
    options: Options,
) -> dict[str, float]:
    """Seconds from a prompt to its first token, by setting; the rows of new tokens are cached by then."""
    prompts = []
    for subject, of_subject in list(questions.items())[: options.timed]:
        question, context = of_subject[0], context_of(subject, solved[subject], options.style)
        listed = "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", question.options, strict=True))
        prompts.append(f"{context}{question.text}{listed if options.style == 'letters' else ''}\nAnswer:")

    def read(setting: PromptSetting) -> Callable[[str], Any]:
        language = setting.language(options.language)
        return lambda prompt: setting.decoder.generate(
            [prompt], merging=setting.merging, language=language, max_tokens=1
        )

    modes = {setting.name: read(setting) for setting in settings}
    for prompt in prompts:
        for mode in modes.values():
            mode(prompt)  # compiles, and fills caches
    rounds = take_turns(modes, prompts, 2, "time to first token")
    return {name: best_seconds(of_mode) / len(prompts) for name, of_mode in rounds.items()}


def figures_of(
    settings: Sequence[PromptSetting], answers: dict[str, Answers], questions: dict[str, list[Question]]
) -> Figures:
    """All figures as one flat object."""
    everything = [question for of_subject in questions.values() for question in of_subject]
    right_N = np.array([question.answer for question in everything])
    parts = {"": np.ones(len(everything), bool)}
    for group in GROUPS:
        parts[f"_{group}"] = np.array([GROUP_OF[question.subject] == group for question in everything])
    for subject in questions:
        parts[f"_{subject}"] = np.array([question.subject == subject for question in everything])
    figures: Figures = {f"questions{part}": int(is_in_N.sum()) for part, is_in_N in parts.items() if is_in_N.any()}
    static = answers[STATIC]
    is_right_N = static.best_N == right_N
    for setting in settings:
        found = answers[setting.name]
        is_hit_N = found.best_N == right_N
        for part, is_in_N in parts.items():
            if n := int(is_in_N.sum()):
                low, high = wilson_percent(int(is_hit_N[is_in_N].sum()), n)
                figures[f"{setting.name}_accuracy_percent{part}"] = 100 * float(is_hit_N[is_in_N].mean())
                figures[f"{setting.name}_accuracy_low_percent{part}"] = low
                figures[f"{setting.name}_accuracy_high_percent{part}"] = high
        lost, won = int((is_right_N & ~is_hit_N).sum()), int((~is_right_N & is_hit_N).sum())
        n = len(right_N)
        divergence_N = (np.exp(static.log_probs_NO) * (static.log_probs_NO - found.log_probs_NO)).sum(axis=1)
        figures |= {
            f"{setting.name}_loss_points": 100 * (lost - won) / n,
            f"{setting.name}_loss_half_interval_points": paired_half_percent(lost, won, n),
            f"{setting.name}_same_choice_percent": 100 * float((found.best_N == static.best_N).mean()),
            f"{setting.name}_kl_nats": float(divergence_N.mean()),
            f"{setting.name}_tokens": float(found.n_tokens_N.mean()),
            f"{setting.name}_reduction_percent": 100 * float(1 - found.n_tokens_N.sum() / found.n_static_N.sum()),
        }
    return figures


def markdown_table(figures: Figures, settings: Sequence[PromptSetting], subjects: Sequence[str]) -> str:
    """A row a setting; then accuracy by group and subject, static and the ends of the other methods."""
    head = "setting | the reference's | accuracy | loss | static's choice | KL | tokens saved | first token"
    lines = [f"| {head} |", "|:--|:--|" + "--:|" * 6]
    for setting in settings:
        name = setting.name
        low, high = (figures[f"{name}_accuracy_{end}_percent"] for end in ("low", "high"))
        loss, half = figures[f"{name}_loss_points"], figures[f"{name}_loss_half_interval_points"]
        seconds = figures.get(f"{name}_first_token_seconds")
        cells = [
            f"{figures[f'{name}_accuracy_percent']:.1f} % [{low:.1f}, {high:.1f}]",
            "" if name == STATIC else f"{loss:.1f} ± {half:.1f}",
            f"{figures[f'{name}_same_choice_percent']:.1f} %",
            f"{figures[f'{name}_kl_nats']:.4f}",
            f"{figures[f'{name}_reduction_percent']:.1f} %",
            "" if seconds is None else f"{seconds:.2f} s",
        ]
        lines.append(f"| {setting.title} | `{setting.reference}` | {' | '.join(cells)} |")
    shown = [s for s in settings if s.name == STATIC or s.name.endswith(("share50", "share100"))]
    titles = " | ".join(setting.title for setting in shown)
    lines += ["", f"| accuracy, % | questions | {titles} |", "|:--|" + "--:|" * (len(shown) + 1)]
    for part in [*GROUPS, *subjects]:
        if f"questions_{part}" in figures:
            cells = []
            for setting in shown:
                value, low, high = (
                    figures[f"{setting.name}_accuracy{end}_percent_{part}"] for end in ("", "_low", "_high")
                )
                cells.append(f"{value:.0f} [{low:.0f}, {high:.0f}]")
            title = f"**{part.replace('_', ' ')}**" if part in GROUPS else part.replace("_", " ")
            lines.append(f"| {title} | {figures[f'questions_{part}']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(figures: Figures, settings: Sequence[PromptSetting], title: str, path: Path) -> None:
    """Accuracy with its interval, and the share of questions with static's choice, against tokens saved."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=11)
    accuracy, agreement = figure.subplots(1, 2)
    methods = dict.fromkeys(s.name.split("_share")[0] for s in settings if s.name != STATIC)
    for number, method in enumerate(methods):
        names = [s.name for s in settings if s.name.split("_share")[0] == method]
        saved, right, low, high, same = (
            np.array([figures[f"{name}_{what}_percent"] for name in names])
            for what in ("reduction", "accuracy", "accuracy_low", "accuracy_high", "same_choice")
        )
        style = {"marker": "o", "ms": 4, "lw": 1.4, "color": f"C{number}", "label": method.replace("_", " ")}
        ends = np.maximum([right - low, high - right], 0)  # all wrong, or all right, are ends themselves
        accuracy.errorbar(saved, right, yerr=ends, capsize=2, elinewidth=0.7, **style)
        agreement.plot(saved, same, **style)
    accuracy.axhline(figures[f"{STATIC}_accuracy_percent"], color="0.4", ls="--", lw=1, label="static")
    accuracy.axhline(25, color="0.7", ls=":", lw=1, label="chance")
    for axes, label in ((accuracy, "accuracy, %"), (agreement, "questions with static's choice, %")):
        axes.set(xlabel="tokens saved: 1 − tokens ÷ static tokens, %", ylabel=label)
        axes.grid(color="0.9", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    accuracy.legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)


def run(options: Options, console: Console) -> Figures:
    """Measures, writes the files that were asked for, and returns the figures."""
    started = time.perf_counter()
    questions, solved = load_questions(options)
    settings = settings_of(options)
    n_questions = sum(map(len, questions.values()))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(f"answering, {len(settings)} settings", total=n_questions * len(settings))
        answers = answered(settings, questions, solved, options, lambda count: bars.advance(bar, count))
    figures: Figures = {
        "model": Path(options.model).name,
        "shots": options.shots,
        "style": options.style,
        "limit_questions_a_subject": options.limit or "none",
        "boundary": options.boundary,
        "pretoken_merges": options.pretoken_merges,
        "positions": options.positions,
        "scope": options.scope,
        "batch_size": options.batch_size,
        "letters_rows": "predicted" if options.predict_letters else "own",
        "subjects": len(questions),
        **figures_of(settings, answers, questions),
    }
    if options.timed:
        for name, seconds in first_token_seconds(settings, questions, solved, options).items():
            figures[f"{name}_first_token_seconds"] = seconds
    figures["run_seconds"] = time.perf_counter() - started
    figures = report(figures, markdown_table(figures, settings, list(questions)), options, console)
    console.print(f"{n_questions} questions, {len(settings)} settings")
    if options.plot:
        draw(figures, settings, f"MMLU, {figures['model']}, {options.shots} shots, {options.style}", options.plot)
    return figures


if __name__ == "__main__":
    run_script(run, Options, __doc__)
