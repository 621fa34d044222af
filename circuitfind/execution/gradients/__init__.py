"""Gradients at every receiver of a plain run or with respect to edge masks, and their products with writes."""
