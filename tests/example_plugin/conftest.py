"""Lets the tests of this folder find the plugin where it is not installed: in the tests of qpatchbench."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
