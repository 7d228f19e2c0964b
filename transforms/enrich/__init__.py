"""Enrichment as steps: columns from reference data (:class:`EnrichStep`), or from a service that is
asked (:class:`LookupStep`)."""

from .enrich_step import EnrichStep as EnrichStep
from .lookup_step import LookupStep as LookupStep
from .lookup_step import PermanentError as PermanentError
from .references import reference_version as reference_version
