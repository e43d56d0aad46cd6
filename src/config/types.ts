// SPDX-License-Identifier: Apache-2.0
// The configuration of a VM: what a user writes (`VmConfig`) and what it means (`MachineSpec`).

/** Machine types of QEMU that Baton accepts; all name the same board. */
export type MachineType = "microvm" | "q35" | "pc";

export type AcceleratorName = "kvm" | "wasm";

/** What the accelerator has, by both of QEMU's names; what every accelerator has: `src/accel/wasm/cpuid.ts`. */
export type CpuModel = "host" | "max" | "baton64";

/** RAM back ends, with QEMU's names and defaults (`share` is on for memfd, off for the others). */
export interface MemoryBackendSpec {
  qomType: "memory-backend-memfd" | "memory-backend-file" | "memory-backend-ram";
  id: string;
  sizeBytes: number;
  share: boolean;
  /** memory-backend-file: path of the file, or of a directory (hugetlbfs) to create one in. */
  memPath?: string;
  hugetlb?: boolean;
  hugetlbSizeBytes?: number;
  prealloc?: boolean;
  /** memory-backend-memfd: seal against shrinking and growing. QEMU's default: on. */
  seal?: boolean;
}

/** Which side of TLS: who connects is the client. */
export type TlsEndpoint = "server" | "client";

/** `-object tls-creds-x509`: certificates and keys of a directory, in files with QEMU's names. */
export interface TlsCredentialsSpec {
  qomType: "tls-creds-x509";
  id: string;
  endpoint: TlsEndpoint;
  dir: string;
  /** The peer must have a certificate that one of `ca-cert.pem` has signed. QEMU's default: on. */
  verifyPeer: boolean;
}

/** A character device back end: `-chardev BACKEND,id=ID,…`. */
export type ChardevSpec =
  | { backend: "stdio"; id: string; signal: boolean }
  | { backend: "file"; id: string; path: string; append: boolean; inputPath?: string }
  | { backend: "pipe"; id: string; path: string }
  | { backend: "pty"; id: string; path?: string }
  | { backend: "null"; id: string }
  | { backend: "socket"; id: string; address: SocketAddressSpec; server: boolean; wait: boolean; reconnectMs?: number };

export type SocketAddressSpec =
  | { type: "unix"; path: string }
  | { type: "inet"; host: string; port: string; ipv4?: boolean; ipv6?: boolean };

export interface MonitorSpec {
  chardev: string;
  /** `control` is QMP, `readline` is the human monitor. */
  mode: "control" | "readline";
  pretty: boolean;
}

/** Where incoming state comes from: `-incoming`. */
export type IncomingSpec = { channel: "main"; defer: true } | { channel: "main" | "cpr"; address: MigrationAddress };

/** QAPI `MigrationAddress` (qapi/migration.json). */
export type MigrationAddress =
  | { transport: "socket"; type: "unix"; path: string }
  | { transport: "socket"; type: "inet"; host: string; port: string }
  | { transport: "socket"; type: "fd"; str: string }
  | { transport: "socket"; type: "vsock"; cid: string; port: string }
  | { transport: "file"; filename: string; offset: number }
  | { transport: "exec"; args: string[] };

/** Everything a VM is made of, checked and with all defaults filled in. Plain JSON: it travels in the state stream. */
export interface MachineSpec {
  name?: string;
  uuid?: string;
  /** `memoryBackend` is the id of the guest's RAM among `memoryBackends`; `resolve` always fills it in. */
  machine: { type: MachineType; memoryBackend?: string; auxRamShare: boolean };
  /** In order of preference. */
  accelerators: AcceleratorName[];
  /** `-accel kvm,dirty-ring-size=N`: entries of each vCPU's dirty ring. Absent: dirty log. */
  dirtyRingEntries?: number;
  memoryBackends: MemoryBackendSpec[];
  memorySizeBytes: number;
  /** Of this process alone: a guest that moves to another one does not take them along. */
  tlsCredentials?: TlsCredentialsSpec[];
  cpuCount: number;
  /** How the CPUs show themselves to the guest; the product is `cpuCount`. Absent: one socket of that many cores. */
  cpuTopology?: { sockets: number; cores: number; threads: number };
  cpu: { model: CpuModel; features: Record<string, boolean> };
  kernel?: string;
  initrd?: string;
  append?: string;
  bios?: string;
  /** `-machine x-unpack-kernel=on|off`: who unpacks a Linux kernel, the VMM or the kernel itself. Absent: whoever is faster. */
  unpackKernel?: boolean;
  chardevs: ChardevSpec[];
  /** Up to four serial ports: a chardev id, or null for an absent port. */
  serials: (string | null)[];
  /** `-device isa-debug-exit,iobase=…,iosize=…`: where a payload reports its exit code. */
  debugExit?: { ioBase: number; ioSizeBytes?: number };
  monitors: MonitorSpec[];
  noReboot: boolean;
  /** `-S`: do not start the vCPUs. */
  startPaused: boolean;
  pidfile?: string;
  /** `-sandbox on`, of this process alone: directories whose files the VMM may use beside those that are named here. */
  sandbox?: { allow: string[] };
  incoming: IncomingSpec[];
}

/**
 * What a command line or a configuration says and nothing else: what is absent was not mentioned. `resolve` fills it up
 * with defaults, an update with what is running. Every `MachineSpec` is also one.
 */
export interface WantedSpec extends Partial<Omit<MachineSpec, "machine">> {
  machine?: Partial<MachineSpec["machine"]>;
  /** `-nodefaults`. */
  noDefaults?: boolean;
}
