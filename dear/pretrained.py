"""Pretrained networks of transformers and diffusers: found in a folder or on the hub, read frozen, saved as names.

Only json and safetensors are downloaded and read. Both libraries are imported where they are used, so that the rest of
the library does without them.
"""

import importlib
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

# The hub name that each class is usually loaded from; errors about a folder, which names no page itself, point there.
USUAL = {
    "T5EncoderModel": "google/flan-t5-large",
    "ClapTextModelWithProjection": "laion/clap-htsat-fused",
    "ClapModel": "laion/clap-htsat-fused",
    "ASTForAudioClassification": "MIT/ast-finetuned-audioset-10-10-0.4593",
    "AutoencoderKL": "cvssp/audioldm-s-full-v2",
    "SpeechT5HifiGan": "cvssp/audioldm-s-full-v2",
}
_OF_DIFFUSERS = ("AutoencoderKL",)  # all others are in transformers
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}  # as json names them


def load_pretrained(
    kind: str,
    name: str | Path,
    reader: str | None = "AutoTokenizer",
    *,
    subfolder: str = "",
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[object, nn.Module]:
    """Reader (tokenizer, processor or feature extractor; none for None) and frozen model of a class, in `dtype`.

    name: a folder, or else a hub name; what is needed of it is downloaded once and then found in the hub's cache, also
    without network.  subfolder: within either.  revision: a commit, tag or branch of the hub.
    FileNotFoundError if a file or a weight is missing or damaged: it says what to download from where, and where to.
    """
    library, stem, precision = "transformers", "model", "dtype"
    if kind in _OF_DIFFUSERS:
        library, stem, precision = "diffusers", "diffusion_pytorch_model", "torch_dtype"
    try:
        source = importlib.import_module(library)
    except ImportError as error:
        raise ImportError(f"{kind} needs {library}: pip install 'dear[pretrained]'") from error
    wanted = _wanted(kind, name, reader, subfolder, revision, stem)
    folder = Path(name) if Path(name).is_dir() else _downloaded(name, subfolder, revision, stem, wanted)
    folder = folder / subfolder
    try:
        with _quiet(library):
            made = reader and getattr(source, reader).from_pretrained(folder, local_files_only=True)
            model, told = getattr(source, kind).from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, local_files_only=True, **{precision: dtype}
            )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise FileNotFoundError(f"{wanted} ({type(error).__name__})") from error
    if told["missing_keys"]:  # both libraries would leave them random, with no more than a warning
        raise FileNotFoundError(f"{wanted} (weights lack {', '.join(sorted(told['missing_keys'])[:3])} ...)")
    return made, model.eval().requires_grad_(False)


def reference(part: nn.Module, **arguments) -> dict:
    """What a saved model keeps of a pretrained part: its class and what it is built with, as json can hold it.

    A folder is kept as it was given: a relative one is looked for from the working directory, then as now.
    """
    told = {"class": type(part).__name__} | arguments
    for key, value in arguments.items():
        if isinstance(value, (Path, torch.dtype)):
            told[key] = str(value).removeprefix("torch.")
    return told


def from_reference(told: dict, classes: dict[str, type]) -> nn.Module:
    """The part that a `reference` was made of; `classes`: those that it may be, by name (KeyError for another)."""
    arguments = {k: from_reference(v, classes) if isinstance(v, dict) else v for k, v in told.items() if k != "class"}
    if "dtype" in arguments:
        arguments["dtype"] = _DTYPES[arguments["dtype"]]
    return classes[told["class"]](**arguments)


@contextmanager
def _quiet(library: str):
    """No report of every weight that half a model leaves unread; of those that it lacks `load_pretrained` tells."""
    logging = importlib.import_module(f"{library}.utils.logging")
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _downloaded(name: str | Path, subfolder: str, revision: str | None, stem: str, wanted: str) -> Path:
    """Folder of the hub's cache with what is needed of a hub name."""
    from huggingface_hub import snapshot_download

    inside = f"{subfolder}/" if subfolder else ""
    needed = [f"{inside}*.json", f"{inside}{stem}.safetensors", f"{inside}{stem}-*.safetensors"]
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=needed))
    except Exception as error:  # as many kinds as there are ways to miss a hub
        raise FileNotFoundError(f"{wanted} ({type(error).__name__})") from error


def _wanted(
    kind: str, name: str | Path, reader: str | None, subfolder: str, revision: str | None, stem: str
) -> str:
    """The sentence for whoever has not got the files: which, from where, and where to."""
    here, weights = Path(name, subfolder), f"{stem}.safetensors"
    files = f"config.json, {weights} and tokenizer or preprocessor files" if reader else f"config.json and {weights}"
    on_hub = str(name).count("/") == 1 and str(name)[0] not in "/.~" and not Path(name).is_dir()
    page, revision = (str(name), revision) if on_hub else (USUAL[kind], None)
    if subfolder or revision:
        page += f"/tree/{revision or 'main'}/{subfolder}".rstrip("/")
    return (
        f"{here} gave no {kind}{f' with {reader}' if reader else ''}; wanted a folder with {files}, or the name of one "
        f"on the hub; without network, download it elsewhere, from https://huggingface.co/{page}, into the folder "
        f"{here}, or into another that you then name instead"
    )
