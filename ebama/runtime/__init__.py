"""The machine under a run: a memory budget, half precision, the allocator, streams and stops."""
