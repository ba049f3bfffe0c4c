-- Static tokens are found by what people read off a box or a list: by the beginning of a name, of a unit, or of a value
-- that is unique. Compared byte by byte, so that a beginning is a range of the index under any locale.

CREATE INDEX static_token_by_name ON static_token (organization_id, lower(name) text_pattern_ops) WHERE name IS NOT NULL;
CREATE INDEX static_token_by_unit ON static_token (organization_id, lower(unit) text_pattern_ops) WHERE unit IS NOT NULL;
CREATE INDEX static_token_value_by_value ON static_token_value (profile_id, field, lower(value) text_pattern_ops);

-- How many of a batch are claimed; those that are not cost nothing.
CREATE INDEX static_token_claimed ON static_token (id) WHERE status = 'CLAIMED';
