// SPDX-License-Identifier: Apache-2.0
// cpr-exec as `migrate` asks for it: prepares, and tries again when the guest wants something in the wrong moment. The
// update itself is in cpr-exec.ts.
import type { MigrationAddress } from "../config/types.ts";
import { isGuestRequest } from "../machine/guest-request.ts";
import type { Reactor } from "../runtime/reactor.ts";
import { warmUp } from "../runtime/warm-up.ts";
import { commitCprExec, fdsToKeep, prepareCprExec } from "./cpr-exec.ts";
import type { Prediction } from "./dry-run.ts";
import type { ExecImage } from "./exec-image.ts";
import { Guard } from "./guard.ts";
import type { Outgoing } from "./outgoing.ts";
import type { PauseHistory } from "./pause-history.ts";
import { refuseLatePause, refuseLongPause } from "./pause-limit.ts";
import { allReaped } from "./reaping.ts";
import { shareRam } from "./share-ram.ts";

/** How often an update starts its pause again when the guest asks for a reset, say, in the moment before it. */
const MAX_ATTEMPTS = 3;

export interface ExecUpdateOptions {
  startsBaton: boolean;
  /** The program, if it is not to be found by the command's first word; this update's to close. */
  image: ExecImage | undefined;
  generation: number;
  history: PauseHistory;
  reactor: Reactor;
  /** Of a dry run of the same update, if there was one. */
  prediction: Prediction | undefined;
  /** Makes that dry run. @throws VmmError when the update would not work */
  predict(signal: AbortSignal): Promise<Prediction>;
}

/**
 * Replaces this process. Returns only by throwing: then the guest is here, stopped if `run` has noted that.
 * @param file where a copy of the state goes
 */
export async function updateByExec(
  run: Outgoing,
  file: Extract<MigrationAddress, { transport: "file" }> | undefined,
  { startsBaton, image, generation, history, reactor, prediction, predict }: ExecUpdateOptions,
): Promise<never> {
  const { vm, connections, progress } = run;
  if (image !== undefined) {
    run.onFailure(() => image.close());
    await image.verify(run.signal);
  }
  const limitMs = run.parameters["pause-limit"];
  const predicted = limitMs === 0 ? prediction : await predict(run.signal);
  progress.predictedUs = predicted?.totalUs;
  if (predicted !== undefined) refuseLongPause(predicted.totalUs, limitMs);
  const prepared = prepareCprExec({
    command: run.parameters["cpr-exec-command"],
    ...(image === undefined ? {} : { programFd: image.fd }),
    ...(file === undefined ? {} : { file }),
  });
  run.onFailure(() => prepared.discard());
  await shareRam(run);
  // It starts while the new program is warmed up.
  const guard = startGuard(run, prepared.ownProgramFd, reactor);
  if (startsBaton) await warmUp(prepared.program);
  await guard?.awake(run.signal);
  run.refuseToGoOn();
  run.atEnd(() => connections.thaw());
  await connections.freeze();
  await guard?.entrust(fdsToKeep(vm, connections.save().fds, prepared), prepared.stateFd, run.signal);
  for (let attempt = 1; ; attempt++) {
    await allReaped();
    await vm.whenSettled();
    run.refuseToGoOn();
    progress.setupDone();
    try {
      commitCprExec(vm, connections, prepared, {
        beforePause: () => {
          // Clients get these when the guest runs again; told now, they would lengthen the pause.
          run.noteStop();
          if (vm.isRunning) vm.events.emit("STOP");
          progress.enter("active");
          progress.pass(2);
          progress.enter("device");
        },
        // Once the new program runs, going back would take as long as going on.
        afterSave: (elapsedMs) => refuseLatePause(elapsedMs, (predicted?.newUs ?? 0) / 1000, limitMs),
        guard,
        migration: {
          startedMs: progress.startedMs,
          setupMs: progress.setupMs,
          generation,
          history,
          ...(predicted === undefined ? {} : { predictedUs: predicted.totalUs, estimateUs: predicted.estimateUs }),
          events: run.capabilities.events,
          parameters: run.parameters,
        },
      });
    } catch (error) {
      if (!isGuestRequest(error) || attempt === MAX_ATTEMPTS) throw error;
      // What the guest asked for in the moment before it stood is done first.
      run.resumeGuest();
    }
  }
}

function startGuard(run: Outgoing, programFd: number, reactor: Reactor): Guard | undefined {
  const timeoutMs = run.parameters["guard-timeout"];
  if (timeoutMs === 0) return undefined;
  const guard = Guard.start({ programFd, timeoutMs, reactor });
  run.onFailure(() => guard.discard());
  return guard;
}
