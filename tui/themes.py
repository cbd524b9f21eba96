"""Colour themes. `plain` uses no colour that a serial console lacks."""

from __future__ import annotations

from textual.theme import Theme

THEMES = (
    Theme(
        name="sluice",
        primary="#4fb3bf",
        secondary="#7f9fbf",
        accent="#e0b050",
        success="#6fbf73",
        warning="#e0b050",
        error="#e06c60",
        background="#10161a",
        surface="#172026",
        panel="#1f2b33",
        foreground="#d7e0e4",
        dark=True,
    ),
    Theme(
        name="sluice-light",
        primary="#0b6e78",
        secondary="#40607f",
        accent="#8a6000",
        success="#2c7a34",
        warning="#8a6000",
        error="#b03024",
        background="#f4f7f8",
        surface="#ffffff",
        panel="#e4ebee",
        foreground="#1b262c",
        dark=False,
    ),
    Theme(
        name="plain",
        primary="#ffffff",
        secondary="#c0c0c0",
        accent="#ffffff",
        success="#ffffff",
        warning="#ffffff",
        error="#ffffff",
        background="#000000",
        surface="#000000",
        panel="#000000",
        foreground="#c0c0c0",
        dark=True,
    ),
)
