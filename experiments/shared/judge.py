"""A judge of answers: a model behind any endpoint that speaks OpenAI's chat completions, and its prompts.

Scores are comparable with published ones only where judge and prompts are the published ones: give FastChat's own file
of prompts. Those here, for use without it, ask for the same in other words and are named apart.
"""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dyntok_jax.errors import InputError
from experiments.shared.fastchat import WITH_REFERENCE, MtQuestion, Turns, read_lines_of_json

RATING = re.compile(r"\[\[(\d+(?:\.\d+)?)\]\]")
NO_RATING = -1.0
"""FastChat's score of an answer whose judgment has no rating."""
RETRIES, PAUSE_SECONDS, TIMEOUT_SECONDS = 3, 2.0, 120.0
_TASK = (
    "You grade answers of an assistant. Look at how correct, helpful, relevant and detailed the {part} is{reference}. "
    "Say in a few sentences what is good and bad about it; then end with a grade from 1 to 10 in double square "
    "brackets, such as [[5]]."
)


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is asked: FastChat's fields."""

    name: str
    system_prompt: str
    prompt_template: str


def _own_prompts() -> dict[tuple[int, bool], JudgePrompt]:
    """Prompts by turn, and whether a reference answer is shown."""
    found = {}
    for turn in (1, 2):
        for has_reference in (False, True):
            reference = " compared with the reference" if has_reference else ""
            task = _TASK.format(part="answer" if turn == 1 else "second answer", reference=reference)
            parts = []
            for number in range(1, turn + 1):
                question = "question" if turn == 1 else f"question_{number}"
                answer = "answer" if turn == 1 else f"answer_{number}"
                parts.append(f"## Question {number}\n{{{question}}}")
                if has_reference:
                    parts.append(f"## Reference for {number}\n{{ref_answer_{number}}}")
                parts.append(f"## Answer {number}\n{{{answer}}}")
            name = f"dyntok-single{'-reference' if has_reference else ''}{'-second-turn' if turn == 2 else ''}"
            found[turn, has_reference] = JudgePrompt(name, task, "\n\n".join(parts))
    return found


FASTCHAT_NAMES = {
    (1, False): "single-v1",
    (1, True): "single-math-v1",
    (2, False): "single-v1-multi-turn",
    (2, True): "single-math-v1-multi-turn",
}


def judge_prompts(path: Path | None) -> dict[tuple[int, bool], JudgePrompt]:
    """The prompts by turn, and whether a reference answer is shown: those of FastChat's file, or our own.

    Raises:
      InputError: the file lacks a prompt, or a prompt a field.
    """
    if path is None:
        return _own_prompts()
    by_name = {row.get("name"): row for row in read_lines_of_json(path)}
    try:
        return {
            kind: JudgePrompt(name, by_name[name]["system_prompt"], by_name[name]["prompt_template"])
            for kind, name in FASTCHAT_NAMES.items()
        }
    except KeyError as error:
        raise InputError(f"{path} has no {error}: name FastChat's judge_prompts.jsonl.") from error


@dataclass(frozen=True)
class Judge:
    """A model behind an endpoint.

    Attributes:
      url: of the API, to which `/chat/completions` is added (`http://localhost:8000/v1`).
      model: its name there.
      key: sent as a bearer token; None for none.
      prompts: from `judge_prompts`.

    Raises:
      InputError: the address is not http or https.
    """

    url: str
    model: str
    key: str | None
    prompts: Mapping[tuple[int, bool], JudgePrompt]

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"--judge-url must begin with http:// or https://, got {self.url!r}.")

    def judge(self, question: MtQuestion, answers: Turns, turn: int) -> dict[str, object]:
        """A line of FastChat's `model_judgment/JUDGE_single.jsonl`, but for the judged model's name.

        Args:
          question: with its reference answers, in categories that are judged beside them.
          answers: of both turns.
          turn: 1 or 2.

        Raises:
          InputError: the endpoint cannot be reached or answers with something else.
        """
        reference = question.reference if question.category in WITH_REFERENCE else None
        prompt = self.prompts[turn, reference is not None]
        fields = {"question": question.turns[0], "answer": answers[0]}
        for number in range(turn):
            fields |= {f"question_{number + 1}": question.turns[number], f"answer_{number + 1}": answers[number]}
            if reference is not None:
                fields[f"ref_answer_{number + 1}"] = reference[number]
        asked = prompt.prompt_template.format(**fields)
        said = self.ask(prompt.system_prompt, asked)
        rating = RATING.search(said)
        return {
            "question_id": question.number,
            "judge": [self.model, prompt.name],
            "user_prompt": asked,
            "judgment": said,
            "score": float(rating[1]) if rating else NO_RATING,
            "turn": turn,
            "tstamp": time.time(),
        }

    def ask(self, system: str, user: str) -> str:
        """The model's answer to a message; tries again a few times where the endpoint is busy.

        Raises:
          InputError: as `judge`.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 2048}
        address = f"{self.url.rstrip('/')}/chat/completions"
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        problem = ""
        for attempt in range(RETRIES):
            time.sleep(attempt * PAUSE_SECONDS)
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                    return str(json.load(response)["choices"][0]["message"]["content"])
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}"
                if error.code != 429 and error.code < 500:
                    break
            except OSError as error:
                problem = str(error)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                problem = f"its answer is not a chat completion ({error!r})"
                break
        raise InputError(f"The judge at {address} did not answer: {problem}. Check --judge-url and --judge-model.")
