"""Exponentials and logarithms inside generated kernels, as series, so that a vector of numbers takes hardly longer than one.

The C library's are of one number each. These are the same operations for every width, so that a number has the same bits alone and in any
place of a vector. They are within 1 ulp of what they stand for (`sinh` and `cosh` 2, `tanh` 3), results that are subnormal, infinite or no
number included. A GPU has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction

from workloads.trial import ITEM_BYTES

LOG2 = Fraction(0xB17217F7D1CF79ABC9E3B39803F2F6AF, 1 << 128)
"""The logarithm of 2, to 128 binary digits."""


@dataclass(frozen=True)
class Format:
    """How numbers lie in words of the type ``word``: ``digits`` behind the point, and an exponent plus ``bias`` in front of them.

    ``ends`` are numbers beyond whose exponentials all are zero and infinite. The series of exponentials and logarithms have ``terms``: what
    is left out is less than a tenth of the last digit. Of `LOG2` the larger part has ``exact`` digits, so that its multiples are exact.
    """

    word: str
    digits: int
    bias: int
    ends: tuple[float, float]
    terms: tuple[int, int]
    exact: int

    @property
    def log2(self) -> tuple[float, float]:
        """The logarithm of 2 in two parts."""
        high = float(Fraction(int(LOG2 * (1 << self.exact)), 1 << self.exact))
        return high, float(LOG2 - Fraction(high))

    @property
    def sign(self) -> int:
        """The bit of the sign."""
        return (self.bias + 1) << (self.digits + 1)

    @property
    def infinite(self) -> int:
        """The bits of infinity."""
        return (2 * self.bias + 1) << self.digits

    @property
    def root(self) -> int:
        """The bits of the root of one half, about."""
        return ((self.bias - 1) << self.digits) + int((math.sqrt(2.0) - 1) * (1 << self.digits))


FORMATS = {
    "float64": Format("unsigned long long", 52, 1023, (-750.0, 711.0), (13, 10), 33),
    "float32": Format("unsigned int", 23, 127, (-110.0, 90.0), (7, 4), 15),
}


def written(names: Set[str], dtype: str, width: int, kind: str) -> Iterator[str]:
    """Yield the code of those of ``names`` that are among `FUNCTIONS`, as functions ``name_of`` of a ``kind`` of ``width`` numbers."""
    own = sorted(names & FUNCTIONS.keys())
    if not own:
        return
    form, size = FORMATS[dtype], ITEM_BYTES[dtype]
    head = f"static inline CUDA_CALLABLE {kind}"
    yield "#ifdef __CUDA_ARCH__"
    yield from (f"{head} {name}_of({kind} a) {{ return {name}(a); }}" for name in own)
    yield "#else"
    lanes = f" __attribute__((vector_size({width * size}), aligned({size})))" if width > 1 else ""
    yield f"typedef {form.word} whole{lanes};"
    # A word or a number for each place: beside a float a number of C++ would be a double, and what is computed with it, too.
    yield f"static inline {kind} all(real v) {{ const {kind} zero = {{}}; return zero + v; }}"
    yield f"static inline whole words({form.word} v) {{ const whole zero = {{}}; return zero + v; }}"
    # Where there are no multiply-adders a call for each number would take longer than all else.
    yield f"static inline {kind} with({kind} a, {kind} b, {kind} c) {{"
    yield from ("#if defined(__FMA__) || defined(__aarch64__)", "return __builtin_elementwise_fma(a, b, c);")
    yield from ("#else", "return a * b + c;", "#endif", "}")
    yield f"static inline whole bits({kind} v) {{ return __builtin_bit_cast(whole, v); }}"
    yield f"static inline {kind} number(whole v) {{ return __builtin_bit_cast({kind}, v); }}"
    yield from _power(form, kind)
    yield from _beyond(form, kind)
    for name in own:
        yield from (f"static inline {kind} {name}_of({kind} a) {{", *FUNCTIONS[name](form), "}")
    yield "#endif"


def _series(coefficients: Sequence[float], of: str, square: str) -> str:
    """Return code of a series: even and odd terms apart, so that they do not wait for each other."""

    def nested(part: Sequence[float]) -> str:
        code = f"all({part[-1]!r})"
        for coefficient in reversed(part[:-1]):
            code = f"with({code}, {square}, all({coefficient!r}))"
        return code

    return f"with({of}, {nested(coefficients[1::2])}, {nested(coefficients[0::2])})"


def _power(form: Format, kind: str) -> list[str]:
    """Return code of e^a as 2^n (1 + rest), of powers of two by n plus twice the bias, and of what is done to signs."""
    high, low = form.log2
    # So large that it has no digits behind the point; so its last bits are those of the whole number that was added to it.
    magic = 1.5 * 2**form.digits
    start = ((form.bias + form.digits) << form.digits) + (1 << (form.digits - 1)) - 2 * form.bias
    series = _series([1 / math.factorial(n) for n in range(2, form.terms[0] + 1)], "r", "z")
    return [
        f"static inline {kind} rest({kind} a, whole& n) {{",
        f"const {kind} shifted = with(a, all({1 / math.log(2)!r}), all({magic!r})), k = shifted - all({magic!r});",
        f"n = bits(shifted) - words({start}ULL);",
        f"const {kind} r = with(k, all({-low!r}), with(k, all({-high!r}), a)), z = r * r;",
        f"return with(z, {series}, r);",
        "}",
        f"static inline {kind} two(whole n) {{ return number((n - words({form.bias})) << {form.digits}); }}",
        # In two steps, since 2^n alone may be too large or too small.
        f"static inline {kind} scaled({kind} rest, whole n) {{",
        f"const whole half = n >> 1; const {kind} power = number(half << {form.digits});",
        f"return with(power, rest, power) * number((n - half) << {form.digits});",
        "}",
        f"static inline {kind} clipped({kind} a) {{",
        f"const {kind} least = all({form.ends[0]!r}), most = all({form.ends[1]!r}), upper = most < a ? most : a;",
        "return least > upper ? least : upper;",
        "}",
        f"static inline {kind} size({kind} a) {{ return number(bits(a) & words({form.sign - 1}ULL)); }}",
        f"static inline {kind} signed_as({kind} a, {kind} v) {{ return number(bits(v) | (bits(a) & words({form.sign}ULL))); }}",
    ]


def _beyond(form: Format, kind: str) -> list[str]:
    """Return code of what logarithms are where they are not ``found``: of ``end``, where they are infinite, of less, and of infinity."""
    return [
        f"static inline {kind} beyond({kind} a, {kind} end, {kind} found) {{",
        f"const {kind} infinite = number(words({form.infinite}ULL)), below = a == end ? -infinite : infinite - infinite;",
        "return a > end ? (a == infinite ? a : found) : below;",
        "}",
    ]


def _logarithm(form: Format, less: str, rest: str) -> list[str]:
    """Return code of ``found``, the logarithm of numbers ``u`` above zero, plus ``rest``, which is small: k log 2 + log(1 + f) as fdlibm's
    e_log.c (Sun 1993) has it, where 1 + f begins at the root of one half. ``less`` is taken off k."""
    high, low = form.log2
    fraction, two = (1 << form.digits) - 1, (form.bias + form.digits) << form.digits
    series = _series([2 / (2 * n + 1) for n in range(1, form.terms[1] + 1)], "z", "w")
    return [
        f"const whole moved = bits(u) + words({(form.bias << form.digits) - form.root}ULL);",
        f"const auto k = number((moved >> {form.digits}) | words({two}ULL)) - (all({float(2**form.digits + form.bias)!r}){less});",
        f"const auto f = number((moved & words({fraction}ULL)) + words({form.root}ULL)) - all(1.0);",
        "const auto s = f / (f + all(2.0)), z = s * s, w = z * z, h = f * f * all(0.5);",
        f"const auto small = {rest.format(f'all({low!r})')};",
        f"const auto found = with(k, all({high!r}), f - (h - with(s, with(z, {series}, h), small)));",
    ]


def _exp(_: Format) -> list[str]:
    return ["whole n;", "const auto v = rest(clipped(a), n);", "return scaled(v, n);"]


def _log(form: Format) -> list[str]:
    least, up = 2.0 ** (1 - form.bias), form.digits + 2
    return [
        f"const auto few = all({least!r}), u = a < few ? a * all({2.0**up!r}) : a, less = a < few ? all({float(up)!r}) : all(0.0);",
        *_logarithm(form, " + less", "k * {}"),
        "return beyond(a, all(0.0), found);",
    ]


def _log1p(form: Format) -> list[str]:
    # What 1 + a is rounded off by is known exactly (Knuth, volume 2, 4.2.2). It is divided by u = 2^k (1 + f), of which a tenth will do;
    # by half of that, since 2^-k may be too small.
    power = f"number(words({form.infinite}ULL) - (moved & words({form.infinite}ULL)))"
    share = "with(all(0.5) * f, f, with(all(-0.5), f, all(0.5)))"
    return [
        "const auto u = all(1.0) + a, t = u - all(1.0), off = (all(1.0) - (u - t)) + (a - t);",
        *_logarithm(form, "", f"with({share}, off * {power}, k * {{}})"),
        "return signed_as(a, beyond(a, -all(1.0), found));",
    ]


def _tanh(_: Format) -> list[str]:
    return [
        # From where on it is 1; what is no number stays so.
        "const auto one = all(1.0), most = all(44.0), twice = size(a) + size(a);",
        "whole n;",
        "const auto v = rest(twice > most ? most : twice, n), power = two(n), less = with(power, v, power - one);",
        "return signed_as(a, less / (less + all(2.0)));",
    ]


def _cosh(_: Format) -> list[str]:
    return ["whole n;", f"const auto v = {HALVED}", "return half + all(0.25) / half;"]


def _sinh(form: Format) -> list[str]:
    series = _series([1 / math.factorial(2 * n + 3) for n in range(form.terms[0] // 2 + 3)], "z", "(z * z)")
    return [
        "whole n;",
        f"const auto v = {HALVED}",
        # Where it is small it is no difference of two that are not.
        "const auto b = size(a), z = b * b;",
        f"return signed_as(a, b < all(1.0) ? with(b * z, {series}, b) : half - all(0.25) / half);",
    ]


HALVED = "rest(clipped(size(a)), n), half = scaled(v, n - words(1));"
"""Half of the exponential of |a|, which may be finite where that is not."""
FUNCTIONS: dict[str, Callable[[Format], list[str]]] = {
    "exp": _exp,
    "log": _log,
    "log1p": _log1p,
    "tanh": _tanh,
    "sinh": _sinh,
    "cosh": _cosh,
}
"""Functions that are written here, by those that return their code."""
