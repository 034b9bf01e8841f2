"""Files, published or a user's own, become texts: datasets with a column per language, prompt and answer, or lines."""
