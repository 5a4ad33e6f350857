"""Metrics of a run for Prometheus and TensorBoard: what the events say, under the names of one catalogue.

``import gaudi3_rt.metrics`` starts nothing; prometheus-client and tensorboard are imported where they are used.
"""

from gaudi3_rt.metrics._catalogue import BOUNDS, CATALOGUE, HEALTH, PREFIX, RANK, Metric
from gaudi3_rt.metrics._metrics import Metrics
from gaudi3_rt.metrics._system import System
from gaudi3_rt.metrics._tensorboard import TensorBoardWriter
from gaudi3_rt.metrics._textfile import TextfileWriter

__all__ = [
    "BOUNDS",
    "CATALOGUE",
    "HEALTH",
    "PREFIX",
    "RANK",
    "Metric",
    "Metrics",
    "System",
    "TensorBoardWriter",
    "TextfileWriter",
]
