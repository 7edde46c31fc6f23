"""Video files, one image per `1 / fps` seconds, as PNG so that the frame is kept as decoded."""

from __future__ import annotations

import functools
import io
import math
import posixpath
from collections.abc import Iterator

import av
import av.error

from leaml.config import SourceConfig
from leaml.data.records import Keep, Portion, Record, counting_costs, in_portions, need_path, refuse_split
from leaml.errors import DataError
from leaml.io import files, stored

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv")

# FFmpeg goes by content, and playlist formats make it open any other file or address that they name
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf",
}
_ROUNDING = 1e-6  # seconds; time stamps are fractions such as 1/12800


@counting_costs(whole=True)
@in_portions
def read(source: SourceConfig, keep: Keep) -> Iterator[Portion]:
    """Frames of one file or of all video files in a folder; a file that cannot be decoded (further) is an error record."""
    refuse_split("video", source.split)
    for file in stored.files_at(need_path("video", source.path), SUFFIXES):
        if not posixpath.basename(file.uri).startswith("."):
            yield Portion(file.uri, file.size, file.version, functools.partial(_records, file.uri, source.fps))


def _records(uri: str, fps: float, keep: Keep) -> Iterator[Record]:
    try:
        with files.local_copy(uri) as local:
            for time, frame in frames(local, fps):
                name = f"{uri}#t={time:.3f}"
                if keep(name):
                    yield Record(name, "video", None, png(frame))
    except DataError as error:
        if keep(uri):
            yield Record(uri, "video", None, None, error=str(error))


def frames(path: str, fps: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """`(seconds from the start, frame)`: the first frame at or after each multiple of `1 / fps`. Raises DataError."""
    due = 0
    for time, frame in _decoded(path):
        step = math.floor((time + _ROUNDING) * fps)
        if step >= due:
            due = step + 1
            yield time, frame


def middle_frame(path: str) -> av.VideoFrame:
    """The frame half-way through a clip. Raises DataError if it cannot be decoded."""
    times = [time for time, _ in _decoded(path)]
    if not times:
        msg = "no frames in the video; check that it is a whole video file"
        raise DataError(msg)
    return next(frame for time, frame in _decoded(path) if time >= times[len(times) // 2])


def png(frame: av.VideoFrame) -> bytes:
    """Encode a frame, turned upright. Level 1: frames compress little better with more work."""
    image = frame.to_image()
    if frame.rotation:
        image = image.rotate(frame.rotation, expand=True)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _decoded(path: str) -> Iterator[tuple[float, av.VideoFrame]]:
    """All frames with their time from the start. Messages leave the path out: it may be that of a temporary copy."""
    try:
        with av.open(path, options=dict(_OPTIONS)) as container:
            if not container.streams.video:
                msg = "no video stream in the file; check that it is a whole video file"
                raise DataError(msg)
            stream = container.streams.video[0]
            start: float | None = None
            for number, frame in enumerate(container.decode(stream)):
                rate = float(stream.average_rate or 25)
                time = frame.time if frame.time is not None else number / rate
                start = time if start is None else start
                yield time - start, frame
    except av.error.FFmpegError as error:
        msg = f"cannot decode the video: {error.strerror or error}; check that it is a whole video file"
        raise DataError(msg) from None
