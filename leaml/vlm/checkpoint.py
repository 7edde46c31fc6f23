"""What the files of a model say of its weights: which there are, their shapes, how they are quantised. Reads no weights."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from leaml.config import ModelConfig, resolve_model
from leaml.errors import DataError, ModelError
from leaml.io import files, s3
from leaml.vlm import hub

Shapes: TypeAlias = dict[str, tuple[int, ...]]
"""Name of a tensor in a checkpoint -> its shape."""

Tensor: TypeAlias = tuple[str, tuple[int, ...]]
"""Of a header: the type as safetensors names it, and the shape."""

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
"""Of files that hold weights."""
_PLAIN = {"F64", "F32", "F16", "BF16"}
"""Types of weights that are numbers by themselves."""
_MODELOPT = "hf_quant_config.json"
_HEADER_LIMIT = 100_000_000
"""Bytes that safetensors itself allows a header."""
_AGAIN = "copy the checkpoint again, or download it again"
_QUANTISED = re.compile(
    r"[-_.](?:awq|gptq|gguf|fp8|nvfp4|mxfp4|int[48]|[48]bit|w\d+a\d+|bnb|unsloth|quantized|dynamic|block|g\d+)"
    r"(?=[-_.]|$)",
    re.I,
)
"""What publishers add to a name for a quantised copy of a model."""


def quantised_by(raw: Mapping[str, object]) -> str | None:
    """The method that a config.json says its weights are quantised with; None for weights that are not."""
    text = raw.get("text_config")
    for part in (raw, text if isinstance(text, dict) else {}):
        found = part.get("quantization_config") or part.get("compression_config")
        if isinstance(found, dict):
            bits = [f"bitsandbytes, {n} bits" for n in (4, 8) if found.get(f"load_in_{n}bit")]
            return str(found.get("quant_method") or (bits[0] if bits else "a method that it does not name"))
    return None


def refuse_quantised(config: ModelConfig, raw: Mapping[str, object]) -> None:
    """Raise ModelError for weights that are quantised: they get no gradient, and nothing is merged into them."""
    method = quantised_by(raw)
    if method is not None:
        raise _quantised(config, method)


def _quantised(config: ModelConfig, method: str) -> ModelError:
    plain = _QUANTISED.sub("", config.name)
    named = f", perhaps {plain!r}" if plain != config.name else ""
    msg = (
        f"the weights of the model {config.name!r} are quantised ({method}), and such weights are not trained; give the"
        f" checkpoint that it was made from{named}. A quantised model can be a teacher (caption.teacher), and be served"
    )
    return ModelError(msg)


def check(config: ModelConfig, where: str, trained: bool) -> dict[str, Tensor]:
    """Find out from names, index and headers whether the weights of a model are all there.

    Of s3:// a folder is listed and the headers are read; of a hub id that is not in the cache, the list of its files, the
    index, and the headers if it is trained. A model that only vLLM loads may have weights of another kind than safetensors.

    Args:
        config: The model.
        where: Its folder, s3:// folder or hub id.
        trained: Whether it is loaded to be trained.

    Returns:
        The tensors of which headers were read; none where these are not at hand.

    Raises:
        ModelError: There are no weights, files are missing or cut off, or the hub is out of reach.
    """
    folder = where if _is_folder(where) else hub.cached_folder(config)
    if not _is_folder(where) and not hub.is_offline() and not (folder and _is_complete(config, folder, trained)):
        return _check_on_hub(config, trained)  # what is missing in the cache is fetched when the model is loaded
    if folder is None or not _holds_weights(folder):
        raise _no_weights(config, [] if folder is None else _names(folder), trained, unasked=not _is_folder(where))
    names = _names(folder)
    if INDEX in names or WHOLE in names:
        found = _tensors(config, folder)
        if trained:
            _refuse_packed(config, names, found)
        return found
    if trained:
        raise _no_weights(config, names, trained)
    return {}


def _check_on_hub(config: ModelConfig, trained: bool) -> dict[str, Tensor]:
    """As `check`; the tensors only of a model that is trained."""
    names = hub.file_names(config)
    if names is None:
        return {}  # a mirror that lists no files; loading will tell
    if not any(name.endswith(SUFFIXES) for name in names) or (trained and not {INDEX, WHOLE} & set(names)):
        raise _no_weights(config, names, trained)
    wanted = list(_shards(config, names, lambda: hub.read_small(config, INDEX))) if INDEX in names else [WHOLE]
    if not trained:
        return {}
    with ThreadPoolExecutor(s3.PARALLEL) as pool:
        headers = list(pool.map(lambda shard: hub.tensors(config, shard), wanted))
    if None in headers:
        return {}
    found = {name: tensor for header in headers if header for name, tensor in header.items()}
    _refuse_packed(config, names, found)
    return found


def whole_in_cache(config: ModelConfig, trained: bool = True) -> str | None:
    """The folder of the cache that has all weights of a hub's model; None without it.

    Args:
        config: The model.
        trained: Whether it is loaded to be trained; vLLM reads weights of other kinds than safetensors too.
    """
    folder = hub.cached_folder(config)
    return folder if folder is not None and _is_complete(config, folder, trained) else None


def _is_complete(config: ModelConfig, folder: str, trained: bool) -> bool:
    """Whether a folder of the cache has all files of weights, and not the first ones of a download that was interrupted."""
    names = _names(folder)
    if INDEX not in names:
        return WHOLE in names or (not trained and _holds_weights(folder))
    try:
        _shards(config, names, lambda: files.read_bytes(files.join(folder, INDEX)))
    except ModelError:
        return False
    return True


def _refuse_packed(config: ModelConfig, names: Iterable[str], found: Mapping[str, Tensor]) -> None:
    """Raise ModelError for weights that are quantised though config.json says nothing of it, as ModelOpt's are.

    They would be loaded as numbers without their scales.
    """
    if _MODELOPT in names:
        raise _quantised(config, f"it has a {_MODELOPT}")
    for name, (kind, shape) in found.items():
        if name.endswith("weight") and len(shape) > 1 and kind not in _PLAIN:
            raise _quantised(config, f"{name} is stored as {kind}")


def shapes(config: ModelConfig, folder: str) -> Shapes:
    """The tensors of a local or s3:// folder, from the headers of its safetensors files.

    Raises:
        ModelError: A file is missing, cut off or no safetensors, or lacks a tensor that the index says it has.
    """
    return {name: shape for name, (_, shape) in _tensors(config, folder).items()}


def _tensors(config: ModelConfig, folder: str) -> dict[str, Tensor]:
    """As `shapes`, with the types."""
    names = _names(folder)
    wanted = _shards(config, names, lambda: files.read_bytes(files.join(folder, INDEX))) if INDEX in names else {WHOLE: set()}
    with ThreadPoolExecutor(s3.PARALLEL) as pool:
        headers = dict(zip(wanted, pool.map(lambda shard: _header(config, files.join(folder, shard)), wanted), strict=True))
    for shard, tensors in wanted.items():
        if missing := sorted(tensors - headers[shard].keys()):
            msg = f"{shard} of the model {config.name!r} lacks {missing[0]!r}, which {INDEX} says it has; {_AGAIN}"
            raise ModelError(msg)
    return {name: tensor for header in headers.values() for name, tensor in header.items()}


def stored(config: ModelConfig) -> str | None:
    """The folder of a model's files on this machine; None where they are elsewhere."""
    where = resolve_model(config.name)
    return where if Path(where).is_dir() else None if where.startswith("s3://") else hub.cached_folder(config)


def _sizes(config: ModelConfig) -> dict[str, int]:
    """Values of each tensor of a model, from the headers of files on this machine; none without these."""
    folder = stored(config)
    if folder is None or not {INDEX, WHOLE} & set(_names(folder)):
        return {}
    return {name: math.prod(shape) for name, shape in shapes(config, folder).items()}


def parameters(config: ModelConfig) -> int | None:
    """Number of a model's weights, from the headers of files on this machine; None without these."""
    return sum(_sizes(config).values()) or None


def experts_share(config: ModelConfig) -> float:
    """Share of a model's weights that are experts of a mixture, from the headers of files on this machine; 0 without these."""
    sizes = _sizes(config)
    return sum(size for name, size in sizes.items() if ".experts." in name) / max(1, sum(sizes.values()))


def _is_folder(where: str) -> bool:
    return where.startswith("s3://") or Path(where).is_dir()


def _names(folder: str) -> list[str]:
    return [posixpath.basename(file) for file in files.listing(folder, recursive=False)]


def _holds_weights(folder: str) -> bool:
    return any(name.endswith(SUFFIXES) for name in _names(folder))


def _shards(config: ModelConfig, names: Iterable[str], read: Callable[[], bytes]) -> dict[str, set[str]]:
    """File -> the tensors in it, as the index has them. Raises ModelError when a file is not there."""
    try:
        placed = json.loads(read())["weight_map"]
        wanted: dict[str, set[str]] = {}
        for tensor, shard in placed.items():
            wanted.setdefault(shard, set()).add(tensor)
    except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{INDEX} of the model {config.name!r} cannot be read: {error!r}; {_AGAIN}"
        raise ModelError(msg) from error
    if missing := sorted(wanted.keys() - set(names)):
        msg = f"the model {config.name!r} lacks {len(missing)} of {len(wanted)} files of weights, {missing[0]} first; {_AGAIN}"
        raise ModelError(msg)
    return wanted


def _header(config: ModelConfig, uri: str) -> dict[str, Tensor]:
    """Types and shapes in one safetensors file, whose length must be what its header says."""
    try:
        with files.open_native(uri) as stream:
            size, length = stream.size(), int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(size - 8, _HEADER_LIMIT):
                msg = f"it has {size} bytes and says that its header has {length}"
                raise ValueError(msg)
            found = json.loads(stream.read(length))
        found.pop("__metadata__", None)
        end = 8 + length + max((tensor["data_offsets"][-1] for tensor in found.values()), default=0)
        if size != end:
            msg = f"it has {size} bytes where its header says {end}"
            raise ValueError(msg)
        return {name: (str(tensor["dtype"]), tuple(tensor["shape"])) for name, tensor in found.items()}
    except (DataError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        msg = f"{posixpath.basename(uri)} of the model {config.name!r} is no whole safetensors file: {error}; {_AGAIN}"
        raise ModelError(msg) from error


def _no_weights(config: ModelConfig, names: Iterable[str], trained: bool, unasked: bool = False) -> ModelError:
    others = [name for name in names if name.endswith(SUFFIXES)]
    if others and trained:
        return ModelError(
            f"the model {config.name!r} has no {WHOLE} (it has {others[0]}): only safetensors weights are loaded, convert the"
            " checkpoint with save_pretrained"
        )
    offline = "; the hub is not asked because HF_HUB_OFFLINE is set" if unasked else ""
    return ModelError(
        f"there are no weights of the model {config.name!r}{offline}; give a folder or a hub id with {WHOLE} or {INDEX}"
    )
