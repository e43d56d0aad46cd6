// SPDX-License-Identifier: Apache-2.0
// The configuration of a VM as a user writes it in JSON or TypeScript.

/** A size: a number of bytes, or text with a suffix k, M, G, T (powers of 1024): `"512M"`, `"1.5G"`. */
export type Size = number | string;

/** `true`/`"on"` or `false`/`"off"`. */
export type Switch = boolean | "on" | "off";

/** One of a thing, or several in order. */
export type OneOrMore<T> = T | readonly T[];

/**
 * The configuration of a VM. Its keys are the long options of the command line, and every value may be the text that
 * option takes; the other form is an object with the option's properties. Everything may be left out.
 *
 * ```json
 * {
 *   "machine": { "type": "microvm", "memory-backend": "ram0" },
 *   "object": { "qom-type": "memory-backend-memfd", "id": "ram0", "size": "1G" },
 *   "smp": 2,
 *   "kernel": "vmlinux",
 *   "append": "console=ttyS0",
 *   "serial": "stdio",
 *   "qmp": "unix:/run/vm.qmp,server=on,wait=off"
 * }
 * ```
 *
 * `baton --config vm.json -m 1G` reads it from a file; options after it win over it.
 */
export interface VmConfig {
  /**
   * The board: `"microvm"` (default), `"q35"` or `"pc"`, which are one and the same here. An array adds up, later
   * properties win.
   *
   * @example "microvm,memory-backend=ram0,aux-ram-share=on"
   */
  machine?: OneOrMore<string | MachineConfig>;
  /** Accelerators in order of preference; by default `"kvm"` where it runs guests on the CPU, else `"wasm"`. */
  accel?: OneOrMore<string | { accel: string; "dirty-ring-size"?: number | string }>;
  /**
   * CPU model, and features to add or take away: `host` (default, the same as `max`), all that the accelerator has, or
   * `baton64`, what every accelerator has, so that the guest can go from one to the other.
   *
   * @example "host,-avx512f" or { "model": "host", "avx512f": false }
   */
  cpu?: string | CpuConfig;
  /** Number of CPUs, 1 (default) to 8, and their arrangement. @example 2 or "4,sockets=2,cores=2" */
  smp?: OneOrMore<number | string | SmpConfig>;
  /**
   * RAM of the guest; a number without suffix is in **MiB**. By default the size of the memory back end that
   * `machine` names, else 128 MiB. At most 3 GiB.
   *
   * @example 512 or "1G"
   */
  m?: OneOrMore<number | string | { size: Size }>;
  /**
   * Memory back ends, and credentials for migration over TLS.
   *
   * @example "memory-backend-memfd,id=ram0,size=1G" or "tls-creds-x509,id=tls0,endpoint=client,dir=/etc/pki/baton"
   */
  object?: OneOrMore<string | MemoryBackendConfig | TlsCredentialsConfig>;
  /** Additional devices; so far the one that lets a test payload exit. @example "isa-debug-exit,iobase=0xf4,iosize=4" */
  device?: OneOrMore<string | DeviceConfig>;
  /** UUID of the machine. @example "b2a0d8f0-5c0e-4d0e-9a0b-0c8c2a1f6f11" */
  uuid?: string;
  /** Leaves out the serial port that a VM has when nobody asked for one. */
  nodefaults?: boolean;

  /** Path of the kernel image. Excludes `bios`. */
  kernel?: string;
  /** Path of the kernel's initial RAM disk. */
  initrd?: string;
  /** Command line of the kernel. */
  append?: string;
  /** Path of a 512-byte boot sector or of a flat image, which is started instead of a kernel. */
  bios?: string;
  /** Leaves the CPUs stopped until the monitor's `cont`. */
  S?: boolean;
  /** Exits when the guest reboots. */
  "no-reboot"?: boolean;

  /** Character back ends, to be named by `serial` (`"chardev:ID"`) and `mon`. */
  chardev?: OneOrMore<string | (ChardevConfig & { id: string })>;
  /**
   * Up to four serial ports in order: text as for `-serial`, or the object form of a chardev without id. By default
   * one port, on stdin and stdout if nothing else uses them, else with nothing plugged in.
   *
   * @example "stdio", "chardev:log", "unix:/run/vm.serial,server=on,wait=off", ["none", "pty"]
   */
  serial?: OneOrMore<string | ChardevConfig>;
  /** Human monitors, given like serial ports. By default none. */
  monitor?: OneOrMore<string | ChardevConfig>;
  /** QMP monitors, given like serial ports. @example "unix:/run/vm.qmp,server=on,wait=off" */
  qmp?: OneOrMore<string | ChardevConfig>;
  /** Monitors on chardevs. @example "mon0,mode=control,pretty=on" */
  mon?: OneOrMore<string | MonitorConfig>;
  /** Only `"none"`: there is no display. */
  display?: string;

  /**
   * Where the guest comes from, when it is not to be started but taken over: a migration URI, `"defer"`, or a channel
   * as QMP's `migrate-incoming` takes it. There is one channel of each type; the later replaces.
   *
   * @example ["unix:main.sock", { "channel-type": "cpr", "addr": { "transport": "socket", "type": "unix", "path": "cpr.sock" } }]
   */
  incoming?: OneOrMore<string | Readonly<Record<string, unknown>>>;

  /** Name of the VM. */
  name?: string | { guest: string };
  /** File to write the process id to. */
  pidfile?: string;
  /**
   * Runs the VMM under seccomp and Landlock. Only of the program, not of the library.
   *
   * @example "on" or "on,allow=/var/lib/vm"
   */
  sandbox?: string | SandboxConfig;
  /** Accepted for QEMU's sake: there are no user configuration files. */
  "no-user-config"?: boolean;
}

export interface SandboxConfig {
  enable: Switch;
  /** Directories whose files the VMM may use beside those that other options name, separated by colons. */
  allow?: string;
}

export interface MachineConfig {
  type?: string;
  /** Id of the `object` that is the guest's RAM. */
  "memory-backend"?: string;
  /** RAM that no `object` describes becomes a shared memfd, which an update can pass on. Default: off. */
  "aux-ram-share"?: Switch;
  /** The VMM unpacks a compressed Linux kernel, which then runs without KASLR. Default: as is quicker, on KVM off. */
  "x-unpack-kernel"?: Switch;
  /** Accelerators, separated by colons. Excludes the option `accel`. */
  accel?: string;
}

export interface CpuConfig {
  model: string;
  [feature: string]: string | boolean;
}

/** CPUs = sockets × cores × threads; what is missing is worked out, cores first. */
export interface SmpConfig {
  cpus?: number | string;
  sockets?: number | string;
  cores?: number | string;
  threads?: number | string;
  /** Must equal the number of CPUs: they cannot be plugged in later. */
  maxcpus?: number | string;
}

export interface MemoryBackendConfig {
  "qom-type": "memory-backend-memfd" | "memory-backend-file" | "memory-backend-ram";
  id: string;
  /** Number of **bytes**, or text with a suffix. Must be the RAM size for the guest's RAM. */
  size: Size;
  /**
   * Whether the memory can be shared with another process, which updates need: the first one makes memory-backend-ram so. Default: on
   * for memfd, else off.
   */
  share?: Switch;
  /** Allocates all memory at the start. Default: off. */
  prealloc?: Switch;
  /** memory-backend-file: path of the file, of a directory to make one in, or of a DAX device. */
  "mem-path"?: string;
  /** memory-backend-file: what RAM must be aligned to, at most 2 MiB, which it is in any case. */
  align?: Size;
  /** memory-backend-memfd: use huge pages. Default: off. */
  hugetlb?: Switch;
  /** memory-backend-memfd: size of a huge page, when not the host's default. */
  hugetlbsize?: Size;
  /** memory-backend-memfd: nobody may change its size. Default: on. */
  seal?: Switch;
}

export interface TlsCredentialsConfig {
  "qom-type": "tls-creds-x509";
  /** What the migration parameter `tls-creds` names. */
  id: string;
  /** `client` sends a guest, `server` takes one. */
  endpoint: "client" | "server";
  /** Directory with `ca-cert.pem`, `ENDPOINT-cert.pem` and `ENDPOINT-key.pem`. */
  dir: string;
  /** Whether the other side must have a certificate that `ca-cert.pem` has signed. Default: on. */
  "verify-peer"?: Switch;
}

export interface DeviceConfig {
  driver: "isa-debug-exit";
  /** I/O port. Default: 0x501. */
  iobase?: number | string;
  /** Number of ports: 1, 2 (default) or 4. */
  iosize?: number | string;
}

/** A character back end; which properties count depends on `backend`. */
export interface ChardevConfig {
  backend: "stdio" | "file" | "pipe" | "pty" | "null" | "socket";
  /** stdio: Ctrl-C ends Baton instead of reaching the guest. Default: on. */
  signal?: Switch;
  /** file, pipe: its path; pty: a symbolic link to make to the terminal; socket: a UNIX socket. */
  path?: string;
  /** file: keep what is in it. Default: off. */
  append?: Switch;
  /** file: where input comes from. */
  "input-path"?: string;
  /** socket: a TCP address. */
  host?: string;
  port?: number | string;
  ipv4?: Switch;
  ipv6?: Switch;
  /** socket: listen instead of connecting. Default: off. */
  server?: Switch;
  /** socket, server: do not start the VM before a client is there. Default: on. */
  wait?: Switch;
  /** socket, client: connect again after this many **milliseconds**. Default: 0, never. */
  "reconnect-ms"?: number | string;
  /** As `reconnect-ms`, in **seconds**. */
  reconnect?: number | string;
}

export interface MonitorConfig {
  /** Id of the chardev. */
  chardev: string;
  /** `readline` (default) for people, `control` for QMP. */
  mode?: "readline" | "control";
  /** control: indent what is sent. Default: off. */
  pretty?: Switch;
}
