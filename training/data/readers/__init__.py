"""One reader per published collection: a folder in, records out."""
