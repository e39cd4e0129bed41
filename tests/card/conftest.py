"""These tests need a process of their own: tests/unit/test_card.py starts it."""

import os

if os.environ.get("EVALKIT_CARD"):
    from fake_card import register

    register()
else:
    collect_ignore_glob = ["*"]
