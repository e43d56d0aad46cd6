// SPDX-License-Identifier: Apache-2.0
// -object tls-creds-x509: what a migration over TLS shows its peer and expects of it.
import type { Properties } from "./qemu-options.ts";
import type { TlsCredentialsSpec, TlsEndpoint } from "./types.ts";

const ENDPOINTS: readonly TlsEndpoint[] = ["client", "server"];
const ONLY_X509 = "Baton has TLS with X.509 certificates only: use tls-creds-x509";

/** Refuses the other kinds of credentials that QEMU has. */
export function refuseOtherTls(properties: Properties): void {
  const qomType = properties.text("qom-type");
  if (qomType === "tls-creds-psk" || qomType === "tls-creds-anon" || qomType === "tls-cipher-suites") {
    properties.fail(`'${qomType}' is not supported: ${ONLY_X509}`);
  }
}

/** The rest of an object of that type. The files are read when a migration begins. */
export function readTlsCredentials(properties: Properties, id: string): TlsCredentialsSpec {
  const endpoint = properties.choice("endpoint", ENDPOINTS);
  if (endpoint === undefined) properties.fail(`Parameter 'endpoint' is missing; accepted: ${ENDPOINTS.join(", ")}`);
  const dir = properties.nonEmpty("dir");
  if (dir === undefined) properties.fail("Parameter 'dir' is missing");
  const verifyPeer = properties.switch("verify-peer") ?? true;
  properties.refuseOthers({
    priority: "it is TLS 1.3 with the runtime's ciphers",
    passwordid: "the key must be readable without a password",
    "sanity-check": "the certificates are checked when a migration begins",
  });
  return { qomType: "tls-creds-x509", id, endpoint, dir, verifyPeer };
}
