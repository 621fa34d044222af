"""Algorithms compared on one's own behaviour: equal sizes, one metric, held-out intervals, cost, agreement, and a page."""

import json
import re

import numpy as np
import pytest
from command_lines import COMMANDS  # noqa: F401
