"""Adapters of other domains: whether one is served as a LoRA beside the main model or merged, and the files for either."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leaml.config import ModelConfig, resolve_model
from leaml.errors import DataError, ModelError
from leaml.io import files, node_cache

if TYPE_CHECKING:
    from peft import PeftModel

    from leaml.vlm.processor import Processor

    Save = Callable[[PeftModel, Processor, str], None]
    """Writes a model with an adapter, and its processor, into a folder."""

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Way = Literal["lora", "merge", "model"]


def way_of(source: str, max_rank: int, multi_lora: bool) -> Way:
    """How a domain is served.

    "lora": in the main model's engine. "merge": merged into a model of its own. "model": it is a
    model already. An adapter is a LoRA exactly if no module has more than `max_rank` (rows and
    columns, for neurons) and it has no biases and no whole modules. Only its configuration is read.

    Args:
        source: Folder (local or s3://) of an adapter or a model, or a hub id.
        max_rank: That the engine takes.
        multi_lora: Whether the engine takes adapters at all; without it they are merged.

    Raises:
        DataError: not readable, of another PEFT method, or without weights in safetensors.
    """
    if not _there(source, CONFIG):
        return "model"
    if not _there(source, WEIGHTS):
        msg = f"{source} has no {WEIGHTS}; save the adapter with safetensors, other formats can run code when they are loaded"
        raise DataError(msg)
    config = read_config(source)
    kind = str(config.get("peft_type", "")).upper()
    if kind == "LORA":
        ranks = [config.get("r", 0), *(config.get("rank_pattern") or {}).values()]
        whole = not any(config.get(name) for name in ("lora_bias", "modules_to_save", "use_dora", "trainable_token_indices"))
        exact = whole and config.get("bias", "none") == "none"
    elif kind == "NEURON":
        rows, columns = config.get("rows") or {}, config.get("columns") or {}
        ranks = [_count(rows.get(name, "")) + _count(columns.get(name, "")) for name in {*rows, *columns}]
        exact = not config.get("modules_to_save") and not config.get("train_bias", True)
    else:
        msg = f"{source} is an adapter of the kind {kind!r}; LORA and NEURON are served, merge others into their model first"
        raise DataError(msg)
    return "lora" if multi_lora and exact and ranks and max(ranks) <= max_rank else "merge"


def content_of(source: str) -> str:
    """Changes with the files of an adapter or a model folder; "" for a hub id, whose content its revision names.

    Raises:
        DataError: a file cannot be read.
    """
    if _there(source, CONFIG):
        return "-".join(files.fingerprint(files.join(source, name))[:16] for name in (CONFIG, WEIGHTS))
    folder = resolve_model(source)
    return files.fingerprint(folder)[:16] if files.exists(folder) else ""


def read_config(source: str) -> dict[str, Any]:
    """The adapter's configuration. Raises DataError."""
    file = files.join(source, CONFIG)
    try:
        return dict(json.loads(files.read_bytes(file, 16 * 2**20)))
    except (ValueError, TypeError) as error:
        msg = f"{file} is damaged: {error}"
        raise DataError(msg) from None


def lora_folder(source: str, base: ModelConfig) -> str:
    """Local folder with the adapter as a LoRA for vLLM; neurons are exported, which loads the base once per machine.

    Raises:
        ModelError: it does not fit the base.
    """
    folder = node_cache.local_model(source)
    if str(read_config(folder)["peft_type"]).upper() == "LORA":
        _check(folder, base)
        return folder
    return _made(folder, base, "lora", lambda model, _processor, where: _export(model, where))


def _check(folder: str, base: ModelConfig) -> None:
    """Modules, shapes and numbers of a LoRA against the base; vLLM takes any shape that is not larger, and any number."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        tensors = load_file(Path(folder, WEIGHTS))
    except (SafetensorError, OSError) as error:
        msg = f"{folder}/{WEIGHTS} cannot be read: {error}"
        raise ModelError(msg) from None
    options = {"revision": base.revision, "trust_remote_code": base.trust_remote_code}
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(base.name, **options))
    linears = {f"base_model.model.{name}": m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    for module in {name.rpartition(".lora_")[0] for name in tensors}:
        a, b = (tensors.get(f"{module}.lora_{side}.weight") for side in "AB")
        linear = linears.get(module)
        fits = False
        if a is not None and b is not None and linear is not None:
            fits = (*b.shape, *a.shape) == (linear.out_features, len(a), len(a), linear.in_features)
            fits = fits and bool(a.isfinite().all() and b.isfinite().all())
        if not fits:
            msg = f"the adapter {folder} does not fit the model {base.name}: shapes or numbers of {module!r} are wrong"
            raise ModelError(msg)


def merged_folder(source: str, base: ModelConfig) -> str:
    """Local folder of the base with the adapter merged into it, made once per machine."""
    from leaml.vlm import load

    def save(model: PeftModel, processor: Processor, where: str) -> None:
        load.save(model.merge_and_unload(), processor, where)

    return _made(node_cache.local_model(source), base, "merged", save)


def _export(model: PeftModel, where: str) -> None:
    from leaml.neurons.peft import export_lora

    export_lora(model, where)


def _made(folder: str, base: ModelConfig, what: str, write: Save) -> str:
    """A folder written from the base with the adapter, kept under a name that depends on both."""

    def make(where: str) -> None:
        from peft import PeftModel

        import leaml.neurons.peft  # noqa: F401  registers the method
        from leaml.vlm import load

        vlm = load.load(base)
        try:
            model = PeftModel.from_pretrained(vlm.model, folder)
        except (ValueError, KeyError, RuntimeError, TypeError, OSError) as error:
            msg = f"the adapter {folder} does not fit the model {base.name}: {error}"
            raise ModelError(msg) from None
        write(model, vlm.processor, where)

    return node_cache.made_once(f"leaml-{what}-{_fingerprint(folder, base)}", make)


def _fingerprint(folder: str, base: ModelConfig) -> str:
    found = hashlib.sha256(base.model_dump_json().encode())
    for name in (CONFIG, WEIGHTS):
        with Path(folder, name).open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()[:16]


def _count(indices: str | Sequence[int]) -> int:
    """How many indices a list, or a text like "0,4-7", names."""
    if not isinstance(indices, str):
        return len(indices)
    parts = [part.split("-") for part in indices.split(",") if part]
    return sum(int(ends[-1]) - int(ends[0]) + 1 for ends in parts)


def _there(source: str, name: str) -> bool:
    if "://" not in source and not Path(source).is_dir():
        return False  # a hub id or a shipped name
    return files.exists(files.join(source, name))
