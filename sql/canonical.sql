-- What a comparison hashes of a value: all classes of types; the same whatever the settings, the storage and the shape of the table,
-- different wherever an application sees a difference.
CREATE EXTENSION seal_sync;
CREATE SCHEMA canon;
SET search_path = canon, public;
CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public;
CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (b int, a text);
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE TYPE floats AS RANGE (subtype = float8, multirange_type_name = multifloats);

-- One of each class, by number
CREATE TABLE value (n int GENERATED ALWAYS AS IDENTITY, what text, bytes bytea);
CREATE FUNCTION same(a bytea, b bytea) RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN a = b THEN 'same' ELSE 'DIFFERENT' END $$;
INSERT INTO value (what, bytes) VALUES
    ('null', seal_sync.canonical_value(NULL::text)), ('empty text', seal_sync.canonical_value(''::text)), ('text', seal_sync.canonical_value('a'::text)),
    ('text A', seal_sync.canonical_value('A'::text)), ('citext a', seal_sync.canonical_value('a'::citext)), ('citext A', seal_sync.canonical_value('A'::citext)),
    ('char', seal_sync.canonical_value('a'::char(3))), ('name', seal_sync.canonical_value('name'::name)),
    ('bool', seal_sync.canonical_value(true)), ('bool f', seal_sync.canonical_value(false)), ('int2', seal_sync.canonical_value(1::int2)), ('int4', seal_sync.canonical_value(1)),
    ('int4 -', seal_sync.canonical_value(-1)), ('int8', seal_sync.canonical_value(1::int8)), ('int8 -', seal_sync.canonical_value(-1::int8)),
    ('float4', seal_sync.canonical_value(1::float4)), ('float8', seal_sync.canonical_value(1::float8)), ('0', seal_sync.canonical_value(0::float8)),
    ('-0', seal_sync.canonical_value('-0'::float8)), ('nan', seal_sync.canonical_value('nan'::float8)), ('inf', seal_sync.canonical_value('inf'::float8)),
    ('numeric', seal_sync.canonical_value(1.0)), ('1.00', seal_sync.canonical_value(1.00)), ('numeric nan', seal_sync.canonical_value('nan'::numeric)),
    ('numeric inf', seal_sync.canonical_value('inf'::numeric)), ('numeric -inf', seal_sync.canonical_value('-inf'::numeric)),
    ('large', seal_sync.canonical_value(123456789012345678901234567890.123)), ('-large', seal_sync.canonical_value(-123456789012345678901234567890.123)),
    ('money', seal_sync.canonical_value(1.5::numeric::money)), ('date', seal_sync.canonical_value('2026-01-01'::date)), ('date inf', seal_sync.canonical_value('infinity'::date)),
    ('ts', seal_sync.canonical_value('2026-01-01'::timestamp)), ('ts -inf', seal_sync.canonical_value('-infinity'::timestamptz)),
    ('time', seal_sync.canonical_value('12:00'::time)), ('timetz', seal_sync.canonical_value('12:00+02'::timetz)), ('timetz utc', seal_sync.canonical_value('10:00+00'::timetz)),
    ('1 day', seal_sync.canonical_value('1 day'::interval)), ('24 hours', seal_sync.canonical_value('24:00:00'::interval)), ('30 days', seal_sync.canonical_value('30 days'::interval)),
    ('1 month', seal_sync.canonical_value('1 month'::interval)),
    ('uuid', seal_sync.canonical_value('00000000-0000-0000-0000-000000000001'::uuid)), ('bytea', seal_sync.canonical_value('\x00'::bytea)),
    ('bit', seal_sync.canonical_value(B'1')), ('bit 2', seal_sync.canonical_value(B'10')), ('varbit', seal_sync.canonical_value(''::varbit)),
    ('inet', seal_sync.canonical_value('10.0.0.1'::inet)), ('inet/8', seal_sync.canonical_value('10.0.0.1/8'::inet)), ('inet6', seal_sync.canonical_value('::1'::inet)),
    ('macaddr', seal_sync.canonical_value('08:00:2b:01:02:03'::macaddr)), ('macaddr8', seal_sync.canonical_value('08:00:2b:01:02:03:04:05'::macaddr8)),
    ('point', seal_sync.canonical_value('(1,2)'::point)), ('point nan', seal_sync.canonical_value('(nan,2)'::point)), ('lseg', seal_sync.canonical_value('[(1,2),(3,4)]'::lseg)),
    ('box', seal_sync.canonical_value('(3,4),(1,3)'::box)), ('line', seal_sync.canonical_value('{1,2,3}'::line)), ('circle', seal_sync.canonical_value('<(1,2),4>'::circle)),
    ('path', seal_sync.canonical_value('((1,2),(3,4))'::path)), ('open path', seal_sync.canonical_value('[(1,2),(3,4)]'::path)),
    ('polygon', seal_sync.canonical_value('((1,2),(3,4))'::polygon)),
    ('json', seal_sync.canonical_value('{"a": 1}'::json)), ('json space', seal_sync.canonical_value('{"a":1}'::json)), ('xml', seal_sync.canonical_value('<a/>'::xml)),
    ('jsonb', seal_sync.canonical_value('{"a": 1}'::jsonb)), ('jsonb 1.0', seal_sync.canonical_value('{"a": 1.0}'::jsonb)), ('jsonb 1.00', seal_sync.canonical_value('{"a": 1.00}'::jsonb)),
    ('jsonb nest', seal_sync.canonical_value('{"a": [1, {"b": null}], "c": "x"}'::jsonb)), ('jsonb scalar', seal_sync.canonical_value('1'::jsonb)), ('jsonb [1]', seal_sync.canonical_value('[1]'::jsonb)),
    ('jsonb []', seal_sync.canonical_value('[]'::jsonb)), ('jsonb {}', seal_sync.canonical_value('{}'::jsonb)), ('jsonb "1"', seal_sync.canonical_value('"1"'::jsonb)),
    ('enum', seal_sync.canonical_value('ok'::mood)), ('enum 2', seal_sync.canonical_value('happy'::mood)),
    ('composite', seal_sync.canonical_value(ROW(1, 'x')::pair)), ('composite null', seal_sync.canonical_value(ROW(NULL, NULL)::pair)),
    ('array', seal_sync.canonical_value('{1,2}'::int[])), ('array bounds', seal_sync.canonical_value('[0:1]={1,2}'::int[])), ('array 2', seal_sync.canonical_value('{{1},{2}}'::int[])),
    ('array null', seal_sync.canonical_value('{1,NULL}'::int[])), ('array none', seal_sync.canonical_value('{}'::int[])), ('array int8', seal_sync.canonical_value('{1,2}'::int8[])),
    ('array mood', seal_sync.canonical_value('{ok,sad}'::mood[])), ('array pair', seal_sync.canonical_value(ARRAY[ROW(1, 'x')::pair])), ('int2vector', seal_sync.canonical_value('1 2'::int2vector)),
    ('range', seal_sync.canonical_value('[1,2)'::int4range)), ('range empty', seal_sync.canonical_value('empty'::int4range)), ('range all', seal_sync.canonical_value('(,)'::int4range)),
    ('range num', seal_sync.canonical_value('[1.0,2)'::numrange)), ('range num 2', seal_sync.canonical_value('[1.00,2)'::numrange)), ('range excl', seal_sync.canonical_value('(1.0,2)'::numrange)),
    ('range float', seal_sync.canonical_value('[1,2]'::floats)), ('multirange', seal_sync.canonical_value('{[1,2),[5,6)}'::int4multirange)), ('multirange none', seal_sync.canonical_value('{}'::int4multirange)),
    ('multifloats', seal_sync.canonical_value('{[1,2]}'::multifloats)),
    ('hstore', seal_sync.canonical_value('a=>1'::hstore)), ('hstore null', seal_sync.canonical_value('a=>NULL'::hstore)),
    ('tsvector', seal_sync.canonical_value('a:1 b:2'::tsvector)), ('tsquery', seal_sync.canonical_value('a & b'::tsquery)), ('tid', seal_sync.canonical_value('(0,1)'::tid)),
    ('oid', seal_sync.canonical_value(70000::oid)), ('lsn', seal_sync.canonical_value('0/FF'::pg_lsn)), ('regclass', seal_sync.canonical_value('pg_class'::regclass)),
    ('row', seal_sync.canonical_value('pg_catalog.int4'::regtype));
-- Pairs that are the same bytes though they are not the same thing: types of columns are compared by name, beforehand
SELECT a.what, b.what AS as_well FROM value a JOIN value b ON a.n < b.n AND a.bytes = b.bytes ORDER BY a.n, b.n;
SELECT md5(string_agg(encode(bytes, 'hex'), ',' ORDER BY n)) AS all_of_them, count(*) FROM value;

-- The same, whatever the settings: a record is not known by its parts, so that it is its output
CREATE VIEW shown AS SELECT seal_sync.canonical_value(ROW('2026-01-02 03:04:05+00'::timestamptz, '1 mon 2 days'::interval, 0.1::float8, '\xff'::bytea, 'value'::regclass, 1.5::numeric::money)) AS bytes;
SELECT bytes AS before FROM shown \gset
SELECT convert_from(:'before', 'UTF8') ~ 'canon.value' AS qualified;
SET TimeZone = 'Asia/Shanghai'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = -3; SET bytea_output = 'escape';
SET quote_all_identifiers = on; SET search_path = canon, public, pg_catalog;
CREATE TEMP TABLE pg_class (i int);
SELECT same(bytes, :'before') FROM shown;
SELECT same(seal_sync.canonical_value('pg_catalog.pg_class'::regclass), seal_sync.canonical_value(1259::regclass)) AS not_the_temporary_one;
SHOW TimeZone;
RESET ALL;
DROP TABLE pg_temp.pg_class;
SET search_path = canon, public;

-- ... how it is stored
CREATE TABLE stored (plain text, packed text, outside text, raw bytea);
ALTER TABLE stored ALTER plain SET STORAGE PLAIN, ALTER outside SET STORAGE EXTERNAL, ALTER raw SET STORAGE EXTERNAL;
INSERT INTO stored SELECT repeat('abc', 1000), repeat('abc', 400000), repeat('abc', 400000), convert_to(repeat('abc', 400000), 'UTF8');
SELECT same(seal_sync.canonical_value(plain), seal_sync.canonical_value(repeat('abc', 1000))), same(seal_sync.canonical_value(packed), seal_sync.canonical_value(outside)),
    same(seal_sync.canonical_value(outside), seal_sync.canonical_value(repeat('abc', 400000))), same(seal_sync.canonical_value(raw), seal_sync.canonical_value(convert_to(outside, 'UTF8'))),
    pg_column_size(packed) < 100000 AS compressed, length(seal_sync.canonical_value(outside)) FROM stored;

-- ... what shape the type has got over time
CREATE TYPE shaped AS (gone int, a text, b int);
ALTER TYPE shaped DROP ATTRIBUTE gone;
SELECT same(seal_sync.canonical_value(ROW('x', 1)::shaped), seal_sync.canonical_value(ROW(1, 'x')::pair)) AS other_order;
SELECT same(seal_sync.canonical_value(5::small), seal_sync.canonical_value(5)) AS of_a_domain,
    same(seal_sync.canonical_value(ARRAY[5::small]), seal_sync.canonical_value(ARRAY[5])) AS of_an_array;
-- an xml's declaration does not travel
SELECT same(seal_sync.canonical_value('<?xml version="1.0" encoding="UTF-8"?><a/>'::xml), seal_sync.canonical_value('<a/>'::xml)) AS declared_xml;
-- any number of parts
SELECT length(seal_sync.canonical_value(array_agg(i / 7.0))) > 1000000 AS many_numbers FROM generate_series(1, 100000) i;
-- the polygon's box and the order of what was typed are not its value
SELECT same(seal_sync.canonical_value('(1,3),(3,4)'::box), seal_sync.canonical_value('(3,4),(1,3)'::box)) AS box;
SELECT seal_sync.canonical_value('x');
SET client_min_messages = warning;
DROP SCHEMA canon CASCADE;
DROP EXTENSION seal_sync;
