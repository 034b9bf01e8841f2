"""From a table of settings to finished stages: settings, sources, keys, checks, cost, and the command line.

In: a YAML table, and the files that its rows name. Out: one folder of artefacts for every stage, with a manifest.
"""
