"""What every benchmark script uses: paired rounds, reports, images, workloads."""
