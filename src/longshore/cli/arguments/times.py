"""Times as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta


def moment(text: str) -> datetime:
    """`10m` (ago), `2026-01-31`, `2026-01-31T12:00:00Z`, or seconds since 1970. ValueError if it is none of these."""
    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", text, re.ASCII)
    try:
        if text and parts is not None:
            days, hours, minutes, seconds = (float(part or 0) for part in parts.groups())
            return datetime.now(UTC) - timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
            return datetime.fromtimestamp(float(text), UTC)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time; write 10m, 2h30m or 2026-01-31T12:00:00Z") from None
    return found.astimezone(UTC)
