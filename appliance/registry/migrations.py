"""The database's shape, as numbered steps. A step that was released is never changed.

`PRAGMA user_version` is the number of the last step taken; see store.py.
"""

from __future__ import annotations

STEPS: tuple[str, ...] = (
    # 1
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE texts (                   -- documents, as JSON, by its SHA-256
    hash BLOB PRIMARY KEY, text TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE revisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL, by TEXT NOT NULL, summary TEXT NOT NULL,
    state TEXT NOT NULL,               -- publishing, applied, pending, reverted, refused
    reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE revision_documents (
    revision INTEGER NOT NULL REFERENCES revisions (id) ON DELETE CASCADE,
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    generation INTEGER NOT NULL,
    hash BLOB NOT NULL REFERENCES texts (hash),
    PRIMARY KEY (revision, kind, namespace, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX revision_documents_hash ON revision_documents (hash);
CREATE TABLE pending (                 -- a change that reverts unless it is confirmed
    one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL, previous INTEGER NOT NULL,
    deadline INTEGER NOT NULL, by TEXT NOT NULL
) STRICT;

CREATE TABLE hosts (
    name TEXT PRIMARY KEY, namespace TEXT NOT NULL, service_account TEXT NOT NULL,
    kind TEXT NOT NULL, state TEXT NOT NULL, grade INTEGER NOT NULL,
    addresses TEXT NOT NULL, mac TEXT, interface TEXT, agent_port INTEGER NOT NULL,
    labels TEXT NOT NULL, serial TEXT, not_after INTEGER, added INTEGER NOT NULL,
    key_hash TEXT                      -- of the public key that it enrolled with
) STRICT, WITHOUT ROWID;
CREATE TABLE services (
    name TEXT NOT NULL, namespace TEXT NOT NULL, service_account TEXT NOT NULL,
    ports TEXT NOT NULL, labels TEXT NOT NULL, exported INTEGER NOT NULL,
    health TEXT, source_address TEXT NOT NULL,
    PRIMARY KEY (name, namespace)
) STRICT, WITHOUT ROWID;
CREATE TABLE endpoints (
    service TEXT NOT NULL, host TEXT NOT NULL REFERENCES hosts (name) ON DELETE CASCADE,
    ports TEXT NOT NULL, weight INTEGER NOT NULL,
    PRIMARY KEY (service, host)
) STRICT, WITHOUT ROWID;

CREATE TABLE codes (                   -- only the hash of a code is kept
    hash TEXT PRIMARY KEY, purpose TEXT NOT NULL, subject TEXT NOT NULL,
    expires INTEGER NOT NULL, used_by TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE peers (
    name TEXT PRIMARY KEY, trust_domain TEXT NOT NULL UNIQUE, appliance TEXT NOT NULL,
    bundle_pem TEXT NOT NULL,
    mesh_addresses TEXT NOT NULL, mesh_port INTEGER NOT NULL,
    peering_address TEXT NOT NULL, peering_port INTEGER NOT NULL,
    last_seen INTEGER NOT NULL, imports TEXT NOT NULL,
    revocations_heard INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE vips (                    -- freed ones are not given to another within a day
    address TEXT PRIMARY KEY, family INTEGER NOT NULL, number INTEGER NOT NULL,
    key TEXT NOT NULL, freed INTEGER,
    UNIQUE (key, family)
) STRICT, WITHOUT ROWID;
CREATE INDEX vips_number ON vips (family, number);
CREATE TABLE sets (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE) STRICT;

CREATE TABLE revocations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL,
    trust_domain TEXT NOT NULL, serial TEXT, spiffe_id TEXT, host TEXT NOT NULL,
    UNIQUE (trust_domain, serial, spiffe_id)
) STRICT;
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL,
    who TEXT NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL
) STRICT;
""",
    # 2
    """
CREATE TABLE leaves (                  -- hosts' own, until they run out: all that to revoke means
    serial TEXT PRIMARY KEY,
    host TEXT NOT NULL REFERENCES hosts (name) ON DELETE CASCADE,
    not_after INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX leaves_host ON leaves (host);
INSERT INTO leaves SELECT serial, name, not_after FROM hosts
    WHERE serial IS NOT NULL AND not_after IS NOT NULL;
""",
    # 3
    """
CREATE TABLE nic_settings (            -- what we changed on devices, so that it can be put back
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    interface TEXT NOT NULL, device TEXT NOT NULL, setting TEXT NOT NULL,
    before INTEGER NOT NULL, after INTEGER NOT NULL,
    UNIQUE (interface, setting)
) STRICT;
""",
    # 4
    """
CREATE TABLE nic_values (              -- the same; an interrupt's value is a list of processors
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    interface TEXT NOT NULL, device TEXT NOT NULL, setting TEXT NOT NULL,
    before ANY NOT NULL, after ANY NOT NULL,
    UNIQUE (interface, setting)
) STRICT;
INSERT INTO nic_values SELECT id, interface, device, setting, before, after FROM nic_settings;
DROP TABLE nic_settings;
ALTER TABLE nic_values RENAME TO nic_settings;
""",
)
