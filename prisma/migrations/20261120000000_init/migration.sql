-- genmux: the whole schema. Money is BIGINT micro-dollars everywhere (1 USD = 1 000 000).

CREATE TYPE customer_status AS ENUM ('active', 'suspended');
CREATE TYPE order_status AS ENUM ('queued', 'processing', 'completed', 'failed', 'cancelled');
CREATE TYPE attempt_state AS ENUM (
  'preparing',   -- the row stands, media is being placed, no submit was sent
  'submitting',  -- a submit may be on its way: found after a crash, it is unclear
  'unclear',     -- sent, answer unknown: reconcile, never resend blindly
  'accepted',    -- the upstream's ref is known: poll
  'finished',    -- the upstream made it: mirror the outputs
  'succeeded', 'failed', 'cancelled',
  'absent',      -- proven never to have started
  'abandoned',   -- its fate is unknown and the order no longer waits for it
  'late'         -- abandoned, and made after all: recorded, never charged
);
CREATE TYPE transfer_kind AS ENUM ('topup', 'adjustment', 'hold', 'capture', 'release', 'suspense');
CREATE TYPE ledger_account AS ENUM ('available', 'held', 'cash', 'revenue', 'suspense');
CREATE TYPE upload_status AS ENUM ('processing', 'ready', 'failed');

-- ── customers ────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE customers (
  id                    text PRIMARY KEY,
  seq                   bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
  name                  text NOT NULL,
  status                customer_status NOT NULL DEFAULT 'active',
  available             bigint NOT NULL DEFAULT 0 CHECK (available >= 0),
  held                  bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
  active_orders         integer NOT NULL DEFAULT 0 CHECK (active_orders >= 0),
  max_active_orders     integer NOT NULL CHECK (max_active_orders >= 0),
  rate_limit_per_minute integer CHECK (rate_limit_per_minute > 0),
  created_at            timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE api_keys (
  id          text PRIMARY KEY,
  seq         bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
  customer_id text NOT NULL REFERENCES customers (id),
  name        text NOT NULL,
  prefix      text NOT NULL,
  secret_hash bytea NOT NULL UNIQUE,
  scopes      text[] NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  revoked_at  timestamptz
);
CREATE INDEX api_keys_customer ON api_keys (customer_id, seq);

-- ── orders and attempts ──────────────────────────────────────────────────────────────────────────

CREATE TABLE orders (
  id                  text PRIMARY KEY,
  seq                 bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
  customer_id         text NOT NULL REFERENCES customers (id),
  api_key_id          text NOT NULL,
  model_id            integer NOT NULL,
  status              order_status NOT NULL DEFAULT 'queued',
  cost                bigint NOT NULL CHECK (cost >= 0),
  input               text NOT NULL,
  routing             text,
  callback_url        text,
  result              text[] NOT NULL DEFAULT '{}',
  expires_at          timestamptz,
  error_code          text,
  error_message       text,
  created_at          timestamptz NOT NULL DEFAULT now(),
  started_at          timestamptz,
  finished_at         timestamptz,
  deadline_at         timestamptz NOT NULL,
  -- when a worker should look at it next; null while it waits for a poll, or is over. A worker that claims it pushes
  -- wake_at forward (its lease, renewed while it works) and raises the fence, which every write of the engine names.
  wake_at             timestamptz,
  fence               integer NOT NULL DEFAULT 0,
  delivery_failures   integer NOT NULL DEFAULT 0,
  cancel_requested_at timestamptz,
  -- when callback_url is to be told of the end; null when there is nothing (more) to tell
  notify_at           timestamptz,
  notify_failures     integer NOT NULL DEFAULT 0,
  CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
  CHECK ((status = 'failed') = (error_code IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX orders_customer ON orders (customer_id, seq DESC);
CREATE INDEX orders_customer_status ON orders (customer_id, status, seq DESC);
CREATE INDEX orders_due ON orders (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX orders_to_notify ON orders (notify_at) WHERE notify_at IS NOT NULL;
CREATE INDEX orders_finished ON orders (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE attempts (
  id                  text PRIMARY KEY,
  seq                 bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
  order_id            text NOT NULL REFERENCES orders (id),
  n                   integer NOT NULL,
  provider            text NOT NULL,
  account             text NOT NULL,
  upstream_model      text NOT NULL,
  state               attempt_state NOT NULL DEFAULT 'preparing',
  -- the evaluated fields with media placed, as text: the bytes of a replay must equal the first
  input               text NOT NULL,
  idempotency_key     text NOT NULL,
  nonce               integer NOT NULL,
  callback_hash       bytea UNIQUE,
  ref                 text,
  outputs             text,
  fault               text,
  fault_message       text,
  expected_cost       bigint NOT NULL,
  cost                bigint,
  submits             integer NOT NULL DEFAULT 0,
  reconciles          integer NOT NULL DEFAULT 0,
  poll_failures       integer NOT NULL DEFAULT 0,
  absent_since        timestamptz,
  created_at          timestamptz NOT NULL DEFAULT now(),
  submitted_at        timestamptz,
  accepted_at         timestamptz,
  finished_at         timestamptz,
  next_poll_at        timestamptz,
  deadline_at         timestamptz NOT NULL,
  cancel_requested_at timestamptz,
  UNIQUE (order_id, n)
) WITH (fillfactor = 70);
-- an order is never bought twice at once
CREATE UNIQUE INDEX attempts_live ON attempts (order_id)
  WHERE state IN ('preparing', 'submitting', 'unclear', 'accepted', 'finished');
CREATE INDEX attempts_in_flight ON attempts (provider, account)
  WHERE state IN ('preparing', 'submitting', 'unclear', 'accepted');
CREATE INDEX attempts_ref ON attempts (provider, account, ref) WHERE ref IS NOT NULL;
CREATE INDEX attempts_due ON attempts (provider, account, next_poll_at) WHERE next_poll_at IS NOT NULL;

-- Begins an attempt for the worker that holds the order. `max_in_flight` (null: no limit) holds across processes: the
-- account's advisory lock makes count and insert one step.
-- Returns begun | lost (the fence moved, or the order is over) | saturated
CREATE FUNCTION begin_attempt(
  p_order text, p_fence integer, p_id text, p_provider text, p_account text, p_model text, p_state attempt_state, p_input text,
  p_key text, p_nonce integer, p_callback bytea, p_cost bigint, p_deadline_ms bigint, max_in_flight integer
) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  IF max_in_flight IS NOT NULL THEN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_provider || '/' || p_account, 0));
    IF (SELECT count(*) FROM attempts WHERE provider = p_provider AND account = p_account
        AND state IN ('preparing', 'submitting', 'unclear', 'accepted')) >= max_in_flight THEN
      RETURN 'saturated';
    END IF;
  END IF;
  PERFORM FROM orders WHERE id = p_order AND fence = p_fence AND status IN ('queued', 'processing') FOR UPDATE;
  IF NOT FOUND THEN RETURN 'lost'; END IF;
  INSERT INTO attempts (id, order_id, n, provider, account, upstream_model, state, input, idempotency_key, nonce, callback_hash,
    expected_cost, deadline_at, submits, submitted_at)
  SELECT p_id, p_order, coalesce(max(n), 0) + 1, p_provider, p_account, p_model, p_state, p_input, p_key, p_nonce, p_callback,
    p_cost, now() + p_deadline_ms * interval '1 millisecond',
    CASE WHEN p_state = 'submitting' THEN 1 ELSE 0 END, CASE WHEN p_state = 'submitting' THEN now() END
  FROM attempts WHERE order_id = p_order;
  RETURN 'begun';
END $$;

CREATE TABLE idempotency_keys (
  scope        text NOT NULL,
  key          text NOT NULL,
  request_hash bytea NOT NULL,
  order_id     text,
  transfer_id  bigint,
  response     text NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- one mirrored output; its token is the result link /g/{token}
CREATE TABLE outputs (
  token      text PRIMARY KEY,
  order_id   text NOT NULL REFERENCES orders (id),
  position   integer NOT NULL,
  name       text NOT NULL,
  mime_type  text NOT NULL,
  size       bigint NOT NULL,
  sha256     bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  purged_at  timestamptz,
  UNIQUE (order_id, position)
);
CREATE INDEX outputs_expiry ON outputs (expires_at) WHERE purged_at IS NULL;
CREATE INDEX outputs_name ON outputs (name);

-- ── uploads ──────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE uploads (
  id            uuid PRIMARY KEY,
  customer_id   text NOT NULL REFERENCES customers (id),
  status        upload_status NOT NULL,
  name          text NOT NULL,
  original_name text NOT NULL,
  extension     text NOT NULL,
  mime_type     text NOT NULL,
  size          bigint NOT NULL,
  sha256        bytea NOT NULL,
  width         integer,
  height        integer,
  error         text,
  conversions   integer NOT NULL DEFAULT 0,
  created_at    timestamptz NOT NULL DEFAULT now(),
  expires_at    timestamptz NOT NULL,
  purged_at     timestamptz
);
CREATE INDEX uploads_expiry ON uploads (expires_at);
CREATE INDEX uploads_customer ON uploads (customer_id) INCLUDE (size) WHERE purged_at IS NULL;
CREATE INDEX uploads_processing ON uploads (created_at) WHERE status = 'processing' AND purged_at IS NULL;
CREATE UNIQUE INDEX uploads_name ON uploads (name);

CREATE TABLE order_uploads (
  order_id  text NOT NULL REFERENCES orders (id),
  upload_id uuid NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
  PRIMARY KEY (order_id, upload_id)
);
CREATE INDEX order_uploads_upload ON order_uploads (upload_id);

-- what an upload that is still arriving may take of its customer's quota
CREATE TABLE upload_reservations (
  id          uuid PRIMARY KEY,
  customer_id text NOT NULL REFERENCES customers (id),
  bytes       bigint NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX upload_reservations_customer ON upload_reservations (customer_id);

-- Reserves before the first byte is written. One customer's reservations take turns, so that racers cannot exceed the
-- quota together; a reservation of a process that died stops counting after two hours. False: it would exceed the quota.
CREATE FUNCTION reserve_upload(p_id uuid, p_customer text, p_bytes bigint, p_max_bytes bigint, p_max_count bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  used_bytes bigint;
  used_count bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('uploads of ' || p_customer, 0));
  SELECT coalesce(sum(x.bytes), 0), count(*) INTO used_bytes, used_count FROM (
    SELECT size AS bytes FROM uploads WHERE customer_id = p_customer AND purged_at IS NULL
    UNION ALL
    SELECT bytes FROM upload_reservations WHERE customer_id = p_customer AND created_at > now() - interval '2 hours'
  ) x;
  IF used_bytes + p_bytes > p_max_bytes OR used_count >= p_max_count THEN RETURN false; END IF;
  INSERT INTO upload_reservations (id, customer_id, bytes) VALUES (p_id, p_customer, p_bytes);
  RETURN true;
END $$;

-- Marks expired uploads as gone and says which bytes to remove. Two statements: the second sees an order that took its
-- KEY SHARE lock on an upload and committed before the first got the row's lock. Such an upload stays until the order ends.
CREATE FUNCTION purge_uploads(p_limit integer) RETURNS TABLE (name text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  expired uuid[];
BEGIN
  SELECT coalesce(array_agg(x.id), '{}') INTO expired FROM (
    SELECT u.id FROM uploads u
    WHERE u.expires_at <= now() AND u.purged_at IS NULL AND NOT EXISTS (
      SELECT FROM order_uploads l JOIN orders o ON o.id = l.order_id
      WHERE l.upload_id = u.id AND o.status IN ('queued', 'processing'))
    ORDER BY u.expires_at LIMIT p_limit FOR UPDATE OF u SKIP LOCKED
  ) x;
  RETURN QUERY UPDATE uploads u SET purged_at = now()
    WHERE u.id = ANY (expired) AND NOT EXISTS (
      SELECT FROM order_uploads l JOIN orders o ON o.id = l.order_id
      WHERE l.upload_id = u.id AND o.status IN ('queued', 'processing'))
    RETURNING u.name;
END $$;

-- keys that all processes share, made by whoever needs one first
CREATE TABLE secrets (
  name  text PRIMARY KEY,
  value bytea NOT NULL
);

-- what an upstream gave for a file of ours, while it lives there
CREATE TABLE media_handles (
  provider   text NOT NULL,
  account    text NOT NULL,
  sha256     bytea NOT NULL,
  handle     text NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (provider, account, sha256)
);

-- ── the ledger ───────────────────────────────────────────────────────────────────────────────────

CREATE TABLE transfers (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind            transfer_kind NOT NULL,
  customer_id     text REFERENCES customers (id),
  order_id        text,
  amount          bigint NOT NULL,
  available_after bigint,
  held_after      bigint,
  reference       text,
  created_at      timestamptz NOT NULL DEFAULT now(),
  CHECK (kind = 'adjustment' OR amount >= 0),
  CHECK ((kind IN ('hold', 'capture', 'release', 'suspense')) = (order_id IS NOT NULL))
);
CREATE UNIQUE INDEX transfers_one_hold ON transfers (order_id) WHERE kind = 'hold';
CREATE UNIQUE INDEX transfers_one_resolution ON transfers (order_id) WHERE kind IN ('capture', 'release');
CREATE UNIQUE INDEX transfers_one_suspense ON transfers (order_id) WHERE kind = 'suspense';
CREATE INDEX transfers_customer ON transfers (customer_id, id DESC);

CREATE TABLE postings (
  transfer_id bigint NOT NULL REFERENCES transfers (id),
  account     ledger_account NOT NULL,
  customer_id text,
  amount      bigint NOT NULL,
  PRIMARY KEY (transfer_id, account),
  CHECK ((account IN ('available', 'held')) = (customer_id IS NOT NULL))
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;

CREATE FUNCTION postings_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM fresh GROUP BY transfer_id HAVING sum(amount) <> 0) THEN
    RAISE EXCEPTION 'the postings of a transfer do not sum to zero';
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER postings_balance AFTER INSERT ON postings
  REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION postings_balance();
CREATE TRIGGER postings_immutable BEFORE UPDATE OR DELETE ON postings FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER postings_kept BEFORE TRUNCATE ON postings EXECUTE FUNCTION refuse_change();
CREATE TRIGGER transfers_immutable BEFORE UPDATE OR DELETE ON transfers FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER transfers_kept BEFORE TRUNCATE ON transfers EXECUTE FUNCTION refuse_change();

-- Money in, from outside: a top-up or an adjustment, once per (scope, key).
-- outcome: done | replay | conflict | not_found | insufficient
CREATE FUNCTION post_money(
  p_customer text, p_kind transfer_kind, p_amount bigint, p_reference text, p_scope text, p_key text, p_hash bytea
) RETURNS TABLE (outcome text, transfer_id bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  c customers%ROWTYPE;
  k idempotency_keys%ROWTYPE;
  t bigint;
BEGIN
  SELECT * INTO c FROM customers WHERE id = p_customer FOR UPDATE;
  IF NOT FOUND THEN RETURN QUERY SELECT 'not_found', NULL::bigint; RETURN; END IF;
  IF p_key IS NOT NULL THEN
    SELECT * INTO k FROM idempotency_keys i WHERE i.scope = p_scope AND i.key = p_key;
    IF FOUND THEN
      RETURN QUERY SELECT CASE WHEN k.request_hash = p_hash THEN 'replay' ELSE 'conflict' END, k.transfer_id;
      RETURN;
    END IF;
  END IF;
  IF c.available + p_amount < 0 THEN RETURN QUERY SELECT 'insufficient', NULL::bigint; RETURN; END IF;
  UPDATE customers SET available = available + p_amount WHERE id = p_customer;
  INSERT INTO transfers (kind, customer_id, amount, available_after, held_after, reference)
    VALUES (p_kind, p_customer, p_amount, c.available + p_amount, c.held, p_reference) RETURNING id INTO t;
  INSERT INTO postings (transfer_id, account, customer_id, amount)
    VALUES (t, 'available', p_customer, p_amount), (t, 'cash', NULL, -p_amount);
  IF p_key IS NOT NULL THEN
    INSERT INTO idempotency_keys (scope, key, request_hash, transfer_id, response) VALUES (p_scope, p_key, p_hash, t, '');
  END IF;
  RETURN QUERY SELECT 'done', t;
END $$;

-- Places a batch of orders in one transaction: idempotency key, hold, order. The customer's row lock makes
-- balance, active orders and keys of one customer serial across all processes. `n` numbers the batch.
-- outcome: placed | replay | conflict | suspended | too_many_active_orders | insufficient_balance | file_not_found
CREATE FUNCTION place_orders(batch jsonb) RETURNS TABLE (n integer, outcome text, response text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  c customers%ROWTYPE;
  r record;
  k idempotency_keys%ROWTYPE;
  free bigint;
  active integer;
  placed integer[] := '{}';
  free_after bigint[] := '{}';
  held_after bigint[] := '{}';
BEGIN
  FOR c IN
    SELECT * FROM customers WHERE id IN (SELECT DISTINCT e ->> 'customer_id' FROM jsonb_array_elements(batch) e)
    ORDER BY id FOR UPDATE
  LOOP
    free := c.available;
    active := c.active_orders;
    FOR r IN
      SELECT x.* FROM jsonb_to_recordset(batch) AS x(
        n integer, customer_id text, api_key_id text, key text, hash text, cost bigint, uploads uuid[])
      WHERE x.customer_id = c.id ORDER BY x.n
    LOOP
      n := r.n;
      response := NULL;
      IF r.key IS NOT NULL THEN
        SELECT * INTO k FROM idempotency_keys i WHERE i.scope = r.api_key_id AND i.key = r.key;
        IF FOUND THEN
          outcome := CASE WHEN k.request_hash = decode(r.hash, 'hex') THEN 'replay' ELSE 'conflict' END;
          response := k.response;
          RETURN NEXT;
          CONTINUE;
        END IF;
      END IF;
      IF c.status <> 'active' THEN
        outcome := 'suspended';
      ELSIF active >= c.max_active_orders THEN
        outcome := 'too_many_active_orders';
      ELSIF free < r.cost THEN
        outcome := 'insufficient_balance';
      ELSIF cardinality(r.uploads) > 0 AND (
        SELECT count(*) FROM (
          SELECT FROM uploads u WHERE u.id = ANY (r.uploads) AND u.purged_at IS NULL FOR KEY SHARE
        ) present) < cardinality(r.uploads)
      THEN
        outcome := 'file_not_found';
      ELSE
        outcome := 'placed';
        free := free - r.cost;
        active := active + 1;
        placed := placed || r.n;
        free_after := free_after || free;
        held_after := held_after || (c.held + c.available - free);
      END IF;
      RETURN NEXT;
    END LOOP;
    UPDATE customers SET available = free, held = c.held + c.available - free, active_orders = active WHERE id = c.id;
  END LOOP;

  IF cardinality(placed) = 0 THEN RETURN; END IF;

  WITH x AS (
    SELECT y.* FROM jsonb_to_recordset(batch) AS y(
      n integer, id text, customer_id text, api_key_id text, model_id integer, cost bigint, input text, routing text,
      callback_url text, wait_ms bigint, key text, hash text, response text, uploads uuid[])
    WHERE y.n = ANY (placed)
  ), o AS (
    INSERT INTO orders (id, customer_id, api_key_id, model_id, cost, input, routing, callback_url, deadline_at, wake_at)
    SELECT x.id, x.customer_id, x.api_key_id, x.model_id, x.cost, x.input, x.routing, x.callback_url,
      now() + x.wait_ms * interval '1 millisecond', now() FROM x ORDER BY x.n
  ), i AS (
    INSERT INTO idempotency_keys (scope, key, request_hash, order_id, response)
    SELECT x.api_key_id, x.key, decode(x.hash, 'hex'), x.id, x.response FROM x WHERE x.key IS NOT NULL
  ), u AS (
    INSERT INTO order_uploads (order_id, upload_id) SELECT x.id, unnest(x.uploads) FROM x
  ), t AS (
    INSERT INTO transfers (kind, customer_id, order_id, amount, available_after, held_after)
    SELECT 'hold', x.customer_id, x.id, x.cost, a.free, a.held
    FROM x JOIN unnest(placed, free_after, held_after) AS a(n, free, held) ON a.n = x.n ORDER BY x.n
    RETURNING id, customer_id, amount
  )
  INSERT INTO postings (transfer_id, account, customer_id, amount)
  SELECT t.id, p.account, t.customer_id, p.sign * t.amount
  FROM t CROSS JOIN (VALUES ('available'::ledger_account, -1), ('held'::ledger_account, 1)) AS p(account, sign);
  PERFORM pg_notify('genmux_work', '');
END $$;

-- Ends a batch of orders in one transaction: terminal status, capture or release, the attempt's end, and what an
-- upstream may have taken without delivering (suspense). An order that is already over, or whose fence has moved,
-- is left alone. Returns those that were ended here.
CREATE FUNCTION settle_orders(batch jsonb) RETURNS TABLE (order_id text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  ended text[];
BEGIN
  PERFORM FROM orders WHERE id IN (SELECT e ->> 'order_id' FROM jsonb_array_elements(batch) e) ORDER BY id FOR UPDATE;
  WITH x AS (
    SELECT y.* FROM jsonb_to_recordset(batch) AS y(
      order_id text, fence integer, status order_status, error_code text, error_message text, result text[], expires_at timestamptz)
  ), o AS (
    UPDATE orders SET status = x.status, error_code = x.error_code, error_message = x.error_message,
      result = coalesce(x.result, '{}'), expires_at = x.expires_at, finished_at = now(), wake_at = NULL,
      notify_at = CASE WHEN callback_url IS NOT NULL THEN now() END
    FROM x WHERE orders.id = x.order_id AND orders.status IN ('queued', 'processing')
      AND (x.fence IS NULL OR x.fence = orders.fence)
    RETURNING orders.id
  )
  SELECT coalesce(array_agg(o.id), '{}') INTO ended FROM o;
  IF cardinality(ended) = 0 THEN RETURN; END IF;

  UPDATE attempts SET state = x.attempt_state, fault = coalesce(x.fault, attempts.fault),
    fault_message = coalesce(x.fault_message, attempts.fault_message), cost = coalesce(x.upstream_cost, attempts.cost),
    finished_at = now(), next_poll_at = x.recheck_at
  FROM jsonb_to_recordset(batch) AS x(order_id text, attempt_id text, attempt_state attempt_state, fault text,
    fault_message text, upstream_cost bigint, recheck_at timestamptz)
  WHERE attempts.id = x.attempt_id AND x.order_id = ANY (ended);

  PERFORM FROM customers WHERE id IN (SELECT o.customer_id FROM orders o WHERE o.id = ANY (ended)) ORDER BY id FOR UPDATE;
  WITH o AS (
    SELECT id, customer_id, cost, status, CASE WHEN status = 'completed' THEN 0 ELSE cost END AS given_back,
      row_number() OVER (PARTITION BY customer_id ORDER BY seq) AS place
    FROM orders WHERE id = ANY (ended)
  ), running AS (
    SELECT o.*,
      c.available + sum(given_back) OVER w AS free, c.held - sum(cost) OVER w AS held
    FROM o JOIN customers c ON c.id = o.customer_id
    WINDOW w AS (PARTITION BY o.customer_id ORDER BY o.place)
  ), t AS (
    INSERT INTO transfers (kind, customer_id, order_id, amount, available_after, held_after)
    SELECT CASE WHEN status = 'completed' THEN 'capture' ELSE 'release' END::transfer_kind, customer_id, id, cost, free, held
    FROM running ORDER BY customer_id, place
    RETURNING id, kind, customer_id, amount
  ), p AS (
    INSERT INTO postings (transfer_id, account, customer_id, amount)
    SELECT id, 'held'::ledger_account, customer_id, -amount FROM t
    UNION ALL
    SELECT id, CASE WHEN kind = 'capture' THEN 'revenue' ELSE 'available' END::ledger_account,
      CASE WHEN kind = 'capture' THEN NULL ELSE customer_id END, amount FROM t
  )
  UPDATE customers SET available = available + s.given_back, held = held - s.cost, active_orders = active_orders - s.orders
  FROM (SELECT customer_id, sum(given_back) AS given_back, sum(cost) AS cost, count(*) AS orders FROM o GROUP BY customer_id) s
  WHERE customers.id = s.customer_id;

  WITH t AS (
    INSERT INTO transfers (kind, order_id, amount)
    SELECT 'suspense', x.order_id, x.suspense FROM jsonb_to_recordset(batch) AS x(order_id text, suspense bigint)
    WHERE x.suspense > 0 AND x.order_id = ANY (ended)
    RETURNING id, amount
  )
  INSERT INTO postings (transfer_id, account, amount)
  SELECT t.id, p.account, p.sign * t.amount
  FROM t CROSS JOIN (VALUES ('suspense'::ledger_account, 1), ('cash'::ledger_account, -1)) AS p(account, sign);
  RETURN QUERY SELECT unnest(ended);
END $$;

-- ── providers ────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE provider_switches (
  provider   text PRIMARY KEY,
  enabled    boolean NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT now()
);

-- Breaker and budgets of one upstream account, shared by all processes. Unlogged: after a crash of Postgres the
-- upstream's own 429 teaches them anew.
CREATE UNLOGGED TABLE upstream_accounts (
  provider    text NOT NULL,
  account     text NOT NULL,
  failures    integer NOT NULL DEFAULT 0,
  opened_at   timestamptz,
  open_until  timestamptz,
  open_reason text,
  -- when the last probe was let through while open: only what began after it can close the breaker
  probe_at    timestamptz,
  PRIMARY KEY (provider, account)
) WITH (fillfactor = 50);

-- A sliding minute in slices of two seconds per (account, window): counts[1] are the requests of slice number `slice`, counts[2]
-- of the one before, and so on.
CREATE UNLOGGED TABLE upstream_budgets (
  provider      text NOT NULL,
  account       text NOT NULL,
  bucket        text NOT NULL,
  slice         bigint NOT NULL DEFAULT 0,
  counts        integer[] NOT NULL,
  blocked_until timestamptz,
  PRIMARY KEY (provider, account, bucket)
) WITH (fillfactor = 50);

-- ── who changed what ─────────────────────────────────────────────────────────────────────────────

CREATE TABLE audit (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at      timestamptz NOT NULL DEFAULT now(),
  actor   text NOT NULL,
  action  text NOT NULL,
  subject text NOT NULL,
  detail  jsonb NOT NULL DEFAULT '{}'
);
CREATE TRIGGER audit_immutable BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_kept BEFORE TRUNCATE ON audit EXECUTE FUNCTION refuse_change();
