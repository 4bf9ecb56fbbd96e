"""The place of lock managers for caches, which are not there yet."""
