"""`dyntok convert`: a Hugging Face folder to an orbax checkpoint, or back; a GGUF file to a Hugging Face folder."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from dyntok_jax.cli.shared import arg, print_out, waiting


@dataclass(frozen=True)
class Convert:
    """Converts a checkpoint: Hugging Face (encoder, decoder, hypernetwork) to orbax, or orbax or GGUF to Hugging Face.

    Attributes:
      source: a model's folder, Hugging Face Hub id or packaged name; an orbax folder that this command wrote; or a GGUF
        file.
      target: the folder to create.
      dtype: of the parameters (default: unchanged; for a GGUF file float32).
      overwrite: replace the target if it is a model folder.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok convert e5-small e5-orbax                                a packaged model to orbax
  dyntok convert e5-orbax e5-small-hf                             and back: safetensors, config.json, tokenizer
  dyntok convert xlm-roberta-base xlmr-orbax --dtype bfloat16     half the size
  dyntok convert model.gguf model-hf                              a Llama, Mistral or Gemma 3 of llama.cpp
  dyntok convert model-hf model-orbax                             and on to orbax
  dyntok convert benjamin/zett-hypernetwork-xlm-roberta-base zett-orbax
"""

    source: tyro.conf.Positional[Annotated[str, arg(name="in", metavar="IN")]]
    target: tyro.conf.Positional[Annotated[str, arg(name="out", metavar="OUT")]]
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, arg(metavar="{float32,bfloat16}", help_behavior_hint="")
    ] = None
    overwrite: bool = False

    def run(self) -> None:
        """Converts, and prints what was left out."""
        from dyntok_jax.files import convert_folder

        with waiting("Converting"):
            said = convert_folder(self.source, self.target, dtype=self.dtype, overwrite=self.overwrite)
        print_out(*said)
