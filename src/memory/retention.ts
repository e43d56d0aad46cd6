// SPDX-License-Identifier: Apache-2.0
// Guest RAM in a memfd that outlives a kexec of the host, by the kernel's Live Update Orchestrator.
//
// | kernel | step | what |
// |---|---|---|
// | old | guest is stopped | `retainRam`: a session gets the memfd; the kernel allocates and pins all its pages |
// | old | kexec | the session must still be open: it ends with the last process that has its fd, and the RAM with it |
// | new | state file is read and checked | `retrieveRam`: there is one try, and what ends this process ends the RAM |
// | new | RAM is mapped | `finish`: the memfd is one like any other |
//
// Linux keeps contents, size and, newer ones, seals (mm/memfd_luo.c). It gives no promise yet that a kernel of another
// version can read what an old one left.
import { SysError } from "../../ffi/error.ts";
import { close, fdPath, fileSystemType, HUGETLBFS_MAGIC, status, TMPFS_MAGIC } from "../../ffi/fd.ts";
import { sleep } from "../../ffi/futex.ts";
import { LIVEUPDATE_DEVICE, LIVEUPDATE_SESSION_NAME_LENGTH } from "../../ffi/liveupdate/abi.ts";
import {
  createSession,
  finishSession,
  openLiveUpdate,
  preserveFd,
  retrieveFd,
  retrieveSession,
} from "../../ffi/liveupdate/liveupdate.ts";
import { VmmError } from "../errors.ts";

/** Sessions of all programs of a host share one space of names. */
const SESSION_PREFIX = "baton-";
/** What the session calls the RAM. */
const RAM_TOKEN = 1n;

/** Another VM's process has the device open for some microseconds; an agent has it for good. */
const BUSY_TRIES = 20;
const BUSY_PAUSE_MS = 5;

/** Whether RAM in a memfd can outlive a kexec of this host, and if not, why. */
export type Retention = { ok: true; by: "luo" } | { ok: false; problem: VmmError };

/** A VM's RAM, promised to the next kernel. */
export interface RetainedRam {
  sessionName: string;
  /** Close-on-exec. Whoever is to hold the RAM when this process ends, as systemd's fd store can, gets a duplicate. */
  sessionFd: number;
  /** Gives the promise up, unless another process has the session's fd too: the RAM is an ordinary memfd again. */
  close(): void;
}

/** A VM's RAM, taken over from the last kernel. */
export interface RetrievedRam {
  /** The memfd, close-on-exec, now the caller's. */
  ramFd: number;
  sizeBytes: number;
  /** Ends the session. The RAM then lives as long as its fd and its mappings, as any memfd does. */
  finish(): void;
}

/** Tries the device without changing anything: for what a VM tells before anybody counts on it. */
export function findRetention(devicePath: string = LIVEUPDATE_DEVICE): Retention {
  try {
    close(openLiveUpdate(devicePath));
    return { ok: true, by: "luo" };
  } catch (error) {
    return { ok: false, problem: deviceProblem(devicePath, error) };
  }
}

/**
 * Has the memfd `ramFd` outlive the next kexec as the RAM of the VM `name` (its UUID, say; unique on the host). While
 * it is retained its size cannot change. Holes are filled: the host needs memory for all of the RAM. The guest should be
 * stopped: the first kernels with LUO lose what is written afterwards to pages that nobody had used.
 * @throws VmmError "luo-absent", "luo-denied", "luo-busy", "luo-failed" (the device); "session-name", "session-exists";
 *   "ram-not-memfd", "ram-hugetlb", "ram-retained", "ram-refused" (the RAM)
 */
export function retainRam(request: { name: string; ramFd: number; devicePath?: string }): RetainedRam {
  const { ramFd } = request;
  const sessionName = sessionNameOf(request.name);
  checkRam(ramFd);
  const sessionFd = withDevice(request.devicePath, (deviceFd) => createNamed(deviceFd, sessionName));
  try {
    preserveFd(sessionFd, ramFd, RAM_TOKEN);
  } catch (error) {
    close(sessionFd);
    throw ramProblem(ramFd, error);
  }
  return { sessionName, sessionFd, close: once(() => close(sessionFd)) };
}

/**
 * Takes over the RAM that the VM `name` retained in the last kernel. There is one try: from here on the RAM is lost when
 * this process ends, so the caller makes sure beforehand that the state fits its configuration.
 * @throws VmmError "luo-absent", "luo-denied", "luo-busy", "luo-failed" (the device); "session-name"; "session-absent":
 *   nothing was retained under that name; "session-taken"; "ram-lost": the kernel cannot give the memfd back
 */
export function retrieveRam(request: { name: string; devicePath?: string }): RetrievedRam {
  const sessionName = sessionNameOf(request.name);
  const sessionFd = withDevice(request.devicePath, (deviceFd) => takeNamed(deviceFd, sessionName));
  try {
    const ramFd = retrieveFd(sessionFd, RAM_TOKEN);
    const finish = once(() => {
      finishSession(sessionFd);
      close(sessionFd);
    });
    return { ramFd, sizeBytes: status(ramFd).sizeBytes, finish };
  } catch (error) {
    close(sessionFd);
    throw new VmmError("ram-lost", `RAM cannot be had back from live update session '${sessionName}': it is lost`, {
      cause: error,
    });
  }
}

function once(action: () => void): () => void {
  let isDone = false;
  return () => {
    if (isDone) return;
    action();
    isDone = true;
  };
}

function sessionNameOf(name: string): string {
  const sessionName = `${SESSION_PREFIX}${name}`;
  const maximumBytes = LIVEUPDATE_SESSION_NAME_LENGTH - 1;
  if (name === "" || name.includes("\0") || new TextEncoder().encode(sessionName).length > maximumBytes) {
    throw new VmmError(
      "session-name",
      `'${name}' cannot name a live update session: it takes 1 to ${maximumBytes - SESSION_PREFIX.length} bytes without NUL (a UUID fits)`,
    );
  }
  return sessionName;
}

/** The VM name that `retainRam` made this session for. @throws VmmError "session-name" when it is not one of ours */
export function nameOfSession(sessionName: string): string {
  if (sessionName.startsWith(SESSION_PREFIX)) return sessionName.slice(SESSION_PREFIX.length);
  throw new VmmError(
    "session-name",
    `Live update session '${sessionName}' is not Baton's: it begins with no '${SESSION_PREFIX}'`,
  );
}

/** Says in our words what the kernel would answer with a bare ENOENT. */
function checkRam(ramFd: number): void {
  const type = fileSystemType(ramFd);
  if (type === TMPFS_MAGIC) return;
  if (type === HUGETLBFS_MAGIC) {
    throw new VmmError(
      "ram-hugetlb",
      "RAM in huge pages of hugetlbfs does not survive a reboot: Linux retains memfds of ordinary pages; leave out hugetlb=on",
    );
  }
  throw new VmmError(
    "ram-not-memfd",
    `RAM in ${fdPath(ramFd)} is not in a memfd, and no other file can be retained; a file on DAX or a disk keeps itself`,
  );
}

function ramProblem(ramFd: number, cause: unknown): VmmError {
  const path = fdPath(ramFd);
  switch (cause instanceof SysError ? cause.code : undefined) {
    case "ENOENT":
      return new VmmError(
        "ram-not-memfd",
        `The kernel retains memfds only (CONFIG_LIVEUPDATE_MEMFD), not files with a name: RAM is in ${path}`,
        { cause },
      );
    case "EBUSY":
      return new VmmError("ram-retained", `RAM in ${path} is in a live update session already`, { cause });
    case "ENOMEM":
      return new VmmError(
        "ram-refused",
        `The host lacks memory to retain RAM in ${path}: all of its ${status(ramFd).sizeBytes} bytes get pages`,
        { cause },
      );
    default:
      return new VmmError("ram-refused", `RAM in ${path} cannot be retained`, { cause });
  }
}

function createNamed(deviceFd: number, sessionName: string): number {
  try {
    return createSession(deviceFd, sessionName);
  } catch (cause) {
    if (cause instanceof SysError && cause.code === "EEXIST") {
      throw new VmmError(
        "session-exists",
        `There is a live update session '${sessionName}' already: a VM of that name runs, or somebody holds its session`,
        { cause },
      );
    }
    throw new VmmError("luo-failed", `Live update session '${sessionName}' cannot be created`, { cause });
  }
}

function takeNamed(deviceFd: number, sessionName: string): number {
  try {
    return retrieveSession(deviceFd, sessionName);
  } catch (cause) {
    const code = cause instanceof SysError ? cause.code : undefined;
    if (code === "ENOENT") {
      throw new VmmError(
        "session-absent",
        `The last kernel left no live update session '${sessionName}': did the host boot by kexec, while the VMM that held it lived?`,
        { cause },
      );
    }
    if (code === "EINVAL") {
      throw new VmmError("session-taken", `Live update session '${sessionName}' was taken over already`, { cause });
    }
    throw new VmmError("luo-failed", `Live update session '${sessionName}' cannot be retrieved`, { cause });
  }
}

/** Runs `action` with the device open, and closes it: others want it, and sessions live on without it. */
function withDevice(path: string | undefined, action: (deviceFd: number) => number): number {
  const deviceFd = openWhenFree(path ?? LIVEUPDATE_DEVICE);
  try {
    return action(deviceFd);
  } finally {
    close(deviceFd);
  }
}

function openWhenFree(path: string): number {
  for (let tries = 1; ; tries++) {
    try {
      return openLiveUpdate(path);
    } catch (error) {
      const isBusy = error instanceof SysError && error.code === "EBUSY";
      if (!isBusy || tries === BUSY_TRIES) throw deviceProblem(path, error);
      sleep(BUSY_PAUSE_MS);
    }
  }
}

function deviceProblem(path: string, cause: unknown): VmmError {
  switch (cause instanceof SysError ? cause.code : undefined) {
    case "ENOENT":
      return new VmmError(
        "luo-absent",
        `RAM in a memfd does not survive a reboot on this host: no ${path} (Linux ≥ 6.19 with CONFIG_LIVEUPDATE, booted with kho=on liveupdate=on); use memory-backend-file on DAX, or save without x-ignore-shared`,
        { cause },
      );
    case "EACCES":
    case "EPERM":
      return new VmmError(
        "luo-denied",
        `${path} may not be opened: it is root's; run as root, or change its owner by a udev rule`,
        { cause },
      );
    case "EBUSY":
      return new VmmError(
        "luo-busy",
        `${path} is open in another process, and only one may have it: try again, or stop the agent that holds it`,
        { cause },
      );
    case "EIO":
      return new VmmError(
        "luo-failed",
        `${path} cannot read what the last kernel left: nothing can be retrieved or retained until the host boots anew`,
        { cause },
      );
    default:
      return new VmmError("luo-failed", `${path} cannot be opened`, { cause });
  }
}
