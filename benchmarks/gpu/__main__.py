"""All that a GPU has to do for this program, in one command, on a machine where nothing but PyTorch is installed.

    python -m benchmarks.gpu [correctness] [limits] [speed] [memory] [halving] [graphs] [fractions] [--minutes 30] [--only TEXT] [-o gpu.md]

Needs a checkout, PyTorch with CUDA and pydantic; Warp for the fused engine, where it is there. Sections, all of them by default, share the
minutes in that order, each in a process of its own. ``-o gpu.md`` writes the tables as they come, and ``gpu.json`` beside them.
Exit code 0: all is as it should be. 1: something is not, or was not reached in time. 2: there is no CUDA device.
``--device cpu`` lets the same code compare the CPU with itself: that tests the program, not the CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu.cases import Verdict
from benchmarks.gpu.running import SECTIONS, run
from benchmarks.gpu.writing import machine, markdown, summary, write


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which no case is begun any more")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="markdown; JSON is written beside it")
    args = parser.parse_args()
    if unknown := [name for name in args.sections if name not in SECTIONS]:
        parser.error(f"there is no section {unknown[0]}: choose from {', '.join(SECTIONS)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda} and sees none" if torch.version.cuda else "is built without CUDA"
        print(f"no CUDA device: PyTorch {torch.__version__} {built}", file=sys.stderr)
        return 2
    device = torch.device("cuda", 0) if args.device == "cuda" else torch.device("cpu")
    about, reports = machine(device), []
    until = time.monotonic() + 60 * args.minutes
    for name in args.sections or SECTIONS:
        left = max(0.0, until - time.monotonic())
        reports.append(run(SECTIONS[name], device, left, args.only, lambda line: print(line, file=sys.stderr, flush=True)))
        if args.output is not None:
            write(args.output, about, reports)
    if args.output is None:
        print(markdown(about, reports))
    print(*map(summary, reports), sep="\n", flush=True)
    # Where nothing could be looked at nothing is known.
    return 0 if {report.verdict for report in reports} in ({Verdict.OK}, {Verdict.OK, Verdict.SKIPPED}) else 1


if __name__ == "__main__":
    sys.exit(main())
