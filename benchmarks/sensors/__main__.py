"""Print the sensor readings that are available on this machine: `python -m benchmarks.sensors`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from time import sleep

from benchmarks.harness.power_mode import power_mode
from benchmarks.sensors.reading import State
from benchmarks.sensors.sampler import Record, Sampler, all_sensors

__all__ = ["main"]

SAMPLING_S = 1.5  # enough for two samples (power from energy counters) and tegrastats' first line


def main(argv: Sequence[str] | None = None) -> int:
    """Sample briefly; print all sensors with their last readings, or the reason why there are none."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sensors", description=(__doc__ or "").strip())
    parser.add_argument("--gpu", type=int, default=0, metavar="N", help="number of the NVIDIA GPU (%(default)s)")
    args = parser.parse_args(argv)
    with Sampler(all_sensors(gpu=args.gpu), interval_s=0.5) as sampler:
        sleep(SAMPLING_S)
    print(f"Power mode: {power_mode().describe()}")
    print(_lines(sampler.record()))
    return 0


def _lines(record: Record) -> str:
    last_states: dict[str, State] = {sample.sensor: sample.state for sample in record.samples}
    lines = []
    for sensor, state in last_states.items():
        lines.append(f"{sensor}:")
        lines += [f"  {name} {value:.6g}" for name, value in state.values.items()]
        lines += [f"  slowed by {reason}" for reason in state.slowed_by]
    lines += [f"{sensor}: not available: {reason}" for sensor, reason in record.absent]
    return "\n".join([*lines, f"Sampling twice a second took {record.cpu_share:.2%} of one core."])


if __name__ == "__main__":
    sys.exit(main())
