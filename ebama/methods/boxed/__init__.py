"""Methods that place objects in boxes: each object of a prompt that has one (`Group.box`)."""
