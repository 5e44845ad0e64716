"""The C++ of what depends on the number of steps done: schedules of the step size, and the random numbers of mini-batches and label noise.

The numbers are those of `workloads.optimizers.schedule.RateSchedule` and `workloads.engines.chance.Chance`: random bits are the same, and
functions of real numbers, which are series here so that a vector of numbers takes no longer than one, agree to rounding.
"""

from __future__ import annotations

import math

from workloads.engines.chance import GAMMA, LARGEST, MIXERS
from workloads.engines.kernels.group_key import GroupKey
from workloads.engines.kernels.options import WORD_BYTES, Options
from workloads.engines.kernels.source import Writer, everywhere
from workloads.trial import ITEM_BYTES

TERMS = 11
"""Terms of the series of sine and logarithm: what is left out is less than a tenth of the last digit."""
GUESSES = 8
"""Guesses by proportion in the search for the last of a mini-batch, before halves take turns with them: a few are usual."""
WHOLE = ("begun", "batch_seed", "noise_seed", "count")
"""Rows of the table that are whole numbers."""
ONE_LESS = "0x3fe6a09e00000000LL"
"""The bits of the root of one half, about: the logarithm's series is of numbers between that and twice as much."""


class Course:
    """Writes that code, for vectors of ``width`` numbers of ``dtype``.

    A lane has ``observed`` observations, or fewer: entries that the masks ``m`` say, or, if they are ``measured``, the first so many. Noise
    and keys lie in the workspace ``x`` from ``start`` on; with ``threads``, keys are drawn again each time.
    """

    number = "vec"
    """The type of a number of a lane."""
    index = ("int", f"(unsigned long long)(n + 1) * {GAMMA}ULL")
    """The type of what numbers observations, and what is random bits' counter of one."""
    drawn = "n"
    """What numbers the n-th observation."""
    place = "count * 0 + (long long)n"
    """Where among a lane's observations the n-th is."""

    def __init__(
        self, options: Options, dtype: str, width: int, *, start: int, observed: int, measured: bool = False, threads: bool = False
    ) -> None:
        self.options, self.dtype, self.width = options, dtype, width
        self.observed, self.measured, self.threads = observed, measured, threads
        self.noise = start
        keys = start + (observed if "label_noise" in options else 0)
        # Where words of 64 bits may begin.
        self.keys = keys + keys % (WORD_BYTES // ITEM_BYTES[dtype])

    @classmethod
    def of(cls, key: GroupKey) -> Course:
        """Return that of a kernel of groups, whose workspace ends with what is drawn."""
        options, observed = key.update.options, key.measurements or key.size
        start = key.workspace - options.room(observed, key.dtype, threads=key.threads)
        return cls(options, key.dtype, key.lanes, start=start, observed=observed, measured=key.measurements > 0, threads=key.threads)

    def _convert(self, value: str, kind: str) -> str:
        return f"({kind})({value})" if self.width == 1 else f"__builtin_convertvector({value}, {kind})"

    def _bits(self, value: str, kind: str) -> str:
        """Return the bits of a number as another kind of it."""
        return f"Bits{{{value}}}.{kind}" if self.width == 1 else f"({kind}){value}"

    def define(self, write: Writer) -> None:
        """Write types and functions."""
        if not self.options.course:
            return
        for name, kind in (("ints", "unsigned long long"), ("longs", "long long"), ("wide", "double")):
            lanes = f" __attribute__((vector_size({8 * self.width}), aligned({ITEM_BYTES[self.dtype]})))" if self.width > 1 else ""
            write(f"typedef {kind} {name}{lanes};")
        if self.width == 1:
            made = (f"CUDA_CALLABLE Bits({kind} v) : {name}(v) {{}}" for kind, name in (("wide", "real"), ("longs", "whole")))
            write(f"union Bits {{ wide real; longs whole; {' '.join(made)} }};")
        with write.block("struct Course"):
            self._functions(write)
        write(";")

    def _functions(self, write: Writer) -> None:
        head = "static inline CUDA_CALLABLE"
        with write.block(f"{head} ints mixed(ints v)"):
            write(*(f"v = (v ^ (v >> {by})) * {mixer}ULL;" for by, mixer in zip((30, 27), MIXERS, strict=True)), "return v ^ (v >> 31);")
        index, counter = self.index
        with write.block(f"{head} ints bits(ints step, {index} n)"):
            write(f"return mixed(step + {counter});")
        with write.block(f"{head} wide sine(wide turns)"):
            signs = [(-1) ** n / math.factorial(2 * n + 1) for n in range(TERMS)]
            write(f"const wide v = turns * {2 * math.pi!r}, z = v * v;", f"return v * ({_series(signs, 'z')});")
        if "label_noise" in self.options:
            with write.block(f"{head} wide logarithm(wide v)"):
                whole, real = ("whole", "real") if self.width == 1 else ("longs", "wide")
                write(f"const longs bits = {self._bits('v', whole)}, top = bits - {ONE_LESS}, power = top >> 52;")
                write(f"const longs rest = bits - (top & -{1 << 52}LL);", f"const wide m = {self._bits('rest', real)};")
                write("const wide q = (m - 1.0) / (m + 1.0), z = q * q;")
                series = _series([1 / (2 * n + 1) for n in range(TERMS)], "z")
                write(f"return {self._convert('power', 'wide')} * {math.log(2)!r} + 2.0 * q * ({series});")
            with write.block(f"{head} vec normal(ints v)"):
                # Box and Muller 1958; the cosine of a turn as the sine of another.
                write(f"const wide first = ({self._convert('(longs)(v >> 11)', 'wide')} + 1.0) * {2.0**-53!r};")
                write(f"const ints other = mixed(v + {GAMMA}ULL) >> 11;", "const wide nil = {};")
                write(f"const wide second = {self._convert('(longs)other', 'wide')} * {2.0**-53!r} - 0.5;")
                size = "-2.0 * logarithm(first)"
                rooted = f"sqrt({size})" if self.width == 1 else f"__builtin_elementwise_sqrt({size})"
                write(f"return {self._convert(f'{rooted} * sine((second < nil ? -second : second) - 0.25)', 'vec')};")
        if "batch" in self.options:
            with write.block(f"{head} longs key(ints step, {index} n, vec there)"):
                write("const longs drawn = (longs)(bits(step, n) >> 1);", "const vec zero = {};")
                seen = "there != zero" if self.width == 1 else "__builtin_convertvector(there != zero, longs)"
                write(f"return ({seen}) ? drawn : drawn * 0 + {LARGEST}LL;")
            with write.block(f"{head} vec within(longs key, longs last)"):
                write(f"return {self._convert('(longs)(key <= last) & 1LL', 'vec')};")
        if self.measured and self.options.draws:
            with write.block(f"{head} vec before(int n, longs count)"):
                write(f"return {self._convert(f'(longs)(count > ({self.place})) & 1LL', 'vec')};")

    def load(self, write: Writer) -> None:
        """Write variables for a lane's rows of the table, before the loop."""
        for n, name in enumerate(self.options.course):
            write(f"const {'longs' if name in WHOLE else 'wide'} {name}_ = {self._row(n, name in WHOLE)};")
        if "batch" in self.options:
            self._load_batch(write)
            if not self.threads:
                write(f"longs* const keys_ = (longs*)(x + {self.keys});")

    def _row(self, n: int, whole: bool) -> str:
        """Return a lane's row of the table, of whole or real numbers."""
        place = f"{n} * across + group" if self.threads else f"(size_t)group * {len(self.options.course)} + {n}"
        return f"(({'longs' if whole else 'wide'}*)course.data)[{place}]"

    def _load_batch(self, write: Writer) -> None:
        write(f"const longs drawn_ = {self._convert('batch', 'longs')};")
        write(f"const vec share_ = {self._convert('count_', 'vec')} / batch;")

    def _observations(self) -> int | str:
        """Return how many vectors of observations there are."""
        return self.observed

    def _first(self, value: str) -> str:
        """Return the number of a lane that ``value``, a ``wide``, is."""
        return self._convert(value, "vec")

    def _added_up(self) -> list[str]:
        """Return code that makes of what was ``found`` that of a lane."""
        return []

    def _seen(self, place: str) -> str:
        """Return code that is not zero where there is an observation."""
        return f"Course::before({place}, count_)" if self.measured else f"m[{place}]"

    def begin(self, write: Writer) -> None:
        """Write what comes first in a step: its step size, its noise and its mini-batch."""
        if not self.options.course:
            return
        write("const longs step_ = begun_ + (long long)done;")
        if "schedule" in self.options:
            self._schedule(write)
        if not self.options.draws:
            return
        for use in ("batch", "noise"):
            write(f"const ints {use}_ = Course::mixed((ints){use}_seed_ + (ints)(step_ + 1LL) * {GAMMA}ULL);")
        if "label_noise" in self.options or not self.threads:
            with write.loop("n", 0, self._observations()):
                self._draw(write)
        if "batch" in self.options:
            self._search(write)

    def _schedule(self, write: Writer) -> None:
        options = self.options
        write(f"const wide past_ = {self._convert('step_', 'wide')}, nil_ = {{}}, sole_ = nil_ + 1.0;", "wide factor_ = sole_;")
        if options.warmup:
            write("factor_ = past_ < warmup_ ? (past_ + 1.0) / warmup_ : sole_;")
        if options.cosine:
            write("wide along_ = (past_ < warmup_ ? nil_ : past_ - warmup_) / cosine_;", "along_ = along_ < sole_ ? along_ : sole_;")
            fallen = "floor_ + (1.0 - floor_) * (1.0 + Course::sine(0.25 - along_ * 0.5)) / 2.0"
            write(f"factor_ = factor_ * (cosine_ > nil_ ? {fallen} : sole_);")
        if options.milestones:
            write("wide part_ = sole_;")
            write(*(f"part_ = past_ >= milestone{n}_ ? share{n}_ : part_;" for n in range(options.milestones)))
            write("factor_ = factor_ * part_;")
        write(f"const {self.number} lr = full_ * {self._first('factor_')}, rate = lr * twice;")

    def _draw(self, write: Writer) -> None:
        """Write what is drawn for an observation; for what no lane observes, nothing is."""
        write(f"const vec there = {self._seen('n')};")
        keys = "batch" in self.options and not self.threads
        nothing = [f"keys_[n] = begun_ * 0 + {LARGEST}LL;"] if keys else []
        nothing += [f"x[{self.noise} + n] = zero;"] if "label_noise" in self.options else []
        with write.block(f"if ({everywhere('there == zero', self.width)})"):
            write(*nothing, "continue;")
        if keys:
            write(f"keys_[n] = Course::key(batch_, {self.drawn}, there);")
        if "label_noise" in self.options:
            write(f"x[{self.noise} + n] = Course::normal(Course::bits(noise_, {self.drawn})) * label_noise * there;")

    def _search(self, write: Writer) -> None:
        """Write the search for the last key of the mini-batch: the least number that as many keys are no larger than as are drawn.

        Keys are as good as evenly spread, so that a guess by proportion is nearly right; ``low_`` is too few and ``last_`` enough.
        """
        one = self.width == 1
        write(f"longs low_ = begun_ * 0, below_ = low_, last_ = low_ + {LARGEST}LL, upto_ = count_;")
        with write.block("for (int turn = 0;; ++turn)"):
            write("const auto open = (upto_ != drawn_) & (last_ - low_ > (low_ * 0 + 1LL));")
            write(f"if (!{'open' if one else '__builtin_reduce_or(open)'}) break;")
            wanted, there = (self._convert(value, "wide") for value in ("drawn_ - below_", "upto_ - below_"))
            write(f"wide part = ({wanted} + 0.5) / ({there} + 1.0);", f"if (turn >= {GUESSES} && turn % 2) part = part * 0.0 + 0.5;")
            write(f"longs cut = low_ + {self._convert(self._convert('last_ - low_', 'wide') + ' * part', 'longs')}, found = low_ * 0;")
            write("cut = cut > low_ ? cut : low_ + 1LL;", "cut = cut < last_ ? cut : last_ - 1LL;")
            with write.loop("n", 0, self._observations()):
                write(f"found {'+=' if one else '-='} ({self._key('n')} <= cut);")
            write(*self._added_up())
            write("const auto enough = open & (found >= drawn_), few = open & (found < drawn_);")
            write("last_ = enough ? cut : last_;", "upto_ = enough ? found : upto_;")
            write("low_ = few ? cut : low_;", "below_ = few ? found : below_;")

    def _key(self, place: str) -> str:
        """Return the key of an observation."""
        return f"Course::key(batch_, {place}, {self._seen(place)})" if self.threads else f"keys_[{place}]"

    def disturbed(self, residual: str, place: str) -> str:
        """Return the residual at a place less its noise, times what it counts in the mini-batch."""
        if "label_noise" in self.options:
            residual = f"({residual} - x[{self.noise} + {place}])"
        if "batch" in self.options:
            residual = f"({residual} * (Course::within({self._key(place)}, last_) * share_))"
        return residual

    def named(self, write: Writer, residual: str, place: int) -> str:
        """Return the name of what `disturbed` is, a variable if it is not the residual itself."""
        code = self.disturbed(residual, str(place))
        if code == residual:
            return residual
        write(f"const vec {residual}_ = {code};")
        return f"{residual}_"


def _series(factors: list[float], variable: str) -> str:
    """Return the code of a polynomial."""
    *rest, code = [repr(f) for f in factors]
    for factor in reversed(rest):
        code = f"{factor} + {variable} * ({code})"
    return code
