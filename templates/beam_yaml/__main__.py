"""Print the path of the provider file."""

from . import PROVIDERS

print(PROVIDERS)
