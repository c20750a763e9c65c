"""Numbers as tables print them."""

from reports.results import Score

DASH = "–"


def number(score: Score | None, interval: bool = True, mark: str = "") -> str:
    """A score as a table prints it: "97.4 ±1.9", "*97.4 ±1.9" with a mark; a dash where there is none."""
    if score is None or score.value is None:
        return DASH
    return mark + (
        f"{score.value:.1f} ±{score.half_width:.1f}"
        if interval and score.half_width is not None
        else f"{score.value:.1f}"
    )


def short(seconds: float) -> str:
    """Seconds with two or three digits: "0.0021", "0.35", "12.4", "1,250"; a dash for less than a tenth of a millisecond."""
    if seconds >= 100:
        return f"{seconds:,.0f}"
    return (
        f"{seconds:.1f}"
        if seconds >= 10
        else f"{seconds:.2f}"
        if seconds >= 0.1
        else f"{seconds:.2g}"
        if seconds >= 0.0001
        else DASH
    )


def preparation(seconds: float) -> str:
    """Seconds of preparation; a dash for what only looks whether there is something to prepare."""
    return short(seconds) if seconds >= 0.01 else DASH


def preparation_or_none(seconds: float) -> str:
    """The same in words for a table that has no dashes."""
    return short(seconds) if seconds >= 0.01 else "none"


def brief(seconds: float) -> str:
    """Seconds or minutes with two or three digits, never a dash."""
    return short(seconds) if seconds >= 0.0001 or seconds < 0 else "<0.0001" if seconds > 0 else "0"


def hundredths(seconds: float) -> str:
    """Seconds with two or three digits, nothing below a hundredth: "12.4", "0.35", "<0.01", "0"."""
    return short(seconds) if seconds >= 0.01 else "<0.01" if seconds > 0 else "0"


def whole(value: float) -> str:
    """A count: "1,000"."""
    return f"{value:,.0f}"


def two_digits(value: float) -> str:
    """Bits and the like: "5.36"."""
    return f"{value:.2f}"


def general(value: float) -> str:
    """A setting as it was given: "0.3", "80", "0.0001"."""
    return f"{value:g}"


def megabytes(value: float) -> str:
    """Bytes as 10^6 of them: "64.0", "0.064"."""
    return f"{value / 1e6:,.1f}" if value >= 1e5 else f"{value / 1e6:.2g}"
