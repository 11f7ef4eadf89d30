-- Where the records come from: the three topics as the Kafka Connect S3 sink leaves them, one JSON record per object
-- or per line.
--
-- The row number is called `index` in pin and `ind` in geo and user. Some producers swap the two, so every source
-- declares both and the cleaning takes the one that is there. (`index` is a keyword of SQL: it needs its back-ticks
-- where a column is declared.)
--
-- envelope 'auto' takes a record out of {"value": {…}}, [{"value": {…}}], {"records": [{"value": {…}}]} and out of a
-- JSON text that was encoded twice.

CREATE EXTERNAL TABLE pin (
  `index`           BIGINT,
  ind               BIGINT,
  unique_id         STRING,
  title             STRING,
  description       STRING,
  poster_name       STRING,
  follower_count    STRING,
  tag_list          STRING,
  is_image_or_video STRING,
  image_src         STRING,
  downloaded        BIGINT,
  save_location     STRING,
  category          STRING
)
STORED AS JSON LOCATION '${PIN}' OPTIONS (envelope 'auto');

CREATE EXTERNAL TABLE geo (
  ind         BIGINT,
  `index`     BIGINT,
  `timestamp` STRING,
  latitude    DOUBLE,
  longitude   DOUBLE,
  country     STRING
)
STORED AS JSON LOCATION '${GEO}' OPTIONS (envelope 'auto');

CREATE EXTERNAL TABLE user (
  ind         BIGINT,
  `index`     BIGINT,
  first_name  STRING,
  last_name   STRING,
  age         BIGINT,
  date_joined STRING
)
STORED AS JSON LOCATION '${USER_DATA}' OPTIONS (envelope 'auto');
