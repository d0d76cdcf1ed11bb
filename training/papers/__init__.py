"""Full-size smoke test of both papers: measured speed, estimated hours, page."""
