"""`dyntok embed-vocab`: the rows of a grown vocabulary, by FVT or a hypernetwork, in a table on disk."""

import time
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from dyntok_jax.cli.shared import HypernetName, arg, hypernet_of, mesh_shape, print_out, progress_bar


@dataclass(frozen=True)
class EmbedVocab:
    """Embeds every entry of a grown vocabulary. The same command continues a run that was interrupted.

    Attributes:
      folder: written by `dyntok build-vocab`.
      output: folder of the table: zarr arrays and table.json.
      model: the decoder whose tables are read (default: the one that the vocabulary was built for).
      hypernet: folder or Hub id of a ZeTT hypernetwork; auto: the one that comes with the model, if any; none: an entry
        is the mean of its subwords (FVT), which is the better choice for a million entries with `smollm2`.
      language: code of the texts' language, for a multilingual hypernetwork.
      dtype: of the rows.
      mesh: devices that share the batches × devices that share the hypernetwork, such as 4x2.
      overwrite: replace another table of that name.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok embed-vocab vocab --output table                             FVT: the mean of each entry's subwords
  dyntok embed-vocab vocab --output table --hypernet auto             by the hypernetwork that comes with the model
  dyntok embed-vocab vocab --output table --hypernet run/hypernet     run it again to continue after an interruption
  dyntok embed-vocab vocab --output table --dtype bfloat16            half the size
"""

    folder: tyro.conf.Positional[Annotated[str, arg(metavar="FOLDER")]]
    output: Annotated[str, arg(metavar="TABLE")]
    model: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    hypernet: HypernetName = "none"
    language: Annotated[str | None, arg(metavar="CODE", help_behavior_hint="")] = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    mesh: Annotated[str | None, arg(metavar="DATAxMODEL", help_behavior_hint="")] = None
    overwrite: bool = False

    def run(self) -> None:
        """Loads, embeds, prints a summary."""
        from dyntok_jax.cli.shared import keep_compiled_programs
        from dyntok_jax.files import load_model
        from dyntok_jax.sharding import make_mesh
        from dyntok_jax.vocabulary import (
            RowSource,
            embed_vocabulary,
            load_vocabulary,
            read_vocabulary_config,
            readable_bytes,
        )

        keep_compiled_programs()
        name = self.model or read_vocabulary_config(self.folder)["model"]
        shape = mesh_shape(self.mesh)
        mesh = None if shape is None else make_mesh(*shape)
        loaded = load_model(name, hypernet_of(self.hypernet), kind="tables", mesh=mesh)
        reader = None
        if loaded.hypernet is not None and loaded.hypernet[0].read_layers:
            reader = load_model(name, kind="decoder", mesh=mesh).parameters
        vocabulary = load_vocabulary(self.folder, loaded.tokenizer)
        began = time.perf_counter()
        with progress_bar("Embedding", vocabulary.size) as advance:
            table = embed_vocabulary(
                self.output,
                vocabulary,
                RowSource(
                    input_VD=loaded.parameters.input_VD,
                    output_VD=loaded.parameters.output_VD,
                    hypernet=loaded.hypernet,
                    language=self.language,
                    model=name,
                    reader=reader,
                ),
                dtype=self.dtype,
                mesh=mesh,
                overwrite=self.overwrite,
                progress=advance,
            )
        config = table.config
        tables = "an input and an output row" if config.has_output else "one row for input and output"
        print_out(
            f"{config.rows:,} entries ({vocabulary.size - vocabulary.n_own:,} new) have {tables}, {config.width} wide, "
            f"{config.dtype}, {readable_bytes(config.n_bytes)}, in {time.perf_counter() - began:.0f} s.",
            f"Written: {self.output}",
        )
