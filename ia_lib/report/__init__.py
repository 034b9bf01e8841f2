"""Tables, figures and the page that a reader opens, and published numbers with their audit.

In: the artefacts of finished stages, from disk alone. Out: results.csv, figures and index.html.
"""
