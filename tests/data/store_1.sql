PRAGMA page_size = 8192;
PRAGMA application_id = 1097290866;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE conversation (
            thread INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            owner TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            open TEXT,
            metadata TEXT NOT NULL,
            UNIQUE (owner, id)
        ) STRICT
        ;
INSERT INTO "conversation" VALUES(5,'conv_1','',1,NULL,'{}');
CREATE TABLE entry (
            key INTEGER PRIMARY KEY,
            item TEXT NOT NULL,
            issued INTEGER NOT NULL,
            dropped INTEGER,
            data TEXT NOT NULL
        ) STRICT
        ;
INSERT INTO "entry" VALUES(16777217,'in_a',1,NULL,'{"id":"in_a","text":""}');
INSERT INTO "entry" VALUES(16777218,'out_a',1,NULL,'{"id":"out_a","text":""}');
INSERT INTO "entry" VALUES(16777219,'in_b',1,NULL,'{"id":"in_b","text":""}');
INSERT INTO "entry" VALUES(16777220,'out_b',1,NULL,'{"id":"out_b","text":""}');
INSERT INTO "entry" VALUES(33554435,'in_fork',1,NULL,'{"id":"in_fork","text":""}');
INSERT INTO "entry" VALUES(33554436,'out_fork',1,NULL,'{"id":"out_fork","text":""}');
INSERT INTO "entry" VALUES(50331649,'in_gone',1,NULL,'{"id":"in_gone","text":""}');
INSERT INTO "entry" VALUES(50331650,'out_gone',1,NULL,'{"id":"out_gone","text":""}');
INSERT INTO "entry" VALUES(50331651,'in_gone_too',1,NULL,'{"id":"in_gone_too","text":""}');
INSERT INTO "entry" VALUES(50331652,'out_gone_too',1,NULL,'{"id":"out_gone_too","text":""}');
INSERT INTO "entry" VALUES(67108867,'in_gone_fork',1,NULL,'{"id":"in_gone_fork","text":""}');
INSERT INTO "entry" VALUES(67108868,'out_gone_fork',1,NULL,'{"id":"out_gone_fork","text":""}');
INSERT INTO "entry" VALUES(83886081,'x',1,NULL,'{"id":"x","text":""}');
INSERT INTO "entry" VALUES(83886082,'y',1,5,'{"id":"y","text":""}');
INSERT INTO "entry" VALUES(83886083,'in_c',1,NULL,'{"id":"in_c","text":""}');
INSERT INTO "entry" VALUES(83886084,'out_c',1,NULL,'{"id":"out_c","text":""}');
INSERT INTO "entry" VALUES(83886086,'z',1,NULL,'{"id":"z","text":""}');
INSERT INTO "entry" VALUES(83886087,'w',1,8,'{"id":"w","text":""}');
INSERT INTO "entry" VALUES(100663297,'dead',1,NULL,'{"id":"dead","text":""}');
INSERT INTO "entry" VALUES(117440513,'k1',1,NULL,'{"id":"k1","text":""}');
INSERT INTO "entry" VALUES(117440514,'k2',1,NULL,'{"id":"k2","text":""}');
CREATE TABLE event (
            response INTEGER PRIMARY KEY,
            created_at INTEGER NOT NULL,
            data BLOB NOT NULL
        ) STRICT
        ;
INSERT INTO "event" VALUES(5,1,X'78014B492C49B45230E4E202000E5A023A');
CREATE TABLE response (
            key INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            owner TEXT NOT NULL,
            thread INTEGER,
            base INTEGER,
            first INTEGER,
            last INTEGER,
            conversation INTEGER,
            status TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            open TEXT,
            pending TEXT,
            body TEXT NOT NULL,
            fingerprint BLOB,
            UNIQUE (owner, id)
        ) STRICT
        ;
INSERT INTO "response" VALUES(1,'a','',1,0,2,2,NULL,'completed',1,NULL,NULL,'{}',NULL);
INSERT INTO "response" VALUES(2,'b','',1,2,4,4,NULL,'completed',1,NULL,NULL,'{}',NULL);
INSERT INTO "response" VALUES(3,'fork','',2,2,4,4,NULL,'completed',1,NULL,NULL,'{}',NULL);
INSERT INTO "response" VALUES(4,'c','',5,2,4,4,5,'completed',1,NULL,NULL,'{}',NULL);
INSERT INTO "response" VALUES(5,'kept','',7,0,2,2,NULL,'completed',1,NULL,NULL,'{"id":"kept"}',X'00FF7072696E74');
INSERT INTO "response" VALUES(6,'running','',1,4,NULL,NULL,NULL,'in_progress',1,NULL,'[["r1",true,{"id":"r1","text":""}]]','{"status":"in_progress"}',NULL);
CREATE TABLE thread (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            owner TEXT NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('chain', 'conversation')),
            parent INTEGER,
            fork INTEGER NOT NULL,
            head INTEGER NOT NULL
        ) STRICT
        ;
INSERT INTO "thread" VALUES(1,'','chain',NULL,0,4);
INSERT INTO "thread" VALUES(2,'','chain',1,2,4);
INSERT INTO "thread" VALUES(3,'','chain',NULL,0,4);
INSERT INTO "thread" VALUES(4,'','chain',3,2,4);
INSERT INTO "thread" VALUES(5,'','conversation',NULL,0,8);
INSERT INTO "thread" VALUES(6,'','conversation',NULL,0,1);
INSERT INTO "thread" VALUES(7,'','chain',NULL,0,2);
CREATE INDEX thread_parent ON thread (parent) WHERE parent IS NOT NULL;
CREATE INDEX entry_item ON entry (item, issued);
CREATE INDEX response_owner ON response (owner, key);
CREATE INDEX response_thread ON response (thread);
CREATE INDEX response_pending ON response (key) WHERE pending IS NOT NULL;
CREATE INDEX conversation_owner ON conversation (owner, thread);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('thread',7);
COMMIT;
