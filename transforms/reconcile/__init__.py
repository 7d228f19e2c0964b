"""Reconcile: whether two places hold the same rows, and which rows one of them lacks."""

from .columns import Compared as Compared
from .compare import Reconciled as Reconciled
from .compare import reconcile as reconcile
from .parts import By as By
from .parts import parse_by as parse_by
