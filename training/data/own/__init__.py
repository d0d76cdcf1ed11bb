"""Own data: a folder, a table or a tree of DICOM files in; records, and a report of what is wrong with them, out.

`source.read_source` reads, `report.check` examines, `page` shows, `store` keeps records in a run folder, from which
`collection.read_own` makes samples of the recipes. Nothing here imports torch. docs/own-data.md is the manual.
"""
