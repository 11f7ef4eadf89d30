-- Where and when each post was made, cleaned.
--
--   * latitude and longitude become one array, coordinates.
--   * timestamp is a TIMESTAMP, from `2020-08-28 03:52:47` and from `2020-08-28T03:52:47`.
--   * Blank texts become NULL.
--
-- What is not a place, has half a position, or has a date that is none, goes to clean_geo_quarantine with its reason.
--
-- A constraint sees the finished row, where NULL is right for a blank date and wrong for a text that is no date. So
-- such a text becomes a date before any post, and the constraint sends the record away.

CREATE OR REFRESH STREAMING TABLE clean_geo (
  CONSTRAINT ind_given EXPECT (ind IS NOT NULL) ON VIOLATION QUARANTINE ROW,
  CONSTRAINT is_a_place EXPECT (country IS NOT NULL OR coordinates IS NOT NULL OR `timestamp` IS NOT NULL)
    ON VIOLATION QUARANTINE ROW,
  CONSTRAINT coordinates_are_a_pair EXPECT (coordinates IS NULL OR coordinates[1] + coordinates[2] IS NOT NULL)
    ON VIOLATION QUARANTINE ROW,
  CONSTRAINT timestamp_is_a_date EXPECT (`timestamp` IS NULL OR `timestamp` > TIMESTAMP '1900-01-01 00:00:00')
    ON VIOLATION QUARANTINE ROW
)
COMMENT 'place and time of the posts, cleaned: one row per record received'
AS SELECT
  coalesce(ind, `index`) AS ind,
  CASE WHEN country >= '!' OR btrim(country, E' \t\r\n') <> '' THEN country END AS country,
  CASE WHEN latitude IS NOT NULL OR longitude IS NOT NULL THEN make_array(latitude, longitude) END AS coordinates,
  CASE
    WHEN btrim(`timestamp`, E' \t\r\n') <> ''
    THEN coalesce(try_cast(btrim(`timestamp`, E' \t\r\n') AS TIMESTAMP), TIMESTAMP '1900-01-01 00:00:00')
  END AS `timestamp`
FROM STREAM geo;
