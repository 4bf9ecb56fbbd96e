"""What carries out runs of deployments, by the type of their work pool. A type is one small class."""
