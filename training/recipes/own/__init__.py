"""Training on own data by one command: a folder or table in; time plan, left-out sites, members, bundle and pages out."""
