"""Optimizees: what optimizers are trained on and tried on."""

from tf_amalgam.tasks.networks import conv, mlp, quadratic
from tf_amalgam.tasks.private import private
from tf_amalgam.tasks.task import Task

__all__ = ["Task", "conv", "mlp", "private", "quadratic"]
