"""Expressions: what they compute, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.expressions import MAX_LENGTH, Expression, ExpressionError

X = np.array([1.0, -2.0, np.nan, 4.0])
Y = np.array([3.0, 0.5, 1.0, 4.0])
COLUMNS = {
    "x": X,
    "optimizer.lr": Y,
    "schatten_0.5": Y + 1,
    "init.balanced": np.array([True, False, True, False]),
    "factorization.kind": np.array(["cp", "linear", "cp", None], dtype=object),
    "init.width": np.array([np.nan, 2.0, 2.0, np.nan]),
    "lowest(det)": np.array([-1.0, 0.0, 1.0, 2.0]),
    "maybe": np.array([True, None, False, True], dtype=object),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x + 2 * optimizer.lr", X + 2 * Y),
        ("-x ** 2", -(X**2)),
        ("abs(x) / schatten_0.5", np.abs(X) / (Y + 1)),
        ("sqrt(x)", [1, np.nan, np.nan, 2]),
        ("log10(1e2) + exp(0) + 0 * optimizer.lr", [3, 3, 3, 3]),
        ("min(x, optimizer.lr)", [1, -2, np.nan, 4]),
        ("max(x, 0)", [1, 0, np.nan, 4]),
        ("2 * pi + 0 * optimizer.lr", [2 * math.pi] * 4),
        ("x > 0", [True, False, False, True]),
        ("not x > 0", [False, True, False, False]),
        ("x != 4", [True, True, False, False]),
        ("not (x > 0 and optimizer.lr > 3)", [True, True, True, False]),
        ("not (x > 0 or optimizer.lr > 9)", [False, True, False, False]),
        ("not log(x) > 9", [True, False, False, True]),
        ("not isfinite(x)", [False, False, True, False]),
        ("not init.width > 1 and init.width != 2", [True, False, False, True]),
        ("0 < x < 4", [True, False, False, False]),
        ("x > 0 and optimizer.lr > 3", [False, False, False, True]),
        ("x < 0 or optimizer.lr == 3", [True, True, False, False]),
        ("init.balanced", [True, False, True, False]),
        ("init.balanced == true", [True, False, True, False]),
        ("init.balanced == false and x < 2", [False, True, False, False]),
        ("factorization.kind == 'cp'", [True, False, True, False]),
        ("factorization.kind != 'cp'", [False, True, False, True]),
        ("factorization.kind in ['linear', \"other\"]", [False, True, False, False]),
        ("x not in [1, 4]", [False, True, False, False]),
        ("lowest(det) >= 0", [False, True, True, True]),
        ("lowest( det ) + 1", [0, 1, 2, 3]),
        ("maybe and true", [True, False, False, True]),
        ("maybe + 1", [2, np.nan, 1, 2]),
        ("1e-3 * x", 1e-3 * X),
        (".5 * x", 0.5 * X),
    ],
)
def test_value(text, expected):
    np.testing.assert_array_equal(Expression(text).evaluate(COLUMNS), expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.floats(0.1, 10))
def test_agrees_with_python(values, scale):
    found = Expression("abs(a) * b - a ** 2 / (1 + b)").evaluate({"a": np.array(values), "b": np.full(len(values), scale)})
    np.testing.assert_allclose(found, [abs(a) * scale - a**2 / (1 + scale) for a in values])


def test_names_are_columns():
    assert Expression("abs(schatten_0.5) + optimizer.lr * lowest(det) + x + x").names == (
        "schatten_0.5",
        "optimizer.lr",
        "lowest(det)",
        "x",
    )
    assert Expression("1 + pi").names == ()


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "x +", "x y", "(x", "x)", "f(x)", "abs(x, x)", "min(x)", "x; y", "x.__class__()", "__import__('os')", "x [0]", "x[y]", "x[-1]", "[1, 2]",
        "{1}", "lambda: 1", "x if y else z", "x in y", "x in []", "x = 1", "x := 1", "x @ y", "x // y", "x % y", "x | y",
        "lowest", "lowest(x + 1)", "lowest(x, y)", "f'{x}'", "\\x41", "x if", "`x`", "x\ny", "é", "x" * (MAX_LENGTH + 1), "(" * 300 + "x" + ")" * 300,
        "not " * 100 + "x", "**x", "abs(*x)", "abs(x=1)", "...", "1j", "0x10", "1__000", "[x] == 1", "[x, 1] in [1]", "x in [1] < 3", "x == '\\d'", "x == '\\ud800'", "9" * 400,
    ],
)  # fmt: skip
def test_refused(text):
    with pytest.raises(ExpressionError):
        Expression(text)


@pytest.mark.parametrize("text", ["-'a' > x", "-(x > 1) < x", "+(x > 1) > 0", "9 ** 9 ** 9 ** 9 > x", f"{'9' * 100} > x"])
def test_what_has_no_number_is_none_rather_than_an_error(text):
    assert Expression(text).evaluate({"x": np.array([0.5, 2.0])}).shape == (2,)


@given(st.text(max_size=40))
def test_no_text_breaks_it(text):
    try:
        Expression(text)
    except ExpressionError:
        return


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x >= 2", [-0.5, -2.0, np.nan, 0.5]),
        ("x < optimizer.lr", [2 / 3, 1.25, np.nan, -np.finfo(float).tiny]),
        ("x <= optimizer.lr", [2 / 3, 1.25, np.nan, 0]),
        ("x >= 2 and x <= 5", [-0.5, -2.0, np.nan, 0.2]),
        ("x >= 2 or x <= -1", [-0.5, 0.5, np.nan, 0.5]),
        ("0 <= x <= 2", [0.5, -1.0, np.nan, -0.5]),
        ("factorization.kind == 'cp'", [1, -1, 1, -1]),
        ("x != 4", [1, 1, np.nan, -1]),
        ("x > 2 and optimizer.lr > 3.5", [-0.5, -2, -5 / 7, 0.125]),
    ],
)
def test_margin_is_relative_and_negative_where_broken(text, expected):
    np.testing.assert_allclose(Expression(text).margin(COLUMNS), expected)


def test_margin_agrees_with_the_condition():
    rng = np.random.default_rng(0)
    columns = {"a": rng.integers(-3, 4, 500).astype(float), "b": rng.integers(-3, 4, 500).astype(float)}
    for text in ("a < b", "a <= b", "a > b", "a >= b", "a < b or a > 2", "a < b and a > -2", "-2 < a <= b"):
        condition = Expression(text)
        np.testing.assert_array_equal(condition.margin(columns) >= 0, condition.evaluate(columns))
