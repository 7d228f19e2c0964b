"""What records hold that their contract does not foresee: noticed, counted, made a version of."""
