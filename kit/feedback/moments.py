"""Times as text, in UTC."""

from datetime import UTC, datetime


def iso(seconds: float) -> str:
    """A time as ISO 8601 in UTC, to the second; one outside the calendar as its number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f}"


def span(start: float, end: float) -> str:
    """From one time to another in UTC, in minutes, or in seconds where they are of one minute."""
    first, last = (iso(seconds).rstrip("Z").replace("T", " ") for seconds in (start, end))
    if " " not in first or " " not in last:
        return f"{first} to {last}"
    length = 19 if first[:16] == last[:16] else 16
    return f"{first[:length]} to {last[11:length] if first[:10] == last[:10] else last[:length]}"
