"""Value types that every part of qpatchbench speaks in, with no behaviour beyond parsing and slicing."""

from qpatchbench.types.announced import Announced
from qpatchbench.types.answers import Losses, Network, Observed, Randomized
from qpatchbench.types.bits import FLOAT, FLOAT_BITS, HALF, HIGHEST_BITS, LOWEST_BITS, Bits
from qpatchbench.types.craft_task import CraftTask, Progress, silent
from qpatchbench.types.distinct import distinct
from qpatchbench.types.goals import Goal, Targeted, Untargeted, parse_goal
from qpatchbench.types.images import ImageSet
from qpatchbench.types.patches import Patch, Stage
from qpatchbench.types.placements import Placement, Transformation
from qpatchbench.types.size import Size
from qpatchbench.types.stated_layers import StatedLayer
from qpatchbench.types.written import Written

__all__ = [
    "Announced",
    "Bits",
    "CraftTask",
    "FLOAT",
    "FLOAT_BITS",
    "Goal",
    "HALF",
    "HIGHEST_BITS",
    "ImageSet",
    "LOWEST_BITS",
    "Losses",
    "Network",
    "Observed",
    "Patch",
    "Placement",
    "Progress",
    "Randomized",
    "Size",
    "Stage",
    "StatedLayer",
    "Targeted",
    "Transformation",
    "Untargeted",
    "Written",
    "distinct",
    "parse_goal",
    "silent",
]
