"""How values read on the page: the filters of its templates."""

from __future__ import annotations

from leaml.rows import titles


def percent(share: float, digits: int = 1) -> str:
    """A share between 0 and 1 as "76.1 %" (with a no-break space)."""
    return f"{100 * share:.{digits}f}\u00a0%"


def points(difference: float) -> str:
    """A difference of shares in percentage points with its sign, "+4.2" or "−1.3"."""
    value = round(100 * difference, 1)
    return f"{'+' if value > 0 else '−' if value < 0 else '±'}{abs(value):.1f}"


def p_value(p: float) -> str:
    """A p-value with two significant digits below 0.1, "0.63" or "0.0004"."""
    return f"{p:.2f}" if p >= 0.095 else f"{p:.2g}" if p >= 1e-4 else f"{p:.1e}"


def duration(seconds: float) -> str:
    """Seconds as "4.2 s", "3 min 12 s" or "1 h 02 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"

    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: int) -> str:
    """An integer with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\u2009")


def row_title(name: str) -> str:
    """What a row of the results is called; a row that is declared nowhere keeps its name."""
    return titles().get(name, name)


def made_for(variant: str, round_number: int = 0) -> str:
    """The row of the results, or the source, that a step is for, with its round; empty for a step that all rows share."""
    return ", ".join(part for part in (row_title(variant), f"round {round_number}" if round_number else "") if part)


FILTERS = {function.__name__: function for function in (percent, points, p_value, duration, count, row_title, made_for)}
"""By their names in the templates."""
