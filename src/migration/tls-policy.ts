// SPDX-License-Identifier: Apache-2.0
// Whether a migration goes over TLS, and which ones cannot: parameters `tls-creds` and `tls-hostname`.
import type { MigrationAddress, TlsCredentialsSpec, TlsEndpoint } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { formatMigrationUri } from "../qmp/migration-address.ts";
import type { MigMode, MigrationCapability, MigrationParameters } from "../qmp/schema/migration.ts";
import { TlsTunnels } from "./channel/tls.ts";
import { loadTlsCredentials } from "./channel/tls-credentials.ts";
import { isInetOrUnix } from "./channel/transport.ts";

export interface TlsOccasion {
  endpoint: TlsEndpoint;
  address: MigrationAddress | undefined;
  mode: MigMode;
  /** The objects of this VM. */
  tlsCredentials: readonly TlsCredentialsSpec[];
}

/**
 * What the connections of a migration are secured with; undefined when `tls-creds` is empty.
 * @throws VmmError "tls" for what would go unprotected though it was asked for, "tls-credentials"
 */
export function tlsOf(
  { endpoint, address, mode, tlsCredentials }: TlsOccasion,
  parameters: MigrationParameters,
  capabilities: Readonly<Record<MigrationCapability, boolean>>,
): TlsTunnels | undefined {
  const id = parameters["tls-creds"];
  if (id === "") return undefined;
  const refuse = (what: string): VmmError =>
    new VmmError("tls", `TLS cannot be used ${what}; migrate-set-parameters tls-creds="" turns it off`);
  if (mode === "cpr-exec" || mode === "cpr-transfer") throw refuse(`with mode ${mode}, which never leaves the host`);
  if (capabilities["x-ignore-shared"]) throw refuse("with x-ignore-shared, whose RAM never leaves the host");
  if (address === undefined || !isInetOrUnix(address)) {
    const uri = address === undefined ? "no address" : formatMigrationUri(address);
    throw refuse(`with ${uri}, but with tcp: and unix: only`);
  }
  const credentials = loadTlsCredentials(tlsCredentials, id, endpoint);
  const hostname = parameters["tls-hostname"] || (address.type === "inet" ? address.host : "");
  if (endpoint === "client" && credentials.verifyPeer && hostname === "") {
    const uri = formatMigrationUri(address);
    throw new VmmError("tls", `No hostname for certificate validation: ${uri} has none, set parameter tls-hostname`);
  }
  return new TlsTunnels(credentials, hostname);
}
