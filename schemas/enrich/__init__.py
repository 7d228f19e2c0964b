"""Enrichment: columns that records are given from reference data, or by a service that is asked."""
