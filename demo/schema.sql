-- The application's own schema: customers' accounts, their seals, and one journal line for each
-- thing a teller did. Nothing here knows of seal_sync; cluster_id says which application cluster
-- (which group of branches) a row belongs to. Account numbers start with the branch group's prefix
-- and operation ids with the cluster's letter, so keys made on both sides never collide.

CREATE ROLE bank NOLOGIN;                       -- owns the tables
CREATE ROLE teller LOGIN;                       -- what the applications log in as
GRANT CREATE, USAGE ON SCHEMA public TO bank;
SET ROLE bank;

CREATE TABLE public.account (
    cluster_id text NOT NULL,
    account_no text NOT NULL PRIMARY KEY,
    holder text NOT NULL,
    status text NOT NULL CHECK (status IN ('open', 'dormant')),
    opened_at timestamptz NOT NULL DEFAULT now(),
    last_op text NOT NULL
);

CREATE TABLE public.seal (
    cluster_id text NOT NULL,
    account_no text NOT NULL REFERENCES public.account ON DELETE CASCADE,
    seal_no smallint NOT NULL,
    kind text NOT NULL,
    version integer NOT NULL,
    status text NOT NULL CHECK (status IN ('valid', 'frozen', 'lost')),
    registered_at timestamptz NOT NULL DEFAULT now(),
    image bytea NOT NULL,
    last_op text NOT NULL,
    PRIMARY KEY (account_no, seal_no)
);
ALTER TABLE public.seal ALTER COLUMN image SET STORAGE EXTERNAL;     -- PNG is compressed already
CREATE INDEX seal_status ON public.seal (status) WHERE status <> 'valid';

CREATE TABLE public.journal (
    cluster_id text NOT NULL,
    op text NOT NULL PRIMARY KEY,
    action text NOT NULL,
    account_no text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE, DELETE ON public.account, public.seal TO teller;
GRANT SELECT, INSERT ON public.journal TO teller;
RESET ROLE;
