"""Teach an instruction-tuned language model a new language, and check what that did to the old ones."""

__version__ = "0.1.0"
