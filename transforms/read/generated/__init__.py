"""Made-up records as a stream: to try a job before there is data, and to see what it bears."""
