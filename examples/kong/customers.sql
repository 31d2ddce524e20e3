CREATE TABLE customer (
    uuid uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    certificate text NOT NULL UNIQUE,
    -- A customer without a key is refused.
    client_key text CHECK (client_key <> '')
);
