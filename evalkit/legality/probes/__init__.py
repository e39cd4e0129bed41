"""How is a black box asked?  Streams built to wake it, forks, cuts, and the smallest stream that still shows it."""
