"""Going on: commits one after another, each from where the last one stopped."""
