"""The largest sizes of a source's images, kept in little memory however many there are."""

from __future__ import annotations

import math

_SHAPES_AN_OCTAVE = 64
"""Ratios of the sides that are told apart between a square and one twice as wide as high: 1.1 % apart, since 4000 x 3000 makes
fewer tiles in SmolVLM than 1280 x 1024."""


class LargestSizes:
    """For each ratio of the sides, nearly, the size of most pixels, which of one ratio takes most tokens in any model.

    One size in all would not do: a model that cuts images into tiles makes more of a small square than of a large banner.
    """

    def __init__(self) -> None:
        self._by_shape: dict[int, tuple[int, int]] = {}

    def add(self, width: int, height: int) -> None:
        """Note the size of an image, in pixels."""
        shape = round(_SHAPES_AN_OCTAVE * math.log2(width / height))
        found = self._by_shape.get(shape, (0, 0))
        if width * height > found[0] * found[1]:
            self._by_shape[shape] = (width, height)

    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of each, the largest first."""
        return sorted(self._by_shape.values(), key=lambda size: (-size[0] * size[1], size))
