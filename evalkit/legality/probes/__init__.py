"""Probes of a black box: streams built to wake it, forks, cuts, and the smallest stream that still shows a violation."""
