"""What `workloads.engines.kernels.course_source` writes, for one lane after another: vectors are of a lane's observations."""

from __future__ import annotations

from workloads.engines.chance import GAMMA
from workloads.engines.kernels.course_source import Course
from workloads.engines.kernels.options import Options
from workloads.engines.kernels.source import Writer


class LeafCourse(Course):
    """For kernels that walk through the leaves of a lane's tree, from ``first_`` to ``end_``, with ``places`` in the tensor.

    A lane's numbers are the same in all places of a vector. ``x`` is scratch memory of ``vec``.
    """

    number = "real"
    index = ("ints", f"(n + 1ULL) * {GAMMA}ULL")

    def __init__(self, options: Options, dtype: str, width: int, *, start: int, leaves: int) -> None:
        super().__init__(options, dtype, width, start=start, observed=-(-leaves // width), measured=True)
        self.place = f"(longs){{{', '.join(map(str, range(width)))}}} + (long long)n * {width}"
        self.drawn = f"*(const ints*)(places.data + first_ + n * {width})"

    def load(self, write: Writer) -> None:
        super().load(write)
        if self.options.draws:
            write(f"const int blocks_ = (end_ - first_ + {self.width - 1}) / {self.width};")

    def _row(self, n: int, whole: bool) -> str:
        vector, number = ("longs", "long long") if whole else ("wide", "double")
        return f"({vector}){{}} + ((const {number}*)course.data)[(size_t)lane * {len(self.options.course)} + {n}]"

    def _load_batch(self, write: Writer) -> None:
        write("const longs drawn_ = (longs){} + (long long)batch;", "const real share_ = (real)count_[0] / batch;")

    def _observations(self) -> str:
        return "blocks_"

    def _first(self, value: str) -> str:
        return f"(real){value}[0]"

    def _added_up(self) -> list[str]:
        return ["found = (longs){} + __builtin_reduce_add(found);"]

    def disturbed(self, residual: str, place: str) -> str:
        if "label_noise" in self.options:
            residual = f"({residual} - ((const real*)(x + {self.noise}))[{place}])"
        if "batch" in self.options:
            residual = f"(((const long long*)keys_)[{place}] <= last_[0] ? {residual} * share_ : (real)0)"
        return residual
