"""Parts shared by benchmark scripts: declarations, paired rounds, reports, images, workloads."""
