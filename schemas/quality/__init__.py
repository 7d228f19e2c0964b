"""Quality checks of a contract: what is measured of a run's records, and what it must be."""
