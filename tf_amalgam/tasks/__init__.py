"""Optimizees: what optimizers are trained on and tried on."""

from tf_amalgam.tasks.functions import quadratic, rastrigin
from tf_amalgam.tasks.networks import conv, mlp
from tf_amalgam.tasks.private import private
from tf_amalgam.tasks.resnet import resnet
from tf_amalgam.tasks.task import Task

__all__ = ["Task", "conv", "mlp", "private", "quadratic", "rastrigin", "resnet"]
