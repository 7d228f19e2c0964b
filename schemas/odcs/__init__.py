"""Open Data Contract Standard documents: read, checked, and compiled to contracts."""

from .loading import load_contract as load_contract
from .loading import parse_contract as parse_contract
