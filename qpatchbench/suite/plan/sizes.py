"""Image counts of a suite before its images are read, for estimates of cost."""

from __future__ import annotations

from qpatchbench.suite.jobs.base import Sizes
from qpatchbench.suite.plan.plan import Plan


def estimated_sizes(plan: Plan) -> Sizes:
    """Image counts as far as the suite tells them."""
    suite = plan.suite
    evaluation = min(suite.evaluation.images, suite.limit or suite.evaluation.images)
    train = suite.dataset.train_images or suite.dataset.usual_train_images
    return Sizes(train, suite.dataset.calibration_images, suite.dataset.craft_images, evaluation)
