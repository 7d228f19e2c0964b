"""Quality gates: what is measured as records flow, and judged before anything is committed."""
