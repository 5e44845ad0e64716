"""How many of something, in words."""

from __future__ import annotations


def amount(count: float, noun: str, nouns: str | None = None) -> str:
    """Return so many of something in words: ``1 trial``, ``2,000 trials``; ``nouns`` where its plural is no s more."""
    number = f"{int(count):,}" if count == int(count) else f"{count:g}"
    return f"{number} {agreeing(count, noun, nouns or f'{noun}s')}"


def agreeing(count: float, one: str, more: str) -> str:
    """Return the word that goes with so many: ``one`` with a single one, else ``more``."""
    return one if count == 1 else more


def ended_of(ended: int, trials: int) -> str:
    """Return in words how many of so many trials have ended."""
    return f"{ended:,} of {amount(trials, 'trial')} {agreeing(ended, 'has', 'have')} an outcome"
