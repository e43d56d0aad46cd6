// SPDX-License-Identifier: Apache-2.0
// An unmodified Debian kernel at work while the VMM under it is updated by every mode, with everything going wrong that can:
// test/chaos/ with another guest. The lab is a whole machine, so that the host's clock is set, too.
//
//   linux-chaos.ts [UPDATES] [SEED] [SERIES] [CPUS]
//
// The console is a pipe that each VMM writes to, one after the other.
import type { ChaosGuest } from "../../chaos/guest.ts";
import { runChaos } from "../../chaos/run.ts";
import { GuestProcess } from "../../guest.ts";
import { findAssets, type GuestSeries, missingGuestKernel } from "../assets.ts";
import { guestInitrdPath } from "../initramfs.ts";
import { checkUptime, makeConsole, type PipeConsole } from "../pipe-console.ts";
import { check, Skip, scenario, until } from "../scenario.ts";
import { countRounds } from "../workload.ts";

/** With them the scenario takes some two minutes. */
const DEFAULT_UPDATES = "6";
/** In hundredths of a second, and less than the clock is stepped by. On a busy machine pauses are long; `checkUptime` knows better. */
const LONGEST_PAUSE = 300_000;
/** In microseconds, between two rounds: most of the one CPU that there is goes to the guest all the same. */
const REST = 500_000;
const RAM = "128M";
/** What starts in a tenth of a second elsewhere takes a second or two in the emulated machine. */
const SLOWNESS = 8;
const BOOT_TIMEOUT_MS = 240_000;
const STEP_TIMEOUT_MS = 240_000;
const POLL_MS = 100;

const [updates = DEFAULT_UPDATES, seed = String(Date.now() % 2 ** 31), series = "6.12", cpus = "2"] =
  process.argv.slice(2) as [string?, string?, GuestSeries?, string?];

function linux(kernelPath: string, cpuCount: number, { backends, transcript, tail }: PipeConsole): ChaosGuest {
  let beginMs = 0;
  return {
    backends,
    async start() {
      beginMs = performance.now();
      const vmm = new GuestProcess({
        bare: true,
        extra: [
          ...["-accel", "kvm", "-machine", "microvm,memory-backend=ram0", "-m", RAM, "-smp", String(cpuCount)],
          ...["-object", `memory-backend-memfd,id=ram0,size=${RAM},share=on`, "-no-reboot"],
          ...["-kernel", kernelPath, "-initrd", guestInitrdPath],
          ...["-append", `console=ttyS0 quiet panic=-1 WATCH_KERNEL=yes LONGEST_PAUSE=${LONGEST_PAUSE} REST=${REST}`],
          ...backends,
        ],
      });
      const ready = await until(
        () => {
          check(!vmm.hasEnded, `The VMM has ended: ${vmm.error}`);
          return vmm.openRam() === undefined ? undefined : /guest: ready ([^\r]*)\r\n/.exec(transcript())?.[1];
        },
        BOOT_TIMEOUT_MS,
        () => `The guest does not come up\n${tail()}`,
        POLL_MS,
      );
      console.log(`Guest ready: ${ready}`);
      check(ready.includes(`cpus ${cpuCount} `), `The guest sees another number of CPUs than ${cpuCount}`);
      return vmm;
    },
    async goesOn(owner) {
      check(owner.openRam() !== undefined, "The VMM has no RAM");
      const before = countRounds(transcript(), cpuCount);
      await until(
        () => {
          check(!owner.hasEnded, `The VMM has ended: ${owner.error}`);
          // More than the one that was under way.
          const now = countRounds(transcript(), cpuCount);
          return now.every((rounds, cpu) => rounds > before[cpu]! + 1) ? true : undefined;
        },
        STEP_TIMEOUT_MS,
        () => `The workload stands still\n${tail()}`,
        POLL_MS,
      );
      checkUptime(transcript(), beginMs);
    },
    report: () => `ran ${countRounds(transcript(), cpuCount).join(" and ")} rounds of checks and found 0 errors`,
  };
}

await scenario(async () => {
  const found = findAssets();
  if (!found.ok) throw new Skip(found.reason);
  const missing = missingGuestKernel(found.assets, series);
  if (missing !== undefined) throw new Skip(missing);
  const begin = performance.now();
  using terminal = makeConsole();
  const { table, summary } = await runChaos({
    updates: Number(updates),
    seed: Number(seed),
    onRound: (text) => console.log(`${((performance.now() - begin) / 1000).toFixed(0).padStart(5)} s  ${text}`),
    guest: linux(found.assets.guestKernels[series]!.imagePath, Number(cpus), terminal),
    runtimes: ["compiled"],
    slowness: SLOWNESS,
    mayStepClock: true,
  });
  console.log(`\n${table}\n\n${summary}`);
});
