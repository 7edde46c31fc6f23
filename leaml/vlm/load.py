"""Loading, checking and saving a vision-language model, and finding the parts of it."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from PIL import Image
from torch import nn

from leaml.config import ModelConfig, resolve_model
from leaml.errors import DataError, ModelError
from leaml.io.node_cache import local_model
from leaml.vlm import architecture, attention, checkpoint, fitting, four_bit, hub, image_size, saving
from leaml.vlm.chat import undated
from leaml.vlm.processor import Processor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

VISION = {"vision_model", "vision_tower", "visual", "vision_encoder", "image_encoder", "vision_backbone"}
CONNECTOR = {"connector", "multi_modal_projector", "merger", "deepstack_merger_list", "aligner", "mlp1"}
LANGUAGE = {"text_model", "language_model"}
"""Module names (one segment of the dotted name) of the three parts in the models of transformers 5."""

_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d+)(?:\.|$)")


@dataclass
class VLM:
    """A model in evaluation mode, its processor, and the name it was asked for.

    The model is one of transformers, or PEFT's around it while adapters are trained.
    """

    model: Any
    processor: Processor
    name: str


def load(
    config: ModelConfig,
    device: str | torch.device = "cpu",
    attn_implementation: str | None = None,
    runs_on: str | torch.device | None = None,
    four_bits: torch.dtype | None = None,
) -> VLM:
    """Load a model and its processor.

    Args:
        config: name (shipped, hub id, folder or s3:// folder), revision, weight type, trust.
        device: where the weights go.
        attn_implementation: attention kernel; None: the first of `attention.kernels` that the model has.
        runs_on: the device that the model will be moved to, where that is another one.
        four_bits: hold the language model's Linears in 4 bits, and compute their products in this type.

    Raises:
        ModelError: what cannot be loaded, and why.
    """
    _check_configuration(config, trained=True)
    kernel, runs_on = attn_implementation, runs_on or device
    folder = local_model(resolve_model(config.name))
    with _quiet():
        cached = None if Path(folder).is_dir() else checkpoint.whole_in_cache(config)
        try:
            try:  # a hub that is out of reach would be waited for at every file that a model does not have
                processor, model, sized = _built(config, cached or folder, kernel, runs_on, four_bits)
            except OSError:
                if cached is None:
                    raise
                processor, model, sized = _built(config, folder, kernel, runs_on, four_bits)
        except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
            msg = f"cannot load the model {config.name!r}: {error}{_hint(error)}"
            raise ModelError(msg) from error

        image_size.agree(model.config, sized)
        processor.chat_template = undated(processor.chat_template)

        stored = folder if Path(folder).is_dir() else hub.cached_folder(config)
        if stored and not four_bits:
            saving.remember(model, config.name, checkpoint.shapes(config, stored))
        return VLM(model.to(device).eval(), processor, config.name)


def _built(
    config: ModelConfig,
    source: str,
    kernel: attention.Kernel | None,
    runs_on: str | torch.device,
    four_bits: torch.dtype | None,
) -> tuple[Processor, Any, Any]:
    """Processor, model and limit of its images, from a folder or a hub; see `load`."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    options, weights = _options(config), {"dtype": getattr(torch, config.dtype), "use_safetensors": True}
    processor = AutoProcessor.from_pretrained(source, **options)
    sized = image_size.limit(processor, config, config.name)
    described = AutoConfig.from_pretrained(source, **options)
    kernels: list[attention.Kernel] = [kernel] if kernel else attention.kernels(runs_on, described, config.dtype)
    if four_bits:
        weights |= _in_four_bits(described, four_bits)
    model = attention.first(
        lambda kernel: AutoModelForImageTextToText.from_pretrained(source, attn_implementation=kernel, **weights, **options),
        kernels,
        config.name,
    )
    return processor, model, sized


def _in_four_bits(described: PreTrainedConfig, computed_in: torch.dtype) -> dict[str, Any]:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(described)
    linears = [name for name, module in empty.named_modules() if isinstance(module, nn.Linear)]
    return four_bit.settings(language_linears(empty), linears, computed_in)


def _options(config: ModelConfig) -> dict[str, str | bool | None]:
    """What every `from_pretrained` is told."""
    return {"revision": config.revision, "trust_remote_code": config.trust_remote_code}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers: they last milliseconds for small models, and workers have no terminal."""
    from transformers.utils import logging as hub_logging

    shown = hub_logging.is_progress_bar_enabled()
    hub_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hub_logging.enable_progress_bar()


def _hint(error: Exception) -> str:
    """The fix for the failures that happen most."""
    text = str(error).lower()
    if "torchvision" in text:
        return architecture.TORCHVISION
    if "safetensors" in text:
        return "; only safetensors weights are loaded, convert the checkpoint with save_pretrained"
    return ""


def check(config: ModelConfig, trained: bool = False) -> None:
    """Find out whether a model can be used, without loading its weights; 2 s for a local folder.

    Its configuration, its processor with one conversation, and the list and the headers of its files of weights are read. Of an
    s3:// folder, and of a hub id that is not in the cache, only small files are fetched.

    Args:
        config: The model.
        trained: Whether it is loaded to be trained; otherwise vLLM alone loads it.

    Raises:
        ModelError: missing folder, no config.json, a name that the hub does not have, a hub out of reach, unknown architecture,
            no vision tower, a processor that needs a package that is not installed or that does not load, images of a size
            that it cannot give, an unusable chat template, weights that are missing or cut off; of a model that is trained
            also weights that are quantised or do not fit its configuration, and code that `load` cannot use.
    """
    described = _check_configuration(config, trained)
    tensors = checkpoint.check(config, resolve_model(config.name), trained)
    if trained and tensors:
        with _quiet():
            fitting.check(config, described, tensors)
    from leaml.vlm.collate import Collator, Turn

    try:
        Collator(processor(config))([Turn(Image.new("RGB", (64, 64)), "What is it?", "A ball")])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        msg = f"the processor of the model {config.name!r} makes no conversation about an image: {_first_line(error)}"
        raise ModelError(msg) from error


def _check_configuration(config: ModelConfig, trained: bool) -> PreTrainedConfig:
    """The configuration. Raises ModelError for what config.json and the name alone show to be impossible."""
    with tempfile.TemporaryDirectory(prefix="leaml-config-") as scratch:
        where = resolve_model(config.name)
        if config.name.startswith("s3://"):
            where = _fetch_config(config.name, scratch)
        elif _is_path(where):
            _check_folder(where)
        else:
            hub.refuse_no_name(config.name)
        if raw := _local_json(Path(where) / "config.json"):
            architecture.refuse_text_model(config, raw)
        if not Path(where).is_dir() and not hub.cached_folder(config):
            hub.ask(config)
        from transformers import AutoConfig, PreTrainedConfig  # takes seconds, which a refusal should not wait for

        try:
            raw = _read(config, where, PreTrainedConfig.get_config_dict)[0]
            architecture.refuse_own_code(config, raw, trained)
            if trained:
                checkpoint.refuse_quantised(config, raw)
            found = _read(config, where, AutoConfig.from_pretrained)
        except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
            msg = (
                f"cannot read the configuration of the model {config.name!r}: {_first_line(error)}; give a folder with a"
                " config.json, or a hub id of an image-text-to-text model that this version of transformers knows"
            )
            raise ModelError(msg) from error
    architecture.check_architecture(config, found)
    architecture.check_packages(config, found.model_type)
    return found


def _read(config: ModelConfig, where: str, read: Callable[..., Any]) -> Any:
    """What a function of transformers reads; of a hub's model from the cache, where it is there."""
    options = _options(config)
    if not Path(where).is_dir() and hub.cached_folder(config):
        with contextlib.suppress(OSError, ValueError):
            return read(where, local_files_only=True, **options)
        hub.ask(config)  # something else of it is not in the cache
    return read(where, **options)


def _local_json(file: Path) -> dict[str, Any] | None:
    """None for a hub id, and for a broken file, which transformers explains."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def processor(config: ModelConfig) -> Processor:
    """The processor of a model, set up as its configuration says; loads no weights. Raises ModelError as `load` does."""
    from transformers import AutoProcessor

    found: Processor = from_small_files(config, AutoProcessor, "processor")
    image_size.limit(found, config, config.name)
    return found


def special_tokens(config: ModelConfig) -> list[str]:
    """The texts that the model's tokenizer takes for special tokens, its image placeholder among them; loads no weights.

    Only those that no ordinary text holds: some tokenizers pad with "!".
    """
    from transformers import AutoTokenizer

    tokenizer = from_small_files(config, AutoTokenizer, "tokenizer")
    marked = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(
        token for token in marked | set(tokenizer.all_special_tokens) if re.search(r"[<\[|]", token) and len(token) > 2
    )


class _Pretrained(Protocol):
    """A class of transformers, such as AutoTokenizer, that reads a model's files."""

    def from_pretrained(self, pretrained_model_name_or_path: str, **options: str | bool | None) -> Any: ...


def from_small_files(config: ModelConfig, kind: _Pretrained, what: str) -> Any:
    """What a class of transformers reads from a model's files without its weights, which of an s3:// folder are not fetched.

    Args:
        config: The model.
        kind: The class.
        what: What it is, for the message.

    Raises:
        ModelError: It cannot be loaded, and why.
    """
    with _quiet(), tempfile.TemporaryDirectory(prefix="leaml-small-") as scratch:
        where = resolve_model(config.name)
        if config.name.startswith("s3://"):
            where = scratch
            from leaml.io import files

            for file in files.listing(config.name, recursive=False):
                if not file.endswith(checkpoint.SUFFIXES):
                    (Path(scratch) / file.rsplit("/", 1)[-1]).write_bytes(files.read_bytes(file))
        try:
            return _read(config, where, kind.from_pretrained)
        except (OSError, ValueError, ImportError, KeyError) as error:
            msg = f"cannot load the {what} of the model {config.name!r}: {_first_line(error)}{_hint(error)}"
            raise ModelError(msg) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _fetch_config(uri: str, scratch: str) -> str:
    from leaml.io.files import read_bytes

    try:
        (Path(scratch) / "config.json").write_bytes(read_bytes(f"{uri.rstrip('/')}/config.json"))
    except DataError as error:
        msg = f"the model folder {uri!r} has no readable config.json: {error}; give the s3:// folder of a saved model"
        raise ModelError(msg) from error
    return scratch


def _is_path(where: str) -> bool:
    return Path(where).exists() or where.startswith(("/", ".", "~")) or where.count("/") > 1


def _check_folder(where: str) -> None:
    folder = Path(where)
    if not folder.is_dir():
        msg = f"the model folder {where!r} does not exist; check the path, or give a hub id (owner/name)"
        raise ModelError(msg)
    names = sorted(p.name for p in folder.iterdir())
    if "config.json" not in names:
        what = "it is a PEFT adapter; merge it into its base model" if "adapter_config.json" in names else "give a saved model"
        msg = f"the model folder {where!r} has no config.json (it holds {names[:8]}): {what}"
        raise ModelError(msg)


def part_of(name: str) -> str | None:
    """Part of a module by its name: "vision", "connector" or "language"; None for lm_head and what is in none of them.

    Connector goes before vision: Qwen's merger lies in its vision tower.
    """
    segments = set(name.split("."))
    if "lm_head" in segments:
        return None
    for part, names in (("connector", CONNECTOR), ("vision", VISION), ("language", LANGUAGE)):
        if segments & names:
            return part
    return None


def _linears(model: nn.Module, part: str) -> dict[str, nn.Linear]:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found: dict[str, nn.Linear] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and part_of(name) == part
    }
    if not found and part == "language":
        msg = (
            f"no language model found in {type(model).__name__} with the parts {[n for n, _ in model.named_children()]};"
            f" LEAML looks for a module named {' or '.join(sorted(LANGUAGE))}"
        )
        raise ModelError(msg)
    return found


def language_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Dotted name -> every `nn.Linear` of the language model, without lm_head. Raises ModelError if there is none."""
    return _linears(model, "language")


def vision_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Dotted name -> every `nn.Linear` of the vision tower, without the connector."""
    return _linears(model, "vision")


def connector_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Dotted name -> every `nn.Linear` between the vision tower and the language model."""
    return _linears(model, "connector")


def layer_index(name: str) -> int:
    """Number of the transformer layer a module name lies in, from 0; -1 for a module outside the layers."""
    match = _LAYER.search(name)
    return int(match[1]) if match else -1


def transformer_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of the language model and the vision tower, in order; not what lies in one of them, such as an expert."""
    return [m for n, m in model.named_modules() if layer_index(n) >= 0 and layer_index(n.rpartition(".")[0]) < 0]


def save(model: PreTrainedModel, processor: Processor, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write safetensors, configuration and processor so that `load` and vLLM read the folder. The model is not changed.

    Args:
        model: a transformers model (not wrapped by PEFT; merge first).
        processor: of the model.
        folder: made if missing.
        dtype: type of the weights on disk; None: as they are.
    """
    with _quiet():
        saving.save_weights(model, Path(folder), dtype)
        processor.save_pretrained(folder)
