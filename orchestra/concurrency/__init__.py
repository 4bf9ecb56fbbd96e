"""Concurrency limits, over all processes: `sync` is for functions, `asyncio` for coroutines."""
