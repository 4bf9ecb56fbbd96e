"""Lock managers for caches, for those who do not want the database to lock."""
