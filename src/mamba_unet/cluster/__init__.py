"""Lists of cases, and of trainings, on the machines of a Ray cluster (extra `ray`). One machine needs none of it."""

from mamba_unet.cluster.connection import Cluster

__all__ = ["Cluster"]
