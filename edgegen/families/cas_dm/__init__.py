"""Cas-DM (An et al., arXiv 2401.02414; docs/methods/cas-dm.md): a noise predictor, and a refiner
that can be trained with metric losses.
"""

from .config import CasDmConfig
from .family import CasDm
from .losses import gate_loss
from .networks import Refiner
from .recipes import FAMILY

__all__ = ["FAMILY", "CasDm", "CasDmConfig", "Refiner", "gate_loss"]
