"""Settings of the endpoint: what is served, its limits, keys, sources of images and scaling; defaults are the safe choice."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from leaml.config import EngineConfig, base, refusal, yaml_text
from leaml.config.limits import MAX_ASPECT, MAX_SIDE
from leaml.config.paths import absolute_from, with_paths
from leaml.config.reading import override
from leaml.errors import ConfigError
from leaml.images import ImageLimits
from serve.origin import join_authority, normal_origin, split_authority
from serve.pixels import PixelBudget

NAME = r"^[A-Za-z0-9._:-]{1,128}$"
"""What a served model may be called."""

MARGIN = 15.0
"""Seconds that a replica lives on after the longest answer, so that no request is lost when it is stopped."""


class ServeSection(base.Section):
    """Numbers are finite: no timer takes an endless time."""

    model_config = ConfigDict(allow_inf_nan=False)


S = TypeVar("S", bound=ServeSection)


class Domain(ServeSection):
    """One more domain beside the main model, asked for as `main:name`."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Name behind the colon.")
    source: str = Field(
        min_length=1,
        description="Adapter folder (LoRA or neurons) of the main model, run folder, model folder or hub id; local or s3://.",
        json_schema_extra=base.NAME,
    )


class VllmSettings(ServeSection, EngineConfig):
    """The vLLM engine of one replica; further keys are those of a run's `engine`."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="Weight type; none: the run's, float32 for a model that is not of a run."
    )
    revision: str | None = Field(None, description="Hub revision of the main model; pin a commit for real use.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model; off unless you trust its author.")
    max_image_pixels: int | None = Field(
        None,
        gt=0,
        description="Most pixels of an image that the model is shown; none: what its processor keeps, of a run what it was "
        "trained with.",
    )
    image_tiles: bool = Field(True, description="Cut images into tiles where the model's processor does.")
    cpus: float = Field(1, gt=0, description="Logical CPUs of one replica.")
    gpus: float = Field(0, ge=0, description="GPUs of one replica; whole numbers > 1 are tensor parallel.")
    sequences: int = Field(64, gt=0, description="Sequences the engine works on at a time (vLLM's max_num_seqs).")
    max_model_len: int | None = Field(
        None, gt=0, description="Longest prompt with its images and reply, in tokens; none: the model's."
    )
    max_adapters: int | None = Field(
        None,
        ge=0,
        description="Adapters in a batch at a time (vLLM's max_loras); 0: none, they are merged; none: 4 if there are domains.",
    )
    max_adapter_rank: int = Field(
        64, ge=1, le=512, description="Largest LoRA rank, that is most neurons per module; adapters above it are merged."
    )


class LimitSettings(ServeSection):
    """What one request may ask for. Everything above is refused with a 4xx that names the limit."""

    body_bytes: int = Field(12 * 2**20, gt=0, description="Request body, counted while it is read (413).")
    body_seconds: float = Field(10.0, gt=0, description="Time for the whole body to arrive (408).")
    bodies: int = Field(
        1024, gt=0, description="Bodies that a replica receives at a time; above, the one longest on its way is given up (408)."
    )
    bodies_bytes: int = Field(256 * 2**20, gt=0, description="Bytes of all bodies that are being received; above, the same.")
    header_bytes: int = Field(16 * 1024, gt=0, description="All request headers together (431).")
    image_bytes: int = Field(8 * 2**20, gt=0, description="One encoded image (413).")
    pixels: int = Field(16_000_000, gt=0, description="One image; read from its header before it is decoded (413).")
    image_side: int = Field(MAX_SIDE, gt=0, description="Width, and height, of one image in pixels (413).")
    image_aspect: float = Field(MAX_ASPECT, ge=1, description="Longer side of one image over its shorter side (413).")
    pixels_in_flight: int = Field(
        40_000_000,
        gt=0,
        description="All images a replica decodes at a time, and 1/8 of those decoded; 7/8 is for those over 1/64. More wait.",
    )
    images: int = Field(1, ge=0, description="Images of one chat request (422); vLLM reserves memory for them.")
    prompt_chars: int = Field(8000, gt=0, description="All texts of one request together (422).")
    messages: int = Field(64, gt=0, description="Messages of one chat request (422).")
    max_tokens: int = Field(512, gt=0, description="Longest reply (422); a chat request that names none gets this.")
    answer_tokens: int | None = Field(
        None, gt=0, description="Longest answer of /v1/vqa; none: the run's evaluate.max_tokens, so that answers are equal."
    )
    n: int = Field(4, gt=0, description="Replies to one chat request (422).")
    logprobs: int = Field(8, ge=0, description="top_logprobs of one chat request (422).")
    questions: int = Field(32, gt=0, description="Questions of one batch about one image (422).")
    options: int = Field(26, gt=1, le=26, description="Options of one question (422).")
    alternatives: int = Field(8, ge=0, description="Alternatives to one answer (422).")
    concurrency: int = Field(32, gt=0, description="Requests a replica works on at a time.")
    queue: int = Field(64, gt=0, description="Requests that wait for a slot at a replica; more get 429.")
    deadline_seconds: float = Field(60.0, gt=0, description="From the end of the headers to the end of the reply (504).")
    retry_after_seconds: int = Field(2, gt=0, description="Retry-After of a 429 or 503.")
    connections: int = Field(4096, gt=0, description="Connections at a time, idle ones too; more wait to be accepted.")
    client_connections: int = Field(
        512, gt=0, description="Connections of one address at a time; more are closed. HAProxy only, and not for this machine."
    )

    @model_validator(mode="after")
    def _holds_a_body(self) -> LimitSettings:
        if self.bodies_bytes < self.body_bytes:
            msg = f"bodies_bytes is {self.bodies_bytes}, less than one body may have, body_bytes = {self.body_bytes}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _one_image_fits(self) -> LimitSettings:
        if self.pixels > (most := PixelBudget(self.pixels_in_flight).largest):
            msg = (
                f"one image may have {self.pixels} pixels (limits.pixels), more than the {most} that pixels_in_flight"
                f" {self.pixels_in_flight} leaves for one request; lower limits.pixels or raise limits.pixels_in_flight"
            )
            raise ValueError(msg)
        return self

    @property
    def of_image(self) -> ImageLimits:
        """Limits of one image."""
        return ImageLimits(self.pixels, self.image_side, self.image_aspect)


class MediaSettings(ServeSection):
    """Where images may come from. `data:` URLs and uploads always work; nothing else is fetched unless it is listed here."""

    s3_prefixes: list[str] = Field(
        default_factory=list,
        description="s3://bucket/prefix/ under which image ids are read with the server's own credentials.",
    )
    hosts: list[str] = Field(
        default_factory=list,
        description="Host names (with :port where it is not 80 or 443) that http(s) URLs may name; each must resolve to public "
        "addresses only, and redirects are not followed.",
    )
    fetch_seconds: float = Field(10.0, gt=0, description="Time for one image to be fetched.")
    jpeg2000: bool = Field(
        False, description="Read JPEG 2000 too, whose decoder stops the whole replica for seconds; for clients you trust."
    )

    @field_validator("s3_prefixes")
    @classmethod
    def _are_folders(cls, value: list[str]) -> list[str]:
        for prefix in value:
            if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(?:[^\0\\?#]*/)?", prefix):
                msg = f"{prefix!r} is not of the form s3://bucket/ or s3://bucket/prefix/ (with the slash at the end)"
                raise ValueError(msg)
        return value

    @field_validator("hosts")
    @classmethod
    def _are_hosts(cls, value: list[str]) -> list[str]:
        for host in value:
            if not re.fullmatch(r"[a-z0-9.-]+(?::\d{1,5})?", host):
                msg = f"{host!r} is not a plain lower-case host name, with or without :port"
                raise ValueError(msg)
        return value


class AuthSettings(ServeSection):
    """Who may ask. Keys themselves are never settings: they come from a file or from LEAML_API_KEYS."""

    keys_file: str | None = Field(
        None, description="File with one API key a line, # for comments; read when deployed.", json_schema_extra=base.PATH
    )
    open_metrics: bool = Field(False, description="Answer GET /metrics without a key, for a scraper in a closed network.")


class ScalingSettings(ServeSection):
    """Replicas of the main model and when their number changes."""

    min_replicas: int = Field(1, ge=0, description="Fewest replicas; 0 lets the first request wait for a start.")
    max_replicas: int = Field(1, gt=0, description="Most replicas.")
    target_requests: float = Field(16.0, gt=0, description="Requests per replica that the scaling aims at.")
    upscale_seconds: float = Field(10.0, ge=0, description="How long more requests are seen before replicas are added.")
    downscale_seconds: float = Field(120.0, ge=0, description="How long fewer requests are seen before replicas are removed.")
    health_seconds: float = Field(
        2.0, gt=0, description="Time between two health checks of a replica's engine; the third that fails replaces it."
    )
    health_timeout_seconds: float = Field(10.0, gt=0, description="A health check without reply for this long has failed.")
    domain_min_replicas: int = Field(
        1,
        ge=0,
        description="Fewest replicas of a domain with a merged model of its own; 0: its engine starts with the first request, "
        "and is given up when it idles.",
    )
    domain_max_replicas: int = Field(1, gt=0, description="Most replicas of such a domain.")

    @model_validator(mode="after")
    def _is_a_range(self) -> ScalingSettings:
        for low, high in (("min_replicas", "max_replicas"), ("domain_min_replicas", "domain_max_replicas")):
            if getattr(self, low) > getattr(self, high):
                msg = f"{low} is {getattr(self, low)}, more than {high}, {getattr(self, high)}"
                raise ValueError(msg)
        return self


class HttpSettings(ServeSection):
    """Where the endpoint listens; `serve deploy` takes host and port from http_options of its file instead."""

    host: str = Field(
        "127.0.0.1",
        pattern=r"^[A-Za-z0-9.:%_-]{1,255}$",
        description="Address to bind; any but a loopback address needs API keys.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to bind.")
    haproxy: bool = Field(
        True,
        description="Forward requests by HAProxy, which comes with Ray; false: by Serve's proxy in Python, half as fast.",
    )
    cors_origins: list[str] = Field(
        default_factory=list,
        description="Origins of web pages that may call, as https://host; none: same origin. `*`: any, with a key of its own.",
    )
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="Host names, with or without :port, that requests may name beside localhost and the bound address (421); "
        "none: no others without API keys, any with them.",
    )

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: list[str]) -> list[str]:
        for each in value:
            if each != "*" and normal_origin(each) is None:
                msg = f"{each!r} is no origin: give scheme://host or scheme://host:port, without a path, or *"
                raise ValueError(msg)
        return [normal_origin(each) or each for each in value]

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: list[str]) -> list[str]:
        for each in value:
            if split_authority(each) is None:
                msg = f"{each!r} is no host: give a name or an address ([...] around IPv6), with or without :port"
                raise ValueError(msg)
        return [join_authority(*authority) for each in value if (authority := split_authority(each))]


class ServeSettings(ServeSection):
    """Everything `leaml serve` and `serve.deploy:build` need."""

    model: str = Field(
        min_length=1,
        description="Run folder, model folder (local or s3://), shipped name or hub id.",
        json_schema_extra=base.NAME,
    )
    name: str | None = Field(None, pattern=NAME, description="Name of the model for clients; none: the run's or folder's name.")
    domains: list[Domain] = Field(default_factory=list, description="More domains, each asked for as `name:domain`.")
    engine: VllmSettings = Field(default_factory=lambda: VllmSettings(), description="Engine.")
    limits: LimitSettings = Field(default_factory=lambda: LimitSettings(), description="Limits.")
    media: MediaSettings = Field(default_factory=lambda: MediaSettings(), description="Sources of images.")
    auth: AuthSettings = Field(default_factory=lambda: AuthSettings(), description="Keys.")
    scaling: ScalingSettings = Field(default_factory=lambda: ScalingSettings(), description="Scaling.")
    http: HttpSettings = Field(default_factory=lambda: HttpSettings(), description="Address.")

    @model_validator(mode="after")
    def _names_differ(self) -> ServeSettings:
        names = [domain.name for domain in self.domains]
        if repeated := sorted({n for n in names if names.count(n) > 1}):
            msg = f"domains {repeated} are named more than once"
            raise ValueError(msg)
        return self

    @property
    def adapters(self) -> int:
        """Adapters in a batch at a time; an engine that can take none is faster, and must be replaced for the first one."""
        return (4 if self.domains else 0) if self.engine.max_adapters is None else self.engine.max_adapters

    @property
    def drain_seconds(self) -> float:
        """How long a replica that is stopped may go on with what it has begun."""
        return self.limits.deadline_seconds + self.limits.body_seconds + MARGIN


def load_settings(tree: Mapping[str, object], origin: str = "serve settings") -> ServeSettings:
    """Validate a plain tree. Raises ConfigError that names the key."""
    return _validated(ServeSettings, tree, origin)


def load_domain(name: str, source: str) -> Domain:
    """A domain that is added to a server. Raises ConfigError for a name that it cannot have."""
    return _validated(Domain, {"name": name, "source": source}, "--add NAME=SOURCE")


def _validated(section: type[S], tree: Mapping[str, object], origin: str) -> S:
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(refusal(error, origin, section, "docs/serving.md")) from None


def read_settings(path: str | Path) -> dict[str, object]:
    """The tree of a YAML file: settings as such, or the `args` of the first application of a file for `serve deploy`."""
    try:
        tree = yaml_text.load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"cannot read the settings {str(path)!r}: {error}; give a YAML file"
        raise ConfigError(msg) from None
    if isinstance(tree, dict) and isinstance(tree.get("applications"), list) and tree["applications"]:
        tree = tree["applications"][0].get("args")
    if not isinstance(tree, dict):
        msg = f"{path} holds no settings: give a mapping, or a file for `serve deploy` whose application has args"
        raise ConfigError(msg)
    return tree


def merged(path: str | Path | None, given: Mapping[str, object], overrides: list[str]) -> dict[str, object]:
    """A file's tree with further settings put over it.

    Args:
        path: YAML file, see `read_settings`; its relative paths are those of its folder. None: no
            file.
        given: Values by dotted key; None: not given.
        overrides: `a.b=value` texts, which come last.

    Raises:
        ConfigError: The file cannot be read, or an override is not of that form.
    """
    tree = with_paths(read_settings(path), absolute_from(Path(path).parent.absolute()), ServeSettings) if path else {}
    for key, value in given.items():
        if value is not None:
            override(tree, f"{key}={json.dumps(value)}")
    for item in overrides:
        override(tree, item)
    return tree
