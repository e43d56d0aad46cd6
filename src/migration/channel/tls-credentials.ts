// SPDX-License-Identifier: Apache-2.0
// What a side of a migration shows its peer and expects of it: `-object tls-creds-x509`, read when a migration begins, so
// that certificates can be renewed under a running VM. Names of the files as in QEMU:
// https://www.qemu.org/docs/master/system/tls.html
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import type { TlsCredentialsSpec, TlsEndpoint } from "../../config/types.ts";
import { VmmError } from "../../errors.ts";

/** A chain of certificates has a few KiB. */
const MAX_FILE_SIZE_BYTES = 1 << 20;

/** All texts are PEM. */
export interface TlsCredentials {
  endpoint: TlsEndpoint;
  dir: string;
  verifyPeer: boolean;
  /** The certificates that a peer's must be signed by. */
  ca: string;
  /** A client may have none. */
  own: { certificate: string; key: string } | undefined;
}

/**
 * Reads the credentials `id`, the value of parameter `tls-creds`.
 * @throws VmmError "tls-credentials" naming the file that is missing, is no PEM, has expired or does not fit
 */
export function loadTlsCredentials(
  objects: readonly TlsCredentialsSpec[],
  id: string,
  endpoint: TlsEndpoint,
): TlsCredentials {
  const spec = objects.find((object) => object.id === id);
  if (spec === undefined) {
    throw refusal(
      `No TLS credentials with id '${id}': add -object tls-creds-x509,id=${id},endpoint=${endpoint},dir=DIR`,
    );
  }
  if (spec.endpoint !== endpoint) {
    throw refusal(`Expected TLS credentials for a ${endpoint} endpoint: '${id}' has endpoint=${spec.endpoint}`);
  }
  const { dir, verifyPeer } = spec;
  const ca = readPem(join(dir, "ca-cert.pem"));
  certificate(join(dir, "ca-cert.pem"), ca);
  return { endpoint, dir, verifyPeer, ca, own: readOwn(dir, endpoint) };
}

function readOwn(dir: string, endpoint: TlsEndpoint): TlsCredentials["own"] {
  const certificatePath = join(dir, `${endpoint}-cert.pem`);
  const keyPath = join(dir, `${endpoint}-key.pem`);
  if (endpoint === "client" && !exists(certificatePath) && !exists(keyPath)) return undefined;
  const own = { certificate: readPem(certificatePath), key: readPem(keyPath) };
  // A runtime that is given a key which does not fit may say no more than "unsupported protocol", and that to the peer.
  if (!certificate(certificatePath, own.certificate).checkPrivateKey(privateKey(keyPath, own.key))) {
    throw refusal(`The key in ${keyPath} is not that of the certificate in ${certificatePath}`);
  }
  return own;
}

function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

function readPem(path: string): string {
  try {
    const { size } = statSync(path);
    if (size > MAX_FILE_SIZE_BYTES) throw refusal(`It has ${size} bytes, at most ${MAX_FILE_SIZE_BYTES} are read`);
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw refusal(`Unable to access credentials ${path}`, cause);
  }
}

/** The first one of a chain. */
function certificate(path: string, pem: string): X509Certificate {
  let first: X509Certificate;
  try {
    first = new X509Certificate(pem);
  } catch (cause) {
    throw refusal(`${path} is no certificate in PEM form`, cause);
  }
  const now = Date.now();
  if (now < Date.parse(first.validFrom))
    throw refusal(`The certificate ${path} is not valid before ${first.validFrom}`);
  if (now > Date.parse(first.validTo)) throw refusal(`The certificate ${path} has expired on ${first.validTo}`);
  return first;
}

function privateKey(path: string, pem: string): ReturnType<typeof createPrivateKey> {
  try {
    return createPrivateKey(pem);
  } catch (cause) {
    throw refusal(`${path} is no private key in PEM form that can be read without a password`, cause);
  }
}

function refusal(message: string, cause?: unknown): VmmError {
  return new VmmError("tls-credentials", message, cause === undefined ? undefined : { cause });
}
