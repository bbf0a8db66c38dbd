"""What a run needs of the machine: a memory budget, half precision, the allocator."""
