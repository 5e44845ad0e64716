"""Charts of made results, read back from their Vega-Lite."""

from __future__ import annotations

from orchestrator.analysis.figures import draw
from orchestrator.grid.figures import FIGURES


def chart(made, **figure):
    return draw(FIGURES[figure["kind"]].model_validate(figure), made).to_dict()


def panels(spec):
    return spec.get("concat", [spec])


def rows(panel, spec):
    """The rows of a panel's first layer."""
    layer = panel["layer"][0] if "layer" in panel else panel
    data = layer.get("data", panel.get("data", spec.get("data")))
    return spec["datasets"][data["name"]] if "name" in data else data["values"]


def encoding(panel):
    return panel["layer"][0]["encoding"] if "layer" in panel else panel["encoding"]


def layers_with(panel, spec, **encoded):
    """The rows of every layer of a panel with these channels, by the field or value each has."""
    found = []
    for layer in panel.get("layer", [panel]):
        channels = {name: layer["encoding"].get(name, {}) for name in encoded}
        if all(encoded[name] in (channel.get("field"), channel.get("value")) for name, channel in channels.items()):
            found.append(rows(layer | {"data": layer.get("data", panel.get("data"))}, spec))
    return found
