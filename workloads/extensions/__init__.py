"""Kinds and measures that users write: from a file or a package to classes beside the built-in ones, in whatever process they are needed.

Nothing here is run by a grid alone: somebody has to name the code, as ``--with models.py`` does.
"""

from workloads.extensions.loading import IMPORT_SECONDS, activate, active
from workloads.extensions.locating import ExtensionError, explained, traced, within
from workloads.extensions.source import Extension, packed, read_extension, unpacked

__all__ = [
    "IMPORT_SECONDS",
    "Extension",
    "ExtensionError",
    "activate",
    "active",
    "explained",
    "packed",
    "read_extension",
    "traced",
    "unpacked",
    "within",
]
