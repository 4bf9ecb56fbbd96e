"""Ask what flows did, and act on their runs, from Python: `get_client()`."""
