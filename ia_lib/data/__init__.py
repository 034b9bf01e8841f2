"""What is read from outside: corpora, files of the user's own, pools of old instructions, downloads, and the mini lab.

In: `find(source, file)`, which gives a file's place on this machine. Out: rows, as datasets with documented columns."""
