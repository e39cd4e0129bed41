"""Is a scorer legal?  Black-box probes, rulesets, verdicts, and a zoo of known violations with their fixes."""
