"""Packs on workers, and what becomes of them, without knowing Ray."""
