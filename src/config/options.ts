// SPDX-License-Identifier: Apache-2.0
// THE table of options: what the command line and the JSON form accept, and what `--help` prints.
import type { VmConfig } from "./vm-config.ts";

/** Options that configure a VM; each is a key of `VmConfig`. */
export type ConfigFlag = keyof VmConfig;

export type OptionFlag = ConfigFlag | "config" | "help" | "version";

export const GROUPS = {
  machine: "Machine",
  boot: "What the guest starts",
  backend: "Consoles, monitors and back ends",
  update: "Updates",
  process: "Process",
} as const;

export interface OptionDefinition<F extends OptionFlag = OptionFlag> {
  flag: F;
  aliases?: readonly string[];
  group: keyof typeof GROUPS;
  /** Placeholder of the value in the help; absent: the option takes none. */
  argument?: string;
  /** What several of them do: the later replaces, properties add up with the later winning, or each one counts. */
  repeat: "replace" | "merge" | "list";
  /** The property that may stand first without its name. Absent: the value is plain text. */
  impliedKey?: string;
  /** The value may be a JSON object as text: `{"qom-type":…}`. */
  json?: boolean;
  /** Lines of the help. */
  help: readonly string[];
}

export const OPTIONS: readonly OptionDefinition[] = [
  {
    flag: "machine",
    aliases: ["M"],
    group: "machine",
    argument: "[type=]TYPE[,PROP=VALUE,…]",
    repeat: "merge",
    impliedKey: "type",
    help: [
      "microvm (default), q35 or pc, all the same board",
      "memory-backend=ID      the -object that is the guest's RAM",
      "aux-ram-share=on|off   RAM without an -object is a shared memfd (default off)",
      "x-unpack-kernel=on|off the VMM unpacks a compressed kernel (default off, with wasm on)",
      "accel=A[:B…]           as -accel",
    ],
  },
  {
    flag: "accel",
    group: "machine",
    argument: "A[:B…][,dirty-ring-size=N]",
    repeat: "list",
    impliedKey: "accel",
    help: [
      "kvm, or wasm, Baton's own CPU engine; several in order of preference (default kvm:wasm):",
      "before wasm, kvm is passed over where it cannot be used or only interprets guests",
      "dirty-ring-size=N      entries of KVM's dirty rings, 1024 to 65536 (default 0: dirty log)",
    ],
  },
  {
    flag: "cpu",
    group: "machine",
    argument: "MODEL[,+FEATURE][,-FEATURE][,FEATURE=on|off]",
    repeat: "replace",
    impliedKey: "model",
    help: ["host (default) or max"],
  },
  {
    flag: "smp",
    group: "machine",
    argument: "[cpus=]N[,sockets=N][,cores=N][,threads=N]",
    repeat: "merge",
    impliedKey: "cpus",
    help: ["number of CPUs, 1 (default) to 8, and how they are arranged"],
  },
  {
    flag: "m",
    group: "machine",
    argument: "[size=]N[k|M|G]",
    repeat: "merge",
    impliedKey: "size",
    help: ["RAM, in MiB without a suffix; default: the memory back end's size, else 128M; at most 3G"],
  },
  {
    flag: "object",
    group: "machine",
    argument: "TYPE,id=ID[,PROP=VALUE,…]",
    repeat: "list",
    impliedKey: "qom-type",
    json: true,
    help: [
      "RAM: memory-backend-memfd (shared by default), memory-backend-file or memory-backend-ram",
      "size=N, share=on|off, prealloc=on|off; memfd: hugetlb=on|off, hugetlbsize=N, seal=on|off",
      "file: mem-path=PATH (a file, a directory to make one in, or a DAX device), align=N",
      "TLS of migrations: tls-creds-x509, endpoint=client|server, dir=DIR, verify-peer=on|off",
    ],
  },
  {
    flag: "device",
    group: "machine",
    argument: "DRIVER[,PROP=VALUE,…]",
    repeat: "list",
    impliedKey: "driver",
    json: true,
    help: ["isa-debug-exit[,iobase=PORT][,iosize=N]: a write of V to the port exits with status 2V+1"],
  },
  {
    flag: "uuid",
    group: "machine",
    argument: "UUID",
    repeat: "replace",
    help: ["the machine's UUID, 8-4-4-4-12 hex digits"],
  },
  {
    flag: "nodefaults",
    group: "machine",
    repeat: "replace",
    help: ["no serial port that was not asked for"],
  },
  {
    flag: "kernel",
    group: "boot",
    argument: "FILE",
    repeat: "replace",
    help: ["kernel image"],
  },
  {
    flag: "initrd",
    group: "boot",
    argument: "FILE",
    repeat: "replace",
    help: ["initial RAM disk of the kernel"],
  },
  {
    flag: "append",
    group: "boot",
    argument: "TEXT",
    repeat: "replace",
    help: ["command line of the kernel"],
  },
  {
    flag: "bios",
    group: "boot",
    argument: "FILE",
    repeat: "replace",
    help: ["instead of a kernel: a 512-byte boot sector or a flat image"],
  },
  {
    flag: "S",
    group: "boot",
    repeat: "replace",
    help: ["do not start the CPUs; the monitor's cont does"],
  },
  {
    flag: "no-reboot",
    group: "boot",
    repeat: "replace",
    help: ["exit when the guest reboots"],
  },
  {
    flag: "chardev",
    group: "backend",
    argument: "BACKEND,id=ID[,PROP=VALUE,…]",
    repeat: "list",
    impliedKey: "backend",
    help: [
      "stdio[,signal=on|off] · null · pty[,path=LINK] · pipe,path=PATH",
      "file,path=PATH[,append=on|off][,input-path=PATH]",
      "socket,path=PATH | socket,host=HOST,port=PORT[,ipv4=on|off][,ipv6=on|off]",
      "  server=on|off (default off); server: wait=on|off (default on); client: reconnect-ms=N",
    ],
  },
  {
    flag: "serial",
    group: "backend",
    argument: "DEV",
    repeat: "list",
    help: [
      "the next of up to four serial ports; stdio by default if nothing else uses it. DEV:",
      "stdio · pty[:LINK] · file:PATH · pipe:PATH · null · none (no such port) · chardev:ID",
      "unix:PATH[,server=on][,wait=off] · tcp:HOST:PORT[,server=on][,wait=off]",
    ],
  },
  {
    flag: "monitor",
    group: "backend",
    argument: "DEV",
    repeat: "list",
    help: ["human monitor on DEV, as for -serial; none: no monitor (default)"],
  },
  {
    flag: "qmp",
    group: "backend",
    argument: "DEV",
    repeat: "list",
    help: ["QMP monitor on DEV, as for -serial"],
  },
  {
    flag: "mon",
    group: "backend",
    argument: "[chardev=]ID[,mode=readline|control][,pretty=on|off]",
    repeat: "list",
    impliedKey: "chardev",
    help: ["monitor on a -chardev; control is QMP"],
  },
  {
    flag: "display",
    group: "backend",
    argument: "none",
    repeat: "replace",
    impliedKey: "type",
    help: ["there is no display"],
  },
  {
    flag: "incoming",
    group: "update",
    argument: "SOURCE",
    repeat: "list",
    json: true,
    help: [
      "take the guest over from SOURCE instead of starting it; one main and one cpr channel:",
      "a URI: unix:PATH, tcp:HOST:PORT, file:PATH, fd:N … · defer: wait for migrate-incoming",
      "cpr,addr.transport=socket,addr.type=unix,addr.path=PATH, or the same as JSON",
      "What the other options do not mention stays; back ends may change, the machine may not",
    ],
  },
  {
    flag: "name",
    group: "process",
    argument: "[guest=]NAME",
    repeat: "merge",
    impliedKey: "guest",
    help: ["name of the VM"],
  },
  {
    flag: "pidfile",
    group: "process",
    argument: "FILE",
    repeat: "replace",
    help: ["write the process id to FILE"],
  },
  {
    flag: "sandbox",
    group: "process",
    argument: "on[,allow=DIR[:DIR…]]",
    repeat: "replace",
    impliedKey: "enable",
    help: [
      "run the VMM under seccomp and Landlock (default off): it executes no program but images",
      "that baton update passes to it, and uses no files but those that other options name",
      "allow=DIR[:DIR…]       files in these directories too: of migrations, say",
    ],
  },
  {
    flag: "config",
    group: "process",
    argument: "FILE",
    repeat: "list",
    help: ["options from a JSON object whose keys are the option names, as if they stood here"],
  },
  {
    flag: "no-user-config",
    group: "process",
    repeat: "replace",
    help: ["accepted; there are no configuration files but --config"],
  },
  {
    flag: "help",
    aliases: ["h"],
    group: "process",
    repeat: "replace",
    help: ["print this text"],
  },
  {
    flag: "version",
    group: "process",
    repeat: "replace",
    help: ["print the version"],
  },
];

/** Options of QEMU that Baton lacks, and what to do instead. */
export const FOREIGN_OPTIONS: Readonly<Record<string, string>> = {
  "enable-kvm": "use -accel kvm; without it kvm is taken where it is good",
  nographic: "use -serial stdio; there never is a display",
  daemonize: "run it under a service manager, with -pidfile if need be",
  "qmp-pretty": "use -chardev and -mon ID,mode=control,pretty=on",
  drive: "there are no disks yet",
  blockdev: "there are no disks yet",
  hda: "there are no disks yet",
  cdrom: "there are no disks yet",
  boot: "the guest starts from -kernel or -bios",
  netdev: "there are no network devices yet",
  nic: "there are no network devices yet",
  net: "there are no network devices yet",
  global: "give the property to the option it belongs to",
  readconfig: "use --config FILE, which reads JSON",
  loadvm: "use -incoming file:PATH",
  "mem-path": "use -object memory-backend-file,id=ID,size=N,mem-path=PATH and -machine memory-backend=ID",
  "mem-prealloc": "use prealloc=on of the memory back end",
};

export function findOption(name: string): OptionDefinition | undefined {
  return OPTIONS.find((option) => option.flag === name || option.aliases?.includes(name) === true);
}

/** Every name an option answers to, for suggestions. */
export function optionNames(): string[] {
  return OPTIONS.flatMap((option) => [option.flag, ...(option.aliases ?? [])]);
}

/** One option as given, not yet interpreted: text from a command line, or text or an object from JSON. */
export interface RawOption {
  flag: ConfigFlag;
  /** `true` for an option without a value. */
  value: string | true | Readonly<Record<string, unknown>>;
  /** What the user wrote, for messages. */
  origin: string;
}
