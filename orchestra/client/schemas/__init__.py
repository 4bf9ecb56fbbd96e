"""What a client gives and takes: records of runs, filters, orders."""
