"""Teach an instruction-tuned language model a new language, and check what that did to the old ones."""

__version__ = "0.1.0"

import logging

# It recommends a package for faster 4-bit layers on CPUs whenever it is imported, at the head of every notebook.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
