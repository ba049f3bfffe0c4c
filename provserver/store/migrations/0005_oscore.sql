-- Sequence numbers that this server sends under OSCORE: blocks of them, each given out once.

CREATE TABLE oscore_block (
    shard  smallint PRIMARY KEY,  -- of the security contexts that share a run of numbers
    number bigint NOT NULL        -- of the block that was given out last
);
