"""Readers of published collections, one file each: a folder in, records and drop counts out."""
