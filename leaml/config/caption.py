"""Captions: the teacher, and how one behind a URL is asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from leaml.config.base import NAME, PATH, Section
from leaml.config.engine import TeacherEngineConfig
from leaml.config.models import MODEL, ModelConfig
from leaml.config.wanted import Spelled


class TeacherConfig(ModelConfig):
    """The model that writes captions."""

    name: str = Field("leaml-tiny-teacher", description=MODEL, json_schema_extra=NAME)


class ClientConfig(Section):
    """Requests to `caption.url`; without one nothing here is used."""

    concurrency: int = Field(16, gt=0, le=1024, description="Requests under way at a time, of each engine.")
    timeout: float = Field(120.0, gt=0, description="Seconds without a byte of the reply after which a request is tried again.")
    retries: int = Field(
        6,
        ge=0,
        description="Times a request is tried again when the server is busy (408, 409, 429, 5xx), hangs up or sends no JSON; "
        "it waits as long as Retry-After says, else 0.5 to 8 s.",
    )
    image_format: Literal["png", "jpeg"] = Field("png", description="How images are sent; jpeg is smaller and loses a little.")
    image_quality: int = Field(90, ge=1, le=100, description="Quality of image_format jpeg.")
    image_max_side: int | None = Field(
        2048, gt=0, description="Pixels; images with a longer side are sent scaled down to it; none: as they are."
    )


class CaptionConfig(Section):
    """The teacher describes the unlabeled and labeled images."""

    teacher: TeacherConfig = Field(default_factory=TeacherConfig, description="Teacher MLLM served by vLLM.")
    engine: TeacherEngineConfig = Field(
        default_factory=TeacherEngineConfig, description="What vLLM is told for the teacher in place of engine."
    )
    url: Annotated[str | None, Spelled("an address that begins with http:// or https://, or null")] = Field(
        None,
        pattern=r"^https?://",
        description="Base URL (http://host:8000/v1) of an OpenAI-compatible server to ask for teacher.name instead of a local "
        "teacher; its key is read from OPENAI_API_KEY.",
    )
    client: ClientConfig = Field(default_factory=ClientConfig, description="How url is asked.")
    file: str | None = Field(
        None,
        description="File of ready captions (JSONL, JSON, CSV, TSV or Parquet with the columns image and caption), or the path "
        "of a source whose images have them (JSONL, CSV, Parquet, WebDataset, a folder of save_to_disk); images with one are "
        "not captioned by the teacher.",
        json_schema_extra=PATH,
    )
    column: str = Field(
        "caption", description="Column, or key, of the caption in file (of WebDataset: in the .json; else the .txt)."
    )
    complete: bool = Field(
        True, description="Whether the teacher captions the images that have none in file; false: they are left out, counted."
    )
    prompt: str | None = Field(None, description="Caption request; none: the built-in one.")
    max_tokens: int = Field(
        48, gt=0, description="Longest caption, in tokens; one that is cut there keeps its whole sentences, or is left out."
    )
    max_images: int | None = Field(None, gt=0, description="Caption at most this many unlabeled images; none: all.")

    @model_validator(mode="after")
    def _shows_images_itself(self) -> CaptionConfig:
        if self.url is not None and (given := self.teacher.image_settings):
            keys = " and ".join(f"teacher.{key}" for key in given)
            msg = f"{keys} cannot be had of a teacher behind url; set client.image_max_side, the longest side that is sent"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _has_an_engine(self) -> CaptionConfig:
        if self.url is not None and self.engine != TeacherEngineConfig():
            msg = "engine says nothing of a teacher behind url, whose server has its own settings; leave it out"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _has_captions(self) -> CaptionConfig:
        if not self.complete and self.file is None:
            msg = "complete is false and file is not set, so no image would have a caption; set file, or complete to true"
            raise ValueError(msg)
        return self
