// SPDX-License-Identifier: Apache-2.0
// The subcommands of `info`. Layouts are QEMU's, since scripts read them.
import { kvmInfo } from "../qmp/commands/machine.ts";
import { listCapabilities } from "../qmp/commands/migration.ts";
import { formatMigrationUri } from "../qmp/migration-address.ts";
import type { MigrationInfo, MigrationStats } from "../qmp/schema/migration.ts";
import type { MaybePromise } from "../qmp/target.ts";
import { versionInfo } from "../qmp/version.ts";
import type { HmpCommand, HmpContext } from "./commands.ts";
import { formatSize } from "./size.ts";

/** Parameters of migrations that are. */
const FREE_TEXT = ["tls-creds", "tls-hostname", "cpr-exec-image", "cpr-exec-sha256"];

export const INFO_COMMANDS: readonly HmpCommand[] = [
  info("accelerators", "show the accelerators, and [which one] runs the guest", ({ target, print }) => {
    const { enabled, present } = target.accelerators();
    print(`${present.map((name) => (name === enabled ? `[${name}]` : name)).join(" ")}\n`);
  }),
  info("chardev", "show the character devices", ({ target, print }) => {
    for (const { label, filename } of target.chardevs()) print(`${label}: filename=${filename}\n`);
  }),
  info("cpus", "show infos for each CPU", ({ target, print, cpuIndex }) => {
    for (const cpu of target.cpus()) {
      const mark = cpu["cpu-index"] === cpuIndex ? "*" : " ";
      print(`${mark} CPU #${cpu["cpu-index"]}: thread_id=${cpu["thread-id"]}\n`);
    }
  }),
  info("device_modules", "show the Wasm modules of the devices", async ({ target, print }) => {
    for (const { device, instance, version, sha256, swaps, ...module } of await target.deviceModules()) {
      const origin = module["built-in"] ? "built-in" : "swapped in";
      print(`${device} ${instance}: version=${version} sha256=${sha256} swaps=${swaps} (${origin})\n`);
    }
  }),
  info("kvm", "show KVM information", ({ target, print }) => {
    const { present, enabled } = kvmInfo(target.accelerators());
    print(`kvm support: ${present ? (enabled ? "enabled" : "disabled") : "not compiled"}\n`);
  }),
  {
    names: ["migrate"],
    flags: ["a"],
    usage: "[-a]",
    help: "show migration status (-a: all, throttling included)",
    run: ({ target, print }, { flags }) => showMigration(print, target.migration.query(), flags.has("a")),
  },
  info("migrate_capabilities", "show current migration capabilities", ({ target, print }) => {
    for (const { capability, state } of listCapabilities(target.migration)) {
      print(`${capability}: ${state ? "on" : "off"}\n`);
    }
  }),
  info("migrate_parameters", "show current migration parameters", ({ target, print }) => {
    for (const [name, value] of Object.entries(target.migration.parameters())) {
      // As QEMU does: free text in quotes, words of an enumeration without.
      const words = Array.isArray(value) ? value : [FREE_TEXT.includes(name) ? `'${value}'` : value];
      print(`${[`${name}:`, ...words].join(" ")}\n`);
    }
  }),
  info("name", "show the current VM name", ({ target, print }) => {
    if (target.name !== undefined) print(`${target.name}\n`);
  }),
  {
    names: ["sandbox"],
    usage: "",
    help: "show how the VMM itself is restricted",
    run: async ({ target, print }) => {
      const { enabled, seccomp, "image-sha256": hash } = await target.sandbox();
      print(`sandbox: ${enabled ? "on" : "off"}, seccomp: ${seccomp}${hash === undefined ? "" : `, image: ${hash}`}\n`);
    },
  },
  info("status", "show the current VM status (running|paused)", ({ target, print }) => {
    const status = target.status();
    if (status === "running" || status === "paused") print(`VM status: ${status}\n`);
    else print(`VM status: paused (${status})\n`);
  }),
  info("uuid", "show the current VM UUID", ({ target, print }) => {
    print(`${target.uuid ?? "00000000-0000-0000-0000-000000000000"}\n`);
  }),
  info("version", "show the version of Baton", ({ target, print }) => {
    const { major, minor, micro } = versionInfo(target.version).qemu;
    print(`${target.version} (QMP of QEMU ${major}.${minor}.${micro})\n`);
  }),
];

function info(name: string, help: string, run: (context: HmpContext) => MaybePromise<void>): HmpCommand {
  return { names: [name], usage: "", help, run };
}

function showMigration(print: HmpContext["print"], info: MigrationInfo, showsAll: boolean): void {
  const blockers = info["blocked-reasons"] ?? [];
  if (blockers.length > 0) {
    print("Outgoing migration blocked:\n");
    for (const reason of blockers) print(`  ${reason}\n`);
  }
  if (info.status !== undefined) {
    const hasFailed = info.status === "failing" || info.status === "failed";
    const reason = hasFailed && info["error-desc"] !== undefined ? ` (${info["error-desc"]})` : "";
    print(`Status: \t\t${info.status}${reason}\n`);
  }
  if (info["total-time"]) {
    const times = [
      ["total", info["total-time"]],
      ["setup", info["setup-time"]],
      ["exp_down", info["expected-downtime"]],
      ["down", info.downtime],
    ];
    const known = times.filter(([, ms]) => ms !== undefined).map(([name, ms]) => `${name}=${ms}`);
    print(`Time (ms): \t\t${known.join(", ")}\n`);
  }
  const sockets = info["socket-address"] ?? [];
  if (sockets.length > 0) {
    const uris = sockets.map((address) => formatMigrationUri({ transport: "socket", ...address }));
    print(`Sockets: [\n${uris.map((uri) => `\t${uri}\n`).join("")}]\n`);
  }
  if (info.ram !== undefined) showRam(print, info.ram);
  const throttle = info["cpu-throttle-percentage"];
  if (showsAll && throttle !== undefined) print(`CPU Throttle (%): ${throttle}\n`);
}

function showRam(print: HmpContext["print"], ram: MigrationStats): void {
  const size = (name: keyof MigrationStats): string => formatSize(ram[name]);
  const ifAny = (name: string, value: number): string => (value === 0 ? "" : `, ${name}=${value}`);
  print("RAM info:\n");
  print(`  Throughput (Mbps): \t${ram.mbps.toFixed(2)}\n`);
  print(`  Sizes: \t\tpagesize=${size("page-size")}, total=${size("total")}\n`);
  print(`  Transfers: \t\ttransferred=${size("transferred")}, remain=${size("remaining")}\n`);
  print(`    Channels: \t\tprecopy=${size("precopy-bytes")}, multifd=${size("multifd-bytes")}`);
  print(`, postcopy=${size("postcopy-bytes")}\n`);
  print(`    Page Types: \tnormal=${ram.normal}, zero=${ram.duplicate}\n`);
  print(`  Page Rates (pps): \ttransfer=${ram["pages-per-second"]}${ifAny("dirty", ram["dirty-pages-rate"])}\n`);
  print(`  Others: \t\tdirty_syncs=${ram["dirty-sync-count"]}`);
  print(`${ifAny("downtime_bytes", ram["downtime-bytes"])}\n`);
}
