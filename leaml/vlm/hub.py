"""Names that may be a hub's: refused at once where they cannot be, or where the hub has no such model or is not reached."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from leaml.config import BUILTIN, ModelConfig
from leaml.errors import ModelError

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

TIMEOUT = 4.0
"""Seconds that the hub may take for an answer, whatever the number of its addresses: a client tries one after the other."""
_SERVER_ERROR = 500
T = TypeVar("T")


def refuse_no_name(name: str) -> None:
    """Raise ModelError for a name without an owner, which no hub id is, unless it is shipped. Asks nobody."""
    if "/" in name or name in BUILTIN:
        return
    near = difflib.get_close_matches(name.lower(), sorted(BUILTIN), 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    msg = (
        f"there is no model {name!r}: {hint}Give a shipped name ({', '.join(sorted(BUILTIN))}), a folder with a config.json, "
        "or a hub id with its owner, such as HuggingFaceTB/SmolVLM-256M-Instruct"
    )
    raise ModelError(msg)


def is_offline() -> bool:
    """Whether the hub must not be asked (HF_HUB_OFFLINE)."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def cached_folder(config: ModelConfig) -> str | None:
    """The folder on this machine with what is cached of a hub's model; None without its configuration."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(config.name, "config.json", revision=config.revision)
    except HFValidationError:  # no name of a hub, which is refused elsewhere
        return None
    return str(Path(found).parent) if isinstance(found, str) else None


def ask(config: ModelConfig) -> None:
    """Ask the hub once for a model: transformers asks again and again for half a minute.

    Raises:
        ModelError: The hub cannot be reached, or has no such model for this user.
    """
    import httpx

    if is_offline():
        return  # transformers says at once that it is not in the cache
    try:
        _model_info(config)
    except httpx.HTTPError:
        return  # a gated model, another revision, a mirror without this address: transformers finds out and says so


def file_names(config: ModelConfig) -> list[str] | None:
    """Names of the files of a hub's model; None where the hub refuses to say. Raises ModelError as `ask` does."""
    import httpx

    try:
        found = _model_info(config)
    except httpx.HTTPError:
        return None
    return [file.rfilename for file in found.siblings or []]


def read_small(config: ModelConfig, name: str) -> bytes:
    """A small file of a hub's model, which is kept in the cache. Raises ModelError."""
    import httpx
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(config.name, name, revision=config.revision)).read_bytes()
    except (OSError, httpx.HTTPError) as error:
        msg = f"cannot read {name} of the model {config.name!r} from the hub: {error}; set HF_TOKEN if it is gated"
        raise ModelError(msg) from error


@lru_cache(maxsize=256)
def tensors(config: ModelConfig, name: str) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    """Type and shape of those in a safetensors file of a hub's model. Its header alone is fetched, once in a process.

    Args:
        config: The model.
        name: Of the file.

    Returns:
        None where the hub refuses to say, as it does of gated models without a token.

    Raises:
        ModelError: The file is no safetensors file.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        found = HfApi().parse_safetensors_file_metadata(config.name, name, revision=config.revision)
    except SafetensorsParsingError as error:
        msg = f"{name} of the model {config.name!r} is no safetensors file: {error}; choose another revision"
        raise ModelError(msg) from error
    except (OSError, httpx.HTTPError):
        return None
    return {tensor: (str(info.dtype), tuple(info.shape)) for tensor, info in found.tensors.items()}


def _model_info(config: ModelConfig) -> ModelInfo:
    """What the hub says of a model. Raises ModelError, or httpx.HTTPError for what the hub refused."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    hub = HfApi()
    try:
        return _within(TIMEOUT, lambda: hub.model_info(config.name, revision=config.revision, timeout=TIMEOUT))
    except (RepositoryNotFoundError, HFValidationError):
        msg = (
            f"there is neither a folder {config.name!r} (a config names it relative to its own folder) nor a model of that "
            f"name on {hub.endpoint}; check the spelling, or set HF_TOKEN if it is private"
        )
        raise ModelError(msg) from None
    except HfHubHTTPError as error:
        if error.response.status_code < _SERVER_ERROR:
            raise
        why = f"it answered {error.response.status_code}"
    except (httpx.TransportError, TimeoutError) as error:
        why = str(error) or f"no answer in {TIMEOUT:g} s"
    msg = (
        f"the model {config.name!r} is no folder here and is not in the cache, and {hub.endpoint} cannot be reached: {why};"
        " check the network and HF_ENDPOINT, or give the folder of a saved model"
    )
    raise ModelError(msg)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns or raises; TimeoutError when it takes longer, while its thread is left behind."""
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # it is raised where the call is waited for
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return done.result(seconds)
