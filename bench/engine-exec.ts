// SPDX-License-Identifier: Apache-2.0
// The pause of cpr-exec on the engine beside that on KVM.
import { MeasuredVm } from "../src/meter/measured-vm.ts";
import { sleep } from "../src/meter/vmm-process.ts";
import { compareAccelerators } from "./engine-pause/compare.ts";
import type { Subject } from "./types.ts";

/** Until the old program's memory is given back. */
const SETTLE_MS = 100;
/** For each window in which the meter had no core of its own. */
const ATTEMPTS = 3;

export const subject: Subject = {
  description: "guest-observed pause of cpr-exec with -accel wasm beside -accel kvm (needs /dev/kvm)",
  run: (options) =>
    compareAccelerators(
      "engine-exec",
      async (command, ramSizeBytes) => {
        const vm = await MeasuredVm.start({ command, ramSizeBytes, cpuCount: 1 });
        return {
          update: async () => {
            for (let attempt = 1; ; attempt++) {
              await sleep(SETTLE_MS);
              const { pauseMs, isDisturbed, info } = await vm.update();
              if (!isDisturbed || attempt === ATTEMPTS) return { pauseMs, info };
            }
          },
          faults: () => vm.faults(),
          [Symbol.asyncDispose]: () => vm.close(),
        };
      },
      options,
    ),
};
