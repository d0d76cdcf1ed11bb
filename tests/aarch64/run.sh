#!/usr/bin/env bash
# The native core for aarch64: cross-compiled, then held to tests/ops and to the starter bundle's known answers, all under
# qemu-user. In: this tree. Out: build/aarch64, where what was downloaded is kept for the next run. README.md says why.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly WORK=$PWD/build/aarch64
readonly SYSROOT=$WORK/sysroot HOST=$WORK/host PACKAGES=$WORK/packages CORE=$WORK/core TREE=$WORK/tree
# Of those that Debian 12's qemu knows, the nearest to a Jetson Orin's Cortex-A78AE. QEMU_CPU=max adds SVE2 and more.
export QEMU_CPU=${QEMU_CPU:-cortex-a76}

main() {
  require_tools
  make_sysroot
  make_host_tools
  install_packages
  build_core
  copy_tree
  run_golden_tests
  screen_known_answers
  say "passed"
}

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

require_tools() {
  local missing=()
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "test-aarch64 takes an arm64 Python from Debian's archive: run it on Debian, or in a container of it" >&2
    exit 2
  fi
  command -v aarch64-linux-gnu-g++ >/dev/null || missing+=(g++-aarch64-linux-gnu)
  QEMU=$(command -v qemu-aarch64 || command -v qemu-aarch64-static) || missing+=(qemu-user)
  if ((${#missing[@]})); then
    echo "test-aarch64 needs what is not installed here: apt-get install ${missing[*]}" >&2
    exit 2
  fi
}

# Debian's arm64 Python with all that it depends on, unpacked in a folder.
make_sysroot() {
  if [ -d "$SYSROOT" ]; then return; fi
  say "downloading Debian's arm64 Python"
  rm -rf "$WORK/apt" "$SYSROOT.partial"
  write_apt_settings
  private_apt update
  private_apt install --yes --download-only python3 libpython3-dev libstdc++6
  local package
  for package in "$WORK"/apt/cache/archives/*.deb; do dpkg-deb --extract "$package" "$SYSROOT.partial"; done
  write_cpuinfo "$SYSROOT.partial"
  mv "$SYSROOT.partial" "$SYSROOT"
  rm -rf "$WORK/apt"
}

private_apt() { apt-get --quiet=2 --config-file="$WORK/apt/apt.conf" "$@"; }

# The machine's own sources and keys, for arm64, and an empty list of installed packages, so that apt finds the whole closure.
# The hooks are cleared: some images have one that empties the system's cache after an update.
write_apt_settings() {
  mkdir -p "$WORK"/apt/{lists,cache/archives}/partial
  touch "$WORK/apt/status"
  cat >"$WORK/apt/apt.conf" <<END
#clear APT::Architectures;
#clear APT::Update;
#clear DPkg;
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Dir::State "$WORK/apt";
Dir::State::lists "$WORK/apt/lists";
Dir::State::status "$WORK/apt/status";
Dir::Cache "$WORK/apt/cache";
Dir::Cache::archives "$WORK/apt/cache/archives";
END
}

# Debian 12's qemu shows the host's /proc/cpuinfo, and ONNX Runtime for Arm crashes on import when that of an x86 processor is
# all it finds. A file of that name in the sysroot comes first. May go when the oldest qemu supported writes its own.
write_cpuinfo() {
  local processor
  mkdir -p "$1/proc"
  for ((processor = 0; processor < $(getconf _NPROCESSORS_CONF); processor++)); do
    cat <<END
processor	: $processor
Features	: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x4
CPU part	: 0xd0b
CPU revision	: 1

END
  done >"$1/proc/cpuinfo"
}

# pip, CMake and pybind11 for this machine, apart from .venv, which is not whole without torch.
make_host_tools() {
  if [ -e "$HOST/.done" ]; then return; fi
  say "installing CMake and pybind11"
  "${PYTHON:-python3}" -m venv "$HOST"
  "$HOST/bin/python" -m pip install --quiet --upgrade pip
  "$HOST/bin/python" -m pip install --quiet 'cmake>=4.1' 'pybind11>=2.13'
  touch "$HOST/.done"
}

arm_python() {
  env -u PYTHONHOME PYTHONPATH="$PACKAGES:$TREE" PYTHONNOUSERSITE=1 "$QEMU" -L "$SYSROOT" "$(arm_python_path)" "$@"
}

arm_python_path() { readlink -f "$SYSROOT/usr/bin/python3"; }

# Wheels for the arm64 Python, chosen and unpacked by this machine's pip; again when pyproject.toml asks for others.
install_packages() {
  local arguments
  mapfile -t arguments < <(arm_python tests/aarch64/pip_arguments.py pyproject.toml)
  if [ "${arguments[*]}" = "$(cat "$PACKAGES/.done" 2>/dev/null)" ]; then return; fi
  say "downloading aarch64 wheels"
  rm -rf "$PACKAGES"
  "$HOST/bin/python" -m pip install --quiet --target "$PACKAGES" "${arguments[@]}"
  echo "${arguments[*]}" >"$PACKAGES/.done"
}

# FindPython asks the arm64 Python itself, through qemu (policy CMP0190), for its suffix; pybind11 guesses from that.
build_core() {
  local python
  python=$(arm_python_path)
  say "building the core with $(aarch64-linux-gnu-g++ --version | head -n 1)"
  "$HOST/bin/cmake" -S . -B "$CORE" --log-level=WARNING -DCMAKE_TOOLCHAIN_FILE="$PWD/tests/aarch64/toolchain.cmake" \
    -DCMAKE_CROSSCOMPILING_EMULATOR="$QEMU;-L;$SYSROOT" -DCMAKE_POLICY_DEFAULT_CMP0190=NEW \
    -DPython_EXECUTABLE="$python" -DPython_INCLUDE_DIR="$SYSROOT/usr/include/${python##*/}" \
    -DPYBIND11_USE_CROSSCOMPILING=ON -Dpybind11_DIR="$("$HOST/bin/python" -m pybind11 --cmakedir)" \
    -DCMAKE_CXX_FLAGS="-idirafter $SYSROOT/usr/include" -DCXR_EDGE_CUDA=OFF
  "$HOST/bin/cmake" --build "$CORE" -- --no-print-directory
}

# The real package, with the arm64 core in place of this machine's.
copy_tree() {
  rm -rf "$TREE"
  mkdir -p "$TREE"
  cp -r cxr_edge tests "$TREE/"
  rm -f "$TREE"/cxr_edge/_core*.so
  cp "$CORE"/_core*.so "$TREE/cxr_edge/"
}

run_golden_tests() {
  say "golden tests under ${QEMU##*/}, $QEMU_CPU"
  (cd "$TREE" && arm_python -m pytest -p no:cacheprovider -rs tests/ops)
}

screen_known_answers() {
  say "the starter bundle under ${QEMU##*/}, $QEMU_CPU"
  (cd "$TREE" && arm_python tests/aarch64/known_answers.py "${KNOWN_ANSWERS:-2}")
}

main
