"""The place of blocks, which are not there yet."""
