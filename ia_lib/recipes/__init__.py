"""The papers' methods, one module each: the fields that a method adds to a row, its readings, and its streams."""
