"""Metrics: what is measured at the answer position. One file each; the smallest, ``top1.py``, is the template."""

from circuitfind.task.metrics.contract import METRICS, Metric, MetricFile, Targets
from circuitfind.task.metrics.lookup import MetricLike, as_metric, metric_again, metric_from_text

__all__ = ["METRICS", "Metric", "MetricFile", "MetricLike", "Targets", "as_metric", "metric_again", "metric_from_text"]
