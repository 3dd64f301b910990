"""Colours for people: mixing, and text that can be read on what it stands on (`#rrggbb` throughout)."""

from __future__ import annotations


def mix(first: str, second: str, share: float) -> str:
    """``first`` at 0, ``second`` at 1, straight between them in sRGB."""
    return "#" + "".join(
        f"{round(a + (b - a) * share):02x}" for a, b in zip(_parts(first), _parts(second), strict=True)
    )


def contrast(first: str, second: str) -> float:
    """Contrast of two colours from 1 to 21, as WCAG 2 defines it; text should have at least 4.5."""
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def readable(background: str, *inks: str) -> str:
    """The ink that stands out most."""
    return max(inks, key=lambda ink: contrast(background, ink))


def _parts(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def _luminance(colour: str) -> float:
    linear = (
        part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in _parts(colour)
    )
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
