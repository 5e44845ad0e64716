"""Amounts in words agree with their numbers."""

from __future__ import annotations

import re
from pathlib import Path

from workloads.amounts import amount, ended_of

ROOT = Path(__file__).parents[2]
NOUNS = "trial|sweep|pack|core|GPU|batch|worker|node|observation|factor|group"


def test_amounts_are_words():
    assert [amount(n, "trial") for n in (0, 1, 2, 2000)] == ["0 trials", "1 trial", "2 trials", "2,000 trials"]
    assert [amount(n, "batch", "batches") for n in (1, 3)] == ["1 batch", "3 batches"]
    assert [amount(n, "GPU") for n in (0.5, 1.0, 4.0)] == ["0.5 GPUs", "1 GPU", "4 GPUs"]
    assert [ended_of(n, 2) for n in (0, 1, 2)] == [
        "0 of 2 trials have an outcome", "1 of 2 trials has an outcome", "2 of 2 trials have an outcome"
    ]  # fmt: skip


def test_messages_say_amounts_by_what_agrees():
    """A number in a text is not followed by a plural as it is: there may be one."""
    bare = re.compile(rf"\{{(?!MAX_|LONGEST|SAMPLE|LANES|MOST_)[^{{}}]*\}} (?:{NOUNS})e?s\b(?!.*if len\()")
    for path in (path for folder in ("orchestrator", "workloads") for path in sorted((ROOT / folder).rglob("*.py"))):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not bare.search(line), f"{path.relative_to(ROOT)}:{number}: say it with workloads.amounts.amount"
