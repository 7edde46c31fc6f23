"""Classes of Hugging Face's tables, which are stored as numbers, read as their names, also inside of lists and objects.

A feature is what `datasets` writes in JSON for a column: `Features.to_dict`, and the metadata of its Parquet files.
"""

from __future__ import annotations

from collections.abc import Mapping


def has_classes(feature: object) -> bool:
    """Whether there are classes in a feature.

    Raises:
        TypeError: The names of a class are no list.
        LookupError: A class has no names.
    """
    if isinstance(feature, list):
        return any(map(has_classes, feature))
    if not isinstance(feature, Mapping):
        return False
    if feature.get("_type") == "ClassLabel":
        list(feature["names"])
        return True
    return any(map(has_classes, feature.values()))


def named(value: object, feature: object) -> object:
    """A value of a column with the names of its classes for their numbers; None for a number that is no class.

    Args:
        value: A number, a name, or a list or object that holds them.
        feature: The column's feature, or that of what lists in it hold.
    """
    if isinstance(feature, list):
        feature = feature[0] if len(feature) == 1 else None
    if not isinstance(feature, Mapping):
        return value
    if isinstance(kind := feature.get("_type"), str) and kind != "ClassLabel":  # a list, or nothing with classes
        return named(value, feature.get("feature"))
    if isinstance(value, list):
        return [named(one, feature) for one in value]
    if kind == "ClassLabel":
        names: dict[object, str] = dict(enumerate(map(str, feature["names"])))
        return value if isinstance(value, str) else names.get(value)
    return {key: named(one, feature.get(key)) for key, one in value.items()} if isinstance(value, Mapping) else value
