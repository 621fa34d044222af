"""Gradients: at every receiver of a plain run, by every edge's mask, and their products with what senders write."""
