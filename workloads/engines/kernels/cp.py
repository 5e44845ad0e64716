"""The training loop of CP factorizations as a kernel that does only the work the observed entries need, components side by side in SIMD.

The observed entries of a lane are a tree, mode by mode (compressed sparse fibers: Smith and Karypis, 2015). A walk through it shares the
partial products a_i * b_j * ... of entries that begin alike, and adds up the factors' gradients on the way back. As the residual of an entry
needs no other entry, one walk gives loss and gradient. A lane is advanced until it arrives, then the next: what is in cache is
one lane, however many there are.
"""

# No deferred annotations here: Warp reads those of the kernel as types.

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from workloads.engines.kernels.source import Writer, simd_width, sums, vector_type
from workloads.engines.kernels.updates import UPDATES, Update

LEAVES = 8
"""Most entries of a fiber that are worked on at once: their sums and factors stay in registers."""
CHAINS = 4
"""Sums that are kept apart where a fiber has few entries, so that additions do not wait for each other."""


@dataclass(frozen=True)
class CpKey:
    """What a kernel is generated for: the tensor's shape, the number of components, and the rest of the step."""

    shape: tuple[int, ...]
    components: int
    optimizer: str
    dtype: str

    @property
    def width(self) -> int:
        """Components in a ``vec``."""
        return simd_width(self.dtype)

    @property
    def vectors(self) -> int:
        """``vec`` in a row of a factor: the components, with zeros to fill the last."""
        return -(-self.components // self.width)

    @property
    def rows(self) -> int:
        """Rows of all factors."""
        return sum(self.shape)

    @property
    def update(self) -> Update:
        """The optimizer's step."""
        return UPDATES[self.optimizer]

    @property
    def workspace(self) -> int:
        """``vec`` of scratch memory: the gradient, and a partial product and a partial gradient a level."""
        return (self.rows + 2 * len(self.shape)) * self.vectors


@lru_cache(maxsize=256)
def cp_kernel(key: CpKey) -> Any:
    """The Warp kernel for ``key``, for a CPU. Compiled at first launch, and cached on disk by Warp.

    One thread is one lane; they run one after another. Arguments, all flat: parameters and state like them, lane by lane, rows of
    ``vectors`` vec; numbers of state; workspace; hyperparameters followed by the loss's scale; losses to stop at; steps to do and done;
    losses; the tree: values of the leaves, indices and first children of the nodes, where each level's nodes start in these
    two (``levels``), and the range of each lane's roots.
    """
    import warp as wp

    reals = wp.array(dtype=getattr(wp, key.dtype))
    counts = wp.array(dtype=wp.int32)

    @wp.func_native(_source(key))
    def advance(
        W: reals, S: reals, N: reals, X: reals, H: reals, until: reals, steps: counts, losses: reals,
        values: reals, index: counts, child: counts, roots: counts, lane: int,
    ) -> None: ...  # fmt: skip

    @wp.kernel(enable_backward=False, module="unique")
    def train(
        W: reals, S: reals, N: reals, X: reals, H: reals, until: reals, steps: counts, losses: reals,
        values: reals, index: counts, child: counts, roots: counts,
    ) -> None:  # fmt: skip
        advance(W, S, N, X, H, until, steps, losses, values, index, child, roots, wp.tid())

    return train


def _source(key: CpKey) -> str:
    write, update, row = Writer(), key.update, key.vectors
    size = key.rows * row
    write(*vector_type(key.dtype, key.width))
    write(f"vec* __restrict__ w = (vec*)W.data + (size_t)lane * {size};", "vec* __restrict__ g = (vec*)X.data;")
    for n in range(len(update.arrays)):
        write(f"vec* __restrict__ s{n} = (vec*)S.data + ((size_t)lane * {len(update.arrays)} + {n}) * {size};")
    place = size
    for level in range(len(key.shape) - 1):
        write(f"vec* __restrict__ pb{level} = (vec*)X.data + {place};", f"vec* __restrict__ tb{level} = (vec*)X.data + {place + row};")
        place += 2 * row
    write(f"const real* __restrict__ h = H.data + (size_t)lane * {len(update.hyper) + 1};")
    write(*(f"const real {name} = h[{n}];" for n, name in enumerate(update.hyper)))
    write(f"const real scale = h[{len(update.hyper)}], twice = scale + scale, rate = lr * twice;")
    write("const real low = until.data[lane], one = 1;", "const int last = steps.data[lane];", "int done = 0;", "real total = 0;")
    write("if (last < 0) return;")
    write(*(f"real {name} = N.data[(size_t)lane * {len(update.numbers)} + {n}];" for n, name in enumerate(update.numbers)))
    with write.block("for (;; ++done)"):
        with write.loop("q", 0, size):
            write("g[q] = (vec){};")
        write("total = 0;")
        with write.loop("n0", "roots.data[2 * lane]", "roots.data[2 * lane + 1]"):
            _walk(key, write, 0)
        write("total *= scale;", "if (!(total > low && total < (real)__builtin_inf()) || done >= last) break;")
        if update.whole:
            write("vec norm = (vec){};")
            with write.loop("q", 0, size):
                write("norm += g[q] * g[q];")
            lines, (norm,) = sums(["norm"], key.width, "n")
            write(*lines, f"const real squared = {norm};")
        _prepare(update, write)
        with write.loop("q", 0, size):
            update.entry(write, key.width, "w[q]", "g[q]", [f"s{n}[q]" for n in range(len(update.arrays))])
    write(*(f"N.data[(size_t)lane * {len(update.numbers)} + {n}] = {name};" for n, name in enumerate(update.numbers)))
    write("steps.data[lane] = done;", "losses.data[lane] = total;")
    return write.text


def _prepare(update: Update, write: Writer) -> None:
    """`Update.prepare` on plain numbers: hyperparameters are a lane's, and a lane has all components."""
    write("typedef real number;")
    inner = Writer()
    update.prepare(inner, 1)
    write(*(line.replace("vec ", "const number ") for line in inner.text.splitlines()))


def _walk(key: CpKey, write: Writer, level: int) -> None:
    """Write what a node of the tree does: the product of its rows so far, its children, its share of the gradient."""
    row = key.vectors
    leaf_parents = len(key.shape) - 2
    offset = sum(key.shape[:level])
    node = f"n{level}"
    write(f"const int at{level} = ({offset} + index.data[{node}]) * {row};", f"const vec* const a{level} = w + at{level};")
    if level == 0:
        write(f"const vec* const p0 = a0;", "vec* const t0 = g + at0;")
    else:
        write(f"vec* const p{level} = pb{level};", f"vec* const t{level} = tb{level};")
        with write.loop("q", 0, row):
            write(f"p{level}[q] = p{level - 1}[q] * a{level}[q];", f"t{level}[q] = (vec){{}};")
    children = (f"child.data[{node}]", f"child.data[{node} + 1]")
    if level == leaf_parents:
        write(f"int e = {children[0]};", f"const int end = {children[1]};")
        block = LEAVES
        while block:
            with write.block(f"for (; e + {block} <= end; e += {block})"):
                _leaves(key, write, level, block)
            block //= 2
    else:
        with write.loop(f"n{level + 1}", *children):
            _walk(key, write, level + 1)
    if level:
        write(f"vec* const g{level} = g + at{level};")
        with write.loop("q", 0, row):
            write(f"g{level}[q] += t{level}[q] * p{level - 1}[q];", f"t{level - 1}[q] += t{level}[q] * a{level}[q];")


def _leaves(key: CpKey, write: Writer, level: int, count: int) -> None:
    """Write what ``count`` observed entries of one fiber do: residuals, then gradients."""
    row, offset = key.vectors, sum(key.shape[:-1])
    chains = max(1, CHAINS // count)
    while row % chains:
        chains //= 2
    every = range(count)
    for f in every:
        write(f"const int j{f} = ({offset} + index.data[e + {f}]) * {row};")
        write(f"const vec* const d{f} = w + j{f};", f"vec* const gd{f} = g + j{f};")
        write(*(f"vec s{f}_{c} = (vec){{}};" for c in range(chains)))
    with write.loop("q", 0, row, chains):
        for c in range(chains):
            write(f"const vec p_{c} = p{level}[q + {c}];", *(f"s{f}_{c} += p_{c} * d{f}[q + {c}];" for f in every))
    lines, found = sums([f"s{f}" for f in every], key.width, "f")
    write(*(f"const vec s{f} = {' + '.join(f's{f}_{c}' for c in range(chains))};" for f in every), *lines)
    for f in every:
        write(f"real r{f} = {found[f]} - values.data[e + {f}];", f"total += r{f} * r{f};", f"r{f} *= {key.update.outer};")
    with write.loop("q", 0, row):
        write(f"const vec p = p{level}[q];", f"vec t = t{level}[q];", *(f"t += r{f} * d{f}[q];" for f in every), f"t{level}[q] = t;")
        write(*(f"gd{f}[q] += r{f} * p;" for f in every))
