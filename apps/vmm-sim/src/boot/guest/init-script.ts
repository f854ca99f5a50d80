/**
 * The guest's first and only program: a shell script that puts the disk to work and says on the console what it saw,
 * in lines that begin with {@link MARK}, one word and what belongs to it.
 */

export const MARK = "vmm-sim:"

/** A transfer to and from a stretch of the disk; all numbers in KiB. */
export interface Stretch {
  readonly name: string
  readonly offsetKib: number
  readonly sizeKib: number
  /** Of one request. */
  readonly blockKib: number
}

/** Written and read back one after the other, past the page cache, with requests of several sizes. */
const SERIAL: readonly Stretch[] = [
  { name: "large", offsetKib: 0, sizeKib: 4096, blockKib: 1024 },
  { name: "small", offsetKib: 4096, sizeKib: 512, blockKib: 4 },
  { name: "odd", offsetKib: 8448, sizeKib: 1023, blockKib: 33 },
]
/** All at the same time. */
const PARALLEL: readonly Stretch[] = [0, 1, 2, 3].map(n => ({
  name: `parallel${n}`,
  offsetKib: 16_384 + 2048 * n,
  sizeKib: 1024,
  blockKib: 4 << n,
}))

export const STRETCHES: readonly Stretch[] = [...SERIAL, ...PARALLEL]

/** DMA that the device is told to do to an address that the kernel has not given it. */
export interface RogueDma {
  /** Where the device's registers for it are in its configuration space. */
  readonly registers: number
  readonly address: bigint
  readonly access: "read" | "write"
}

export interface InitOptions {
  /** Paths of modules to load, in order. */
  readonly modules: readonly string[]
  readonly rogue: readonly RogueDma[]
}

/** Seconds that the disk may take to appear. */
const DISK_TIMEOUT = 40

export function initScript({ modules, rogue }: InitOptions): string {
  return [
    "#!/bin/busybox sh",
    "/bin/busybox mkdir -p /proc /sys /dev /tmp",
    "/bin/busybox mount -t proc proc /proc",
    "/bin/busybox mount -t sysfs sysfs /sys",
    "/bin/busybox mount -t devtmpfs devtmpfs /dev",
    "/bin/busybox mount -t tmpfs tmpfs /tmp",
    "/bin/busybox --install -s /bin",
    "export PATH=/bin",
    // A line goes out in one write, so that the kernel's own lines do not stand within it.
    `say() { echo "${MARK} $*" >/dev/console; }`,
    "say begin $(uname -r) $(nproc)",
    ...modules.map(path => `insmod ${path} || say problem insmod ${path}`),
    "disk=/dev/nvme0n1",
    "n=0",
    `while [ ! -b $disk ] && [ $n -lt ${DISK_TIMEOUT * 5} ]; do usleep 200000; n=$((n + 1)); done`,
    "if [ -b $disk ]; then",
    "say disk $(cat /sys/block/nvme0n1/size)",
    "say domain $(cat /sys/class/nvme/nvme0/device/iommu_group/type)",
    "sum() { sha256sum | cut -d' ' -f1; }",
    'store() { dd if=/tmp/$1 of=$disk bs="$4"k seek=$(($2 / $4)) oflag=direct conv=fsync 2>/dev/null || say problem write $1; }',
    'load() { dd if=$disk bs="$4"k skip=$(($2 / $4)) count=$(($3 / $4)) iflag=direct 2>/dev/null | sum; }',
    ...transfers(),
    ...rogue.flatMap(rogueLines),
    "else say problem no disk",
    "fi",
    "say end",
    "sync",
    "poweroff -f",
    "",
  ].join("\n")
}

function transfers(): string[] {
  const make = ({ name, sizeKib }: Stretch): string =>
    `dd if=/dev/urandom of=/tmp/${name} bs=1k count=${sizeKib} 2>/dev/null`
  const args = ({ name, offsetKib, sizeKib, blockKib }: Stretch): string =>
    `${name} ${offsetKib} ${sizeKib} ${blockKib}`
  const check = (stretch: Stretch): string =>
    `say sum ${stretch.name} $(sum </tmp/${stretch.name}) $(load ${args(stretch)})`
  return [
    ...STRETCHES.map(make),
    "say write",
    ...SERIAL.map(stretch => `store ${args(stretch)}`),
    ...PARALLEL.map(stretch => `store ${args(stretch)} &`),
    "wait",
    "say read",
    ...SERIAL.map(check),
    ...PARALLEL.map(stretch => `${check(stretch)} &`),
    "wait",
  ]
}

/** Registers are written in words of 32 bits, the command last. */
function rogueLines({ registers, address, access }: RogueDma): string[] {
  const command = access === "read" ? 1n : 2n
  const words = [address & 0xffff_ffffn, address >> 32n, command]
  return [
    `say rogue ${access} 0x${address.toString(16)}`,
    ...words.map(
      (word, n) =>
        `printf '${octal(word)}' | dd of=/sys/class/nvme/nvme0/device/config bs=4 seek=${registers / 4 + 1 + n} conv=notrunc 2>/dev/null`,
    ),
    "usleep 300000",
  ]
}

function octal(word: bigint): string {
  return [0n, 8n, 16n, 24n]
    .map(shift => `\\${((word >> shift) & 0xffn).toString(8).padStart(3, "0")}`)
    .join("")
}
