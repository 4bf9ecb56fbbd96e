"""The place of concurrency limits, which are not there yet."""
