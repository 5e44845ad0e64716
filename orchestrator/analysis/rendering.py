"""Vega-Lite charts as files: HTML that needs no network, PNG, SVG and PDF. What was rendered before is taken from a cache.

``python -m orchestrator.analysis.rendering`` renders one chart, beside others, in a process of its own that imports nothing else.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import StorageUnavailable
from orchestrator.files import make_folder, write_file, write_out

FORMATS = ("html", "png", "svg", "pdf")
PIXELS_PER_INCH = 200
CACHED_BYTES = 200 << 20
"""What the cache may hold. What was used last goes last."""
EMPTY = '{"mark":"point"}'


def cache_folder() -> Path:
    """Return where rendered charts are kept: ``orchestrate/figures`` in the user's cache folder."""
    from platformdirs import user_cache_path

    return user_cache_path("orchestrate") / "figures"


def rendered(spec: str, formats: Collection[str] = FORMATS) -> dict[str, bytes]:
    """Return a chart, JSON of Vega-Lite, in each of ``formats``. Raises `ValueError` for what is no chart."""
    return _cached(spec, formats, _draw)


def scripts() -> str:
    """Return all of Vega as a script, which defines ``vegaEmbed``: a page with several charts needs it once."""
    return _cached("scripts", ["js"], _bundle)["js"].decode()


@contextmanager
def rendering(formats: Collection[str], count: int) -> Iterator[_Renderer]:
    """Provide what renders ``count`` charts in ``formats``, as many at once as there are cores."""
    with ThreadPoolExecutor(max(1, min(count, os.cpu_count() or 1))) as threads:
        yield _Renderer(threads, formats, apart=count > 1)


class _Renderer:
    def __init__(self, threads: ThreadPoolExecutor, formats: Collection[str], *, apart: bool) -> None:
        self._threads, self._formats, self._apart = threads, formats, apart

    def start(self, spec: str) -> Future[dict[str, bytes]]:
        """Begin to render a chart. What the future raises says why it cannot be."""
        # The renderer holds Python's lock, so that threads alone would draw one after the other.
        return self._threads.submit(_cached, spec, self._formats, _draw_apart if self._apart else _draw)


def _cached(spec: str, formats: Collection[str], draw: Callable[[str, Collection[str]], dict[str, bytes]]) -> dict[str, bytes]:
    """Return what is kept of a chart, and what ``draw`` makes of the rest."""
    folder, digest = cache_folder(), _digest(spec)
    files: dict[str, bytes] = {}
    for form in formats:
        with suppress(OSError):
            path = folder / f"{digest}.{form}"
            files[form] = path.read_bytes()
            os.utime(path)
    if missing := [form for form in formats if form not in files]:
        made = draw(spec, missing)
        _keep(folder, {f"{digest}.{form}": content for form, content in made.items()})
        files |= made
    return {form: files[form] for form in formats}


def _digest(text: str) -> str:
    version = importlib.metadata.version("vl-convert-python")
    return hashlib.sha256(f"{version} {PIXELS_PER_INCH}\n{text}".encode(errors="surrogatepass")).hexdigest()[:32]


def _keep(folder: Path, files: dict[str, bytes]) -> None:
    """Put files into the cache, and take out of it what was used longest ago. One that cannot be written to costs time alone."""
    with suppress(OSError, StorageUnavailable):
        make_folder(folder)
        for name, content in files.items():
            write_file(folder / name, content)
        there = sorted(((path.stat(), path) for path in folder.iterdir()), key=lambda found: found[0].st_mtime)
        excess = sum(status.st_size for status, _ in there) - CACHED_BYTES
        for status, path in there:
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= status.st_size


def _draw(spec: str, formats: Collection[str]) -> dict[str, bytes]:
    import vl_convert

    files: dict[str, bytes] = {}
    if "html" in formats:
        files["html"] = _page(spec).encode()
    if not set(formats) - {"html"}:
        return files
    drawing = vl_convert.vegalite_to_svg(spec)
    if "png" in formats:
        files["png"] = vl_convert.svg_to_png(drawing, ppi=PIXELS_PER_INCH)
    if "svg" in formats:
        files["svg"] = drawing.encode()
    if "pdf" in formats:
        files["pdf"] = vl_convert.svg_to_pdf(drawing)
    return files


def _draw_apart(spec: str, formats: Collection[str]) -> dict[str, bytes]:
    """Draw in a process of its own, which an accident of the renderer ends, and nothing else."""
    command = [sys.executable, "-P", "-m", "orchestrator.analysis.rendering", *formats]
    done = subprocess.run(command, input=spec.encode(), capture_output=True, check=False)
    if done.returncode:
        said = [] if done.returncode < 0 else done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(said[-1] if said else f"the renderer has crashed ({done.returncode})")
    files: dict[str, bytes] = pickle.loads(done.stdout)  # noqa: S301, our own process wrote it
    return files


def _page(spec: str) -> str:
    """Return a page that draws ``spec``. A title in it from elsewhere must not end the script and begin one of its own."""
    frame = _cached("page", ["html"], _frame)["html"].decode()
    head, _, tail = frame.rpartition(EMPTY)
    written = spec.replace("<", "\\u003c")
    return f"{head}{written}{tail}"


def _frame(_: str, formats: Collection[str]) -> dict[str, bytes]:
    """Return a page around `EMPTY` with all of Vega in it, which takes seconds to make."""
    import vl_convert

    page = vl_convert.vegalite_to_html(json.loads(EMPTY), bundle=True).encode()
    return dict.fromkeys(formats, page)


def _bundle(_: str, formats: Collection[str]) -> dict[str, bytes]:
    import vl_convert

    # Its stub wants a script to be added, of which there need be none.
    return dict.fromkeys(formats, vl_convert.javascript_bundle().encode())  # type: ignore[call-arg]


def main() -> None:
    """Render the chart on standard input in the formats that the arguments name, to standard output."""
    try:
        files = _draw(sys.stdin.buffer.read().decode(), sys.argv[1:])
    except ValueError as error:
        # Where in the renderer it happened concerns nobody.
        raise SystemExit(" ".join(str(error).partition("\n    at ")[0].split())) from error
    write_out(pickle.dumps(files))


if __name__ == "__main__":
    main()
