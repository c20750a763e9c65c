"""Number formats of the tables."""

from reports.results import Score

DASH = "–"


def number(score: Score | None) -> str:
    """Format a score without its interval: "97.4"; a dash if there is none."""
    if score is None or score.value is None:
        return DASH
    return f"{score.value:.1f}"


def short(seconds: float) -> str:
    """Format seconds with two or three digits: "0.0021", "0.35", "12.4", "1,250"; a dash below 0.1 ms."""
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
    """Format seconds of preparation; a dash if the method only checked whether anything needs preparing."""
    return short(seconds) if seconds >= 0.01 else DASH


def preparation_or_none(seconds: float) -> str:
    """Format seconds of preparation for tables without dashes, with "none" in place of a dash."""
    return short(seconds) if seconds >= 0.01 else "none"


def brief(seconds: float) -> str:
    """Format seconds or minutes with two or three digits, never as a dash."""
    return short(seconds) if seconds >= 0.0001 or seconds < 0 else "<0.0001" if seconds > 0 else "0"


def hundredths(seconds: float) -> str:
    """Format seconds with two or three digits, nothing below a hundredth: "12.4", "0.35", "<0.01", "0"."""
    return short(seconds) if seconds >= 0.01 else "<0.01" if seconds > 0 else "0"


def whole(value: float) -> str:
    """Format a count: "1,000"."""
    return f"{value:,.0f}"


def two_digits(value: float) -> str:
    """Format a number, such as bits, with two decimals: "5.36"."""
    return f"{value:.2f}"


def general(value: float) -> str:
    """Format a setting as it was given: "0.3", "80", "0.0001"."""
    return f"{value:g}"


def megabytes(value: float) -> str:
    """Format bytes in units of 10^6: "64.0", "0.064"."""
    return f"{value / 1e6:,.1f}" if value >= 1e5 else f"{value / 1e6:.2g}"
