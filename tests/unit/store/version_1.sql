-- A database of schema version 1 as the release that had it wrote it (`Connection.iterdump`), and its header.
PRAGMA application_id = 1684304950;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE "account" (
   "name" TEXT PRIMARY KEY NOT NULL,
   "digest" BLOB,
   "password_hash" TEXT,
   "disabled" INTEGER NOT NULL,
   "created" REAL NOT NULL
);
INSERT INTO "account" VALUES('alice',X'000102030405060708090A0B0C0D0E0F','scrypt$2$8$1$c2FsdA$aGFzaA',0,900.0);
CREATE TABLE "lease" (
   "start" BLOB PRIMARY KEY NOT NULL,
   "length" INTEGER NOT NULL,
   "pool" TEXT NOT NULL,
   "owner" TEXT NOT NULL,
   "granted" REAL NOT NULL,
   "released" REAL
);
INSERT INTO "lease" VALUES(X'20010DB8FFFF00010000000000000002',128,'links','user:carol',1300.0,NULL);
INSERT INTO "lease" VALUES(X'20010DB8010000000000000000000000',56,'homes','user:carol',1300.0,NULL);
INSERT INTO "lease" VALUES(X'20010DB8FFFF00010000000000000003',128,'links','user:bob',1000.0,NULL);
INSERT INTO "lease" VALUES(X'20010DB8020000000000000000000000',48,'sites','user:bob',1000.0,NULL);
INSERT INTO "lease" VALUES(X'20010DB8FFFF00020000000000000002',128,'guests','anonymous:198.51.100.9:40000',1000.0,1100.0);
INSERT INTO "lease" VALUES(X'20010DB8FFFF00010000000000000004',128,'links','user:alice',1350.0,NULL);
INSERT INTO "lease" VALUES(X'20010DB8010001000000000000000000',56,'homes','user:alice',1350.0,NULL);
CREATE TABLE "lease_history" (
   "id" INTEGER PRIMARY KEY,
   "start" BLOB NOT NULL,
   "length" INTEGER NOT NULL,
   "pool" TEXT NOT NULL,
   "owner" TEXT NOT NULL,
   "granted" REAL NOT NULL,
   "released" REAL NOT NULL
);
INSERT INTO "lease_history" VALUES(1,X'20010DB8FFFF00010000000000000002',128,'links','user:alice',1000.0,1100.0);
INSERT INTO "lease_history" VALUES(2,X'20010DB8010000000000000000000000',56,'homes','user:alice',1000.0,1100.0);
CREATE TABLE "session" (
   "id" INTEGER PRIMARY KEY,
   "owner" TEXT NOT NULL,
   "user" TEXT,
   "remote_address" TEXT NOT NULL,
   "remote_port" INTEGER NOT NULL,
   "local_address" TEXT NOT NULL,
   "local_port" INTEGER NOT NULL,
   "carrier" TEXT NOT NULL,
   "encapsulation" TEXT NOT NULL,
   "address" BLOB NOT NULL,
   "prefix" BLOB,
   "prefix_length" INTEGER,
   "mtu" INTEGER NOT NULL,
   "idle_limit" REAL NOT NULL,
   "mechanism" TEXT NOT NULL,
   "client_version" TEXT NOT NULL,
   "started" REAL NOT NULL,
   "ended" REAL,
   "reason" TEXT,
   "packets_in" INTEGER NOT NULL DEFAULT 0,
   "octets_in" INTEGER NOT NULL DEFAULT 0,
   "packets_out" INTEGER NOT NULL DEFAULT 0,
   "octets_out" INTEGER NOT NULL DEFAULT 0,
   "refused" TEXT
);
INSERT INTO "session" VALUES(1,'user:alice','alice','198.51.100.7',40000,'192.0.2.1',3653,'udp','v6udpv4',X'20010DB8FFFF00010000000000000002',X'20010DB8010000000000000000000000',56,1280,180.0,'DIGEST-MD5','test 1.0',1000.0,1100.0,'idle',1,2,3,4,'{"loop": 5}');
INSERT INTO "session" VALUES(2,'user:bob','bob','198.51.100.8',40000,'192.0.2.1',3653,'udp','v6udpv4',X'20010DB8FFFF00010000000000000003',X'20010DB8020000000000000000000000',48,1280,180.0,'DIGEST-MD5','test 1.0',1000.0,NULL,NULL,10,1000,20,2000,NULL);
INSERT INTO "session" VALUES(3,'anonymous:198.51.100.9:40000',NULL,'198.51.100.9',40000,'192.0.2.1',3653,'udp','v6udpv4',X'20010DB8FFFF00020000000000000002',NULL,NULL,1280,180.0,'ANONYMOUS','test 1.0',1000.0,1100.0,'not-accepted',0,0,0,0,NULL);
INSERT INTO "session" VALUES(4,'user:carol','carol','198.51.100.10',40000,'192.0.2.1',3653,'udp','v6udpv4',X'20010DB8FFFF00010000000000000002',X'20010DB8010000000000000000000000',56,1280,180.0,'DIGEST-MD5','test 1.0',1300.0,NULL,NULL,0,0,0,0,NULL);
INSERT INTO "session" VALUES(5,'user:alice','alice','198.51.100.7',40000,'192.0.2.1',3653,'udp','v6udpv4',X'20010DB8FFFF00010000000000000004',X'20010DB8010001000000000000000000',56,1280,180.0,'DIGEST-MD5','test 1.0',1350.0,1400.0,'deleted',6,7,8,9,NULL);
CREATE UNIQUE INDEX lease_held ON lease (owner, length = 128) WHERE released IS NULL;
CREATE INDEX "lease_owner"
    ON "lease" ("owner");
CREATE INDEX "lease_rest"
    ON "lease" ("pool", "released");
CREATE INDEX "lease_history_start"
    ON "lease_history" ("start", "granted");
CREATE INDEX "lease_history_owner"
    ON "lease_history" ("owner");
CREATE INDEX "lease_history_released"
    ON "lease_history" ("released");
CREATE INDEX session_live ON session (owner) WHERE ended IS NULL;
CREATE INDEX session_ended ON session (ended) WHERE ended IS NOT NULL;
CREATE INDEX "session_owner"
    ON "session" ("owner", "started");
COMMIT;
