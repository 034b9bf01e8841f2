"""Texts become instructions: prompt and answer, by the papers' templates or a user's own."""
