"""Can the booked bits be spent?  A slice is really compressed with the stack in the loop, and really decoded."""
