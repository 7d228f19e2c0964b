"""Real peers that tests start themselves: how each is found, built and started."""
