"""What exporters write in a roundabout way, put as odl's operators have it; one file a rewrite.

`batch` and `arithmetic` work on the file's own graph, before it is checked: what they leave is a model without dynamic
batch and without arithmetic on shapes. `weights`, `images` and `padding` work on plain nodes, before normalisations are
folded. A model in which there is nothing to do comes out as it went in.

None of them touches the file: trained weights go back into the graph as the exporter wrote it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from odl.ops._importer import OnnxNode, View
from odl.rewrites.images import as_images
from odl.rewrites.padding import with_padding_inside
from odl.rewrites.weights import seen_weights
from odl.types import Array, Shape


@dataclass(frozen=True)
class Rewritten:
    """Nodes in an order in which they can run, the constants that they read, and which initializers they see through
    a view: `constants` then holds what is seen. `shapes` are those of computed values, as far as they are known."""

    nodes: list[OnnxNode]
    constants: dict[str, Array]
    views: dict[str, View]
    shapes: Mapping[str, Shape]


def rewritten(
    nodes: Sequence[OnnxNode],
    constants: Mapping[str, Array],
    initializers: Collection[str],
    shapes: Mapping[str, Shape],
    outputs: Collection[str],
) -> Rewritten:
    """The nodes after all rewrites of plain nodes. `shapes` are those of computed values, as far as they are known."""
    found, held, views = seen_weights(nodes, constants, initializers)
    found, held, views, known = as_images(found, held, views, initializers, shapes, outputs)
    found = with_padding_inside(found, held, outputs)
    return Rewritten(found, held, views, known)
