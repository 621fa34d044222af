"""Circuit -> DOT text -> SVG, PNG or PDF; a table of scores -> heat map."""

from circuitfind.rendering.caption import compose_caption
from circuitfind.rendering.circuits import circuit_dot, columns_of, drawing_of, rows_by_head, selection_words
from circuitfind.rendering.columns import Column, ColumnsDrawing, columns_to_dot
from circuitfind.rendering.difference import difference_dot
from circuitfind.rendering.drawing import CircuitDrawing, DrawnEdge
from circuitfind.rendering.heat_map import heat_map
from circuitfind.rendering.image import draw, render
from circuitfind.rendering.rows import to_dot
from circuitfind.rendering.size_picture import write_figure
from circuitfind.rendering.style import FONT

__all__ = [
    "FONT",
    "CircuitDrawing",
    "Column",
    "ColumnsDrawing",
    "DrawnEdge",
    "circuit_dot",
    "columns_of",
    "columns_to_dot",
    "compose_caption",
    "difference_dot",
    "draw",
    "drawing_of",
    "heat_map",
    "render",
    "rows_by_head",
    "selection_words",
    "to_dot",
    "write_figure",
]
