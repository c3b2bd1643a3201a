#!/bin/bash
# Makes vmlinux and demo.ko, which symbols.rs beside this directory is tested with, from the sources
# here. Both are kept in the repository: offsets in the tests are those of this very code.
set -eu
cd "$(dirname "$0")"
compile=(gcc -O2 -gdwarf-5 -ffreestanding -fno-pie -fno-asynchronous-unwind-tables -fcf-protection=none
  -fno-ipa-icf -falign-functions=16 -mcmodel=kernel "-ffile-prefix-map=$PWD=/src/linux")
build=$(mktemp -d)
trap 'rm -r "$build"' EXIT
for file in init/main drivers/a drivers/b drivers/c; do
  "${compile[@]}" -c "$PWD/$file.c" -o "$build/${file#*/}.o"
done
# The debug information of one is packed with zlib, that of the other with relocations left to do.
ld -static -nostdlib --no-warn-rwx-segments -Ttext=0xffffffff81000000 -e start_kernel \
  --compress-debug-sections=zlib -z max-page-size=4096 -o vmlinux "$build"/{main,a,b,c}.o
"${compile[@]}" -c "$PWD/drivers/demo.c" -o demo.ko
