"""Names that may be a hub's: refused at once where they cannot be, or where the hub has no such model or is not reached."""

from __future__ import annotations

import difflib
from pathlib import Path

from leaml.config import BUILTIN, ModelConfig
from leaml.errors import ModelError

TIMEOUT = 10.0
"""Seconds that the hub may take for its first answer."""


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


def is_cached(config: ModelConfig) -> bool:
    """Whether the configuration of a hub's model is on this machine."""
    return cached_folder(config) is not None


def cached_folder(config: ModelConfig) -> str | None:
    """The folder of this machine that holds what it has of a hub's model; None without its configuration."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(config.name, "config.json", revision=config.revision)
    except HFValidationError:  # no name of a hub, which is refused elsewhere
        return None
    return str(Path(file).parent) if isinstance(file, str) else None


def ask(config: ModelConfig) -> None:
    """Ask the hub once for a model: transformers asks again and again for half a minute.

    Raises:
        ModelError: The hub cannot be reached, or has no such model for this user.
    """
    import httpx
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    if is_offline_mode():
        return  # transformers says at once that it is not in the cache
    hub = HfApi()
    try:
        hub.model_info(config.name, revision=config.revision, timeout=TIMEOUT)
    except (RepositoryNotFoundError, HFValidationError):
        msg = (
            f"there is neither a folder {config.name!r} (a config names it relative to its own folder) nor a model of that "
            f"name on {hub.endpoint}; check the spelling, or set HF_TOKEN if it is private"
        )
        raise ModelError(msg) from None
    except httpx.TransportError as error:
        msg = (
            f"the model {config.name!r} is no folder here and is not in the cache, and {hub.endpoint} cannot be reached: "
            f"{error or type(error).__name__}; check the network and HF_ENDPOINT, or give the folder of a saved model"
        )
        raise ModelError(msg) from None
    except httpx.HTTPError:
        return  # a gated model, another revision, a mirror without this address: transformers finds out and says so
